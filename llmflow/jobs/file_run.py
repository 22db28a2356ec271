"""Engine of ``llmflow run``: asks for each row, and writes the answer.

Every row ends as an answer or as a named failure; what was not asked any more, because the run
was stopped, has neither and can be asked by the next run.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llmflow.calls.call import Call, Step
from llmflow.errors import (
    BudgetExceededError,
    ContentFilterError,
    InputError,
    JournalError,
    LLMFlowError,
    ProviderError,
    redact,
)
from llmflow.events import Event
from llmflow.items.idle import yield_slot
from llmflow.items.runner import DRAIN_SECONDS, ENDED, ItemRunner, Room, item_calls
from llmflow.items.sources import IterableSource, Source, ThreadSource
from llmflow.jobs.reachability import Reachability
from llmflow.jobs.submission import NO_HASH, NO_KEY, Key, Submission
from llmflow.llm import LLM
from llmflow.rows import (
    LeftOut,
    PromptTemplate,
    Row,
    RowSource,
    RowWriter,
    Selection,
    answer_row,
    failed_row,
)
from llmflow.rows.records import answer_details
from llmflow.runs.run import current_run
from llmflow.types import Response, Usage

if TYPE_CHECKING:
    from llmflow.calls.session import Session
    from llmflow.journal import Recorded

DEFAULT_CONCURRENCY = 100
_BUSY_POLL_SECONDS = 0.05
_OF_ROWS = ProviderError, InputError, BudgetExceededError, JournalError
"""What a row may fail with; everything else ends the run."""
_UNKNOWN: Final = NO_KEY, NO_HASH, None


@dataclass(slots=True)
class Counters:
    """Progress of a file run."""

    answered: int = 0
    failed: int = 0
    replayed: int = 0
    """How many of the answers, and of the failures, are from an earlier session's journal."""
    cut: int = 0
    """How many of the answers were cut off at `max_tokens`, wherever they are from."""
    empty: int = 0
    """How many of the answers are empty."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    """How many rows failed with each kind of error, and what the first of them said."""
    skipped: int = 0
    """How many rows were left out because no prompt can be made of them."""
    first_skipped: str | None = None
    """What is wrong with the first of them."""
    skipped_empty: int = 0
    """How many rows were left out because there is nothing in their prompt fields."""
    in_flight: int = 0
    """Rows that were taken from the source and have not ended."""
    row_seconds: float = 0.0
    """For how long rows were under way, all together."""

    @property
    def done(self) -> int:
        """Rows that have ended."""
        return self.answered + self.failed + self.left_out

    @property
    def left_out(self) -> int:
        """Rows that were not asked, as it was wanted."""
        return self.skipped + self.skipped_empty

    def count_use(self, usage: Usage, cost: float | None) -> None:
        """Count what an answer took."""
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        if cost is not None:
            self.cost = (self.cost or 0.0) + cost

    def leave_out(self, row: LeftOut) -> None:
        """Count a row that is not asked."""
        if row.empty:
            self.skipped_empty += 1
            return
        self.skipped += 1
        self.first_skipped = self.first_skipped or redact(row.reason)


class FileRun(Room):
    """One prompt over many rows.

    Stopped, it sends nothing more; other runs of the process go on.

    >>> job = FileRun(llm, rows, template, writer)  # doctest: +SKIP
    >>> await job.run()  # doctest: +SKIP

    `concurrency` rows are under way at once. `contact` is what the LLM's retry policy notes of its
    connections; where it is lost, the run stops. `submission` puts the rows into batch jobs before
    they are asked for one by one. `overflow` puts what is left into batch jobs when the daily quota
    is used up; without it that ends the run, or each row goes into a job by itself.
    """

    def __init__(
        self,
        llm: LLM,
        source: RowSource,
        template: PromptTemplate | Selection,
        writer: RowWriter,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        fail_fast: bool = False,
        drain_seconds: float = DRAIN_SECONDS,
        contact: Reachability | None = None,
        submission: Submission | None = None,
        overflow: Submission | None = None,
        details: bool = False,
    ) -> None:
        self.counters = Counters()
        self.stopped_by: BaseException | None = None
        """What ended the job before the source's end: a fatal error, a broken source, ..."""
        self.interrupted = False
        """Whether somebody asked it to stop."""
        self.submission = submission
        self.overflow = overflow
        self._overflowing: asyncio.Task[None] | None = None
        self.contact = contact or Reachability()
        self.contact.on_lost = self._stop
        self._llm = llm
        self.source = source
        self._selection = template if isinstance(template, Selection) else Selection(template)
        self._writer = writer
        self._details = details
        self.concurrency = concurrency
        self.fails_fast = fail_fast
        """Whether the first row that fails ends it."""
        self.stopping = False
        """Whether it takes no more rows."""
        self._drain_seconds = drain_seconds
        self._submitting: asyncio.Task[None] | None = None
        self._runner: ItemRunner[Row] | None = None
        self._context: Context | None = None
        self._session: Session | None = None
        self._submitted: Iterator[Sequence[tuple[Key, int]]] = iter(())
        self._all_looked_up = True
        self._looking: asyncio.Task[None] | None = None
        self._outcomes: deque[tuple[Key, int, Recorded | None]] = deque()

    @property
    def once(self) -> bool:
        """True if its rows come through a pipe."""
        return self.source.once

    @property
    def submitting(self) -> bool:
        """True if only batch jobs are awaited, without single calls yet."""
        return self._submitting is not None

    @property
    def reading(self) -> Submission | None:
        """The submission that is reading rows now, or None."""
        now = self.submission if self.submitting else self.overflow if self._overflowing else None
        return None if now is None or now.is_read else now

    @property
    def detached(self) -> bool:
        """True if its batch jobs were left to another session."""
        submission = self.submission
        wanted = submission is not None and submission.detach and submission.is_over
        return wanted and self.stopped_by is None and not self.interrupted

    async def run(self) -> None:
        """Work off the source. Afterwards `stopped_by` and `interrupted` say how it ended.

        Raises:
            Exception: something unforeseen, after what was in flight has ended.
        """
        if not await self._submit():
            return
        if self.overflow is not None and (run := current_run()) is not None:
            run.session.on_quota_used_up.append(self._begin_overflow)
        # What can be read only once may block as well: a thread waits for it.
        source: Source = (
            ThreadSource(self.source) if self.source.once else IterableSource(self.source)
        )
        self._context = copy_context()
        runner = self._runner = ItemRunner(
            self._row,
            source,
            self,
            drain_seconds=self._drain_seconds,
            sends_after_stop=False,
            prepare=self._prepare,
        )
        try:
            self._session, call = self._llm.call_for("")
        except LLMFlowError as error:
            self.stopped_by = error
            return
        self._session.note_route(call.route)
        if self.submission is not None and self.submission.keys is not None:
            self._submitted, self._all_looked_up = self.submission.keys.read(), False
        try:
            if not self.stopping:
                runner.start()
                await runner.wait()
        finally:
            putting = self._overflowing
            if putting is not None:
                putting.cancel()
            await runner.close()
            if rest := list(filter(None, (putting, self._looking))):
                await asyncio.wait(rest)
        if isinstance(runner.failure, asyncio.CancelledError):
            self.interrupted = True
        elif self.stopped_by is None:
            self.stopped_by = runner.failure
        if self.stopped_by is not None and not isinstance(self.stopped_by, LLMFlowError):
            raise self.stopped_by

    async def _submit(self) -> bool:
        """Have batch jobs answer the rows; return whether these are to be written now."""
        submission = self.submission
        if submission is None:
            return True
        self._submitting = asyncio.create_task(submission.run())
        try:
            await asyncio.wait((self._submitting,))
            if not self._submitting.cancelled():
                self._submitting.result()
        except LLMFlowError as error:
            self.stopped_by = error
        finally:
            self._submitting.cancel()
            if submission.detach or not submission.is_over:
                await submission.stop()
            self._submitting = None
        return submission.is_over and not submission.detach

    def _begin_overflow(self) -> None:
        if self._overflowing is None and not self.stopping:
            # Not in the context of the row that has found out.
            putting = asyncio.Task(self._put_the_rest(), context=self._context)
            putting.add_done_callback(self._has_put)
            self._overflowing = putting

    async def _put_the_rest(self) -> None:
        assert self.overflow is not None
        try:
            # What is on its way in parallel must not go into a job as well.
            while self._is_busy():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_BUSY_POLL_SECONDS)
            await self.overflow.put()
        except LLMFlowError as error:
            self._stop(error)

    def _has_put(self, _putting: asyncio.Task[None]) -> None:
        if self._runner is not None:
            self._runner.advance()

    def _is_busy(self) -> bool:
        """Return whether an answer is on its way, or on its way into the journal."""
        run = current_run()
        recording = 0 if run is None else run.session.recording
        return bool(recording or (self._runner is not None and self._runner.sending))

    def has_room(self) -> bool:
        """Return whether another row may begin; none while jobs are made."""
        putting = self._overflowing is not None and not self._overflowing.done()
        assert self._runner is not None
        if not (self._outcomes or self._all_looked_up):
            self._looking = self._looking or asyncio.create_task(self._look_up())
            return False
        return self._runner.under_way < self.concurrency and not putting

    def interrupt(self) -> None:
        """Send no more; a second call also drops requests in flight.

        Batch jobs go on at the provider.
        """
        if self._submitting is not None:
            self.interrupted = True
            self._submitting.cancel()
        elif self.interrupted and self._runner is not None:
            self._runner.cancel()
        else:
            self.interrupted = True
            self._send_no_more(None)

    def _stop(self, error: BaseException) -> None:
        """End the run early, because of an error that every other row would meet as well."""
        if self.stopped_by is None:
            self.stopped_by = error
        self._send_no_more(error)

    def _send_no_more(self, error: BaseException | None) -> None:
        self.stopping = True
        if self._overflowing is not None:
            self._overflowing.cancel()
        if self._runner is not None:
            self._runner.stop(error)

    async def _look_up(self) -> None:
        """Look up the next rows that were submitted, all at once."""
        assert self._session is not None
        assert self._runner is not None
        rows = next(self._submitted, None)
        try:
            if rows is not None:
                found = await self._session.ordinals.recorded_many([key for key, _ in rows])
                self._outcomes.extend((key, digest, found.get(key)) for key, digest in rows)
        except JournalError:
            rows = None  # whoever asks for a row meets it
        self._looking, self._all_looked_up = None, rows is None
        self._runner.advance()

    def _prepare(self, index: int, row: Row) -> Any:
        """Return what a row's task gets; `ENDED` if none is needed."""
        key, digest, found = self._outcomes.popleft() if self._outcomes else _UNKNOWN
        try:
            prompt = self._selection.prompt(row, index)
            if isinstance(prompt, LeftOut):
                self.counters.leave_out(prompt)
                return ENDED
            is_same = digest == hash(prompt) and not Event.wanted
            if is_same and found is not None and self._session is not None:
                self._write(row, self._session.tally.outcome(found), index)
                return ENDED
            session, call = self._llm.call_for(prompt)
            response = None
            if is_same:
                call.key, call.ordinal = key
            else:
                response = session.recall(call, submitted=self.submission is not None)
        except _OF_ROWS as error:
            self._failed(row, error, index)
            return ENDED
        if response is None:
            return row, session.ask, call
        self._write(row, response, index)
        return ENDED

    async def _row(self, index: int, item: tuple[Row, Step, Call]) -> None:
        counters, loop = self.counters, asyncio.get_running_loop()
        if (calls := item_calls.get()) is not None:
            yield_slot.set(calls.wait_for_job)
        counters.in_flight += 1
        started = loop.time()
        row, ask, call = item
        try:
            response = await ask(call)
            self._write(row, response, index)
        except _OF_ROWS as error:
            self._failed(row, error, index)
        except Exception as error:  # noqa: BLE001 - `run` raises what is not ours
            self._stop(error)
        finally:
            counters.in_flight -= 1
            counters.row_seconds += loop.time() - started

    def _write(self, row: Row, response: Response, index: int) -> None:
        """Write an answer, and count it."""
        counters = self.counters
        # Counted when it is written: what the writer refuses was not answered.
        details = answer_details(response) if self._details else None
        self._writer.write(answer_row(row, response.text, index, details))
        counters.answered += 1
        counters.cut += response.is_cut
        counters.empty += response.is_empty
        if response.source == "journal":
            counters.replayed += 1
        elif response.source == "provider":
            if not self.contact.made:
                self.contact.confirm()
            counters.count_use(response.usage, response.cost)

    def _failed(self, row: Row, error: LLMFlowError, index: int) -> None:
        """Write a row's failure, or end the run where it says nothing of the row."""
        if error.fatal or self.contact.lost:  # the next run asks it again
            self._stop(error)
            return
        self._writer.fail(failed_row(row, error, index, details=self._details))
        self.counters.failed += 1
        if isinstance(error, ContentFilterError) and error.usage is not None:
            self.counters.count_use(error.usage, error.cost)  # what was stopped is paid for
        kind = type(error).__name__
        count, first = self.counters.reasons.get(kind, (0, redact(str(error))))
        self.counters.reasons[kind] = (count + 1, first)
        if self.fails_fast:
            self._stop(error)
