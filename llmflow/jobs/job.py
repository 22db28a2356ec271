"""Every row of a source through an LLM, and out again: the engine of ``llmflow run``.

A bounded number of workers pull rows, so that memory does not grow with the
source. Every row ends as an answer or as a named failure; what was not asked any
more, because the run was stopped, has neither and can be asked by the next run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmflow.errors import (
    BudgetExceededError,
    ContentFilterError,
    InputError,
    JournalError,
    LLMFlowError,
    ProviderError,
    redact,
)
from llmflow.jobs.contact import Contact
from llmflow.jobs.feed import Feed, ThreadFeed
from llmflow.jobs.submission import Submission
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
from llmflow.runs.context import current_run
from llmflow.types import Usage

DEFAULT_CONCURRENCY = 100
# Longer than any attempt may take: admission stays closed until the last one has ended.
_CLOSED_SECONDS = 3600.0
_DRAIN_POLL_SECONDS = 0.05
# Rows that share the answer of another one wake a few turns after it.
_TURNS_TO_WAKE = 8
DRAIN_SECONDS = 60.0
"""How long a stopped job waits for answers that are on their way."""


@dataclass(slots=True)
class Counters:
    """What a job has done so far."""

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


class Job:
    """One prompt over many rows.

    A job that is stopped closes the limiter's admission for good: it is the end of
    its program.

    >>> job = Job(llm, rows, template, writer)  # doctest: +SKIP
    >>> await job.run()  # doctest: +SKIP

    Args:
        llm: the model.
        source: the rows.
        template: makes a prompt of a row; as a selection, it leaves out some.
        writer: takes the answers and the failures.
        concurrency: how many rows are under way at once.
        fail_fast: whether the first row that fails ends the job.
        drain_seconds: how long answers on their way are waited for once the job is stopped.
        contact: what the LLM's retry policy notes of its connections; where it is
            lost, the job stops.
        submission: puts the rows into batch jobs before they are asked for one by one; None
            where they are asked at once.
        overflow: puts the rows that are left into batch jobs when the daily quota is used up;
            None where that ends the job, or each row goes into a job by itself.
        details: whether rows say how their answers came about, in further columns.
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
        contact: Contact | None = None,
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
        self.contact = contact or Contact()
        self.contact.on_lost = self._stop
        self._llm = llm
        self.source = source
        self._selection = template if isinstance(template, Selection) else Selection(template)
        self._writer = writer
        self._details = details
        self.concurrency = concurrency
        self._workers: set[asyncio.Task[None]] = set()
        self.fails_fast = fail_fast
        """Whether the first row that fails ends it."""
        self._drain_seconds = drain_seconds
        self._submitting: asyncio.Task[None] | None = None
        self._started = 0
        self._drain: asyncio.Task[None] | None = None

    @property
    def once(self) -> bool:
        """Whether its rows come through a pipe."""
        return self.source.once

    @property
    def stopping(self) -> bool:
        """Whether it takes no more rows."""
        return self._drain is not None

    @property
    def submitting(self) -> bool:
        """Whether it waits for batch jobs, and no row was asked by itself yet."""
        return self._submitting is not None

    @property
    def reading(self) -> Submission | None:
        """What reads rows to put them into batch jobs at the moment; None if nothing does."""
        now = self.submission if self.submitting else self.overflow if self._overflowing else None
        return None if now is None or now.is_read else now

    @property
    def detached(self) -> bool:
        """Whether its batch jobs were left to another session, with nothing wrong."""
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
        # What can be read only once may block as well: a thread waits for it.
        if self.overflow is not None and (run := current_run()) is not None:
            run.session.on_quota_used_up.append(self._begin_overflow)
        feed: Feed[Row] = ThreadFeed(self.source) if self.source.once else Feed(self.source)
        try:
            self._add_worker(feed)
            while self._workers:
                await asyncio.wait(self._workers)
        finally:
            feed.close()
            others = {each for each in (self._drain, self._overflowing) if each is not None}
            await _cancel(self._workers | others)
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
            self._overflowing = asyncio.create_task(self._put_the_rest())

    async def _put_the_rest(self) -> None:
        assert self.overflow is not None
        try:
            # What is on its way in parallel must not go into a job as well.
            while self._is_busy():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(_DRAIN_POLL_SECONDS)
            await self.overflow.put()
        except LLMFlowError as error:
            self._stop(error)

    async def _next(self, feed: Feed[Row]) -> tuple[int, Row] | None:
        """Return the next row; none while the rest is put into jobs, where it is waited for."""
        if self._overflowing is not None and not self._overflowing.done():
            await asyncio.wait((self._overflowing,))
        return None if self.stopping else await feed.next()

    def interrupt(self) -> None:
        """Send no more. What is in flight may come to its end; asked twice, it is dropped.

        Batch jobs go on at the provider.
        """
        if self._submitting is not None:
            self.interrupted = True
            self._submitting.cancel()
            return
        if self.interrupted:
            self._drop()
            return
        self.interrupted = True
        self._close_admission()

    def _stop(self, error: BaseException) -> None:
        """End the job early, because of an error that every other row would meet as well."""
        if self.stopped_by is None:
            self.stopped_by = error
        self._close_admission()

    def _close_admission(self) -> None:
        if self._overflowing is not None:
            self._overflowing.cancel()
        if self._drain is None:
            self._llm.limiter.pause(_CLOSED_SECONDS)
            self._drain = asyncio.create_task(self._drop_when_drained())

    async def _drop_when_drained(self) -> None:
        """Once the last answer on its way is here, drop the rows that wait to be sent."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._drain_seconds
        while self._is_busy() and loop.time() < deadline:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        for _ in range(_TURNS_TO_WAKE):
            await asyncio.sleep(0)
        self._drop()

    def _is_busy(self) -> bool:
        """Return whether an answer is on its way, or on its way into the journal."""
        run = current_run()
        recording = 0 if run is None else run.session.recording
        return bool(recording or self._llm.limiter.statistics().in_flight)

    def _drop(self) -> None:
        for worker in self._workers:
            worker.cancel()

    def _add_worker(self, feed: Feed[Row]) -> None:
        self._started += 1
        worker = asyncio.create_task(self._work(feed))
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)

    async def _work(self, feed: Feed[Row]) -> None:
        """Pull rows until there are none. The first row of each worker brings the next worker."""
        first, loop = True, asyncio.get_running_loop()
        try:
            while not self.stopping and (found := await self._next(feed)) is not None:
                if first and self._started < self.concurrency:
                    self._add_worker(feed)
                first = False
                index, row = found
                self.counters.in_flight += 1
                started = loop.time()
                try:
                    await self._answer(row, index)
                finally:
                    self.counters.in_flight -= 1
                    self.counters.row_seconds += loop.time() - started
        except Exception as error:  # noqa: BLE001 - `run` raises what is not ours
            self._stop(error)

    async def _answer(self, row: Mapping[str, Any], index: int) -> None:
        try:
            prompt = self._selection.prompt(row, index)
            if isinstance(prompt, LeftOut):
                self.counters.leave_out(prompt)
                return
            response = await self._llm.complete(prompt)
        except (ProviderError, InputError, BudgetExceededError, JournalError) as error:
            if error.fatal or self.contact.lost:
                # It says nothing of this row, which the next run asks again.
                self._stop(error)
                return
            self._fail(row, error, index)
        else:
            counters = self.counters
            # Counted when it is written: what the writer refuses was not answered.
            details = answer_details(response) if self._details else None
            self._writer.write(answer_row(row, response.text, index, details))
            counters.answered += 1
            counters.cut += response.is_cut
            counters.empty += response.is_empty
            if response.source == "journal":
                counters.replayed += 1
                return
            if response.source != "provider":
                return
            if not self.contact.made:
                self.contact.confirm()
            counters.count_use(response.usage, response.cost)

    def _fail(self, row: Mapping[str, Any], error: LLMFlowError, index: int) -> None:
        self._writer.fail(failed_row(row, error, index, details=self._details))
        self.counters.failed += 1
        if isinstance(error, ContentFilterError) and error.usage is not None:
            self.counters.count_use(error.usage, error.cost)  # what was stopped is paid for
        kind = type(error).__name__
        count, first = self.counters.reasons.get(kind, (0, redact(str(error))))
        self.counters.reasons[kind] = (count + 1, first)
        if self.fails_fast:
            self._stop(error)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
