"""Outcome of each row, as the results of a job say it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmflow.batch.outcomes import Outcome, ResultSink
from llmflow.batch.record import JobRecord
from llmflow.batch.result_files import LONGEST_LINE, Unread
from llmflow.batch.spool import name_in
from llmflow.calls.refusals import FILTERED, filtered, is_of_all, is_of_input, of_content
from llmflow.errors import (
    BadReplyError,
    BatchRowLostError,
    JournalError,
    ProviderError,
    ResultsTooLargeError,
)
from llmflow.provider import BatchRow


class Ingest:
    """Takes the results of one job, in whatever order they are.

    The first answer to a row is its answer; an error counts only where no line has an answer.
    Lines that cannot be read, and rows that the job never had, are left out.

    Args:
        record: the job's.
        names: its rows without an outcome; those that get one are removed.
        sink: hears of what is decided, and of rows that may have been billed.
        deliver: gives a row its outcome.
    """

    def __init__(
        self,
        record: JobRecord,
        names: set[str],
        sink: ResultSink,
        deliver: Callable[[str, Outcome], None],
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
        for row in rows:
            if isinstance(row, Unread):
                self._note_unread(row)
            else:
                self._take(row)

    def _take(self, row: BatchRow) -> None:
        name, response, errors = row.custom_id, row.response, self._errors
        if response is not None and not self._has_answers:
            self._has_answers = True
            self._sink.worked()
        if name not in self._names:
            return  # another's, or answered by an earlier line
        if response is not None and response.finish_reason == FILTERED:
            self._ran += name not in errors
            errors.setdefault(name, filtered(response))
        elif response is not None:
            self._ran += 1
            self._names.remove(name)
            errors.pop(name, None)
            if self._record.round > 1:
                response = replace(response, attempts=self._record.round)
            self._deliver(name, response)
        elif row.error is not None:
            self._ran += row.error.may_be_billed and name not in errors
            errors.setdefault(name, row.error)

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

    def leftovers(self, is_over: Callable[[str], bool] | None) -> dict[str, ProviderError]:
        """Deliver final failures; return rows to ask again, with reasons.

        Args:
            is_over: whether a row has its outcome from elsewhere; None: none has.
        """
        record, again = self._record, dict[str, ProviderError]()
        if self._unreadable:
            self._sink.decided("unreadable results", record=record, rows=self._unreadable)
        for name in list(self._names):
            error = self._errors.get(name) or self._unread.get(name) or self._lost()
            if self._has_answers and is_of_input(error):
                error = of_content(error)
            if is_over is not None and is_over(name):
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
                self._deliver(name, error)
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


class GivenOut:
    """Counts a job's outcomes that are given out and not written down."""

    def __init__(self) -> None:
        self.count = 0
        self._done = asyncio.Event()
        self._error: JournalError | None = None

    def settled(self, error: JournalError | None = None) -> None:
        """Count a recorded outcome; after an error the job stays open."""
        self.count -= error is None
        self._error = self._error or error
        if not self.count or error is not None:
            self._done.set()

    async def written(self) -> None:
        """Return when all are written down.

        Raises:
            JournalError: one cannot be.
        """
        while self.count and self._error is None:
            self._done.clear()
            await self._done.wait()
        if self._error is not None:
            raise self._error
