"""Slots of items, given up while an item waits for a job."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from weakref import WeakSet

from llmflow.items.idle import MOST_WAITING, yield_slot


class LoopSlots:
    """Slots in one event loop, handed out first come, first served.

    A slot that is given back goes straight to the first waiter, so a newcomer
    finds one free only when nobody waits.
    """

    __slots__ = ("__weakref__", "_waiters", "_wanted", "in_use", "limit")

    def __init__(self, limit: int | None) -> None:
        self.limit: float = math.inf if limit is None else limit
        self.in_use = 0
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._wanted: WeakSet[LoopSlots] = WeakSet()

    def has_waiters(self) -> bool:
        """Return whether somebody waits for a slot."""
        return bool(self._waiters)

    def take_free(self) -> bool:
        """Take a slot if one is free."""
        if self.in_use < self.limit:
            self.in_use += 1
            return True
        return False

    async def take(self) -> None:
        """Take a slot, waiting for it if need be."""
        if self.take_free():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.give_back()  # it was ours already, when the cancellation came
            else:
                self._waiters.pop(waiter, None)
            raise

    def take_at_once(self) -> None:
        """Take a slot beyond the limit; later hand on fewer."""
        self.in_use += 1

    def give_back(self) -> None:
        """Hand a slot on to the first waiter, or free it."""
        while self._waiters and self.in_use <= self.limit:
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)
                return
        self.in_use -= 1

    def note_wanted(self, wanted: LoopSlots) -> None:
        """Remember that somebody who holds these slots waits for the wanted ones."""
        self._wanted.add(wanted)

    def leads_to(self, goal: LoopSlots) -> bool:
        """Return whether a holder of these slots can wait for the goal's."""
        reached: set[LoopSlots] = set()
        ahead: list[LoopSlots] = [self]
        while ahead:
            here = ahead.pop()
            if here is goal:
                return True
            if here not in reached:
                reached.add(here)
                ahead.extend(here._wanted)
        return False


class ItemSlots(LoopSlots):
    """The slots of one runner's items.

    Whoever starts items asks `has_room`, and says by `leave` that one has ended.

    Args:
        limit: how many items may be at work at once.
        on_room: called when there is room for another item.
    """

    __slots__ = ("_on_room", "_outer", "aside")

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        super().__init__(limit)
        self.aside = 0
        """Items that wait for a job, or to go on after it."""
        self._on_room = on_room
        self._outer = yield_slot.get()

    enter, leave = LoopSlots.take_at_once, LoopSlots.give_back

    def has_room(self) -> bool:
        """Return whether another item may begin."""
        return self.in_use < self.limit and self.aside < MOST_WAITING

    def yield_slot(self) -> AbstractAsyncContextManager[None]:
        """Wait for a batch job without a slot, so others begin."""
        return _Yielded(self, nullcontext() if self._outer is None else self._outer())

    def begin_wait(self) -> None:
        """Give up the slot of an item that waits."""
        self.aside += 1
        self.give_back()
        self._on_room()

    async def end_wait(self, *, at_once: bool) -> None:
        """Take a slot again; at once if the item is cancelled."""
        try:
            if at_once:
                self.take_at_once()
            else:
                await self.take()
        except BaseException:
            self.take_at_once()  # which it gives back at its end
            raise
        finally:
            self.aside -= 1


class _Yielded(AbstractAsyncContextManager[None]):
    """The wait of one item. Tens of thousands may be at once."""

    __slots__ = ("_outer", "_slots")

    def __init__(self, slots: ItemSlots, outer: AbstractAsyncContextManager[None]) -> None:
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
