"""Attempts of an item, and the pool of many items."""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncIterable, Callable, Coroutine, Generator, Sized
from contextlib import AbstractAsyncContextManager
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any

from llmflow.engine.graph import Items
from llmflow.engine.results import NotRun, Results
from llmflow.errors import BudgetExceededError, ConfigurationError, LLMFlowError, ProviderError
from llmflow.items.idle import MOST_WAITING, active_items, yield_slot
from llmflow.items.runner import ItemRunner, OnError, concerns_all
from llmflow.items.slots import HeldSlot, LoopSlots, held, lend_slots, step_aside
from llmflow.items.sources import NOTHING, READ_AHEAD, AsyncIterableSource, IterableSource, Source

Call = Callable[[Any, "Worker"], Coroutine[Any, Any, Any]]

_ASIDE_AT_LEAST = 1000
_ASIDE_PER_SLOT = 10
_ITEMS_PER_TURN = 64


_current: ContextVar[Attempt | None] = ContextVar("llmflow_attempt", default=None)


class Attempt:
    """The attempt of an owner that this task is in, from 0.

    Visible, through a context variable, to everything that the attempt calls. The count belongs
    to the call of ``exec``, never to the node: many items of one node can be at different
    attempts at the same moment.
    """

    __slots__ = ("index", "outer", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.index = 0
        self.outer: Attempt | None = None

    def enter(self) -> Token[Attempt | None]:
        """Make this the current attempt of the running context."""
        self.outer = _current.get()
        return _current.set(self)

    def leave(self, token: Token[Attempt | None]) -> None:
        """Undo `enter`."""
        _current.reset(token)

    async def pause(self, seconds: float) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(seconds)


def worth_repeating(error: Exception) -> bool:
    """Return whether another attempt can come to anything else.

    It cannot where the program itself says no: a used-up budget, a journal that cannot be
    written, a wrong setting. What a provider says may change.
    """
    if isinstance(error, ConfigurationError | BudgetExceededError):
        return False
    return (
        not isinstance(error, LLMFlowError) or isinstance(error, ProviderError) or not error.fatal
    )


def current_attempt(owner: object) -> Attempt | None:
    """Return the running context's attempt of this owner, if any."""
    attempt = _current.get()
    while attempt is not None and attempt.owner is not owner:
        attempt = attempt.outer
    return attempt


class Worker(Attempt):
    """Attempts of one item after another, and the slot for them."""

    __slots__ = ("hold",)

    def __init__(self, owner: object, hold: HeldSlot) -> None:
        super().__init__(owner)
        self.hold = hold

    async def pause(self, seconds: float) -> None:
        """Wait before the next attempt, on no slot."""
        async with step_aside(self.hold):
            await asyncio.sleep(seconds)


@types.coroutine
def _let_others_run() -> Generator[None, None, None]:
    yield


def _is_same(clean: Context) -> bool:
    """Return whether a further item would see nothing of the last one."""
    try:
        return copy_context() == clean
    except Exception:  # noqa: BLE001 (values of any kind are compared)
        return False


class Pool:
    """One run over many items. Use `run_pool`."""

    def __init__(
        self, owner: object, call: Call, slots: LoopSlots, results: Results, items: Items
    ) -> None:
        self._owner = owner
        self._call = call
        self._slots = slots
        self._results = results
        self._failure: BaseException | None = None
        self._working = 0  # items that are not aside, those not yet started among them
        self._aside = 0
        self._active = active_items()
        self._most_aside = max(_ASIDE_AT_LEAST, _ASIDE_PER_SLOT * slots.limit)
        around = yield_slot.get()
        self._around = around if isinstance(around, Pool) else None
        source: Source
        if isinstance(items, AsyncIterable):
            # As long as it waits for an item, there may be more to ask.
            read_ahead = int(min(READ_AHEAD, slots.limit))
            source = AsyncIterableSource(items, read_ahead=read_ahead, count=self.count)
        else:
            source = IterableSource(items)
        self._runner: ItemRunner[Any] = ItemRunner(
            self._work,
            source,
            self,
            drain_seconds=None,
            cancels_with_source=not results.collect,
        )

    async def run(self) -> None:
        """Work off all items, or raise once everything has stopped."""
        runner = self._runner
        runner.start()
        for end in (runner.wait, runner.close):
            try:
                await end()
            except asyncio.CancelledError as cancelled:
                self._failure = cancelled
        error = runner.failure if self._failure is None else self._failure
        if error is not None:
            try:
                raise error
            finally:
                # Or the error would keep itself alive through this frame.
                error = self._failure = runner.failure = None

    def has_room(self) -> bool:
        """Return whether another item may begin."""
        return self._working < self._slots.limit and self._aside < self._most_aside

    def enter(self) -> None:
        """Count an item that begins."""
        self._results.values.append(NotRun)
        self._working += 1
        self.count(1)

    def leave(self) -> None:
        """Count an item no more."""
        self._working -= 1
        self._runner.advance()  # before: while there are more, it is not that all wait
        self.count(-1)

    def step_aside(self) -> None:
        """Let another item start while this one waits."""
        self._working -= 1
        self._aside += 1
        self._runner.advance()

    def step_back(self) -> None:
        """Count an item as at work again."""
        self._working += 1
        self._aside -= 1
        self._runner.advance()

    def __call__(self) -> AbstractAsyncContextManager[None]:
        """Step aside for a batch job, as do the items around: as `yield_slot` has it.

        Those that wait for batch jobs are many, as a job holds tens of thousands of rows. Whether
        there are any shows at the first of them only: the mode may be the run's, or the LLM's.
        """
        pool: Pool | None = self
        while pool is not None:
            pool._most_aside = max(pool._most_aside, MOST_WAITING)
            pool = pool._around
        return step_aside()

    def count(self, number: int) -> None:
        """Count items that begin (or, negative, end) to be at work."""
        self._active.add(number)

    async def _work(self, index: int, item: Any) -> None:
        """Work on an item, and on others that would see nothing of it."""
        worker = Worker(self._owner, HeldSlot(self._slots, self))
        worker.enter()
        worker.hold.enter()
        yield_slot.set(self)
        clean = copy_context()
        hold, slots, values, done = worker.hold, self._slots, self._results.values, 0
        while True:
            try:
                if not (hold.taken or slots.take_free()):
                    await hold.take()
                hold.taken = True
                values[index] = await self._call(item, worker)
            except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
                attempts = worker.index + 1
                values[index] = self._results.failure(index, item, error, attempts, self._owner)
                self._item_failed(error)
            except BaseException as error:
                if not isinstance(error, asyncio.CancelledError):
                    self._failure = error if self._failure is None else self._failure
                raise
            finally:
                hold.end_item()
            if self._working > slots.limit or not _is_same(clean):
                return
            done += 1
            if not done % _ITEMS_PER_TURN:
                await _let_others_run()
            if (item := self._runner.another()) is NOTHING:
                return
            index = len(values)
            values.append(NotRun)

    def _item_failed(self, error: Exception) -> None:
        """Go on, end, or stop at once, as the error and the policy want it."""
        if not concerns_all(error):
            if not self._results.collect:
                self._stop(error)
        elif self._results.collect or isinstance(error, BudgetExceededError):
            # Those that have begun within the budget are paid for, and may end.
            self._runner.stop(error)
        else:
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        """Stop everything because of this error, unless another one was first."""
        self._failure = error if self._failure is None else self._failure
        self._runner.stop(error, cancel=True)


async def run_pool(
    owner: object,
    call: Call,
    items: Items,
    *,
    slots: LoopSlots,
    on_error: OnError,
) -> list[Any]:
    """Call for every item, many at once; results keep input order.

    The items are consumed as slots get free; an async iterator is closed at the end. With
    ``on_error="raise"``, the first failure stops the others, which are awaited, and is raised with
    the results so far attached; with ``"collect"``, a `Failure` takes the place of the result. What
    every other item would meet, too, ends the run either way: no item begins any more, those that
    have begun end, and it is raised.
    """
    active, around = active_items(), held()
    count = len(items) if isinstance(items, Sized) else 0
    with Results(items, on_error) as results:
        async with lend_slots(slots):
            active.enter(count)
            # The items are counted in place of the one that they are in.
            item = 0 if around is None else around.enter_run()
            try:
                await Pool(owner, call, slots, results, items).run()
            finally:
                if around is not None:
                    around.leave_run(item)
                active.leave(count)
    return results.values
