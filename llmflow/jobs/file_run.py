"""Engine of ``llmflow run``: asks for each row, and writes the answer.

Every row ends as an answer or as a named failure; what was not asked any more, because the run
was stopped, has neither and can be asked by the next run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llmflow.calls.call import Call, RowKey, Step
from llmflow.calls.mode_options import use_mode
from llmflow.errors import (
    BudgetExceededError,
    InputError,
    InvalidAnswerError,
    JournalError,
    LLMFlowError,
    ProviderError,
    redact,
)
from llmflow.events import Event
from llmflow.items.idle import yield_slot
from llmflow.items.runner import DRAIN_SECONDS, ENDED, ItemRunner, Room, item_calls
from llmflow.items.sources import (
    READ_AHEAD,
    AsyncIterableSource,
    IterableSource,
    Source,
    ThreadSource,
)
from llmflow.jobs.reachability import Reachability
from llmflow.jobs.submission import NO_HASH, NO_KEY, ROWS_PER_TURN, RowKeys, Submission
from llmflow.llm import LLM
from llmflow.rows import (
    LeftOut,
    PromptTemplate,
    Row,
    RowLayout,
    RowSource,
    RowWriter,
    Selection,
)
from llmflow.rows.records import answer_details
from llmflow.runs.run import current_run
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.calls.session import Session, Tally
    from llmflow.journal import Recorded

DEFAULT_CONCURRENCY = 100
_BUSY_POLL_SECONDS = 0.05
_OF_ROWS = ProviderError, InvalidAnswerError, InputError, BudgetExceededError, JournalError
"""What a row may fail with; everything else ends the run."""
_Item: TypeAlias = tuple[int, Row, Step, Call]
"""What a row's task gets: its index, the row, and what asks its call."""
_Known: TypeAlias = "tuple[RowKey, int, Recorded | None]"
"""Key of a row's call, hash of its prompt, and what the journal knows of it."""
_Answered: TypeAlias = tuple[int, Row, Mapping[str, Any]]
"""Index of a row, the row, and its answer's columns."""
_UNKNOWN: Final[_Known] = NO_KEY, NO_HASH, None


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
    is used up; without it that ends the run, or each row goes into a job by itself. `layout` is
    what the rows of the output hold.
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
        layout: RowLayout | None = None,
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
        self._layout = RowLayout() if layout is None else layout
        self.concurrency = concurrency
        self.fails_fast = fail_fast
        """Whether the first row that fails ends it."""
        self.stopping = False
        """Whether it takes no more rows."""
        self._drain_seconds = drain_seconds
        self._submitting: asyncio.Task[None] | None = None
        self._runner: ItemRunner[Row] | None = None
        self._context: Context | None = None
        self._tally: Tally

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
        options = None if self.overflow is None else self._llm.mode_options
        if options is not None:
            options = replace(options, on_quota_used_up=self._begin_overflow)
        with use_mode(options):
            await self._run_rows()

    async def _run_rows(self) -> None:
        try:
            session, call = self._llm.call_for("")
        except LLMFlowError as error:
            self.stopped_by = error
            return
        self._tally = session.tally
        session.note_route(call.route)
        self._context = copy_context()
        runner = self._runner = ItemRunner(
            self._row,
            self._rows(session),
            self,
            drain_seconds=self._drain_seconds,
            sends_after_stop=False,
            prepare=self._prepare,
        )
        try:
            if not self.stopping:
                runner.start()
                await runner.wait()
        finally:
            putting = self._overflowing
            if putting is not None:
                putting.cancel()
            await runner.close()
            if putting is not None:
                await asyncio.wait((putting,))
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

    def _rows(self, session: Session) -> Source:
        """Return the source of rows; of those that were submitted, only the unanswered ones."""
        if self.submission is not None and self.submission.keys is not None:
            rows = self._unanswered(session, self.submission.keys)
            return AsyncIterableSource(rows, read_ahead=READ_AHEAD)
        # What can be read only once may block as well: a thread waits for it.
        return ThreadSource(self.source) if self.source.once else IterableSource(self.source)

    async def _unanswered(self, session: Session, keys: RowKeys) -> AsyncIterator[_Item]:
        """Write the rows whose outcomes the journal has, and yield the others."""
        rows = enumerate(self.source)
        for known in keys.read():
            # What cannot be looked up ends the run: to ask for it would be to pay for it again.
            answers, found = await self._look_up(session, [key for key, _ in known])
            answered: list[_Answered] = []
            for (key, digest), (index, row) in zip(known, rows, strict=False):
                if key in answers and self._is_same(digest, index, row):
                    answered.append((index, row, answers[key]))
                    continue
                self._replay(answered)
                if self.stopping:
                    return
                item = self._prepare(index, row, (key, digest, found.get(key)))
                if item is not ENDED:
                    yield item
            self._replay(answered)
            await asyncio.sleep(0)
        for index, row in rows:
            if self.stopping:
                return
            if not index % ROWS_PER_TURN:
                await asyncio.sleep(0)
            item = self._prepare(index, row)
            if item is not ENDED:
                yield item

    async def _look_up(
        self, session: Session, keys: list[RowKey]
    ) -> tuple[Mapping[RowKey, Mapping[str, Any]], Mapping[RowKey, Recorded]]:
        """Return the columns of answers of which no more is to be written, and other records."""
        layout = self._layout
        answers: dict[RowKey, Mapping[str, Any]] = {}
        if session.journal is not None and not (layout.details or Event.wanted):
            for key, text in (await session.journal.find_texts(keys)).items():
                columns = layout.columns_of_text(text)
                if columns is not None:  # else it is asked again, by a task of its own
                    answers[key] = columns
        others = [key for key in keys if key not in answers]
        return answers, await session.ordinals.recorded_many(others) if others else {}

    def _replay(self, rows: list[_Answered]) -> None:
        """Write and count answers of the journal; the list is empty then."""
        if rows:
            self._tally.known("replayed", number=len(rows))
            make = self._layout.answer
            self._writer.write(*[make(row, answer, index) for index, row, answer in rows])
            self.counters.answered += len(rows)
            self.counters.replayed += len(rows)
            rows.clear()

    def _is_same(self, digest: int, index: int, row: Row) -> bool:
        """Return whether a row has the prompt that was submitted."""
        try:
            return digest == hash(self._selection.prompt(row, index))
        except InputError:
            return False

    def _prepare(self, index: int, row: Row | _Item, known: _Known = _UNKNOWN) -> Any:
        """Return what a row's task gets; `ENDED` if none is needed."""
        if isinstance(row, tuple):  # from `_unanswered`
            return row
        key, digest, found = known
        try:
            prompt = self._selection.prompt(row, index)
            if isinstance(prompt, LeftOut):
                self.counters.leave_out(prompt)
                return ENDED
            session, call = self._llm.call_for(prompt)
            response = None
            if digest != hash(prompt) or Event.wanted:
                response = session.recall(call, submitted=self.submission is not None)
            else:
                call.key, call.ordinal = key
                if found is not None:
                    response = session.judged(call, found)
            if response is None:
                return index, row, session.ask, call
            self._write(row, response, index)
        except _OF_ROWS as error:
            self._failed(row, error, index)
        return ENDED

    async def _row(self, _: int, item: _Item) -> None:
        counters, loop = self.counters, asyncio.get_running_loop()
        if (calls := item_calls.get()) is not None:
            yield_slot.set(calls.wait_for_job)
        counters.in_flight += 1
        started = loop.time()
        index, row, ask, call = item
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
        layout = self._layout
        details = answer_details(response) if layout.details else None
        self._writer.write(layout.answer(row, layout.columns_of(response), index, details))
        counters.answered += 1
        counters.cut += response.is_cut
        counters.empty += response.is_empty
        if response.source == "journal":
            counters.replayed += 1
        elif response.source == "provider" and not self.contact.made:
            self.contact.confirm()

    def _failed(self, row: Row, error: LLMFlowError, index: int) -> None:
        """Write a row's failure, or end the run where it says nothing of the row."""
        if error.fatal or self.contact.lost:  # the next run asks it again
            self._stop(error)
            return
        self._writer.fail(self._layout.failure(row, error, index))
        self.counters.failed += 1
        kind = type(error).__name__
        count, first = self.counters.reasons.get(kind, (0, redact(str(error))))
        self.counters.reasons[kind] = (count + 1, first)
        if self.fails_fast:
            self._stop(error)
