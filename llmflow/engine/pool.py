"""Pool of workers for the items of parallel nodes and flows.

Workers pull items from the source. A worker that takes an item makes sure that
another one is on its way, so there are as many workers as items that wait for
something, and never more than the limit. Items that never wait are all done by
a handful of workers, one after another. Workers whose item waits to retry stand
aside, and do not count.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import AsyncIterable, Callable, Coroutine, Generator, Iterator, Sized
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from llmflow.engine.attempts import Attempt
from llmflow.engine.concurrency import HeldSlot, LoopSlots, held, lend_slots, step_aside
from llmflow.engine.items import Items, each
from llmflow.engine.results import NotRun, OnError, Results
from llmflow.errors import BudgetExceededError
from llmflow.items.idle import MOST_WAITING, active_items, yield_slot
from llmflow.items.runner import concerns_all

Call = Callable[[Any, "Worker"], Coroutine[Any, Any, Any]]

_NOTHING: Any = object()
_ITEMS_PER_TURN = 32
_READ_AHEAD = 16
_ASIDE_AT_LEAST = 1000
_ASIDE_PER_SLOT = 10


@types.coroutine
def _let_others_run() -> Generator[None, None, None]:
    yield


def _same_context(clean: Context) -> bool:
    try:
        return copy_context() == clean
    except Exception:  # noqa: BLE001 (values of any kind are compared)
        return False


class Worker(Attempt):
    """One task that works off items, and the slot it works on."""

    __slots__ = ("hold",)

    def __init__(self, owner: object, hold: HeldSlot) -> None:
        super().__init__(owner)
        self.hold = hold

    async def pause(self, seconds: float) -> None:
        """Wait before the next attempt, on no slot."""
        async with step_aside(self.hold):
            await asyncio.sleep(seconds)


class _AsideLimit:
    """How many items of one pool may be aside at once; called, an item steps aside for a job.

    Those that wait for batch jobs are many, as a job holds tens of thousands of rows. Whether
    there are any shows at the first of them only: the mode may be the run's, or the LLM's.
    """

    __slots__ = ("_outer", "most")

    def __init__(self, most: float) -> None:
        self.most = most
        outer = yield_slot.get()
        self._outer = outer if isinstance(outer, _AsideLimit) else None

    def __call__(self) -> AbstractAsyncContextManager[None]:
        limit: _AsideLimit | None = self
        while limit is not None:  # the items around it step aside with it
            limit.most = max(limit.most, MOST_WAITING)
            limit = limit._outer
        return step_aside()


class _AsyncSource:
    """Items of an async iterable, read by one task a few items ahead of the workers."""

    def __init__(
        self,
        items: AsyncIterable[Any],
        read_ahead: int,
        on_item: Callable[[], bool],
        at_work: Callable[[int], None],
    ) -> None:
        self._items = items
        self._at_work = at_work
        self._read_ahead = read_ahead
        self._on_item = on_item
        self._ready: deque[Any] = deque()
        self._space: asyncio.Future[None] | None = None

    def take(self) -> Any:
        """Return the next item, or `_NOTHING` for now."""
        if not self._ready:
            return _NOTHING
        item = self._ready.popleft()
        if self._space is not None and len(self._ready) <= self._read_ahead // 2:
            if not self._space.done():
                self._space.set_result(None)
            self._space = None
        return item

    def has_more(self) -> bool:
        """Whether an item is ready."""
        return bool(self._ready)

    async def read(self) -> None:
        """Read to the end; then, or when stopped, close the iterator."""
        self._at_work(1)  # as long as it waits for an item, there may be more to ask
        try:
            async with aclosing(each(self._items)) as source:
                async for item in source:
                    self._ready.append(item)
                    if not self._on_item():
                        return
                    await self._wait_for_space()
        finally:
            self._at_work(-1)

    async def _wait_for_space(self) -> None:
        while len(self._ready) >= self._read_ahead:
            self._space = asyncio.get_running_loop().create_future()
            self._at_work(-1)
            try:
                await self._space
            finally:
                self._at_work(1)


class Pool:
    """One run over many items. Use `run_pool`."""

    def __init__(self, owner: object, call: Call, slots: LoopSlots, results: Results) -> None:
        self._owner = owner
        self._call = call
        self._slots = slots
        self._results = results
        self._context: Context = copy_context()
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order they were started
        self._failure: BaseException | None = None
        self._source_error: Exception | None = None
        self._last_error: Exception | None = None
        self._reader: asyncio.Task[None] | None = None
        self._working = 0  # workers that are not aside, those not yet started among them
        self._starting = 0
        self._aside = 0
        self._live = active_items()
        self._aside_limit = _AsideLimit(max(_ASIDE_AT_LEAST, _ASIDE_PER_SLOT * slots.limit))
        self._take: Callable[[], Any] = lambda: _NOTHING
        self._has_more: Callable[[], bool] = lambda: False
        self._exhausted = False

    async def run(self, items: Items) -> None:
        """Work off all items, or raise once everything has stopped."""
        if isinstance(items, AsyncIterable):
            read_ahead = int(min(_READ_AHEAD, self._slots.limit))
            source = _AsyncSource(items, read_ahead, self._on_item, self._live.add)
            self._take, self._has_more = source.take, source.has_more
            self._reader = self._start_task(self._read(source))
        else:
            self._take = partial(next, iter(items), _NOTHING)
            self._has_more = lambda: not self._exhausted
            self._staff()
        await self._until_stopped()
        error = self._what_ended_it()
        if error is not None:
            self._results.attach_to(error)
            try:
                raise error
            finally:
                # Or the error would keep itself alive through this frame.
                error = self._failure = self._source_error = self._last_error = None

    def _what_ended_it(self) -> BaseException | None:
        if self._failure is not None:
            return self._failure
        return self._source_error if self._last_error is None else self._last_error

    async def _until_stopped(self) -> None:
        cancelled: asyncio.CancelledError | None = None
        while not self._finished.done():
            try:
                await asyncio.shield(self._finished)
            except asyncio.CancelledError as error:
                cancelled = error
                self._stop(error)
        if cancelled is not None:
            self._failure = cancelled

    def step_aside(self) -> None:
        """Let another worker start while the item of one of them waits."""
        self._working -= 1
        self._aside += 1
        self._staff()

    def step_back(self) -> None:
        """Count a worker again."""
        self._working += 1
        self._aside -= 1
        self._staff()

    def count(self, number: int) -> None:
        """Count items that begin (or, negative, end) to be at work."""
        self._live.add(number)

    def _staff(self, wanted: int = 1) -> None:
        """See to it that this many workers are about to start, as far as the limits allow."""
        while (
            self._starting < wanted
            and self._working < self._slots.limit
            and self._aside < self._aside_limit.most
            and self._failure is None
            and self._has_more()
        ):
            self._starting += 1
            self._working += 1
            self.count(1)
            worker = Worker(self._owner, HeldSlot(self._slots, self))
            self._start_task(self._work(worker))

    async def _read(self, source: _AsyncSource) -> None:
        try:
            await source.read()
        except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
            self._source_failed(error)

    def _source_failed(self, error: Exception) -> None:
        """Take no more items; those that have begun may end if failures are collected."""
        self._exhausted = True
        self._source_error = error
        if not self._results.collect:
            self._stop(error)

    def _item_failed(self, error: Exception) -> None:
        """Go on, end, or stop at once, as the error and the policy want it."""
        if not concerns_all(error):
            if not self._results.collect:
                self._stop(error)
        elif self._results.collect or isinstance(error, BudgetExceededError):
            self._end(error)  # what has begun within the budget is paid for
        else:
            self._stop(error)

    def _end(self, error: Exception) -> None:
        """Take no more items because of this error; those that have begun may end."""
        if self._last_error is None:
            self._last_error = error
            self._take, self._has_more = lambda: _NOTHING, lambda: False
            if self._reader is not None:
                self._reader.cancel()

    def _on_item(self) -> bool:
        self._staff()
        return self._failure is None and self._last_error is None

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # A context of its own: what one item sets must not be seen by another. And not by
        # loop.create_task: an eager task factory would run one worker inside the other.
        task = asyncio.Task(work, loop=self._loop, context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if task.cancelled():
            if task is not self._reader or self._last_error is None:
                self._stop(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._stop(error)
        if not self._tasks and not self._finished.done():
            self._finished.set_result(None)

    def _stop(self, error: BaseException) -> None:
        """Stop everything because of this error, unless another one was first."""
        if self._failure is None:
            self._failure = error
            for task in self._tasks:
                task.cancel()

    async def _work(self, worker: Worker) -> None:
        self._starting -= 1
        worker.enter()
        worker.hold.enter()
        yield_slot.set(self._aside_limit)
        clean = copy_context()
        try:
            await self._work_off(worker, clean)
        finally:
            worker.hold.end_item()
            self._working -= 1
            self.count(-1)
            self._staff()

    async def _work_off(self, worker: Worker, clean: Context) -> None:
        hold, slots, values = worker.hold, self._slots, self._results.values
        wanted, done = 2, 0  # the first item brings two workers, so that numbers double
        while self._failure is None and self._working <= slots.limit:
            try:
                item = self._take()
            except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
                self._source_failed(error)
                return
            if item is _NOTHING:
                self._exhausted = True
                return
            index = len(values)
            values.append(NotRun)
            if self._starting < wanted:
                self._staff(wanted)
            wanted = 1
            if not hold.taken:
                await hold.take()
            try:
                values[index] = await self._call(item, worker)
            except Exception as error:  # noqa: BLE001 (whatever the user's code raises)
                attempts = worker.index + 1
                values[index] = self._results.failure(index, item, error, attempts, self._owner)
                self._item_failed(error)
            hold.end_item(keep=not slots.has_waiters())
            if not _same_context(clean):
                return  # the next item gets a worker that sees nothing of it
            done += 1
            if not done % _ITEMS_PER_TURN:
                await _let_others_run()


@contextmanager
def _one_of_many(items: Items) -> Iterator[None]:
    """Count the items of the block in place of the one that it is in."""
    live, around = active_items(), held()
    count = len(items) if isinstance(items, Sized) else 0
    live.enter(count)
    item = 0 if around is None else around.enter_run()
    try:
        yield
    finally:
        if around is not None:
            around.leave_run(item)
        live.leave(count)


async def run_pool(
    owner: object,
    call: Call,
    items: Items,
    *,
    slots: LoopSlots,
    on_error: OnError,
) -> list[Any]:
    """Call for every item, many at once; results keep input order.

    Args:
        owner: the node or flow, for its `cur_retry`.
        call: an async function of an item and its `Worker`.
        items: consumed as slots get free. An async iterator is closed at the end.
        slots: how many may be at work at once.
        on_error: with ``"raise"``, the first failure stops the others, which are
            awaited, and is raised with the results so far attached; with
            ``"collect"``, a `Failure` takes the place of the result. What every other item
            would meet, too, ends the run either way: no item begins any more, those that
            have begun end, and it is raised.

    """
    results = Results(items, on_error)
    async with lend_slots(slots):
        with _one_of_many(items):
            await Pool(owner, call, slots, results).run(items)
    return results.values
