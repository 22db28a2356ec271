"""All batch work for one model at one provider.

Calls come one by one and wait; their rows go into a file. When the file is full, or nobody is
left who could add to it, it becomes a `Job`. How many of these run at once is limited by what
the provider lets wait: their prompt tokens are counted here, and given back when a job ends.
"""

from __future__ import annotations

import asyncio
import copy
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from llmflow.batch.client import BatchClient
from llmflow.batch.collector import Collector, Primers, cannot_write, divide, new_tag
from llmflow.batch.job import Job
from llmflow.batch.job_limits import JobSlots, Refusals
from llmflow.batch.outcomes import Outcome, PendingCall, PendingCalls, ResultSink, Settled
from llmflow.batch.record import JobRecord, JobStore
from llmflow.batch.settings import Batch
from llmflow.batch.spool import Spool, in_thread, names_of, rows_of
from llmflow.calls.call import RunLive
from llmflow.clock import Clock
from llmflow.errors import JournalError, LLMFlowError, OutageError, ProviderError
from llmflow.private_files import make_private_folder
from llmflow.provider import BatchLimits
from llmflow.types import Response

# For a few answers to be written down, and that the job is done.
_GRACE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The values that distinguish one queue from another.

    Args:
        key: a digest of provider, server and model.
        provider: the provider's name.
        model: the model's name there.
    """

    key: str
    provider: str
    model: str


class BatchScheduler:
    """The batch work for one model, on one event loop.

    Args:
        identity: whose it is.
        client: the calls of the provider's batch API.
        store: where jobs are written down.
        sink: where outcomes are written down.
        folder: where files are.
        settings: what may be set.
        clock: where time and sleep come from.
    """

    def __init__(
        self,
        identity: Identity,
        client: BatchClient,
        *,
        store: JobStore,
        sink: ResultSink,
        folder: Path,
        settings: Batch,
        clock: Clock,
    ) -> None:
        self.identity = identity
        self.client = client
        self.store = store
        self.sink = sink
        self.folder = folder
        self.settings = settings
        self.clock = clock
        self.limits: BatchLimits = client.api.limits
        self.takes_over = False
        """Whether few leftovers are asked in parallel rather than in another job."""
        self.is_late = False
        """Whether the deadline is near: whatever is left is asked in parallel."""
        self.deadline: Any = None
        """What sees to that; see `llmflow.batch.deadline`."""
        self.refusals = Refusals()
        self.failure: LLMFlowError | None = None
        """What ended a job before its time; it can be gone on with in another process."""
        self.slots = JobSlots(
            tokens=settings.enqueued_tokens or self.limits.enqueued_tokens,  # type: ignore[arg-type]
            jobs=settings.jobs or self.limits.jobs,
        )
        self.pending = PendingCalls()
        self._taken_over: set[str] = set()
        self._stranded: set[str] = set()
        self._jobs: dict[str, Job] = {}
        self._cancellations = 0
        """How often all was cancelled: a file may be on its way to a job meanwhile."""
        self._primers = Primers()
        self._priming = asyncio.Lock()
        self.keeping: dict[str, asyncio.Future[None]] = {}
        """The rows whose outcomes are being recorded: a job may bring one just before its call."""
        self.has_kept = False
        """Whether outcomes were written down that nobody waited for."""
        self._tasks: dict[asyncio.Task[None], Job] = {}
        make_private_folder(folder)
        self.collector = Collector(
            folder,
            requests=min(self.limits.requests, settings.requests or self.limits.requests),
            size=min(self.limits.size, settings.size or self.limits.size),
            slots=self.slots,
            quiet=settings.quiet,
            finish=self._finish,
        )

    # --- what calls do --------------------------------------------------------------------------

    def check(self, name: str) -> None:
        """Check that a row may go into a job.

        Raises:
            RunLive: it is to be asked in parallel.
            LLMFlowError: it is in a job that this process cannot go on with.
        """
        if name in self._stranded and self.failure is not None:
            raise copy.copy(self.failure)
        # What a job has is waited for, however late: it may be answered, and paid for.
        if name in self._taken_over or (self.is_late and not self.holds(name)):
            self._taken_over.discard(name)
            raise RunLive

    async def wait(self, name: str, call: PendingCall) -> Response:
        """Wait for a row of a file or an earlier job.

        Raises:
            RunLive: it is to be asked in parallel.
            ProviderError: it failed for good.
        """
        self.pending.wait(name, call)
        try:
            return await call.future
        except BaseException:
            if self.pending.leave(name, call):
                if self.collector.drop(name):
                    for job in self._jobs.values():  # that of the round before
                        job.names.discard(name)
            elif isinstance(sys.exception(), asyncio.CancelledError):
                self.record_cancelled(name, call)
            raise

    def holds(self, name: str) -> bool:
        """Return whether a job or a collected file has this row."""
        if name in self.collector:
            return True
        for job in self._jobs.values():  # noqa: SIM110 - a generator takes twice as long
            if name in job.names:
                return True
        return False

    def record_cancelled(self, name: str, call: PendingCall) -> None:
        """Record an answer given to a call that was cancelled meanwhile."""
        settled = call.taken()
        if settled is None:
            return
        error = call.future.exception()
        outcome = call.future.result() if error is None else error
        if isinstance(outcome, Response | ProviderError):
            self._keep({name: outcome}, settled)

    def withdraw(self, name: str) -> None:
        """Call nobody back with a row; without a job, forget it."""
        if self.collector.drop(name):
            for job in self._jobs.values():  # that of the round before
                job.names.discard(name)
            self.sink.let_go([name])
        if (done := self.pending.callback(name)) is not None:
            done(RunLive())

    def _keep(self, outcomes: Mapping[str, Outcome], settled: Settled) -> None:
        """Record answers, or one failure, that no call waits for."""
        kept = self.sink.keep(outcomes, self.pending.callback) if outcomes else None
        if kept is None:
            settled(None, len(outcomes))
            return
        self.has_kept = True
        self.keeping.update(dict.fromkeys(outcomes, kept))
        kept.add_done_callback(partial(self._kept, tuple(outcomes), settled))

    def _kept(self, names: Sequence[str], settled: Settled, written: asyncio.Future[None]) -> None:
        for name in names:
            self.keeping.pop(name, None)
        error = None if written.cancelled() else written.exception()
        settled(error if isinstance(error, JournalError) else None, len(names))

    # --- when a file becomes a job --------------------------------------------------------------

    async def _finish(self, spool: Spool, schema: str, round_: int) -> None:
        """Write a file and its job down, and begin with it."""
        before = self._cancellations
        try:
            record = JobRecord(
                tag=spool.path.stem,
                queue=self.identity.key,
                provider=self.identity.provider,
                model=self.identity.model,
                tokens=spool.tokens,
                sealed_at=self.clock.wall(),
                round=round_,
                schema=schema,
            )
            await in_thread(spool.seal)
            record = record.but(requests=spool.requests, size=spool.size)
            if not spool.prefixes:
                await self._begin(before, (record, spool.names))
                return
            async with self._priming:  # the next file's job waits for the same primer
                await self._begin(before, *await self._after_primer(spool, record))
        except Exception as error:  # noqa: BLE001 - whoever waits would wait for ever
            self._fail(spool.names, error)

    async def _begin(self, before: int, *jobs: tuple[JobRecord, set[str]]) -> None:
        """Write jobs down, all or none, and begin with them.

        What was cancelled since there were `before` cancellations is cancelled at once.
        """
        await self.write(*[record for record, _ in jobs])
        if self._cancellations != before:
            jobs = tuple((record.but(cancel="user"), names) for record, names in jobs)
            await self.write(*[record for record, _ in jobs])
        for record, names in jobs:
            job = self.launch(record, names, adopted=False)
            if self.is_late:
                job.request_cancel("deadline")

    async def _after_primer(
        self, spool: Spool, record: JobRecord
    ) -> list[tuple[JobRecord, set[str]]]:
        """Return the job of a file's rows, and before it the primer if there is to be one."""
        rows, tag = self._primers.choose(spool)
        names = set(rows.values())
        if not names or len(names) < self.limits.least_requests:
            return [(record.but(after=tag), spool.names)]
        path = self.folder / f"{new_tag()}.jsonl"
        primer, others = await in_thread(divide, spool, record, names, path)
        self._primers.note(rows, primer.tag)
        self.sink.decided("cache primer first", record=primer, rows=len(names))
        return [(primer, names), (others, spool.names - names)]

    async def wait_for_primer(self, record: JobRecord) -> None:
        """Return once the job that this one waits for has ended."""
        job = self._jobs.get(record.after or "")
        if job is not None:
            await job.ended.wait()

    # --- jobs -----------------------------------------------------------------------------------

    def adopt(self, records: Iterable[JobRecord]) -> None:
        """Resume an earlier process's jobs, and remove its unfinished files.

        Raises:
            JournalError: a job's file is gone or damaged.
        """
        for record in records:
            path = self.folder / f"{record.tag}.jsonl"
            try:
                names = set(names_of(path))
            except (OSError, ValueError) as error:
                raise JournalError(
                    f"the rows of the batch job {record.job or record.tag} cannot be read: "
                    f"{error}; put {path} back, or give the run another name"
                ) from error
            # A later job that has a row has it from an earlier one.
            for other in self._jobs.values():
                other.names -= names
            self.launch(record, names, adopted=True)

    def launch(self, record: JobRecord, names: set[str], *, adopted: bool) -> Job:
        """Begin with a job that is written down."""
        job = Job(record, names, self, adopted=adopted)
        self._jobs[record.tag] = job
        self.sink.changed(record)
        task = asyncio.create_task(self._run(job))
        self._tasks[task] = job
        task.add_done_callback(lambda done: self._tasks.pop(done, None))
        return job

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        except Exception as error:  # noqa: BLE001 - whoever waits would wait for ever
            # What is written down of it stays, for the next process.
            if not job.is_done:
                self._stranded |= job.names
            self._fail(job.names, error)
        finally:
            job.placed.set()
            job.ended.set()
            self.slots.leave(job.record.tag)
            self._jobs.pop(job.record.tag, None)

    def _fail(self, names: Collection[str], cause: Exception) -> None:
        """Tell all who wait for these rows that nobody can go on."""
        error = self._told(cause)
        self.failure = self.failure or error
        self.pending.fail(names, error)

    def _told(self, cause: Exception) -> LLMFlowError:
        if isinstance(cause, OSError):
            return cannot_write(self.folder, cause)
        if isinstance(cause, ProviderError) and cause.transient:
            return OutageError(f"the batch API fails: {cause}", provider=cause.provider)
        if isinstance(cause, LLMFlowError):
            return cause
        error = LLMFlowError(f"an unforeseen failure of a batch job: {cause!r}")
        error.__cause__ = cause
        return error

    def known_ids(self) -> set[str]:
        """Return the provider's names of all jobs that are accounted for."""
        return {each.job for each in self.store.all() if each.job is not None}

    def deliver(self, job: Job, outcomes: Mapping[str, Outcome]) -> None:
        """Deliver answers, or one failure, to their waiters, or record them."""
        recorded = job.unrecorded.recorded
        job.unrecorded.count += len(outcomes)
        left = self.pending.give(outcomes, recorded)
        if job.known:
            known = {
                name
                for name, outcome in left.items()
                if (found := job.known.get(name)) is not None
                and (isinstance(found, Response) or isinstance(outcome, ProviderError))
            }
            recorded(None, len(known))
            left = {name: each for name, each in left.items() if name not in known}
        try:
            self._keep(left, recorded)
        except Exception:
            job.names |= left.keys()  # nobody can go on with them
            raise

    def run_live(self, names: Collection[str]) -> None:
        """Have rows asked in parallel."""
        alone = self.pending.run_live(names)
        self._taken_over |= alone
        self.sink.let_go(alone)

    def is_too_few(self, rows: int, of: int) -> bool:
        """Return whether so few leftovers are not worth another job."""
        return self.takes_over and rows <= max(self.settings.few, of // 100)

    async def next_round(self, job: Job, names: set[str]) -> None:
        """Put rows into the next job, and return once that is recorded."""
        record, spools = job.record, set[Spool]()
        for name, line in rows_of(job.path):
            if name in names:
                tokens = record.tokens / max(1, record.requests)
                again = record.round + 1
                spool = self.collector.add(
                    name, line, tokens=tokens, schema=record.schema, round_=again
                )
                spools.add(spool)
        self.sink.decided("next round", record=record, rows=len(names))
        await asyncio.gather(*[each.handed_on.wait() for each in spools])

    async def write(self, *records: JobRecord) -> None:
        """Write jobs down."""
        await in_thread(self.store.put, records)

    # --- the end --------------------------------------------------------------------------------

    def cancel_all(self) -> tuple[int, list[JobRecord]]:
        """Cancel all jobs, those of files on their way to one, too.

        Returns:
            How many there are, and the records to be written down.
        """
        self._cancellations += 1
        # What is ending writes that down itself, at this moment perhaps.
        records = [job.record for job in self.jobs if job.request_cancel("user")]
        return len(records) + len(self.collector.under_way), records

    def late(self, why: str) -> None:
        """Ask all remaining rows in parallel, first those without a job."""
        self.is_late = True
        names = self.collector.discard()
        if names:
            self.sink.decided(why, record=None, rows=len(names))
        self.pending.run_live(names)
        for job in list(self._jobs.values()):
            job.request_cancel("deadline")

    async def settle(self) -> None:
        """Return when every job has ended and its rows are recorded.

        Raises:
            LLMFlowError: what ended a job before its time.
        """
        self.collector.seal()
        while pending := [*self._tasks, *self.collector.under_way]:
            await asyncio.wait(pending)
            self.collector.seal()
        if self.failure is not None:
            raise self.failure

    async def placed(self) -> None:
        """Return when every job is submitted, or waits for room.

        Raises:
            LLMFlowError: what ended a job before its time.
        """
        self.collector.seal()
        while self.collector.under_way:
            await asyncio.wait(self.collector.under_way)
        while waiting := [each for each in self.jobs if not each.placed.is_set()]:
            await waiting[0].placed.wait()
        if self.failure is not None:
            raise self.failure

    @property
    def jobs(self) -> list[Job]:
        """The jobs that have not ended."""
        return list(self._jobs.values())

    @property
    def is_idle(self) -> bool:
        """True if no file and no job has a row."""
        return not self._jobs and not self.collecting

    @property
    def collecting(self) -> int:
        """The number of rows that are in no job yet."""
        return len(self.collector)

    async def stop(self) -> None:
        """Stop polling jobs; they continue at the provider and stay recorded."""
        self._stop_deadline()
        tasks = list(self._tasks)
        # A program that ends with its last answer leaves no job behind that has none to give.
        ending = [task for task, job in self._tasks.items() if job.is_only_recording]
        for task in tasks:
            if task not in ending:
                task.cancel()
        # After that: what a job has put into a file is the job's again when the file goes.
        await self.collector.stop()
        if ending:
            await asyncio.wait(ending, timeout=_GRACE_SECONDS)
        for task in ending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.stop()

    def abandon(self) -> None:
        """Leave all jobs to another event loop; this one has stopped."""
        self._stop_deadline()
        for task in [*self._tasks, *self.collector.under_way]:
            task.cancel()
