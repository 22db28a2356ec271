"""The engine of a map: draws items from a source, asks, and holds results until they are read.

Every item has a task of its own, in a copy of the caller's context. All changes of
state are made by synchronous methods that end in `advance`, which starts what there
is room for. There is room while fewer than ``concurrency`` items are under way *and*
fewer than ``window`` items were read and not handed out: a consumer that is slow, or
one straggler that holds up an ordered stream, stops the reading of the source, and
memory stays bounded. Items that wait for batch jobs count for neither: a job is to hold
as many of them as it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

from llmflow.batch.live import live_here, stepping_aside
from llmflow.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    LLMFlowError,
    ModelNotFoundError,
    QuotaExhaustedError,
)
from llmflow.failure_notes import note_item
from llmflow.mapping.places import Places
from llmflow.mapping.prompts import MakePrompt
from llmflow.mapping.result import MapCounts, Result
from llmflow.mapping.sources import END, NOTHING, Source
from llmflow.types import Response

logger = logging.getLogger("llmflow")

ItemT = TypeVar("ItemT")

Ask: TypeAlias = Callable[[Any], Awaitable[Response]]
"""The bound call: everything but the prompt is settled."""

OnError: TypeAlias = Literal["collect", "raise"]

DRAIN_SECONDS: Final = 60.0
"""How long answers on their way are waited for once a fatal error has ended the rest.

They are paid for, and seldom take longer; requests that still wait for the quota then
would only meet the same error."""

_ITEMS_PER_TURN: Final = 64
_SECONDS_PER_TURN: Final = 0.005
_UNREAD_AT_LEAST: Final = 100
_HELD_AT_LEAST: Final = 1_000
_HELD_AT_MOST: Final = 10_000
_HELD_PER_CALL: Final = 9


def window_of(concurrency: int, *, ordered: bool) -> int:
    """Return how many items may be read and not handed out.

    As completed, as many finished results as calls under way may wait for the consumer
    (and at least 100): enough to bridge its pauses. In order, results also wait for
    the slowest item before them. With nine finished ones for each call under way, a
    straggler that takes ten times as long as the others stops nothing; the slowest
    per mille of hosted models' answers take about that. At least 1,000, which cost
    a few megabytes; at most 10,000, so that memory stays a matter of tens of megabytes.

    >>> window_of(100, ordered=False), window_of(100, ordered=True)
    (200, 1100)
    """
    if not ordered:
        return concurrency + max(_UNREAD_AT_LEAST, concurrency)
    return concurrency + min(_HELD_AT_MOST, max(_HELD_AT_LEAST, _HELD_PER_CALL * concurrency))


class Pump(Generic[ItemT]):
    """One run over many items, in one event loop.

    Args:
        ask: what answers a prompt.
        make_prompt: what makes an item's prompt.
        source: where items come from.
        concurrency: how many items may be under way at once.
        window: how many items may be read and not handed out.
        ordered: whether results come out in the order of the items.
        on_error: whether an item's failure ends the others.
        total: how many items there are, if that is known.
    """

    def __init__(
        self,
        ask: Ask,
        make_prompt: MakePrompt,
        source: Source,
        *,
        concurrency: int,
        window: int,
        ordered: bool,
        on_error: OnError,
        total: int | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.ready: deque[Result[ItemT]] = deque()
        """Results that can be handed out; take them by `pop`."""
        self.failure: BaseException | None = None
        """What ended the map before the end of its source."""
        self.at_end: Callable[[BaseException | None], Awaitable[None]] | None = None
        """What to await when all has ended, with what ended it early."""
        self._ask = ask
        self._make_prompt = make_prompt
        self._source = source
        self._places = Places(concurrency, self.advance)
        self._window = window
        self._ordered = ordered
        self._raises = on_error == "raise"
        self._total = total
        self._context: Context = copy_context()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._held: dict[int, Result[ItemT]] = {}  # of items after one that has not ended
        self._next = self._expected = 0
        self._read = self._answered = self._failed = self._delivered = 0
        self._cut = self._empty = 0
        self._told = False
        self._exhausted = False
        self._cancelled = False
        self._reading = False
        self._again = False
        self._waiter: asyncio.Future[None] | None = None
        self._drain: asyncio.TimerHandle | None = None

    @property
    def over(self) -> bool:
        """Whether no more results can become ready."""
        return (self._exhausted or self.failure is not None) and not self._tasks

    @property
    def counts(self) -> MapCounts:
        """What has become of the items so far."""
        total = self._total
        if self._exhausted or (total is not None and self._read > total):
            total = self._read
        return MapCounts(
            total=total,
            read=self._read,
            answered=self._answered,
            failed=self._failed,
            delivered=self._delivered,
            cut=self._cut,
            empty=self._empty,
        )

    def start(self) -> None:
        """Start the source, and the first items."""
        self._expect(self._total or 0)
        self._source.start(self._context, self.advance)
        self.advance()

    def _expect(self, items: int) -> None:
        """Say how many items there are, to what decides between live calls and batch jobs."""
        live_here().expected += items - self._expected
        self._expected = items

    def advance(self) -> None:
        """Start what there is room for, and tell the consumer if that is all."""
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
        places, turn, until = self._places, _ITEMS_PER_TURN, 0.0
        while (
            self.failure is None
            and not self._exhausted
            and places.has_room
            and self._read - self._delivered - places.aside < self._window
        ):
            if turn != _ITEMS_PER_TURN:
                # A source that takes its time must not hold up what is under way.
                until = until or self.loop.time() + _SECONDS_PER_TURN
                if not turn or self.loop.time() > until:
                    self._go_on_later()
                    return
            turn -= 1
            try:
                item = self._source.take()
            except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
                self._stop(error)
                return
            if item is NOTHING:
                return
            if item is END:
                self._exhausted = True
                return
            index = self._read
            self._read += 1
            # Not by loop.create_task: an eager task factory would run it here and now.
            places.enter()
            self._tasks[index] = asyncio.Task(
                self._answer(index, item), loop=self.loop, context=self._context.copy()
            )

    def _go_on_later(self) -> None:
        if not self._again:
            self._again = True
            self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._again = False
        self.advance()

    async def _answer(self, index: int, item: ItemT) -> None:
        """Ask for one item. Nothing is raised from here: who reads the results gets it."""
        response: Response | None = None
        failed: LLMFlowError | None = None
        stepping_aside.set(self._places.step_aside)
        try:
            response = await self._ask(self._make_prompt(item, index))
        except LLMFlowError as error:
            failed = error
        except asyncio.CancelledError as error:
            self._lost(index, error)
            return
        except BaseException as error:  # noqa: BLE001 - unforeseen, so it concerns all items
            note_item(error, index, item, owner="the map")
            self._lost(index, error)
            return
        self._end(index)
        if failed is not None and not _concerns_all(failed):
            note_item(failed, index, item, owner="the map")
        if failed is not None and _concerns_all(failed):
            # It says nothing of this item, which the next run asks again.
            self._stop(failed, cancel=_refuses_all(failed, answered=self._answered))
        elif failed is not None and self._raises:
            self._failed += 1
            self._stop(failed, cancel=True)
        else:
            if response is not None:
                self._answered += 1
                self._cut += response.is_cut
                self._empty += response.is_empty
            else:
                self._failed += 1
            self._keep(Result(index=index, item=item, response=response, error=failed))
        self.advance()

    def _lost(self, index: int, error: BaseException) -> None:
        """Note that an item ended without a result."""
        self._end(index)
        self._stop(error, cancel=not isinstance(error, Exception))
        self.advance()

    def _end(self, index: int) -> bool:
        """Give up the place of an item; False if that was done before."""
        if self._tasks.pop(index, None) is None:
            return False
        self._places.leave()
        return True

    def _keep(self, result: Result[ItemT]) -> None:
        if not self._ordered:
            self.ready.append(result)
        else:
            held = self._held
            held[result.index] = result
            while (found := held.pop(self._next, None)) is not None:
                self.ready.append(found)
                self._next += 1
        if self.ready:
            self.wake()

    def _stop(self, error: BaseException, *, cancel: bool = False) -> None:
        """Read no more. What is under way may come to its end, unless it is to be cancelled."""
        if self.failure is None:
            self.failure = error
        if cancel:
            self.cancel()
        elif self._drain is None:
            self._drain = self.loop.call_later(DRAIN_SECONDS, self.cancel)

    def cancel(self) -> None:
        """Cancel everything that is under way, and read no more."""
        if self.failure is None and not self.over:
            self.failure = asyncio.CancelledError()
        if not self._cancelled:
            self._cancelled = True
            for index, task in self._tasks.items():
                # One that has not begun never comes to the end of `_answer`.
                task.add_done_callback(partial(self._gone, index))
                task.cancel()

    def _gone(self, index: int, _task: asyncio.Task[None]) -> None:
        if self._end(index):
            self.advance()

    def _finish(self) -> None:
        """Hand out what was held for items that will never end, and wake the consumer."""
        if self._held:
            self.ready.extend(self._held[index] for index in sorted(self._held))
            self._held.clear()
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None
        self._expect(0)
        if self._cut and not self._told:
            self._told = True
            self._warn_of_cuts()
        self.wake()

    def _warn_of_cuts(self) -> None:
        """Say so if the bound has cut more answers than may be odd."""
        from llmflow.runs.oddities import too_many_cut

        words = too_many_cut(self._answered, cut=self._cut, option="max_tokens")
        if words is not None:
            logger.warning("llm.map: %s", words)

    def wake(self) -> None:
        """Let `wait` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, unless: Callable[[], object] | None = None) -> None:
        """Wait until a result is ready, or all is over, or for something else."""
        while not (self.ready or self.over or (unless is not None and unless())):
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def pop(self) -> Result[ItemT]:
        """Hand out the next result, which makes room for another item."""
        result = self.ready.popleft()
        self._delivered += 1
        self.advance()
        return result

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
            await asyncio.wait(list(self._tasks.values()))
        if self._drain is not None:
            self._drain.cancel()
        try:
            await self._source.close()
        finally:
            if self.at_end is not None:
                await self.at_end(self.failure)


def _concerns_all(error: LLMFlowError) -> bool:
    """Whether every other item must fail in the same way."""
    return error.fatal or isinstance(error, ConfigurationError)


def _refuses_all(error: LLMFlowError, *, answered: int) -> bool:
    """Whether nothing that is on its way can be answered, so that waiting is for nothing."""
    if isinstance(error, BillingError | QuotaExhaustedError):
        return not answered  # else what was sent before it ran out may be answered
    return isinstance(error, AuthenticationError | ModelNotFoundError | ConfigurationError)
