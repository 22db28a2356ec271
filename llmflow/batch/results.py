"""Download of a job's results.

They are paid for: as long as it is not clear that they are gone, they are looked for again,
and nothing is deleted that is not here.
"""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Final

from llmflow.batch.reading import Results, Unread, bounds_for, files_in
from llmflow.batch.spool import names_of
from llmflow.batch.whole import Seen, forget_earlier, look_through, set_aside
from llmflow.batch_api import BatchStatus
from llmflow.errors import BadReplyError, ProviderError, ResultsTooLargeError
from llmflow.format import counted
from llmflow.private_files import make_private_folder

if TYPE_CHECKING:
    from llmflow.batch.job import Job
    from llmflow.batch.queue import Queue

# In units of the first look's delay.
_LOOKS: Final = (1.0, 2.0, 3.0, 6.0, 6.0)
_PAUSE: Final = 6.0
_TRIES: Final = 5
_GONE: Final = (404, 410)
# How often results that are not whole are fetched again; and near a deadline.
_AGAIN: Final = 3
_HURRIED: Final = 1


async def bring(job: Job, queue: Queue, status: BatchStatus | None) -> BatchStatus | None:
    """Bring all results of a job here.

    Returns:
        Of which status they are, and what may be deleted there; None if nothing was brought,
        or not all.

    Raises:
        ResultsTooLargeError: they are larger than the job's rows can explain.
        ProviderError: they cannot be fetched, though the provider says that there are some.
    """
    if status is None:
        return None
    if not status.has_ended:  # it was cancelled, and takes too long for that
        await _fetch(job, queue, status)
        return None
    missing: str | None = None
    seen: Seen | None = None
    again = 0
    for factor in (*_LOOKS, None):
        missing = await _fetch(job, queue, status)
        if missing is None:
            seen = await look_through(job, queue, status)
            if not seen.needs_earlier:
                forget_earlier(job.results)
            if seen.is_whole:
                return status
        again += missing is None
        cancel = job.record.cancel
        most = _HURRIED if cancel == "deadline" else _AGAIN
        if factor is None or again > most or (cancel is not None and not again):
            break
        set_aside(job.results)
        # A file that was written a moment ago is not everywhere yet, nor is its name.
        await job.sleep(queue.control.poll * factor)
        status = await _asked_again(queue, status)
    if seen is not None and seen.lines:
        why = "results that are not whole"
        queue.keeper.decided(why, record=job.record, rows=max(seen.missing, 1))
        return None
    if seen is not None:
        missing = missing or ": the files are empty"
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


async def _asked_again(queue: Queue, status: BatchStatus) -> BatchStatus:
    """Return a job's status as it is now; the former one where nobody says it."""
    try:
        return await queue.control.status(status.id)
    except ProviderError as error:
        if not error.transient and error.status not in _GONE:
            raise
    return status


async def _fetch(job: Job, queue: Queue, status: BatchStatus) -> str | None:
    """Fetch what a status names; return what is wrong if something is missing."""
    if not status.results:
        return ": no file is named" if status.succeeded else None
    tries = 0
    while True:
        try:
            make_private_folder(job.results)
            await queue.control.fetch(status, job.results, bounds_for(job.record.requests))
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
    """Return whether downloaded results hold a row of the job.

    Raises:
        BadReplyError: they are somebody else's, or cannot be read, and the job is this one's.
    """
    names, lines, unreadable = None, 0, 0
    async for batch in Results(files_in(job.results), queue.control.api.read):
        lines += len(batch)
        for row in batch:
            if isinstance(row, Unread):
                unreadable += 1
                continue
            if row.custom_id in job.names:
                return True
            if names is None:  # those of other jobs by now are this one's, too
                names = set(names_of(job.path))
            if row.custom_id in names:
                return True
    if not lines:
        return True
    record = job.record
    if record.found and unreadable < lines:
        return False
    # One bad row alone is its own matter; so many that are all bad are ours to understand.
    if unreadable == lines and (record.round > 1 or record.requests == 1):
        return True
    what = "cannot be read" if unreadable else "are of rows that it never had"
    raise BadReplyError(
        f"the results of the batch job {record.job} {what} ({counted(lines, 'line')}). Nothing is "
        f"asked again, as that is paid for: they are kept at the provider, and in {job.results}",
        provider=record.provider,
        model=record.model,
    )


async def refuse(job: Job, queue: Queue, error: ResultsTooLargeError) -> None:
    """End a job without usable results: every row fails for good."""
    queue.keeper.decided("results too large", record=job.record, rows=len(job.names))
    job.is_refused, names, job.names = True, job.names, set()
    for name in names:
        queue.deliver(job, name, copy.copy(error))
    await job.all_settled()
    await job.end("its results are too large")


def are_here(job: Job) -> bool:
    """Return whether any results are on this machine."""
    return job.results.is_dir() and any(job.results.iterdir())


def forget(job: Job) -> None:
    """Remove results that are somebody else's."""
    shutil.rmtree(job.results, ignore_errors=True)
