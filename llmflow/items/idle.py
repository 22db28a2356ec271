"""Counts running items, so that a batch starts once all wait.

A pool of workers counts each worker that is at work on an item. A call that waits for a batch
job steps aside from its worker, by the way that the worker has left in a context variable.
When nobody is at work any more, all have asked what they could ask.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Final
from weakref import WeakKeyDictionary

MOST_WAITING: Final = 50_000
"""How many items of one pool may wait for batch jobs at once: beyond, no more are begun."""

yield_slot: ContextVar[Callable[[], AbstractAsyncContextManager[None]] | None] = ContextVar(
    "llmflow_yield_slot", default=None
)
"""How the running item gives up its place while it waits for a batch job; None outside."""


class TimeLimit:
    """The time limit of an attempt; it stops while a call waits."""

    __slots__ = ("_left", "_limit", "_loop", "_waits")

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._waits = 0
        self._left: float | None = None

    def stop(self) -> None:
        """Stand still, from the first of several calls on."""
        self._waits += 1
        when = self._limit.when()
        if self._waits == 1 and when is not None:
            self._left = when - self._loop.time()
            self._reschedule(None)

    def go_on(self) -> None:
        """Resume the remaining time once no call of it waits."""
        self._waits -= 1
        if not self._waits and self._left is not None:
            self._reschedule(self._loop.time() + self._left)
            self._left = None

    def _reschedule(self, when: float | None) -> None:
        with contextlib.suppress(RuntimeError):  # it is over already
            self._limit.reschedule(when)

    def at_home(self, change: Callable[[], None]) -> None:
        """Make a change on the attempt's event loop, from any thread."""
        if self._loop is asyncio.get_running_loop():
            change()
            return
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(change)


time_limits: ContextVar[tuple[TimeLimit, ...]] = ContextVar("llmflow_time_limits", default=())
"""The time limits of attempts that the running code is in."""


@contextlib.contextmanager
def suspendable(limit: asyncio.Timeout) -> Iterator[None]:
    """Suspend a time limit while the block waits for batch jobs."""
    token = time_limits.set((*time_limits.get(), TimeLimit(limit)))
    try:
        yield
    finally:
        time_limits.reset(token)


@contextlib.contextmanager
def suspend_timeouts() -> Iterator[None]:
    """Suspend all time limits of attempts in the block."""
    limits = time_limits.get()
    for each in limits:
        each.at_home(each.stop)
    try:
        yield
    finally:
        for each in limits:
            each.at_home(each.go_on)


class ActiveItems:
    """The pools of one event loop."""

    __slots__ = ("__weakref__", "_listeners", "at_work", "expected", "pools")

    def __init__(self) -> None:
        self.pools = 0
        self.at_work = 0
        self.expected = 0
        """How many items there are in all pools that know it."""
        self._listeners: list[Callable[[], None]] = []

    def add(self, number: int) -> None:
        """Count workers that begin (or, negative, end) to be at work."""
        self.at_work += number
        if self.at_work <= 0:
            self._tell()

    def enter(self, items: int) -> None:
        """Register a pool of so many items; 0 if unknown."""
        self.pools += 1
        self.expected += items

    def leave(self, items: int) -> None:
        """Count a pool that ends."""
        self.pools -= 1
        self.expected -= items
        self._tell()

    @property
    def all_wait(self) -> bool:
        """True if every item that is known of waits for something else."""
        return self.pools > 0 and self.at_work <= 0

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call a function when all may be waiting; returns its removal."""
        self._listeners.append(listener)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def _tell(self) -> None:
        for each in tuple(self._listeners):
            each()


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, ActiveItems] = WeakKeyDictionary()


def active_items() -> ActiveItems:
    """Return the count of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _by_loop.get(loop)
    if found is None:
        found = _by_loop[loop] = ActiveItems()
    return found
