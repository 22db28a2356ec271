"""Slots of items, given up while an item waits for a job."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from llmflow.items.idle import MOST_WAITING, yield_slot


class Slots:
    """The slots of one runner's items.

    Whoever starts items asks `has_room`, and says by `leave` that one has ended.

    Args:
        limit: how many items may be at work at once.
        on_room: called when there is room for another item.
    """

    __slots__ = ("_back", "_limit", "_on_room", "_outer", "aside", "taken")

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        self.taken = 0
        """Items at work."""
        self.aside = 0
        """Items that wait for a job, or to go on after it."""
        self._limit = limit
        self._on_room = on_room
        self._back: deque[asyncio.Future[None]] = deque()
        self._outer = yield_slot.get()

    def has_room(self) -> bool:
        """Return whether another item may begin."""
        return self.taken < self._limit and self.aside < MOST_WAITING

    def enter(self) -> None:
        """Take a slot for an item that begins."""
        self.taken += 1

    def leave(self) -> None:
        """Release an ended item's slot; returning items go first."""
        self.taken -= 1
        while self._back and self.taken < self._limit:
            future = self._back.popleft()
            if not future.done():
                self.taken += 1
                future.set_result(None)

    def yield_slot(self) -> AbstractAsyncContextManager[None]:
        """Wait for a batch job without a slot, so others begin."""
        return _Yielded(self, nullcontext() if self._outer is None else self._outer())

    def begin_wait(self) -> None:
        """Give up the slot of an item that waits."""
        self.aside += 1
        self.leave()
        self._on_room()

    async def end_wait(self, *, at_once: bool) -> None:
        """Take a slot again; at once if the item is cancelled."""
        try:
            if at_once or self.taken < self._limit:
                self.taken += 1
                return
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._back.append(future)
            try:
                await future
            except asyncio.CancelledError:
                if future.cancelled():  # else the slot was given to it already
                    self.taken += 1
                raise
        finally:
            self.aside -= 1


class _Yielded(AbstractAsyncContextManager[None]):
    """The wait of one item. Tens of thousands may be at once."""

    __slots__ = ("_outer", "_slots")

    def __init__(self, slots: Slots, outer: AbstractAsyncContextManager[None]) -> None:
        self._slots = slots
        self._outer = outer

    async def __aenter__(self) -> None:
        await self._outer.__aenter__()
        self._slots.begin_wait()

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            cancelled = kind is not None and not issubclass(kind, Exception)
            await self._slots.end_wait(at_once=cancelled)
        finally:
            await self._outer.__aexit__(kind, *error)  # type: ignore[arg-type]
