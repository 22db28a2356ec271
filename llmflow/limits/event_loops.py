"""Bookkeeping for each event loop: what its calls hold, its timer, waking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

_T = TypeVar("_T")

# How much later than the head's own loop another one looks whether the head went.
LOOK_AFTER: Final = 1.0
# At thousands of requests per second one timer serves several.
_SHORTEST_WAIT: Final = 1e-3


class HeldByLoop(dict[asyncio.AbstractEventLoop, set[_T]]):
    """Holdings of calls by their event loops; its owner locks it.

    A loop that is closed with calls in flight never ends them: their coroutines are not run
    any more, and as long as somebody refers to them not collected either.

    >>> held = HeldByLoop()
    >>> loop = asyncio.new_event_loop()
    >>> held[loop].add("a place")
    >>> loop.close()
    >>> held.abandoned()
    ['a place']
    """

    def __missing__(self, loop: asyncio.AbstractEventLoop) -> set[_T]:
        # A program may begin a loop for every call: those that left nothing are forgotten.
        for other in [each for each, held in self.items() if not held and each.is_closed()]:
            del self[other]
        held = self[loop] = set()
        return held

    def others(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Return whether calls of another loop than this one hold anything."""
        if len(self) <= (loop in self):
            return False
        return any(held for each, held in self.items() if each is not loop)

    def all(self) -> Iterator[_T]:
        """Yield what is held by the calls of all loops."""
        for held in self.values():
            yield from held

    def abandoned(self) -> list[_T]:
        """Return, once, what the calls of closed loops hold."""
        closed = [loop for loop in self if loop.is_closed()]
        return [each for loop in closed for each in self.pop(loop)]


class Timers:
    """One timer for each event loop; its owner locks it.

    The loop whose timer rings calls `ring`, and that calls `rang` first.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        # When each loop looks again. uvloop's handles do not always tell.
        self.set: dict[asyncio.AbstractEventLoop, tuple[float, asyncio.Handle]] = {}

    def arm(self, delay: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Set a loop's timer from any thread; False if it is closed."""
        here = asyncio._get_running_loop()
        if loop is here:
            self._set(loop, delay)
            return True
        if loop.is_closed():
            return False
        if here is not None:
            # The head's loop may be closed while it waits: then this one sees to the rest.
            self._set(here, delay + LOOK_AFTER)
        timer = self.set.get(loop)
        if timer is None or timer[0] > loop.time() + delay:
            # A loop may be touched from its own thread only: let it look for itself.
            try:
                loop.call_soon_threadsafe(self._ring)
            except RuntimeError:  # closed a moment ago
                return False
        return True

    def rang(self) -> None:
        """Take note that the running loop's timer has rung."""
        timer = self.set.pop(asyncio.get_running_loop(), None)
        if timer is not None:
            timer[1].cancel()  # it may be another loop that called, earlier than the timer

    def _set(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        """Set the timer of the running loop, unless it rings before (and is set anew then)."""
        when = loop.time() + (delay if delay > _SHORTEST_WAIT else _SHORTEST_WAIT)
        timer = self.set.get(loop)
        if timer is None:
            for closed in [each for each in self.set if each.is_closed()]:
                del self.set[closed]
        elif timer[0] <= when:
            return
        else:
            timer[1].cancel()
        self.set[loop] = when, loop.call_at(when, self._ring)


def wake(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[None] | None,
    error: Exception | None = None,
) -> bool:
    """Wake a waiting task from any thread; False if its loop closed."""
    if loop is asyncio._get_running_loop():
        _end(future, error)
        return True
    try:
        loop.call_soon_threadsafe(_end, future, error)
    except RuntimeError:
        return False
    return True


def _end(future: asyncio.Future[None] | None, error: Exception | None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
