"""How the results of a job come here.

They are paid for: as long as it is not clear that they are gone, they are looked for again,
and nothing is deleted that is not here.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llmflow.batch.spool import names_of
from llmflow.batch_api import BatchStatus
from llmflow.errors import BadReplyError, ProviderError

if TYPE_CHECKING:
    from llmflow.batch.job import Job
    from llmflow.batch.queue import Queue

# In units of the first look's delay.
_LOOKS: Final = (1.0, 2.0, 3.0, 6.0, 6.0)
_PAUSE: Final = 6.0
_TRIES: Final = 5
_GONE: Final = (404, 410)
_AT_ONCE: Final = 100


async def bring(job: Job, queue: Queue, status: BatchStatus | None) -> BatchStatus | None:
    """Bring all results of a job here.

    Returns:
        Of which status they are, and what may be deleted there; None if nothing was brought.

    Raises:
        ProviderError: they cannot be fetched, though the provider says that there are some.
    """
    if status is None:
        return None
    if not status.has_ended:  # it was cancelled, and takes too long for that
        await _fetch(job, queue, status)
        return None
    missing: str | None = None
    for factor in (*_LOOKS, None):
        missing = await _fetch(job, queue, status)
        if missing is None:
            return status
        if factor is None or job.record.cancel is not None:
            break
        # A file that was written a moment ago is not everywhere yet, nor is its name.
        await job.sleep(queue.control.poll * factor)
        try:
            status = await queue.control.status(status.id)
        except ProviderError as error:
            if not error.transient and error.status not in _GONE:
                raise
    record = job.record
    # Who has cancelled the job has said what is to become of the rest; and one that expired
    # may have no file.
    is_due = status.state == "succeeded" or (status.state == "expired" and status.results)
    if record.cancel is not None or status.succeeded == 0 or not is_due:
        queue.keeper.decided("results that are not there", record=record, rows=len(job.names))
        return None
    raise BadReplyError(
        f"the batch job {status.id} has answered {status.succeeded or 'its'} rows, but its results "
        f"are not there{missing}. Nothing is asked again, as that is paid for: another session "
        "looks again, and cancelling the job gives them up",
        provider=record.provider,
        model=record.model,
    )


async def _fetch(job: Job, queue: Queue, status: BatchStatus) -> str | None:
    """Fetch what a status names; return what is wrong if something is missing."""
    if not status.results:
        return ": no file is named" if status.succeeded else None
    tries = 0
    while True:
        try:
            job.results.mkdir(mode=0o700, exist_ok=True)
            await queue.control.fetch(status, job.results)
        except ProviderError as error:
            if error.status in _GONE:
                return f": {error}"
            tries += 1
            if tries >= _TRIES or not error.transient:
                raise
            await job.sleep(queue.control.poll * _PAUSE)
        else:
            return None


async def are_ours(job: Job, queue: Queue) -> bool:
    """Whether results that are here are the job's: one row of it among them is enough.

    Raises:
        BadReplyError: they are somebody else's, or cannot be read, and the job is this one's.
    """
    names, lines, unreadable = None, 0, 0
    for line in lines_in(job.results):
        lines += 1
        if not lines % _AT_ONCE:
            await asyncio.sleep(0)
        try:
            name = queue.control.api.read(line).custom_id
        except ValueError:
            unreadable += 1
            continue
        if name in job.names:
            return True
        if names is None:  # those of other jobs by now are this one's, too
            names = set(names_of(job.path))
        if name in names:
            return True
    if not lines:
        return True
    record = job.record
    if record.found and unreadable < lines:
        return False
    what = "cannot be read" if unreadable else "are of rows that it never had"
    raise BadReplyError(
        f"the results of the batch job {record.job} {what} ({lines:,} lines). Nothing is asked "
        f"again, as that is paid for: they are kept at the provider, and in {job.results}",
        provider=record.provider,
        model=record.model,
    )


def are_here(job: Job) -> bool:
    """Whether any results are on this machine."""
    return job.results.is_dir() and any(job.results.iterdir())


def forget(job: Job) -> None:
    """Remove results that are somebody else's."""
    shutil.rmtree(job.results, ignore_errors=True)


def lines_in(folder: Path) -> Iterator[bytes]:
    """Yield each line of the results in a folder, if it is there."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            for line in file:
                if not line.isspace():
                    yield line
