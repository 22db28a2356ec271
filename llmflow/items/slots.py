"""Slots of items, given back while an item waits.

`Slots` belongs to a node or flow and is shared by all its copies. What it counts lives per
event loop, so that a node can be used in one ``asyncio.run`` after another, and in several
threads at a time. Waiting for slots cannot deadlock: a slot is given back while its item waits
to retry, and `lend_slots` gives it back while an item waits for a run inside it that needs the
same slots, directly or by way of another node's. The items of a map have `ItemSlots`.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

from llmflow.errors import UsageError
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

    __slots__ = ("_outer", "aside", "on_room")

    def __init__(self, limit: int, on_room: Callable[[], None]) -> None:
        super().__init__(limit)
        self.aside = 0
        """Items that wait for a job, or to go on after it."""
        self.on_room = on_room
        self._outer = yield_slot.get()

    enter, leave = LoopSlots.take_at_once, LoopSlots.give_back

    def has_room(self) -> bool:
        """Return whether another item may begin."""
        return self.in_use < self.limit and self.aside < MOST_WAITING

    def yield_slot(self) -> AbstractAsyncContextManager[None]:
        """Wait for a batch job without a slot, so others begin."""
        return _Yielded(self, nullcontext() if self._outer is None else self._outer())


class _Yielded(AbstractAsyncContextManager[None]):
    """The wait of one item. Tens of thousands may be at once."""

    __slots__ = ("_outer", "_slots")

    def __init__(self, slots: ItemSlots, outer: AbstractAsyncContextManager[None]) -> None:
        self._slots = slots
        self._outer = outer

    async def __aenter__(self) -> None:
        await self._outer.__aenter__()
        slots = self._slots
        slots.aside += 1
        slots.give_back()
        slots.on_room()

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        slots = self._slots
        try:
            if kind is not None and not issubclass(kind, Exception):
                slots.take_at_once()  # it is cancelled
            else:
                await slots.take()
        except BaseException:
            slots.take_at_once()  # which it gives back at its end
            raise
        finally:
            slots.aside -= 1
            await self._outer.__aexit__(kind, *error)  # type: ignore[arg-type]


_held: ContextVar[HeldSlot | None] = ContextVar("llmflow_held_slots", default=None)


def check_limit(limit: int | None, name: str = "concurrency_limit") -> int | None:
    """Return the limit; refuse anything but None and positive integers."""
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise UsageError(f"{name} must be at least 1, a whole number, or None; got {limit!r}")
    return limit


class Slots:
    """The slots of one node or flow, in all its event loops."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = check_limit(limit)
        self._lock = threading.Lock()
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopSlots] = WeakKeyDictionary()

    def here(self) -> LoopSlots:
        """Return the slots of the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            found = self._by_loop.get(loop)
            if found is None:
                found = self._by_loop[loop] = LoopSlots(self.limit)
        return found

    def in_use(self) -> int:
        """Return how many slots are taken, in all event loops together."""
        with self._lock:
            return sum(slots.in_use for slots in self._by_loop.values())

    def __reduce__(self) -> tuple[Any, ...]:
        # A deep copy, or a copy in another process, limits itself.
        return Slots, (self.limit,)


class ConcurrencyLimit:
    """The attribute ``concurrency_limit`` of a node or flow."""

    def __get__(self, owner: Any, kind: type | None = None) -> int | None:
        limit: int | None = None if owner is None else owner._slots.limit
        return limit

    def __set__(self, owner: Any, limit: int | None) -> None:
        owner._slots = Slots(limit)


def refuse_class_limit(kind: type) -> None:
    """Refuse ``concurrency_limit = 5`` in a class body, which replaces the slots.

    Raises:
        UsageError: it is written there.
    """
    limit = kind.__dict__.get("concurrency_limit")
    if limit is not None and not isinstance(limit, ConcurrencyLimit):
        raise UsageError(
            f"{kind.__name__}: concurrency_limit is given to the constructor: "
            f"{kind.__name__}(concurrency_limit={limit!r})"
        )


class PoolObserver(Protocol):
    """Pool of items, told of those that wait."""

    def step_aside(self) -> None:
        """Note that an item waits, so that another may start."""

    def step_back(self) -> None:
        """Note that it is back."""

    def count(self, number: int) -> None:
        """Count items that begin (or, negative, end) to be at work."""


class HeldSlot:
    """One worker's slot: taken, lent, or not there.

    Everything that runs inside the worker's item finds it, and those around it,
    through a context variable.
    """

    __slots__ = (
        "_aside",
        "_back",
        "_idle",
        "_inner",
        "_item",
        "_lenders",
        "_pool",
        "_used",
        "loop",
        "outer",
        "slots",
        "taken",
    )

    def __init__(self, slots: LoopSlots, pool: PoolObserver) -> None:
        self.slots = slots
        self.loop = asyncio.get_running_loop()
        self.taken = False
        self.outer: HeldSlot | None = None
        self._pool = pool
        self._item = 0
        self._lenders = 0
        self._back: asyncio.Event | None = None
        """Set when the slot is taken again, while a part of the item waits for that."""
        self._aside = 0
        self._inner = 0
        self._idle = self._used = False

    def enter(self) -> None:
        """Make this the innermost hold of the running context."""
        self.outer = _held.get()
        _held.set(self)

    async def take(self) -> None:
        """Take a slot, waiting for it if need be."""
        await self.slots.take()
        self.taken = True

    def end_item(self) -> None:
        """End all loans, so that stray tasks get no later slot."""
        if self._used:
            self._end_loans()
        if self.taken:
            self.taken = False
            self.slots.give_back()

    def _end_loans(self) -> None:
        self._used = False
        self._item += 1
        self._lenders = 0
        self._back = None
        self._inner = 0
        if self._aside:
            self._aside = 0
            self._pool.step_back()
        if self._idle:
            self._count()

    def _count(self) -> None:
        """Count the item as at work unless it waits, or others are counted in its place."""
        idle = bool(self._aside or self._inner)
        if idle != self._idle:
            self._idle = idle
            self._pool.count(-1 if idle else 1)

    def enter_run(self) -> int:
        """Count the items of an inner run in this one's place."""
        self._used = True
        self._inner += 1
        self._count()
        return self._item

    def leave_run(self, item: int) -> None:
        """Count this item itself again once no run inside it goes on."""
        if item == self._item:
            self._inner -= 1
            self._count()

    def lend(self, *, aside: bool) -> int | None:
        """Release the slot for a while; None if there is none."""
        if self.taken:
            self.taken = False
            self.slots.give_back()
        elif not self._lenders and self._back is None:
            return None
        self._used = True
        self._lenders += 1
        if aside:
            self._aside += 1
            self._count()
            if self._aside == 1:
                self._pool.step_aside()
        return self._item

    async def end_loan(self, item: int, aside: bool, kind: type[BaseException] | None) -> None:
        """Take the slot again once no other part lends it.

        Called at the end of a ``with`` block. A cancelled item does not wait for
        its slot: it may go on all the same, if the cancellation was a timeout.
        """
        if item != self._item:
            return
        self._lenders -= 1
        if aside:
            self._aside -= 1
            self._count()
            if not self._aside:
                self._pool.step_back()
        if self._lenders:
            return
        waits = kind is None or issubclass(kind, Exception)
        if self._back is not None:
            # Another part of the item waits for its slot already. There is one for both: who
            # waited for a second one might wait for what the item itself has by then.
            if waits:
                await self._back.wait()
            return
        self._back = back = asyncio.Event()
        try:
            if waits:
                await self.slots.take()
            else:
                self.slots.take_at_once()
        except BaseException:
            self.slots.take_at_once()
            raise
        finally:
            self._retake(item)
            back.set()

    def _retake(self, item: int) -> None:
        """Keep the slot that was taken again, if it is still wanted."""
        if item == self._item:
            self._back = None
            if not self._lenders and not self.taken:
                self.taken = True
                return
        self.slots.give_back()


class ReleasedSlots:
    """Slots that are released for the time of a block."""

    __slots__ = ("_aside", "_holds", "_lent")

    def __init__(self, holds: Iterable[HeldSlot], *, aside: bool) -> None:
        self._holds = holds
        self._aside = aside
        self._lent: tuple[tuple[HeldSlot, int], ...] = ()

    async def __aenter__(self) -> None:
        for hold in self._holds:
            item = hold.lend(aside=self._aside)
            if item is not None:
                self._lent = (*self._lent, (hold, item))
        self._holds = ()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        failure: BaseException | None = None
        for hold, item in reversed(self._lent):
            try:
                await hold.end_loan(item, self._aside, kind)
            except BaseException as ended:  # noqa: BLE001 - the other slots are taken back, too
                kind, failure = type(ended), ended
        if failure is not None:
            raise failure


def _holds() -> Iterator[HeldSlot]:
    """Go through the holds around the running code, from the innermost out.

    Those of another event loop are out of reach: the code then runs in a thread
    that was started from an item.
    """
    hold = _held.get()
    while hold is not None and hold.loop is asyncio.get_running_loop():
        yield hold
        hold = hold.outer


def held() -> HeldSlot | None:
    """Return the hold of the innermost running item, or None."""
    return next(_holds(), None)


def step_aside(*holds: HeldSlot) -> AbstractAsyncContextManager[None]:
    """Wait inside an item without its slot, so others start.

    For waits that are no work: before another attempt, or for a batch job.

    >>> async def answer_of(job):
    ...     async with step_aside():
    ...         return await job

    Args:
        holds: whose slots to give back; by default all that the running item holds.

    """
    return ReleasedSlots(holds or _holds(), aside=True)


def lend_slots(wanted: LoopSlots) -> AbstractAsyncContextManager[None]:
    """Run something that needs these slots, without holding them.

    A slot around it is lent when the wanted ones are the same, or when one of
    their holders could in turn wait for it.
    """
    lent = []
    for hold in _holds():
        if hold.slots.limit < math.inf and wanted.limit < math.inf:
            hold.slots.note_wanted(wanted)
            if wanted.leads_to(hold.slots):
                lent.append(hold)
    return ReleasedSlots(lent, aside=False)
