"""Numbers of equal calls: which one a call is among them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from llmflow.errors import UsageError

if TYPE_CHECKING:
    from llmflow.journal import Journal
    from llmflow.journal.asked import Asked

# Of a program that asks again for ever, what the journal remembers is enough.
_MOST: Final = 100_000


class Returned:
    """Free ordinals, the lowest first, for any number of threads.

    Else a node that asks again after a time-out would leave a place without an answer, to be
    asked for in every session.
    """

    def __init__(self) -> None:
        self._free: dict[bytes, list[int]] = {}
        # Again by its own thread: a call may be collected at any line, the locked ones among them.
        self._lock = threading.RLock()

    def add(self, key: bytes, ordinals: Iterable[int]) -> None:
        """Let the next calls equal to this take these places."""
        with self._lock:
            if len(self._free) < _MOST:
                self._free.setdefault(key, []).extend(ordinals)

    def take(self, key: bytes) -> int | None:
        """Return a free ordinal for an equal call, or None."""
        if not self._free:
            return None
        with self._lock:
            free = self._free.get(key)
            if not free:
                return None
            first = min(free)
            free.remove(first)
            if not free:
                del self._free[key]
            return first


class Ordinals:
    """Numbers the calls of a session, submitted ones apart from others.

    A program that submits all of its calls, and asks them again later, finds the answers in
    the journal.

    Args:
        journal: where outcomes are looked up; None where nothing is written down.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        self._returned = Returned()
        self._unwritten: dict[bytes, int] = {}
        self._lock = threading.RLock()  # several event loops, and calls that are collected
        self._submitted: Asked | None = None
        self._has_asked = self._has_begun_again = False

    def next(self, key: bytes) -> tuple[int, bool]:
        """Return the next ordinal, and whether its outcome may be known."""
        assert self._journal is not None
        self._has_asked = True
        free = self._returned.take(key)
        nth = self._journal.ask(key) if free is None else free
        # What this session asks for the first time, nothing can have been written down of.
        is_new = not nth and free is None and self._submitted is None
        return nth, not (is_new and self._journal.began_empty)

    def next_submitted(self, key: bytes) -> tuple[int, bool]:
        """Do what `next` does, for a call that wants no result.

        Raises:
            UsageError: there is no journal for its answer.
        """
        if self._journal is None:
            raise UsageError(
                "calls can be submitted in a run with a name only: its journal keeps their answers"
            )
        if self._submitted is None:
            from llmflow.journal.asked import Asked

            self._submitted = Asked()
        nth = self._submitted.count(key)
        may_be_known = self._has_asked or self._has_begun_again or not self._journal.began_empty
        return nth, bool(nth) or may_be_known

    def next_unwritten(self, key: bytes) -> int:
        """Return the next ordinal without a journal."""
        with self._lock:
            nth = self._unwritten[key] = self._unwritten.get(key, -1) + 1
        return nth

    def note_asked(self) -> None:
        """Note that a call was asked without a number of its own."""
        self._has_asked = True

    def give_back(self, key: bytes, ordinals: Iterable[int]) -> None:
        """Give ordinals without a record back to the next equal calls."""
        self._returned.add(key, ordinals)

    @property
    def has_submitted(self) -> bool:
        """True if any call wanted no result."""
        return self._submitted is not None

    def begin_again(self) -> None:
        """Restart the ordinals for calls that are submitted once more."""
        if self._submitted is not None:
            self._submitted.close()
            self._has_begun_again = True

    def close(self) -> None:
        """Forget how often each call was submitted."""
        if self._submitted is not None:
            self._submitted.close()
