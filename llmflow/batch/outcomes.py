"""Outcomes of rows: from results to waiting calls and their record."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmflow.batch.record import JobRecord
from llmflow.batch.result_files import LONGEST_LINE, Unread
from llmflow.batch.spool import call_of, name_in
from llmflow.calls.call import Done, Route, RunLive
from llmflow.calls.recording import keep_answers, keep_failure
from llmflow.calls.refusals import FILTERED, filtered, is_of_all, is_of_input, of_content
from llmflow.calls.session import Session
from llmflow.errors import (
    BadReplyError,
    BatchRowLostError,
    JournalError,
    LLMFlowError,
    ProviderError,
    ResultsTooLargeError,
)
from llmflow.events import BatchDecided, BatchJobChanged, emit
from llmflow.provider import BatchRow
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.journal import Recorded

Outcome = Response | ProviderError
Settled = Callable[[JournalError | None, int], None]
"""Tells a job that so many outcomes are written down, or why they cannot be."""


class PendingCall:
    """A call that waits for its row.

    Attributes:
        future: its outcome.
    """

    __slots__ = ("_settled", "future")

    def __init__(self) -> None:
        self.future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._settled: Settled | None = None

    def give(self, outcome: Outcome, settled: Settled) -> None:
        """Hand the call its outcome, which it is to write down."""
        self._settled = settled
        if isinstance(outcome, ProviderError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)

    def mark_durable(self) -> None:
        """Note that the outcome is written down."""
        if (settled := self.taken()) is not None:
            with contextlib.suppress(RuntimeError):  # its loop is closed, and the job with it
                settled(None, 1)

    def mark_failed(self, error: JournalError) -> None:
        """Note that it cannot be written down."""
        if (settled := self.taken()) is not None:
            settled(error, 1)

    def taken(self) -> Settled | None:
        """Return, once, what waits to hear of the outcome."""
        settled, self._settled = self._settled, None
        return settled


class PendingCalls:
    """The calls that wait or are called back, by their rows' names."""

    def __init__(self) -> None:
        self._waiting: dict[str, PendingCall] = {}
        self._placed: dict[str, Done] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._waiting or name in self._placed

    def wait(self, name: str, call: PendingCall) -> None:
        """Have a call wait for a row."""
        self._waiting[name] = call

    def place(self, name: str, done: Done) -> None:
        """Have a function called with a row's outcome."""
        self._placed[name] = done

    def leave(self, name: str, call: PendingCall) -> bool:
        """Have a call wait no longer; whether it did until now."""
        if self._waiting.get(name) is not call:
            return False
        del self._waiting[name]
        return True

    def give(self, outcomes: Mapping[str, Outcome], settled: Settled) -> Mapping[str, Outcome]:
        """Deliver outcomes to the waiting calls; return those without one."""
        if not self._waiting:
            return outcomes
        left: dict[str, Outcome] = {}
        for name, outcome in outcomes.items():
            call = self._waiting.pop(name, None)
            if call is None or call.future.done():
                left[name] = outcome
            else:
                call.give(outcome, settled)
        return left

    def callback(self, name: str) -> Done | None:
        """Return the function to be called with a row's outcome, once."""
        return self._placed.pop(name, None)

    def run_live(self, names: Iterable[str]) -> set[str]:
        """Have these rows' calls run live; return rows nobody waits for."""
        return self._end(names, RunLive())

    def fail(self, names: Iterable[str], error: LLMFlowError) -> None:
        """Have the calls for these rows fail."""
        self._end(names, error)

    def fail_all(self, error: LLMFlowError) -> None:
        """Have all calls fail."""
        self._end([*self._waiting, *self._placed], error)

    def _end(self, names: Iterable[str], error: Exception) -> set[str]:
        alone = set[str]()
        for name in names:
            call = self._waiting.pop(name, None)
            if call is None:
                alone.add(name)
                if (done := self._placed.pop(name, None)) is not None:
                    asyncio.get_running_loop().call_soon(done, copy.copy(error))
            elif not call.future.done():
                call.future.set_exception(copy.copy(error))  # each raises its own
        return alone


class ResultSink:
    """Takes what a queue's jobs bring and what is decided of them.

    Args:
        session: whose calls they answer.
        route: the model that they ask.
        decisions: what was decided, and for how many rows; 0 where it was not for rows.
        met: the tags of jobs that a queue of this session has had.
    """

    def __init__(
        self, session: Session, route: Route, *, decisions: dict[str, int], met: set[str]
    ) -> None:
        self._session = session
        self._route = route
        self._decisions = decisions
        self._met = met
        self.retried = session.tally.retried

    async def find_many(self, names: Iterable[str]) -> dict[str, Recorded]:
        """Return what the journal knows of rows, by name."""
        journal = self._session.journal
        rows = {} if journal is None else {call_of(name): name for name in names}
        rows.pop(None, None)
        if journal is None or not rows:
            return {}
        found = await journal.find_many([row for row in rows if row is not None])
        return {rows[row]: each for row, each in found.items()}

    def keep(
        self, outcomes: Mapping[str, Outcome], callback: Callable[[str], Done | None]
    ) -> asyncio.Future[None] | None:
        """Record answers, or one failure, that no call waits for.

        Args:
            outcomes: those of rows, by name.
            callback: returns what gets a row's outcome once it is recorded.

        Returns:
            A future that ends with the writing, or None where nothing is written.
        """
        session, route, answers, callbacks = self._session, self._route, [], []
        try:
            for name, outcome in outcomes.items():
                row, done = call_of(name), callback(name)
                if row is None:
                    continue
                callbacks.append(done)
                if isinstance(outcome, ProviderError):
                    return keep_failure(session, route, row, outcome, done)
                answers.append((row, outcome, done))
            return keep_answers(session, route, answers)
        except Exception as error:  # such as of an answer whose usage is no number
            for done in filter(None, callbacks):  # nobody else has them any more
                done(error)
            raise

    async def drain(self) -> None:
        """Return when all that was kept before is durable."""
        if self._session.journal is not None:
            await self._session.journal.drain()

    def lost(self, name: str, error: ProviderError) -> None:
        """Charge a row that may have been billed without an answer."""
        spending = self._session.spending
        if spending is not None and (row := call_of(name)) is not None:
            spending.row_lost(row, error)

    def renew(self, name: str) -> bool:
        """Reserve the cost of asking a row again; False if unaffordable."""
        spending, row = self._session.spending, call_of(name)
        return spending is None or row is None or spending.renew_row(row)

    def let_go(self, names: Collection[str]) -> None:
        """Return reserves of rows without a job or a waiting call."""
        if self._session.spending is not None:
            self._session.spending.let_go(filter(None, map(call_of, names)))

    def worked(self) -> None:
        """Note that a job has brought an answer: key and model work."""
        self._route.limiter.standing.confirm()

    def changed(self, record: JobRecord) -> None:
        """Tell of a job's state."""
        self._met.add(record.tag)
        self._emit(
            BatchJobChanged,
            record,
            state=record.state,
            native=record.native,
            rows=record.requests,
            answered=record.succeeded,
            failed=record.failed,
            outcome=record.outcome,
        )

    def decided(self, decision: str, *, record: JobRecord | None = None, rows: int = 0) -> None:
        """Tell of a decision and keep it; without rows, once."""
        if record is None and not rows and decision in self._decisions:
            return
        self._decisions[decision] = self._decisions.get(decision, 0) + rows
        self._emit(BatchDecided, record, decision=decision, rows=rows)

    def _emit(
        self, kind: type[BatchDecided | BatchJobChanged], record: JobRecord | None, **facts: Any
    ) -> None:
        if kind.wanted:
            provider, run_id = self._route.provider, self._session.run_id
            job = None if record is None else record.job or record.tag
            who: Any = {"provider": provider.name, "model": provider.model, "job": job}
            emit(kind(at=time.time(), run_id=run_id, **who, **facts))


class Ingest:
    """Takes the results of one job, in whatever order they are.

    The first answer to a row is its answer; an error counts only where no line has an answer.
    Lines that cannot be read, and rows that the job never had, are left out.

    Args:
        record: the job's.
        names: its rows without an outcome; those that get one are removed.
        sink: hears of what is decided, and of rows that may have been billed.
        deliver: gives rows their outcomes.
    """

    def __init__(
        self,
        record: JobRecord,
        names: set[str],
        sink: ResultSink,
        deliver: Callable[[Mapping[str, Outcome]], None],
    ) -> None:
        self._record = record
        self._names = names
        self._sink = sink
        self._deliver = deliver
        self._unreadable = 0
        self._has_answers = False
        """Whether any row was answered: then key and model work."""
        self._errors: dict[str, ProviderError] = {}
        self._unread: dict[str, ProviderError] = {}
        self._ran = 0

    def take(self, rows: Sequence[BatchRow | Unread]) -> None:
        """Give rows their answers, and note what failed."""
        answers: dict[str, Outcome] = {}
        for row in rows:
            if isinstance(row, Unread):
                self._note_unread(row)
            else:
                self._take(row, answers)
        self._deliver(answers)

    def _take(self, row: BatchRow, answers: dict[str, Outcome]) -> None:
        name, response, error = row
        if response is not None and not self._has_answers:
            self._has_answers = True
            self._sink.worked()
        if name not in self._names:
            return  # another's, or answered by an earlier line
        if response is not None and response.finish_reason == FILTERED:
            self._ran += name not in self._errors
            self._errors.setdefault(name, filtered(response))
        elif response is not None:
            self._ran += 1
            self._names.remove(name)
            self._errors.pop(name, None)
            if self._record.round > 1:
                response = replace(response, attempts=self._record.round)
            answers[name] = response
        elif error is not None:
            self._ran += error.may_be_billed and name not in self._errors
            self._errors.setdefault(name, error)

    def _note_unread(self, line: Unread) -> None:
        """Count a line that is no row; if it says whose it is, that is why there is no answer."""
        self._unreadable += 1
        name = name_in(line.start)
        if name is None or name not in self._names:
            return
        where = f"in the results of the batch job {self._record.job}"
        if line.is_too_long:
            text = f"the row's line {where} is longer than {LONGEST_LINE / 2**20:g} MiB"
            self._unread[name] = ResultsTooLargeError(text)
        else:
            self._unread[name] = BadReplyError(f"the row's line {where} cannot be read")

    def leftovers(self, over: Collection[str]) -> dict[str, ProviderError]:
        """Deliver final failures; return rows to ask again, with reasons.

        Args:
            over: rows that have their outcomes from elsewhere.
        """
        record, again = self._record, dict[str, ProviderError]()
        if self._unreadable:
            self._sink.decided("unreadable results", record=record, rows=self._unreadable)
        for name in list(self._names):
            error = self._errors.get(name) or self._unread.get(name) or self._lost()
            if self._has_answers and is_of_input(error):
                error = of_content(error)
            if name in over:
                self._names.remove(name)
                continue
            error.provider = error.provider or record.provider
            error.model = error.model or record.model
            error.attempts = record.round
            if error.transient or self._may_pass(error):
                again[name] = error
                self._sink.lost(name, error)
            else:
                self._names.remove(name)
                self._deliver({name: error})
        return again

    def _may_pass(self, error: ProviderError) -> bool:
        """Whether a refusal of key or model is looked at once more, as others were answered."""
        return self._has_answers and self._record.round == 1 and is_of_all(error)

    def _lost(self) -> BatchRowLostError:
        record = self._record
        native = (record.native or "").lower()
        code = "missing"
        if native.startswith("cancel"):
            code = "cancelled"
        elif native.startswith("expire"):
            code = "expired"
        lost = BatchRowLostError(
            f"the batch job {record.job} ended ({native or 'unknown'}) without this row", code=code
        )
        # Of what the provider counts as answered, the lines of some rows have not come.
        self._ran += 1
        lost.may_be_billed = record.succeeded is None or self._ran <= record.succeeded
        return lost


class Unrecorded:
    """Counts a job's outcomes that are given out and not written down."""

    def __init__(self) -> None:
        self.count = 0
        self._done = asyncio.Event()
        self._error: JournalError | None = None

    def recorded(self, error: JournalError | None, number: int) -> None:
        """Count recorded outcomes; after an error the job stays open."""
        self.count -= 0 if error else number
        self._error = self._error or error
        if not self.count or error is not None:
            self._done.set()

    async def wait(self) -> None:
        """Return when all are written down.

        Raises:
            JournalError: one cannot be.
        """
        while self.count and self._error is None:
            self._done.clear()
            await self._done.wait()
        if self._error is not None:
            raise self._error
