"""Places of calls among equal ones that were given back: nothing was written down of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

# Of a program that asks again for ever, what the journal remembers is enough.
_MOST: Final = 100_000


class Returned:
    """Places to be taken again, the first one first, from any number of threads.

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
        """Return a place that is free for a call equal to this; None if there is none."""
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
