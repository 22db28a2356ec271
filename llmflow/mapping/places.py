"""How many items of a map are under way, without those that wait for a batch job."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from llmflow.batch.live import MOST_WAITING, stepping_aside


class Places:
    """The places of one map's items, which they give up while they wait for a batch job.

    Whoever starts items asks `has_room`, and says by `leave` that one has ended.

    Args:
        limit: how many items may be at work at once.
        on_room: called when there is room for another item.
    """

    __slots__ = ("_back", "_limit", "_on_room", "_outer", "aside", "taken")

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        self.taken = 0
        """How many items are at work."""
        self.aside = 0
        """How many wait for a job, or to go on after it."""
        self._limit = limit
        self._on_room = on_room
        self._back: deque[asyncio.Future[None]] = deque()
        self._outer = stepping_aside.get()

    @property
    def has_room(self) -> bool:
        """Whether another item may begin."""
        return self.taken < self._limit and self.aside < MOST_WAITING

    def enter(self) -> None:
        """Take a place for an item that begins."""
        self.taken += 1

    def leave(self) -> None:
        """Give up the place of an item that has ended; those that come back go first."""
        self.taken -= 1
        while self._back and self.taken < self._limit:
            future = self._back.popleft()
            if not future.done():
                self.taken += 1
                future.set_result(None)

    def step_aside(self) -> AbstractAsyncContextManager[None]:
        """Wait for a batch job without a place, so that further items begin meanwhile."""
        return _Aside(self, nullcontext() if self._outer is None else self._outer())

    def begin_wait(self) -> None:
        """Give up the place of an item that waits."""
        self.aside += 1
        self.leave()
        self._on_room()

    async def end_wait(self, *, at_once: bool) -> None:
        """Take a place again; at once, though it may be one too many, if the item is cancelled."""
        try:
            if at_once or self.taken < self._limit:
                self.taken += 1
                return
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._back.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future.cancelled():  # else the place was given to it already
                    self.taken += 1
                raise
        finally:
            self.aside -= 1


class _Aside(AbstractAsyncContextManager[None]):
    """The wait of one item. Tens of thousands may be at once."""

    __slots__ = ("_outer", "_places")

    def __init__(self, places: Places, outer: AbstractAsyncContextManager[None]) -> None:
        self._places = places
        self._outer = outer

    async def __aenter__(self) -> None:
        await self._outer.__aenter__()
        self._places.begin_wait()

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            cancelled = kind is not None and not issubclass(kind, Exception)
            await self._places.end_wait(at_once=cancelled)
        finally:
            await self._outer.__aexit__(kind, *error)  # type: ignore[arg-type]
