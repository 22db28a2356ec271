"""One batch job: from its file on this machine, through the provider, to its results.

Each step is written down before the next is begun, so that a process which finds a record
knows what may have happened after it (`llmflow.batch.record`). Only the creation must not
happen twice: a job that may have been created is looked for first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from llmflow.batch.ingest import Ingest
from llmflow.batch.record import JobRecord
from llmflow.batch.spool import names_of
from llmflow.batch_api import BatchInput, BatchProblem, BatchStatus
from llmflow.errors import (
    AuthenticationError,
    BatchCancelledError,
    JournalError,
    ProviderError,
    QueueLimitError,
)

if TYPE_CHECKING:
    from llmflow.batch.queue import Queue

# In units of the first look's delay: 10, 20, 30, then 60 seconds; after an hour 120.
_FIRST_LOOKS: Final = (1.0, 2.0, 3.0)
_LATER_LOOKS: Final = 6.0
_LAST_LOOKS: Final = 12.0
_IS_OLD: Final = 360.0
# A job that was made a moment ago is not everywhere yet.
_UNKNOWN_PATIENCE: Final = 3.0
_REFUSALS: Final = 5
_QUEUE_WAITS: Final = (6.0, 12.0, 30.0, 60.0)
_TRIES_BEFORE_SPLIT: Final = 3
_CANCEL_PATIENCE: Final = 60.0


class Job:
    """One job.

    Args:
        record: what is written down of it.
        names: its rows that have no outcome yet.
        queue: what it belongs to.
        adopted: whether an earlier process has begun it.
    """

    def __init__(self, record: JobRecord, names: set[str], queue: Queue, *, adopted: bool) -> None:
        self.record = record
        self.names = names
        self.adopted = adopted
        self.outstanding = 0
        """How many outcomes were given out that are not written down yet."""
        self._queue = queue
        self._found_creating = adopted and record.state == "creating"
        self.placed = asyncio.Event()
        """Set when it is at the provider, or has to wait for room there, or is over."""
        self.ended = asyncio.Event()
        """Set when it is over."""
        self._settled = asyncio.Event()
        self._wake = asyncio.Event()
        self._journal_error: JournalError | None = None
        self._cancelled_at: float | None = None
        self.path = queue.folder / f"{record.tag}.jsonl"
        self.results = queue.folder / f"{record.tag}.results"

    def __repr__(self) -> str:
        return f"<Job {self.record.job or self.record.tag}: {self.record.state}>"

    async def run(self) -> None:
        """Go on until every row has its outcome, from wherever the record says that it is."""
        while self.record.state in ("sealed", "creating"):
            if not await self._submit():
                return
        self.placed.set()
        status: BatchStatus | None = None
        if self.record.state == "created":
            self._queue.admission.enter_at_once(self.record.tag, self.record.tokens)
            status = await self._watch()
            self._queue.admission.leave(self.record.tag)
            if status is not None and status.problems:
                if _is_refusal(status.problems[0].error):
                    await self._clean_up(status)  # its rows are sent from here again
                if await self._refused_for(status.problems):
                    return
            await self._fetch(status)
        else:  # an earlier process may not have come to it
            await self._clean_up(None)
        await self._ingest()

    # --- on the way there -----------------------------------------------------------------------

    async def _submit(self) -> bool:
        """Create the job at the provider; False if that became other jobs' work."""
        queue, control = self._queue, self._queue.control
        if self.record.cancel is not None:
            await self._give_up_unsent()
            return False
        # Not placed meanwhile: nobody would send it once this process has ended.
        await self._unless_cancelled(queue.primed(self.record))
        if queue.admission.is_full(self.record.tokens):
            self.placed.set()
        await self._unless_cancelled(queue.admission.enter(self.record.tag, self.record.tokens))
        if self.record.cancel is not None:
            return True
        rows = self._rows()
        try:
            found = self._found_creating
            self._found_creating = False
            # Uploaded anew where it was found: the other file may have expired.
            uploaded = self.record.uploaded if found else await control.upload(rows)
            async with queue.creating:
                await self._create(rows, uploaded, look_first=found)
        except QueueLimitError as error:
            await self._note(state="sealed", uploaded=None)
            return await self._wait_for_room(error)
        except ProviderError as error:
            if error.transient:  # it may have been created: the next process looks for it
                raise
            await self._refused_for((BatchProblem(error),))
            return False
        return True

    async def _create(self, rows: BatchInput, uploaded: str | None, *, look_first: bool) -> None:
        """Create the job, and write its name down.

        One at a time: where jobs have no tag, one that was made without anybody hearing of it
        is told from others because it is the only one that nobody knows.
        """
        queue, control = self._queue, self._queue.control
        status = await control.find(rows, queue.known_ids()) if look_first else None
        if status is None:
            if look_first:
                uploaded = await control.upload(rows)
            await self._note(state="creating", uploaded=uploaded)
            status = await control.create(rows, uploaded, queue.known_ids)
        await self._note(
            state="created",
            job=status.id,
            created_at=queue.clock.wall(),
            uploaded=status.uploaded or self.record.uploaded,
            expires_at=status.expires_at,
            native=status.native,
        )

    def _rows(self) -> BatchInput:
        record = self.record
        return BatchInput(
            path=self.path,
            size=record.size,
            requests=record.requests,
            tag=record.tag,
            model=record.model,
            created_at=record.sealed_at,
        )

    async def _wait_for_room(self, error: QueueLimitError) -> bool:
        """Wait until less is enqueued; False if it never fits, and smaller jobs have its rows."""
        queue, record = self._queue, self.record
        if error.limit is not None:
            queue.admission.learn(error.limit)
        most = queue.admission.most_tokens
        alone = queue.admission.inside <= 1
        queue.admission.leave(record.tag)
        too_large = most is not None and record.tokens > most
        if record.requests > 1 and (too_large or (alone and record.refused >= _TRIES_BEFORE_SPLIT)):
            parts = int(record.tokens / most) + 1 if most is not None and too_large else 2
            await self._split(set(self.names), parts, "more than may be enqueued at once")
            return False
        wait = _QUEUE_WAITS[min(record.refused, len(_QUEUE_WAITS) - 1)] * queue.control.poll
        self.record = record.but(refused=record.refused + 1)
        self.placed.set()
        queue.keeper.decided("waits for its queue", record=record, rows=record.requests)
        await self._sleep(max(wait, error.retry_after or 0.0))
        return True

    async def _give_up_unsent(self) -> None:
        self._queue.hand_over(
            self, self.names, f"cancelled before it was sent: {self.record.cancel}"
        )
        self.names = set()
        await self._end("cancelled before it was sent")

    # --- what the provider refuses --------------------------------------------------------------

    async def _refused_for(self, problems: tuple[BatchProblem, ...]) -> bool:
        """Find the rows that a refusal is meant for, and go on with the others.

        Returns:
            Whether this job is over. If not, the provider has failed, and its rows go on.

        Raises:
            ProviderError: no other job would be accepted either.
        """
        first = problems[0].error
        if isinstance(first, QueueLimitError):
            if await self._wait_for_room(first):
                why = "too much was enqueued"
                await self._queue.replace(self, [set(self.names)], why, refused=self.record.refused)
            return True
        if first.transient:
            return False
        if first.fatal:
            await self._end(f"refused: {first}")
            raise first
        bad = self._bad_rows(problems)
        left = self.names - set(bad)
        if not bad and len(left) == 1:
            bad, left = {next(iter(left)): first}, set()
        for name, error in bad.items():
            if name in self.names:
                self._queue.deliver(self, name, error)
        self.names = left
        await self._all_settled()
        why = "refused for a row"
        if not left:
            await self._end(why)
            return True
        # One bad row is left out. Where it is not named, or one comes after the other, the
        # rest is halved: what is good goes ahead.
        parts = 1 if bad and self.record.failures < 1 else 2
        await self._split(left, parts, why, failures=self.record.failures + 1)
        return True

    def _bad_rows(self, problems: tuple[BatchProblem, ...]) -> dict[str, ProviderError]:
        lines = {each.line: each.error for each in problems if each.line is not None}
        if not lines:
            return {}
        return {
            name: lines[number]
            for number, name in enumerate(names_of(self.path), start=1)
            if number in lines
        }

    async def _split(self, names: set[str], parts: int, why: str, **changes: Any) -> None:
        ordered = [name for name in names_of(self.path) if name in names]
        each = -(-len(ordered) // max(1, min(parts, len(ordered))))
        groups = [set(ordered[at : at + each]) for at in range(0, len(ordered), each)]
        self._queue.keeper.decided(why, record=self.record, rows=len(names))
        await self._queue.replace(self, groups, why, **changes)

    # --- at the provider ------------------------------------------------------------------------

    async def _watch(self) -> BatchStatus | None:
        """Look at the job until it has ended; None if the provider does not know it."""
        queue, record = self._queue, self.record
        assert record.job is not None
        looks, unknown, refusals = 0, 0, 0
        asked_to_wait: float | None = None
        while True:
            if await self._cancel_if_wanted():
                return None
            await self._sleep(self._next_look(looks, asked_to_wait))
            looks += 1
            try:
                status = await queue.control.status(record.job)
            except ProviderError as error:
                asked_to_wait = error.retry_after
                if error.status == 404:
                    unknown += 1
                    if unknown > _UNKNOWN_PATIENCE:
                        return None
                elif isinstance(error, AuthenticationError) or not error.transient:
                    refusals += 1
                    if refusals >= _REFUSALS:
                        raise
                continue  # one failed look is nothing
            unknown = refusals = 0
            asked_to_wait = status.retry_after
            await self._heard(status)
            if status.has_ended:
                return status

    def _next_look(self, looks: int, asked_to_wait: float | None) -> float:
        poll = self._queue.control.poll
        age = self._queue.clock.wall() - (self.record.created_at or 0.0)
        if looks < len(_FIRST_LOOKS):
            factor = _FIRST_LOOKS[looks]
        else:
            factor = _LAST_LOOKS if age > _IS_OLD * poll else _LATER_LOOKS
        if self._cancelled_at is not None:
            factor = min(factor, 1.0)
        return max(poll * factor, asked_to_wait or 0.0)

    async def _heard(self, status: BatchStatus) -> None:
        news = {
            "native": status.native or status.state,
            "succeeded": status.succeeded,
            "failed": status.failed,
            "expires_at": status.expires_at,
        }
        if news["native"] != self.record.native:
            await self._note(**news)
        elif (status.succeeded, status.failed) != (self.record.succeeded, self.record.failed):
            self.record = self.record.but(**news)
            self._queue.keeper.changed(self.record)

    async def _cancel_if_wanted(self) -> bool:
        """Cancel the job once; True when the provider has had its time for that."""
        if self.record.cancel is None:
            return False
        now = asyncio.get_running_loop().time()
        if self._cancelled_at is None:
            self._cancelled_at = now
            assert self.record.job is not None
            with contextlib.suppress(ProviderError):  # at its end it is found to go on
                await self._queue.control.cancel(self.record.job)
        return now - self._cancelled_at > _CANCEL_PATIENCE * self._queue.control.poll

    @property
    def has_given_all(self) -> bool:
        """Whether every row has its outcome, and only that is still to be written down."""
        return self.record.state == "fetched" and not self.names

    def request_cancel(self, reason: str) -> None:
        """Have the job cancelled; what it has answered until then is kept."""
        if self.record.cancel is None and self.record.state != "fetched":
            self.record = self.record.but(cancel=reason)
            self._wake.set()

    # --- on the way back ------------------------------------------------------------------------

    async def _fetch(self, status: BatchStatus | None) -> None:
        """Bring the results here. As long as the provider has them, a failure is a delay."""
        tries = 0
        while status is not None and status.results:
            try:
                self.results.mkdir(mode=0o700, exist_ok=True)
                await self._queue.control.fetch(status, self.results)
                break
            except ProviderError as error:
                if error.status in (404, 410):
                    break
                tries += 1
                if tries >= _REFUSALS or not error.transient:
                    raise
                await self._sleep(self._queue.control.poll * _LATER_LOOKS)
        await self._note(state="fetched", native=self.record.native or "ended")
        # Before anybody has an answer: a program may end with its last one.
        if status is not None:
            await self._clean_up(status)

    async def _clean_up(self, status: BatchStatus | None) -> None:
        """Delete the provider's files, if that can be done; else they expire there."""
        control, job = self._queue.control, self.record.job
        if job is not None and not self._queue.settings.keep_files:
            with contextlib.suppress(ProviderError):
                await control.clean_up(status or await control.status(job))

    async def _ingest(self) -> None:
        queue = self._queue
        ingest = Ingest(self, queue)
        leftovers = await ingest.run(self.results)
        await self._all_settled()
        why = ""
        if leftovers:
            why = await self._place(leftovers)
        await self._end(f"{self.record.native or 'ended'}{why}")

    async def _place(self, leftovers: dict[str, ProviderError]) -> str:
        """Find another way for rows that the job has not answered."""
        queue, record = self._queue, self.record
        # This job has no more to say of them, even if the session ends now.
        names, self.names = set(leftovers), set()
        if record.cancel == "deadline" or queue.is_late:
            queue.hand_over(self, names, "the deadline is near")
            return f"; {len(names):,} asked in parallel"
        by_others = record.cancel is None and (record.native or "").lower().startswith("cancel")
        if by_others or record.cancel == "user":
            for name in names:
                queue.deliver(self, name, self._cancelled())
            await self._all_settled()
            return f"; {len(names):,} not asked again"
        if queue.is_few(len(names), record.requests):
            queue.hand_over(self, names, "few leftovers")
            return f"; {len(names):,} asked in parallel"
        again = names if record.round < queue.settings.rounds else set()
        self.names = again
        for name in names - again:
            queue.deliver(self, name, leftovers[name])
        await self._all_settled()
        if again:
            await queue.next_round(self, again)
        return f"; {len(names):,} not answered"

    def _cancelled(self) -> BatchCancelledError:
        return BatchCancelledError(
            f"the batch job {self.record.job} was cancelled",
            provider=self.record.provider,
            model=self.record.model,
            code="cancelled",
        )

    # --- what is common to all steps ------------------------------------------------------------

    def settled(self) -> None:
        """Count one outcome as written down."""
        self.outstanding -= 1
        if not self.outstanding:
            self._settled.set()

    def settled_by(self, written: asyncio.Future[None]) -> None:
        """Count one outcome as written down, unless it was not."""
        error = None if written.cancelled() else written.exception()
        if isinstance(error, JournalError):
            self.unsettled(error)
        else:
            self.settled()

    def unsettled(self, error: JournalError) -> None:
        """Note that an outcome cannot be written down: the job stays as it is."""
        self._journal_error = error
        self._settled.set()

    async def _all_settled(self) -> None:
        while self.outstanding and self._journal_error is None:
            self._settled.clear()
            await self._settled.wait()
        if self._journal_error is not None:
            raise self._journal_error
        await self._queue.keeper.drain()

    async def _end(self, outcome: str) -> None:
        await self._note(state="done", outcome=outcome)
        self._queue.remove_files(self)

    async def _note(self, **changes: Any) -> None:
        record = self.record.but(**changes)
        await self._queue.write(record)
        # A cancellation may have come meanwhile.
        self.record = record.but(cancel=self.record.cancel or record.cancel)
        self._queue.keeper.changed(self.record)

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not past a request to cancel."""
        await self._unless_cancelled(self._queue.clock.sleep(seconds))

    async def _unless_cancelled(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait for something, or until the job is to be cancelled."""
        if self._cancelled_at is None:
            waking: asyncio.Future[Any] = asyncio.ensure_future(self._wake.wait())
        else:
            waking = asyncio.get_running_loop().create_future()
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((waking, working), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            working.cancel()


def _is_refusal(error: ProviderError) -> bool:
    """Whether a job that failed so has no results to be fetched."""
    return isinstance(error, QueueLimitError) or not error.transient
