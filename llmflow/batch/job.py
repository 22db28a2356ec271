"""Runs one batch job by the steps of `llmflow.batch.lifecycle`."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import shutil
from collections.abc import Awaitable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from llmflow.batch import result_files
from llmflow.batch.client import BatchClient
from llmflow.batch.collector import new_tag
from llmflow.batch.job_limits import JobSlots, Refusals
from llmflow.batch.lifecycle import next_step
from llmflow.batch.outcomes import Ingest, Outcome, PendingCalls, ResultSink, Unrecorded
from llmflow.batch.record import JobRecord
from llmflow.batch.result_files import Results, files_in
from llmflow.batch.settings import Batch
from llmflow.batch.spool import copy_rows, in_thread, names_of, parts_of, remove_all
from llmflow.batch.steps import FINAL, TIMED, Event, Step
from llmflow.clock import Clock
from llmflow.errors import BatchCancelledError, BatchRowLostError, ProviderError, QueueLimitError
from llmflow.private_files import make_private_folder
from llmflow.provider import ENDED, BatchInput, BatchRow, BatchStatus

if TYPE_CHECKING:
    from llmflow.journal import Recorded

_T = TypeVar("_T")

# Answers that may be given out before they are written down, and how long that is waited for.
_MOST_OUTSTANDING: Final = 1000
_PAUSE: Final = 0.005
_PATIENCE: Final = 200


class Interrupted(Exception):  # noqa: N818 - nothing is wrong
    """The job is to be cancelled, or an action took too long."""


class _Jobs(Protocol):
    """What a job needs of the scheduler of those of its model."""

    client: BatchClient
    sink: ResultSink
    pending: PendingCalls
    slots: JobSlots
    refusals: Refusals
    folder: Path
    settings: Batch
    clock: Clock
    is_late: bool

    async def write(self, *records: JobRecord) -> None: ...
    def known_ids(self) -> set[str]: ...
    async def wait_for_primer(self, record: JobRecord) -> None: ...
    def deliver(self, job: Job, outcomes: Mapping[str, Outcome]) -> None: ...
    def is_too_few(self, rows: int, of: int) -> bool: ...
    def run_live(self, names: set[str]) -> None: ...
    async def next_round(self, job: Job, names: set[str]) -> None: ...
    def launch(self, record: JobRecord, names: set[str], *, adopted: bool) -> Job: ...


class Job:
    """One job, and its handle.

    Args:
        names: its rows that have no outcome yet.
        jobs: those that it belongs to.
        adopted: whether an earlier process has begun it.
    """

    def __init__(self, record: JobRecord, names: set[str], jobs: _Jobs, *, adopted: bool) -> None:
        self.names = names
        self.adopted = adopted
        self.known: Mapping[str, Recorded] = {}
        """What the journal knows of the rows that get their outcomes now."""
        self.unrecorded = Unrecorded()
        """The outcomes that were given out and are not written down yet."""
        self.placed = asyncio.Event()
        """Set when it is at the provider, or has to wait for room there, or is over."""
        self.ended = asyncio.Event()
        """Set when it is over."""
        self.is_done = False
        """Whether it is written down that it is over."""
        self.path = jobs.folder / f"{record.tag}.jsonl"
        self.results = jobs.folder / f"{record.tag}.results"
        self._jobs = jobs
        self._deliver = partial(jobs.deliver, self)
        self._client = jobs.client
        self._step = Step(
            record=record,
            poll=jobs.client.poll,
            rounds=jobs.settings.rounds,
            may_exist=adopted and record.state == "creating",
        )
        self._wake = asyncio.Event()
        if record.cancel is not None:
            self._wake.set()
        self._cancel_parts: str | None = None
        self._has_lock = False
        self._began = 0.0
        self._bad: dict[str, ProviderError] = {}
        self._leftovers: dict[str, ProviderError] = {}

    def __repr__(self) -> str:
        return f"<Job {self.record.job or self.record.tag}: {self.record.state}>"

    @property
    def record(self) -> JobRecord:
        """The record as it is now."""
        return self._step.record

    @property
    def is_only_recording(self) -> bool:
        """True if every row has its outcome, to be recorded only."""
        is_last = self.record.state in ("fetched", "done")
        return not self.names and (is_last or self._step.action in ("fail_rows", "cancel_rows"))

    def request_cancel(self, reason: str) -> bool:
        """Have the job cancelled; what it has answered until then is kept.

        Returns:
            Whether that is news, and there is anything left to cancel.
        """
        record = self.record
        if self._step.action == "split":  # it is over, but others will have its rows
            self._cancel_parts = reason
            return False
        if record.cancel is not None or record.state in ("fetched", "done"):
            return False
        self._step = replace(self._step, record=record.but(cancel=reason))
        self._wake.set()
        return True

    async def run(self) -> None:
        """Continue until every row has its outcome, from the recorded state."""
        event = self._event()
        try:
            while (step := await self._next(event)).action not in FINAL:
                event = await self._act(step)
            if step.action == "split":
                await self._split(step)
            elif step.action == "end":
                remove_all([self.path, self.results])
            if step.error is not None:
                cause = event.error if event.error is not step.error else None
                raise step.error from cause
        finally:
            self._give_lock_back()

    async def _next(self, event: Event) -> Step:
        """Write the next step down, and tell of it."""
        before, jobs = self._step, self._jobs
        step = self._step = next_step(before, event)
        record = step.record
        if not step.has_lock:
            self._give_lock_back()
        if step.phase == "watch":
            jobs.slots.enter_at_once(record.tag, record.tokens)
        elif before.phase == "watch":
            jobs.slots.leave(record.tag)
        if step.says is not None:
            why, rows = step.says
            rows = len(self.names) if rows is None else rows
            jobs.sink.decided(why, record=before.record, rows=rows)
        if step.unsaved:
            await self._write()
        if step.unsaved or record is not before.record:
            jobs.sink.changed(self.record)
        if record.state in ("created", "fetched"):
            self.placed.set()
        return self._step

    async def _write(self) -> None:
        # What is being written is known before: a cancellation must not write down less. One
        # that comes meanwhile is written down, too.
        while True:
            written = self.record
            await self._jobs.write(written)
            if written is self.record:
                break
        self.is_done = not written.is_active

    async def _act(self, step: Step) -> Event:
        """Carry out a step's action."""
        try:
            brought = await getattr(self, f"_{step.action}")(step)
        except Interrupted:
            return self._event(interrupted=True)
        except ProviderError as error:
            return self._event(error=error)
        return self._event(**(brought or {}))

    def _event(self, **brought: Any) -> Event:
        clock = self._jobs.clock
        if self._step.action in TIMED:
            brought |= {"at": clock.wall(), "time": clock.monotonic()}
        return Event(rows=len(self.names), has_worked=self._client.has_worked, **brought)

    # --- on the way there -----------------------------------------------------------------------

    async def _await_primer(self, step: Step) -> None:
        # Not placed while it is primed: nobody would send it once this process has ended.
        await self._heeding(self._jobs.wait_for_primer(step.record))

    async def _enter(self, step: Step) -> None:
        tag, tokens, placed = step.record.tag, step.record.tokens, self.placed
        await self._heeding(self._jobs.slots.enter(tag, tokens, when_full=placed.set))

    async def _upload(self, _: Step) -> dict[str, Any]:
        return {"uploaded": await self._heeding(self._client.upload(self._rows()))}

    async def _lock(self, step: Step) -> None:
        """Let nobody else create a job at the same place.

        Where jobs have no tag, one that was made without anybody hearing of it is told from
        others because it is the only one that nobody knows.
        """
        acquiring = asyncio.ensure_future(self._client.create_lock.acquire())
        try:
            # It may exist: searched for, whatever is wanted.
            await (acquiring if step.may_exist else self._heeding(acquiring))
        finally:
            self._has_lock = acquiring.done() and not acquiring.cancelled()

    def _give_lock_back(self) -> None:
        if self._has_lock:
            self._has_lock = False
            self._client.create_lock.release()

    async def _search(self, step: Step) -> dict[str, Any]:
        rows, clock = self._rows(), self._jobs.clock
        if step.error is not None:  # by this clock, which may have been put back since
            since = clock.wall() - (clock.monotonic() - self._began)
            rows = replace(rows, created_at=min(rows.created_at, since))
        mine, ours = self._jobs.known_ids(), self._client.create_lock.known
        known = {*mine, *ours, *step.record.others}
        return self._created(await self._client.find(rows, known))

    async def _create(self, step: Step) -> dict[str, Any]:
        if self.record.cancel is not None:
            raise Interrupted
        if step.attempts == 1:
            self._began = self._jobs.clock.monotonic()
        return self._created(await self._client.create(self._rows(), step.uploaded))

    def _created(self, status: BatchStatus | None) -> dict[str, Any]:
        if status is not None:
            self._client.create_lock.known.add(status.id)
        return {"status": status}

    def _rows(self) -> BatchInput:
        record = self.record
        return BatchInput(
            path=self.path,
            size=record.size,
            requests=record.requests,
            tag=record.tag,
            model=record.model,
            created_at=record.sent_at or record.sealed_at,
        )

    async def _back_off(self, step: Step) -> None:
        assert step.error is not None
        await self._heeding(self._client.back_off(step.attempts, step.error))

    # --- at the provider ------------------------------------------------------------------------

    async def _sleep(self, step: Step) -> None:
        self.placed.set()
        with contextlib.suppress(Interrupted):
            await self._heeding(self._jobs.clock.sleep(step.seconds))

    async def _look(self, step: Step) -> dict[str, Any]:
        return {"status": await self._client.status(step.record.job or "")}

    async def _cancel(self, step: Step) -> None:
        try:
            async with asyncio.timeout(step.seconds):  # 3.11's wait_for may lose a cancellation
                await self._client.cancel(step.record.job or "")
        except TimeoutError:
            raise Interrupted from None

    async def _clean_up(self, step: Step) -> None:
        """Delete the provider's files, if that can be done; else they expire there."""
        job, status = step.record.job, step.status
        if job is None or self._jobs.settings.keep_files:
            return
        if status is None and not files_in(self.results):
            return
        with contextlib.suppress(ProviderError):
            status = status or await self._client.status(job)
            if status.state in ENDED:
                await self._client.clean_up(status)

    # --- refused --------------------------------------------------------------------------------

    async def _free_room(self, step: Step) -> dict[str, Any]:
        slots, error = self._jobs.slots, step.problems[0].error
        if isinstance(error, QueueLimitError) and error.limit is not None:
            slots.learn(error.limit)
        facts = {"most": slots.most_tokens, "alone": slots.inside <= 1}
        slots.leave(step.record.tag)
        return facts

    async def _find_bad_rows(self, step: Step) -> dict[str, Any]:
        await self._discard_upload()
        problems, concerns_all = step.problems, False
        lines = {each.line: each.error for each in problems if each.line is not None}
        rows = enumerate(names_of(self.path) if lines else (), start=1)
        self._bad = {name: lines[number] for number, name in rows if number in lines}
        if not self._bad and len(self.names) > 1:
            concerns_all = self._jobs.refusals.note(step.record, problems[0].error)
        return {"named": len(self._bad), "concerns_all": concerns_all}

    async def _fail_rows(self, step: Step) -> None:
        """Give rows their error, each its own."""
        await self._discard_upload()  # before anybody has an answer: a program may end with it
        await self._look_up(self.names)
        bad = self._bad if step.error is None else dict.fromkeys(self.names, step.error)
        self._fail({name: copy.copy(bad[name]) for name in self.names & bad.keys()})
        await self._recorded()

    async def _split(self, step: Step) -> None:
        """Write down the jobs that have the rows of this one, and its end, and begin with them."""
        await self._discard_upload()
        old, part, jobs = step.record, step.part, self._jobs
        assert part is not None
        new: list[tuple[JobRecord, set[str]]] = []
        for names in await in_thread(parts_of, self.path, self.names, step.parts):
            path = jobs.folder / f"{new_tag()}.jsonl"
            record = part.but(
                tag=path.stem,
                requests=len(names),
                size=await in_thread(copy_rows, self.path, path, names.__contains__),
                tokens=old.tokens * len(names) / max(1, old.requests),
                sealed_at=jobs.clock.wall(),
            )
            new.append((record, names))
        done = old.but(state="done", outcome=step.outcome, replaced=True)
        self._step = replace(self._step, record=done)
        await jobs.write(done, *[record for record, _ in new])
        self.is_done = True
        jobs.sink.changed(done)
        jobs.slots.leave(old.tag)
        self.names = set()
        remove_all([self.path, self.results])
        for record, names in new:
            job = jobs.launch(record, names, adopted=self.adopted)
            if self._cancel_parts is not None:
                job.request_cancel(self._cancel_parts)

    async def _discard_upload(self) -> None:
        """Delete a file of which no job was made."""
        name, self._step = self._step.uploaded, replace(self._step, uploaded=None)
        if name is not None and not self._jobs.settings.keep_files:
            unused = BatchStatus(id="", state="failed", uploaded=name)
            with contextlib.suppress(ProviderError):
                await self._client.clean_up(unused)

    # --- on the way back ------------------------------------------------------------------------

    async def _fetch(self, step: Step) -> dict[str, Any]:
        status, client, folder = step.status, self._client, self.results
        assert status is not None
        if status.results:
            make_private_folder(folder)
            await client.fetch(status, folder, result_files.bounds_for(step.record.requests))
        elif status.succeeded:
            return {"missing": ": no file is named"}
        if status.state not in ENDED:
            return {}
        counted = min((status.succeeded or 0) + (status.failed or 0), step.record.requests)
        seen = await result_files.look_through(folder, client.api.read, self._all_names, counted)
        if not seen.needs_earlier:
            result_files.forget_earlier(folder)
        return {"seen": seen}

    async def _all_names(self) -> set[str]:
        """Return the names of all rows, those with an outcome among them."""
        if len(self.names) == self.record.requests:
            return set(self.names)
        return await in_thread(lambda: set(names_of(self.path)))

    async def _set_aside(self, step: Step) -> None:
        result_files.set_aside(self.results)
        await self._sleep(step)

    async def _check_owner(self, step: Step) -> dict[str, Any]:
        record, read, names = step.record, self._client.api.read, self.names
        ours = await result_files.belong_to(record, self.results, read, names, self.path)
        return {"is_ours": ours}

    async def _delete_results(self, _: Step) -> None:
        shutil.rmtree(self.results, ignore_errors=True)

    async def _ingest(self, step: Step) -> dict[str, Any]:
        record, jobs = step.record, self._jobs
        ingest = Ingest(record, self.names, jobs.sink, self._deliver)
        async for rows in Results(files_in(self.results), self._client.api.read):
            await self._look_up([row.custom_id for row in rows if isinstance(row, BatchRow)])
            ingest.take(rows)
            # Give out no more answers than are written down about as fast. But not for ever: a
            # caller may do something else first, and even wait for another row.
            for _ in range(_PATIENCE):
                if self.unrecorded.count < _MOST_OUTSTANDING:
                    break
                await asyncio.sleep(_PAUSE)
        await self._look_up(self.names)
        left = ingest.leftovers({name for name in self.known if name not in jobs.pending})
        self._leftovers = left
        await self._recorded()
        return {
            "leftovers": len(left),
            "were_cancelled": any(
                isinstance(each, BatchRowLostError) and each.code == "cancelled"
                for each in left.values()
            ),
            "is_few": jobs.is_too_few(len(left), record.requests),
            "is_late": jobs.is_late,
        }

    async def _go_live(self, step: Step) -> None:
        # This job has no more to say of them, even if the session ends now.
        names, self.names = self.names, set()
        for name in names if step.asks_again else ():
            self._jobs.sink.retried(self._leftovers[name])
        self._jobs.run_live(names)
        await self._discard_upload()

    async def _cancel_rows(self, step: Step) -> None:
        record = step.record
        await self._look_up(self.names)
        error = BatchCancelledError(
            f"the batch job {record.job or record.tag} was cancelled",
            provider=record.provider,
            model=record.model,
            code="cancelled",
        )
        self._fail({name: copy.copy(error) for name in self.names})
        await self._recorded()
        await self._discard_upload()

    async def _next_round(self, step: Step) -> None:
        left, jobs = self._leftovers, self._jobs
        await self._look_up(self.names)
        for name in self.names if step.asks_again else ():
            jobs.sink.retried(left[name])
        if not step.asks_again:
            self._fail({name: left[name] for name in self.names})
        await self._recorded()
        # The budget may have no more for them.
        billed = [name for name in self.names if left[name].may_be_billed]
        for name in billed:
            if not jobs.sink.renew(name):
                left[name].message += "; it may have been billed, and the budget has no more for it"
                self._fail({name: left[name]})
        await self._recorded()
        if self.names:
            await jobs.next_round(self, self.names)

    # --- what is common to all steps ------------------------------------------------------------

    async def _look_up(self, names: Collection[str]) -> None:
        """Look up rows that another process may have recorded, too."""
        if self.adopted:
            self.known = await self._jobs.sink.find_many(names)

    def _fail(self, errors: Mapping[str, ProviderError]) -> None:
        """Give rows their errors; if one cannot be written down, the rest stay the job's."""
        for name, error in errors.items():
            self.names.discard(name)
            self._deliver({name: error})

    async def _recorded(self) -> None:
        """Return when what was given out is written down."""
        await self.unrecorded.wait()
        await self._jobs.sink.drain()

    async def _heeding(self, work: Awaitable[_T]) -> _T:
        """Wait for something; raise `Interrupted` if the job is cancelled."""
        if self._step.cancelled_at is None:
            waking: asyncio.Future[Any] = asyncio.ensure_future(self._wake.wait())
        else:
            waking = asyncio.get_running_loop().create_future()
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((waking, working), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise Interrupted
        finally:
            waking.cancel()
            working.cancel()
