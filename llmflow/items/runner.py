"""Engine for many items: reads a source, runs tasks, drains."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, Generic, Literal, ParamSpec, Protocol, Self, TypeAlias, TypeVar

from llmflow.errors import ConfigurationError, LLMFlowError, UsageError
from llmflow.items.sources import END, NOTHING, Source

ItemT = TypeVar("ItemT")
_T = TypeVar("_T")
_P = ParamSpec("_P")

OnError: TypeAlias = Literal["raise", "collect"]
"""What becomes of a run when an item fails: it ends at the first, or goes on and collects."""

ENDED: Final[Any] = object()
"""What `prepare` returns of an item that needs no task."""

DRAIN_SECONDS: Final = 60.0
"""How long answers on their way are waited for once the rest has been ended.

They are paid for, and seldom take longer."""

# An item that needs a task counts as several: who starts fewer ahead of those that end needs
# fewer in all, and what is alive costs time in the garbage collection.
_ITEMS_PER_TURN: Final = 64
_A_TASK_COUNTS: Final = 4
_SECONDS_PER_TURN: Final = 0.005


def concerns_all(error: BaseException) -> bool:
    """Return whether every other item must fail in the same way.

    No credit, a used-up budget, a wrong setting: such an error ends a run even where failures
    are collected.
    """
    if not isinstance(error, LLMFlowError):
        return False
    return error.fatal or isinstance(error, ConfigurationError)


def check_on_error(on_error: OnError) -> OnError:
    """Return the policy, or refuse it."""
    if on_error not in ("raise", "collect"):
        raise UsageError(f'on_error must be "raise" or "collect"; got {on_error!r}')
    return on_error


class Room(Protocol):
    """Bounds how many items are under way."""

    @abstractmethod
    def has_room(self) -> bool:
        """Return whether another item may begin."""

    def enter(self) -> None:
        """Count an item that begins, with a task of its own."""
        return

    def leave(self) -> None:
        """Count it no more."""
        return


class ItemRunner(Generic[ItemT]):
    """One run over the items of a source, in one event loop.

    Every item that waits for something has a task of its own, in a copy of the caller's context.
    All changes of state are made by synchronous methods that end in `advance`, which starts what
    there is room for: the source is read no further, so memory stays bounded.

    Args:
        work: an async function of an item's index and the item. What it raises ends the run. It
            may go on with what `another` gives it.
        source: where items come from.
        room: bounds how many items are under way.
        on_end: called once nothing is under way and nothing more will be.
        drain_seconds: how long items under way may take after a stop; None: as long as they do.
        cancels_with_source: whether an error of the source cancels what is under way.
        sends_after_stop: whether items under way may still send requests after a stop. If not,
            what waits to be sent is dropped, and answers on their way are waited for.
        prepare: returns what `work` gets of an item, or `ENDED` where it needs no task: its
            outcome is known, or it is `placed`. What it raises ends the run.
        on_cancel: called when items under way are cancelled.
    """

    def __init__(
        self,
        work: Callable[[int, Any], Awaitable[None]],
        source: Source,
        room: Room,
        *,
        on_end: Callable[[], None] = lambda: None,
        drain_seconds: float | None = DRAIN_SECONDS,
        cancels_with_source: bool = False,
        sends_after_stop: bool = True,
        prepare: Callable[[int, Any], Any] = lambda _, item: item,
        on_cancel: Callable[[], None] = lambda: None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.failure: BaseException | None = None
        """What ended the run before the end of its source."""
        self.stopped = False
        """Whether no more items are begun, though there may be some."""
        self.exhausted = False
        """Whether the source was read to its end."""
        self.read = 0
        """Items that were read."""
        self.placed = 0
        """Items that wait somewhere else, without a task."""
        self.sends = True
        """Whether items under way may send requests."""
        self.sending = 0
        """Items with a request on its way, where `sends_after_stop` is false."""
        self.at_close: Callable[[BaseException | None], Awaitable[None]] | None = None
        """What to await when all is closed, with what ended it early."""
        self._work = work
        self._prepare = prepare
        self._on_cancel = on_cancel
        self._source = source
        self._room = room
        self._on_end = on_end
        self._drain_seconds = drain_seconds
        self._cancels_with_source = cancels_with_source
        self._sends_after_stop = sends_after_stop
        self._context: Context = copy_context()
        self._tasks: dict[asyncio.Task[None], ItemCalls | None] = {}  # in the order of items
        self._back: deque[tuple[int, Any]] = deque()
        self._cancelled = self._reading = self._again = False
        self._ended: asyncio.Future[None] | None = None
        self._drain: asyncio.TimerHandle | None = None

    @property
    def under_way(self) -> int:
        """The number of items that have begun and have not ended."""
        return len(self._tasks)

    @property
    def over(self) -> bool:
        """True once nothing is under way, and nothing more will be."""
        return (self.exhausted or self.stopped) and not (self._tasks or self.placed or self._back)

    def start(self) -> None:
        """Start the source, and the first items."""
        self._source.start(self._context, self.advance)
        self.advance()

    def advance(self) -> None:
        """Start items while there is room; report when all is over."""
        if self._reading:
            return  # the source's own code led here
        self._reading = True
        try:
            self._read_items()
        finally:
            self._reading = False
        if self.over:
            self._finish()

    def _read_items(self) -> None:
        turn, until = _ITEMS_PER_TURN, 0.0
        while not (self.stopped or (self.exhausted and not self._back)) and self._room.has_room():
            if turn != _ITEMS_PER_TURN:
                # A source that takes its time must not hold up what is under way.
                until = until or self.loop.time() + _SECONDS_PER_TURN
                if turn <= 0 or self.loop.time() > until:
                    self._go_on_later()
                    return
            turn -= 1
            if self._back:
                turn -= _A_TASK_COUNTS - 1
                self._begin(*self._back.popleft())
                continue
            item = self.another()
            if item is NOTHING:
                return
            index = self.read - 1
            try:
                item = self._context.run(self._prepare, index, item)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns all items
                self.stop(error, cancel=not isinstance(error, Exception))
                return
            if item is not ENDED:
                turn -= _A_TASK_COUNTS - 1
                self._begin(index, item)

    def _begin(self, index: int, item: Any) -> None:
        self._room.enter()
        # Not by loop.create_task: an eager task factory would run it here and now.
        context = self._context.copy()
        self._tasks[asyncio.Task(self._run(index, item), loop=self.loop, context=context)] = None

    def end_placed(self, again: tuple[int, Any] | None = None) -> None:
        """End the wait of a placed item, perhaps with a task."""
        if self._cancelled:
            return
        self.placed -= 1
        if again is not None and not self.stopped:
            self._back.append(again)
        self.advance()

    def another(self) -> Any:
        """Return the next item for a task that has ended its own.

        Or `NOTHING`: for now, at the end, or where reading it failed. `read` counts it already.
        """
        if self.stopped or self.exhausted:
            return NOTHING
        try:
            item = self._source.take()
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            self.stop(error, cancel=self._cancels_with_source)
            return NOTHING
        if item is END:
            self.exhausted = True
            return NOTHING
        if item is not NOTHING:
            self.read += 1
        return item

    def _go_on_later(self) -> None:
        if not self._again:
            self._again = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._again = False
        self.advance()

    async def _run(self, index: int, item: Any) -> None:
        """Work on an item, and perhaps on others; `failure` has what is raised."""
        task = asyncio.current_task(self.loop)
        assert task is not None
        try:
            if not self._sends_after_stop:
                self._tasks[task] = calls = ItemCalls(self, task)
                item_calls.set(calls)
            await self._work(index, item)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it concerns all items
            if not (isinstance(error, asyncio.CancelledError) and self.stopped):
                self.stop(error, cancel=not isinstance(error, Exception))
        finally:
            self._end(task)
            self.advance()

    def _end(self, task: asyncio.Task[None]) -> bool:
        """Forget a task that has ended; False if that was done before."""
        if task not in self._tasks:
            return False
        del self._tasks[task]
        self._room.leave()
        return True

    def stop(self, error: BaseException | None = None, *, cancel: bool = False) -> None:
        """Read no more; what is under way may come to its end.

        Args:
            error: why; the first one is kept as `failure`.
            cancel: whether to cancel what is under way.
        """
        if self.failure is None:
            self.failure = error
        self.stopped = True
        self._back.clear()
        if cancel:
            self.cancel()
            return
        if self._drain is None and self._drain_seconds is not None:
            self._drain = self.loop.call_later(self._drain_seconds, self.cancel)
        if self.sends and not self._sends_after_stop:
            # What has begun in this turn of the event loop may send before.
            self.loop.call_soon(self._send_no_more)
        if self.over and not self._reading:
            self._finish()

    def _send_no_more(self) -> None:
        self.sends = False
        for task, calls in list(self._tasks.items()):
            if calls is not None and calls.waits:
                self._cancel(task)

    def cancel(self) -> None:
        """Cancel everything that is under way, and read no more."""
        if self.failure is None and not self.over:
            self.failure = asyncio.CancelledError()
        self.stopped = True
        if not self._cancelled:
            self._cancelled = True
            for task in self._tasks:
                self._cancel(task)
            self._back.clear()
            if self.placed:
                self.placed = 0
                self._on_cancel()
                self.advance()

    def _cancel(self, task: asyncio.Task[None]) -> None:
        if task is not asyncio.current_task(self.loop):  # which has ended, but for what it says
            # One that has not begun never comes to the end of `_run`.
            task.add_done_callback(self._gone)
            task.cancel()

    def _gone(self, task: asyncio.Task[None]) -> None:
        if self._end(task):
            self.advance()

    def _finish(self) -> None:
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
        self._on_end()

    async def wait(self) -> None:
        """Return when all is over."""
        while not self.over:
            self._ended = self.loop.create_future()
            await self._ended

    async def close(self) -> None:
        """Cancel what is under way, close the source, and wait for both."""
        if asyncio.get_running_loop() is not self.loop:
            return  # a loop of another process or of the past: nothing there can be waited for
        self.cancel()
        closing = asyncio.Task(self._end_all(), loop=self.loop)
        cancelled: asyncio.CancelledError | None = None
        while not closing.done():
            try:
                await asyncio.shield(closing)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        closing.result()

    async def _end_all(self) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._drain is not None:
            self._drain.cancel()
        try:
            await self._source.close()
        finally:
            at_close, self.at_close = self.at_close, None
            if at_close is not None:
                await at_close(self.failure)


class ItemCalls:
    """The state of one item's calls: waiting to be sent, or sent."""

    __slots__ = ("_run", "_sending", "_task", "_waiting")

    def __init__(self, run: ItemRunner[Any], task: asyncio.Task[None]) -> None:
        self._run = run
        self._task = task
        self._waiting = 0
        self._sending = 0

    @property
    def waits(self) -> bool:
        """True if something is to be sent, and nothing on its way."""
        return bool(self._waiting and not self._sending)

    def begin(self) -> None:
        """Count a call that is to be sent.

        Raises:
            CancelledError: the run sends no more.
        """
        if not self._run.sends:
            raise asyncio.CancelledError
        self._waiting += 1

    def end(self) -> None:
        """Count a call no more that has its answer, or has failed."""
        self._waiting -= 1

    def sent(self, send: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]:
        """Return the same function; a stop of the run waits for it."""

        async def sent(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            self._sending += 1
            self._run.sending += 1
            try:
                return await send(*args, **kwargs)
            finally:
                self._sending -= 1
                self._run.sending -= 1
                if not self._run.sends:
                    # Unless it has its answer, or its error, by then: it is to be sent again.
                    self._run.loop.call_soon(self._drop)

        return sent

    def _drop(self) -> None:
        if self.waits:
            self._task.cancel()

    def wait_for_job(self) -> Self:
        """Wait for a batch job, which goes on without the run."""
        return self

    async def __aenter__(self) -> None:
        self.begin()

    async def __aexit__(self, *_: object) -> None:
        self.end()


item_calls: ContextVar[ItemCalls | None] = ContextVar("llmflow_item_calls", default=None)
"""The running item's calls, where a stop ends what waits to be sent; else None."""
