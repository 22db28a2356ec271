"""Equal calls in flight, answered by one of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Hashable
from typing import Any

from llmflow.types import Response


class InFlight:
    """Equal calls in flight: one asks, the others wait for its answer.

    Each has its ordinal, the number of equal calls before it. Those without a gap around
    the one that asks are covered by what is written down of it; whoever is not, or comes
    while it is being written, writes down its own.
    """

    __slots__ = (
        "_answer",
        "_being_written",
        "_gone",
        "_groups",
        "_key",
        "_led",
        "_ordinals",
        "_waiting",
        "covered",
    )

    def __init__(self, groups: dict[Hashable, InFlight], key: Hashable) -> None:
        self._groups = groups
        self._key = key
        self._answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._ordinals: set[int] = set()
        self._gone: set[int] = set()
        self._led = False
        self._being_written = False
        self._waiting = 0
        self.covered = range(0)
        """The ordinals that a record of the answer is for."""

    def enter(self, nth: int) -> None:
        """Take in one more call."""
        self._ordinals.add(nth)
        self._gone.discard(nth)

    async def lead(self, nth: int) -> bool:
        """Return True when this call should ask, False if answered.

        Where the one that asks is cancelled, the next one asks in its place.
        """
        while self._led:
            answer = self._answer
            self._waiting += 1
            try:
                await asyncio.wait((answer,))
            except BaseException:
                self._waiting -= 1
                self._leave(nth)
                raise
            self._waiting -= 1
            if not answer.cancelled():
                return False
        self._led = True
        return True

    def result(self) -> Response:
        """Return the answer.

        Raises:
            LLMFlowError: the call that asked failed.
        """
        error = self._answer.exception()
        if error is not None:
            raise copied_error(error)  # each caller adds its own traceback
        return self._answer.result()

    def cover(self, nth: int) -> range:
        """Return the ordinals of the answer, contiguous around this one.

        Those of calls that were cancelled are among them: they would have been answered.
        """
        first, last = nth, nth
        while first - 1 in self._ordinals:
            first -= 1
        while last + 1 in self._ordinals:
            last += 1
        self.covered = range(first, last + 1)
        return self.covered

    def succeed(self, response: Response) -> None:
        """Give the others the answer."""
        self._end()
        if not self._answer.done():
            self._answer.set_result(response)

    def fail(self, error: BaseException) -> None:
        """Give the others the failure."""
        self._end()
        if not self._answer.done():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._answer.set_exception(error)
            self._answer.exception()  # with no others, nobody else retrieves it

    def give_up(self, nth: int) -> None:
        """Let one of the others ask: the call that asks was cancelled."""
        if self._being_written or self._answer.done():
            return
        # Of its own loop: a coroutine may be collected where none runs, or after the loop's end.
        before = self._answer
        self._answer = before.get_loop().create_future()
        self._led = False
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            before.cancel()
        self._leave(nth)

    def succeed_after(self, writing: asyncio.Future[None], response: Response, nth: int) -> None:
        """Share the answer with the others, once it is written."""
        self._being_written = True

        def written(_: asyncio.Future[None]) -> None:
            self._being_written = False
            if writing.cancelled():
                self.give_up(nth)
            elif (error := writing.exception()) is not None:
                self.fail(error)
            else:
                self.succeed(response)

        writing.add_done_callback(written)

    def unused(self) -> set[int]:
        """Return, once, ordinals for which nothing will be recorded."""
        if self._groups.get(self._key) is self:
            return set()
        unused = self._gone.difference(self.covered) if self.covered else self._ordinals
        self._ordinals = self._ordinals - unused
        self._gone = set()
        return unused

    def abandon(self) -> set[int]:
        """Return and keep the ordinals of all its calls."""
        ordinals, self._ordinals, self._gone = self._ordinals, set(), set()
        return ordinals

    def _leave(self, nth: int) -> None:
        if nth in self._ordinals:
            self._gone.add(nth)
        if not self._led and not self._waiting:
            self._end()

    def _end(self) -> None:
        if self._groups.get(self._key) is self:
            del self._groups[self._key]


def copied_error(error: BaseException) -> BaseException:
    """Return an equal error, or the same where it cannot be copied."""
    try:
        copied = type(error).__new__(type(error))
        copied.args, copied.__cause__ = error.args, error.__cause__
        copied.__dict__.update(error.__dict__)
    except Exception:  # noqa: BLE001 - a class of anybody's
        return error
    return copied


class Coalescer:
    """Finds equal calls in flight on the same event loop."""

    def __init__(self) -> None:
        self._loops: dict[asyncio.AbstractEventLoop, dict[Hashable, InFlight]] = {}

    def join(self, key: Hashable, nth: int) -> InFlight:
        """Return the calls with the same key as this one, including it."""
        groups = self._loops.setdefault(asyncio.get_running_loop(), {})
        group = groups.get(key)
        if group is None:
            group = groups[key] = InFlight(groups, key)
        group.enter(nth)
        return group

    def lead_new(self, key: Hashable, nth: int) -> InFlight | None:
        """Return a new group led by this call; None if one exists."""
        if key in self._loops.get(asyncio.get_running_loop(), ()):
            return None
        group = self.join(key, nth)
        group._led = True
        return group

    def abandoned(self) -> list[tuple[Any, set[int]]]:
        """Return, once, the keys and ordinals of closed loops' groups.

        They are looked for when the first call of another loop comes.
        """
        loop = asyncio.get_running_loop()
        if loop in self._loops:
            return []
        closed = [each for each in tuple(self._loops) if each.is_closed()]
        self._loops[loop] = {}
        groups = [group for each in closed for group in self._loops.pop(each, {}).items()]
        return [(key, group.abandon()) for key, group in groups]
