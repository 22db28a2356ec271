"""Outcome of each row, as the results of a job say it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmflow.batch.reading import LONGEST_LINE, Results, Unread, files_in
from llmflow.batch.spool import name_in
from llmflow.calls.refusals import FILTERED, filtered, is_of_all, is_of_input, of_content
from llmflow.errors import (
    BadReplyError,
    BatchRowLostError,
    ProviderError,
    ResultsTooLargeError,
)

if TYPE_CHECKING:
    from llmflow.batch.job import Job
    from llmflow.batch.queue import Queue
    from llmflow.batch_api import BatchRow

_MOST_OUTSTANDING: Final = 1000
_PAUSE: Final = 0.005
_PATIENCE: Final = 200


class Ingest:
    """Reads the results of one job, in whatever order they are.

    The first answer to a row is its answer; an error counts only where no line has an answer.
    Lines that cannot be read, and rows that the job never had, are counted and left out.
    """

    def __init__(self, job: Job, queue: Queue) -> None:
        self._job = job
        self._queue = queue
        self.unreadable = 0
        self.foreign = 0
        self.has_answers = False
        """Whether any row was answered: then key and model work."""
        self._unread: dict[str, ProviderError] = {}
        self._ran = 0

    async def run(self, folder: Path) -> dict[str, ProviderError]:
        """Deliver all outcomes; return rows to ask again, with reasons."""
        job, queue = self._job, self._queue
        errors: dict[str, ProviderError] = {}
        async for batch in Results(files_in(folder), queue.control.api.read):
            for row in batch:
                if isinstance(row, Unread):
                    self._note_unread(row)
                else:
                    self._take(row, errors)
            await self._let_others_keep_up()
        if self.unreadable:
            queue.keeper.decided("unreadable results", record=job.record, rows=self.unreadable)
        return self._sort(errors)

    def _take(self, row: BatchRow, errors: dict[str, ProviderError]) -> None:
        job, name = self._job, row.custom_id
        if row.response is not None and not self.has_answers:
            self.has_answers = True
            self._queue.keeper.worked()
        if name not in job.names:
            self.foreign += 1  # or answered by an earlier line
        elif row.response is not None and row.response.finish_reason == FILTERED:
            self._ran += name not in errors
            errors.setdefault(name, filtered(row.response))
        elif row.response is not None:
            self._ran += 1
            job.names.remove(name)
            errors.pop(name, None)
            response = row.response
            if job.record.round > 1:
                response = replace(response, attempts=job.record.round)
            self._queue.deliver(job, name, response)
        elif row.error is not None:
            self._ran += row.error.may_be_billed and name not in errors
            errors.setdefault(name, row.error)

    def _note_unread(self, line: Unread) -> None:
        """Count a line that is no row; if it says whose it is, that is why there is no answer."""
        self.unreadable += 1
        name = name_in(line.start)
        if name is None or name not in self._job.names:
            return
        where = f"in the results of the batch job {self._job.record.job}"
        if line.is_too_long:
            text = f"the row's line {where} is longer than {LONGEST_LINE / 2**20:g} MiB"
            self._unread[name] = ResultsTooLargeError(text)
        else:
            self._unread[name] = BadReplyError(f"the row's line {where} cannot be read")

    async def _let_others_keep_up(self) -> None:
        """Give out no more answers than are written down about as fast.

        But not for ever: a caller may do something else first, and even wait for another row.
        """
        for _ in range(_PATIENCE):
            if self._job.outstanding < _MOST_OUTSTANDING:
                return
            await asyncio.sleep(_PAUSE)

    def _sort(self, errors: dict[str, ProviderError]) -> dict[str, ProviderError]:
        """Give out what failed for good, and return the rest."""
        job, queue = self._job, self._queue
        again: dict[str, ProviderError] = {}
        for name in list(job.names):
            error = errors.get(name) or self._unread.get(name) or self._lost()
            if self.has_answers and is_of_input(error):
                error = of_content(error)
            if job.adopted and queue.is_over(name):
                job.names.remove(name)
                continue
            error.provider = error.provider or job.record.provider
            error.model = error.model or job.record.model
            error.attempts = job.record.round
            if error.transient or self._may_pass(error):
                again[name] = error
                queue.keeper.lost(name, error)
            else:
                job.names.remove(name)
                queue.deliver(job, name, error)
        return again

    def _may_pass(self, error: ProviderError) -> bool:
        """Whether a refusal of key or model is looked at once more, as others were answered."""
        return self.has_answers and self._job.record.round == 1 and is_of_all(error)

    def _lost(self) -> BatchRowLostError:
        record = self._job.record
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


async def affordable(
    job: Job, queue: Queue, names: set[str], why: Mapping[str, ProviderError]
) -> set[str]:
    """Return the rows that the budget covers again; end the others."""
    refused = {name for name in names if why[name].may_be_billed and not queue.keeper.renew(name)}
    for name in refused:
        why[name].message += "; it may have been billed, and the budget has no more for it"
        queue.deliver(job, name, why[name])
    if refused:
        job.names -= refused
        await job.all_settled()
    return names - refused
