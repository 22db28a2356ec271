"""Handles the rows of a job that the provider refuses.

A refusal is meant for all jobs, for one row, or for nobody in particular. In the last case
the job is halved until the rows are found that it is meant for; if it is meant for every row,
that is seen after two such steps, and not after as many jobs as there are rows.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Final

from llmflow.batch.spool import names_of
from llmflow.batch_api import BatchProblem
from llmflow.errors import ProviderError, QueueLimitError, TooLargeForLimitError

if TYPE_CHECKING:
    from llmflow.batch.job import Job
    from llmflow.batch.queue import Queue
    from llmflow.batch.record import JobRecord

# In units of the first look's delay.
_QUEUE_WAITS: Final = (6.0, 12.0, 30.0, 60.0)
_TRIES_BEFORE_SPLIT: Final = 3
# By how much an estimate may be too low.
_WORST: Final = 4.0
# A half of a half of the rows, four times.
_ENOUGH_QUARTERS: Final = 1.0
_QUARTER: Final = 2
# What tells one refusal from the same one for another job: ids and numbers.
_PARTICULAR: Final = re.compile(r"[\w-]*\d[\w-]*")


class Refusals:
    """Refusals of one queue whose row is not known."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, int, str], float] = {}

    def note(self, family: str, depth: int, share: float, error: ProviderError) -> bool:
        """Note a partial refusal; return whether it concerns every row.

        Args:
            family: the tag of the job that the part was once a part of.
            depth: how often it was halved.
            share: which part it is of the whole, by rows.
            error: why it is refused.
        """
        text = _PARTICULAR.sub("#", f"{type(error).__name__} {error.code} {error.message}")
        key = (family, depth, text)
        self._refused[key] = self._refused.get(key, 0.0) + share
        quarters = self._refused.get((family, _QUARTER, text), 0.0)
        return quarters > _ENOUGH_QUARTERS - 1e-9


async def refused_for(job: Job, queue: Queue, problems: tuple[BatchProblem, ...]) -> bool:
    """Find the rows that a refusal concerns; continue with the others.

    Returns:
        Whether this job is over. If not, the provider has failed, and its rows go on.

    Raises:
        ProviderError: no other job would be accepted either.
    """
    first = problems[0].error
    if isinstance(first, QueueLimitError):
        if await wait_for_room(job, queue, first):
            why = "too much was enqueued"
            await queue.replace(job, [set(job.names)], why, refused=job.record.refused)
        return True
    if first.transient:
        return False
    if first.fatal:
        await job.end(f"refused: {first}")
        raise first
    bad = _bad_rows(job, problems)
    if not bad and (len(job.names) == 1 or _is_for_all(job, queue, first)):
        bad = dict.fromkeys(job.names, first)
    why = "refused for a row"
    left = job.names - set(bad)
    await _fail(job, queue, bad)
    if not left:
        await job.end(why)
        return True
    # One bad row is left out. Where it is not named, or one comes after the other, the
    # rest is halved: what is good goes ahead.
    failures = job.record.failures + 1
    if bad and failures == 1:
        await _split(job, queue, 1, why, failures=failures)
    else:
        await _split(job, queue, 2, why, failures=failures, **_as_part(job, halved=not bad))
    return True


async def wait_for_room(job: Job, queue: Queue, error: QueueLimitError) -> bool:
    """Wait until less is enqueued; False if the job is over."""
    record = job.record
    if error.limit is not None:
        queue.admission.learn(error.limit)
    most = queue.admission.most_tokens
    alone = queue.admission.inside <= 1
    queue.admission.leave(record.tag)
    is_too_large = most is not None and record.tokens > most
    if most is not None and record.requests > 1 and (is_too_large or _may_be(record, most, alone)):
        parts = int(record.tokens / most) + 1 if is_too_large else 2
        await _split(job, queue, parts, "more than may be enqueued at once")
        return False
    if most is not None and is_too_large and alone:
        await _never_fits(job, queue, error, most)
        return False
    wait = _QUEUE_WAITS[min(record.refused, len(_QUEUE_WAITS) - 1)] * queue.control.poll
    job.record = record.but(refused=record.refused + 1)
    job.placed.set()
    queue.keeper.decided("waits for its queue", record=record, rows=record.requests)
    await job.sleep(max(wait, error.retry_after or 0.0))
    return True


def _may_be(record: JobRecord, most: float, alone: bool) -> bool:
    """Whether a job may be too large after all: what is estimated here is counted there.

    But it may also be another program's jobs that are waited for, and those are no reason to
    go on splitting.
    """
    return alone and record.refused >= _TRIES_BEFORE_SPLIT and record.tokens * _WORST > most


async def _never_fits(job: Job, queue: Queue, error: QueueLimitError, most: float) -> None:
    record = job.record
    failure = TooLargeForLimitError(
        f"this row alone has about {record.tokens:,.0f} prompt tokens, and no more than "
        f"{most:,.0f} may wait in batch jobs at once. The provider said: {error.message}",
        provider=record.provider,
        model=record.model,
        status=error.status,
        code=error.code,
        request_id=error.request_id,
    )
    await job.discard_upload()  # before anybody has an answer: a program may end with its last
    await _fail(job, queue, dict.fromkeys(job.names, failure))
    await job.end("larger than all that may be enqueued")


async def _fail(job: Job, queue: Queue, bad: dict[str, ProviderError]) -> None:
    """Give rows their error, each its own."""
    for name, error in bad.items():
        if name in job.names:
            queue.deliver(job, name, copy.copy(error))
    job.names = job.names - set(bad)
    await job.all_settled()


def _is_for_all(job: Job, queue: Queue, error: ProviderError) -> bool:
    record = job.record
    part = _as_part(job, halved=False)
    share = record.requests / max(1, part["whole"])
    return queue.refusals.note(part["family"], record.halved, share, error)


def _as_part(job: Job, *, halved: bool) -> dict[str, Any]:
    """Return what a part's record says of the job that it was once a part of."""
    record = job.record
    return {
        "family": record.family or record.tag,
        "whole": record.whole or record.requests,
        "halved": record.halved + halved,
    }


def _bad_rows(job: Job, problems: tuple[BatchProblem, ...]) -> dict[str, ProviderError]:
    lines = {each.line: each.error for each in problems if each.line is not None}
    if not lines:
        return {}
    return {
        name: lines[number]
        for number, name in enumerate(names_of(job.path), start=1)
        if number in lines
    }


async def _split(job: Job, queue: Queue, parts: int, why: str, **changes: Any) -> None:
    ordered = [name for name in names_of(job.path) if name in job.names]
    each = -(-len(ordered) // max(1, min(parts, len(ordered))))
    groups = [set(ordered[at : at + each]) for at in range(0, len(ordered), each)]
    await job.discard_upload()
    queue.keeper.decided(why, record=job.record, rows=len(ordered))
    await queue.replace(job, groups, why, **changes)
