"""What becomes of each row, as the results of a job say it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmflow.batch.results import lines_in
from llmflow.errors import BatchRowLostError, ProviderError

if TYPE_CHECKING:
    from llmflow.batch.job import Job
    from llmflow.batch.queue import Queue

_AT_ONCE: Final = 100
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

    async def run(self, folder: Path) -> dict[str, ProviderError]:
        """Give out all outcomes; return the rows that may be asked again, and why."""
        job, queue = self._job, self._queue
        errors: dict[str, ProviderError] = {}
        read, names = queue.control.api.read, job.names
        count = 0
        for line in lines_in(folder):
            count += 1
            if not count % _AT_ONCE:
                await self._let_others_keep_up()
            try:
                row = read(line)
            except ValueError:
                self.unreadable += 1
                continue
            name = row.custom_id
            if name not in names:
                self.foreign += 1  # or answered by an earlier line
            elif row.response is not None:
                names.remove(name)
                errors.pop(name, None)
                response = row.response
                if job.record.round > 1:
                    response = replace(response, attempts=job.record.round)
                queue.deliver(job, name, response)
            elif row.error is not None:
                errors.setdefault(name, row.error)
        if self.unreadable:
            queue.keeper.decided("unreadable results", record=job.record, rows=self.unreadable)
        return self._sort(errors)

    async def _let_others_keep_up(self) -> None:
        """Give out no more answers than are written down about as fast.

        But not for ever: a caller may do something else first, and even wait for another row.
        """
        await asyncio.sleep(0)
        for _ in range(_PATIENCE):
            if self._job.outstanding < _MOST_OUTSTANDING:
                return
            await asyncio.sleep(_PAUSE)

    def _sort(self, errors: dict[str, ProviderError]) -> dict[str, ProviderError]:
        """Give out what failed for good, and return the rest."""
        job, queue = self._job, self._queue
        again: dict[str, ProviderError] = {}
        for name in list(job.names):
            error = errors.get(name) or self._lost()
            if job.adopted and queue.is_over(name):
                job.names.remove(name)
                continue
            error.provider = error.provider or job.record.provider
            error.model = error.model or job.record.model
            error.attempts = job.record.round
            if error.transient:
                again[name] = error
            else:
                job.names.remove(name)
                queue.deliver(job, name, error)
        return again

    def _lost(self) -> BatchRowLostError:
        record = self._job.record
        native = (record.native or "").lower()
        code = "missing"
        if native.startswith("cancel"):
            code = "cancelled"
        elif native.startswith("expire"):
            code = "expired"
        return BatchRowLostError(
            f"the batch job {record.job} ended ({native or 'unknown'}) without this row", code=code
        )
