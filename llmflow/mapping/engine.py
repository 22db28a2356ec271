"""Engine of a map: asks for items, and holds results until read.

There is room for another item while fewer than ``concurrency`` are under way *and* fewer than
``window`` were read and not handed out: a consumer that is slow, or one straggler that holds up
an ordered stream, stops the reading of the source, and memory stays bounded. Items that wait
for batch jobs count for neither, and have no task: a job is to hold as many of them as it can.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from llmflow.calls.call import Call, Route, RowKey, RunLive
from llmflow.calls.place import place
from llmflow.calls.session import Session
from llmflow.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    LLMFlowError,
    ModelNotFoundError,
    QuotaExhaustedError,
)
from llmflow.failure_notes import note_item
from llmflow.items.idle import active_items, time_limits, yield_slot
from llmflow.items.runner import ENDED, ItemRunner, OnError, concerns_all
from llmflow.items.slots import ItemSlots
from llmflow.items.sources import Source
from llmflow.mapping.prompts import MakePrompt, Prompt
from llmflow.mapping.result import MapCounts, Result
from llmflow.types import Response

logger = logging.getLogger("llmflow")

ItemT = TypeVar("ItemT")

Begin: TypeAlias = Callable[[Any], tuple[Session, Call]]
"""Makes the call of a prompt, not asked yet; returns it with the session that asks it."""


class _Begun(NamedTuple):
    """An item with its prompt, or, if it was placed and no job answers it, its row.

    `answer` is what is known of it and not accepted.
    """

    item: Any
    prompt: Any = None
    row: RowKey | None = None
    answer: Response | None = None


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


class MapEngine(Generic[ItemT]):
    """One map, in one event loop.

    `window` is how many items may be read and not handed out, `in_jobs` whether their calls may be
    placed in batch jobs.
    """

    def __init__(
        self,
        begin: Begin,
        make_prompt: MakePrompt,
        source: Source,
        *,
        concurrency: int,
        window: int,
        ordered: bool,
        on_error: OnError,
        total: int | None,
        in_jobs: bool = False,
    ) -> None:
        self.ready: deque[Result[ItemT]] = deque()
        """Results that can be handed out; take them by `pop`."""
        self.runner: ItemRunner[ItemT] = ItemRunner(
            self._answer,
            source,
            self,
            on_end=self._finish,
            prepare=self._prepare,
            on_cancel=self._withdraw,
        )
        self._begin = begin
        # Within an item or an attempt of somebody else, these are to know who waits for jobs.
        self._places = in_jobs and yield_slot.get() is None and not time_limits.get()
        self._placed: dict[int, tuple[Session, Route, RowKey]] = {}
        self._make_prompt = make_prompt
        self._slots = ItemSlots(concurrency, self.runner.advance)
        self.enter, self.leave = self._slots.enter, self._slots.leave
        self._window = window
        self._ordered = ordered
        self._raises = on_error == "raise"
        self._total = total
        self._held: dict[int, Result[ItemT]] = {}  # of items after one that has not ended
        self._next = self._expected = 0
        self._answered = self._failed_items = self._delivered = 0
        self._cut = self._empty = 0
        self._told = False
        self._waiter: asyncio.Future[None] | None = None

    @property
    def failure(self) -> BaseException | None:
        """The error that ended the map before its source's end."""
        return self.runner.failure

    @property
    def counts(self) -> MapCounts:
        """Counts of the items so far."""
        total, read = self._total, self.runner.read
        if self.runner.exhausted or (total is not None and read > total):
            total = read
        return MapCounts(
            total=total,
            read=read,
            answered=self._answered,
            failed=self._failed_items,
            delivered=self._delivered,
            cut=self._cut,
            empty=self._empty,
        )

    def start(self) -> None:
        """Start the source, and the first items."""
        self._expect(self._total or 0)
        self.runner.start()

    def _expect(self, items: int) -> None:
        """Say how many items there are, to what decides between live calls and batch jobs."""
        active_items().expected += items - self._expected
        self._expected = items

    def has_room(self) -> bool:
        """Return whether another item may begin."""
        slots = self._slots
        unread = self.runner.read - self._delivered - slots.aside
        return unread < self._window and slots.has_room()

    def _prepare(self, index: int, item: ItemT) -> Any:
        """Place an item in a batch job, without a task for it, if it goes into one."""
        if not self._places:
            return item
        try:
            prompt = self._make_prompt(item, index)
            session, call = self._begin(prompt)
            in_jobs = call.mode_options is not None and session.mode_of(call).is_batch(call)
            if call.route.cache is not None or not in_jobs:
                return _Begun(item, prompt)
            response = session.recall(call)
            if response is None:
                return self._place(index, item, prompt, session, call)
        except BaseException as error:  # noqa: BLE001 - what is not ours is raised again
            self._failed(index, item, error)
        else:
            self._answered_by(index, item, response)
        return ENDED

    def _place(self, index: int, item: ItemT, prompt: Prompt, session: Session, call: Call) -> Any:
        # It does not suspend where there is no cache.
        placing = place(session, call, partial(self._came, index, item))
        try:
            placing.send(None)
        except StopIteration as end:
            if end.value:
                self._placed[index] = session, call.route, call.row
                self._slots.aside += 1
                self.runner.placed += 1
                return ENDED
        except LLMFlowError:
            pass  # its task meets it again
        if call.answer is not None:
            return _Begun(item, prompt, call.row, call.answer)
        if call.key:  # the task makes the call anew
            session.ordinals.give_back(call, (call.ordinal,))
        return _Begun(item, prompt)

    def _came(self, index: int, item: ItemT, outcome: Response | Exception) -> None:
        """Take the outcome of a placed item, which needs a task where no job answers it."""
        placed = self._placed.pop(index, None)
        if placed is None:
            return  # it was cancelled
        self._slots.aside -= 1
        if isinstance(outcome, RunLive):
            self.runner.end_placed((index, _Begun(item, row=placed[2], answer=outcome.answer)))
            return
        if isinstance(outcome, Response):
            self._answered_by(index, item, outcome)
        elif isinstance(outcome, LLMFlowError):
            self._failed(index, item, outcome)
        else:
            self.runner.stop(outcome)
        self.runner.end_placed()

    def _withdraw(self) -> None:
        """Leave placed items to their jobs; forget those not sent."""
        placed, self._placed = self._placed, {}
        self._slots.aside -= len(placed)
        for session, route, row in placed.values():
            session.batches.withdraw(route, row)

    async def _answer(self, index: int, item: Any) -> None:
        """Ask for one item, and keep what comes of it."""
        yield_slot.set(self._slots.yield_slot)
        prompt = row = answer = None
        if type(item) is _Begun:
            item, prompt, row, answer = item
        try:
            if prompt is None:
                prompt = self._make_prompt(item, index)
            session, call = self._begin(prompt)
            # Of one without an answer, a journal has taken the number back.
            if row is not None and (session.journal is None or answer is not None):
                call.key, call.ordinal = row
                call.answer = answer
            response = await session.ask(call)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - likewise
            self._failed(index, item, error)
        else:
            self._answered_by(index, item, response)

    def _answered_by(self, index: int, item: ItemT, response: Response) -> None:
        self._answered += 1
        self._cut += response.is_cut
        self._empty += response.is_empty
        self._keep(Result(index=index, item=item, response=response))

    def _failed(self, index: int, item: ItemT, error: BaseException) -> None:
        """Keep an item's failure, or end the map with it."""
        if not isinstance(error, LLMFlowError):
            note_item(error, index, item, owner="the map")
            raise error
        if concerns_all(error):
            # It says nothing of this item, which the next run asks again.
            self.runner.stop(error, cancel=_refuses_all(error, answered=self._answered))
            return
        note_item(error, index, item, owner="the map")
        self._failed_items += 1
        if self._raises:
            self.runner.stop(error, cancel=True)
            return
        self._keep(Result(index=index, item=item, error=error))

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

    def _finish(self) -> None:
        """Hand out what was held for items that will never end, and wake the consumer."""
        if self._held:
            self.ready.extend(self._held[index] for index in sorted(self._held))
            self._held.clear()
        self._expect(0)
        if self._cut and not self._told:
            self._told = True
            self._warn_of_cuts()
        self.wake()

    def _warn_of_cuts(self) -> None:
        """Say so if the bound has cut more answers than may be odd."""
        from llmflow.runs.report import too_many_cut

        words = too_many_cut(self._answered, cut=self._cut, option="max_tokens")
        if words is not None:
            logger.warning("llm.map: %s", words)

    def wake(self) -> None:
        """Let `wait` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, unless: Callable[[], object] | None = None) -> None:
        """Wait until a result is ready, or all is over."""
        while not (self.ready or self.runner.over or (unless is not None and unless())):
            self._waiter = self.runner.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def pop(self) -> Result[ItemT]:
        """Hand out the next result, which makes room for another item."""
        result = self.ready.popleft()
        self._delivered += 1
        self.runner.advance()
        return result


def _refuses_all(error: LLMFlowError, *, answered: int) -> bool:
    """Whether nothing that is on its way can be answered, so that waiting is for nothing."""
    if isinstance(error, BillingError | QuotaExhaustedError):
        return not answered  # else what was sent before it ran out may be answered
    return isinstance(error, AuthenticationError | ModelNotFoundError | ConfigurationError)
