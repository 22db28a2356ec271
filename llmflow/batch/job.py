"""One batch job, from its input file to its results.

Each step is written down before the next is begun, so that a process which finds a record
knows what may have happened after it (`llmflow.batch.record`). Only the creation must not
happen twice: a job that may have been created is looked for first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from llmflow.batch import results
from llmflow.batch.control import Interrupted
from llmflow.batch.ingest import Ingest, affordable
from llmflow.batch.record import JobRecord
from llmflow.batch.refusals import refused_for, wait_for_room
from llmflow.batch_api import BatchInput, BatchProblem, BatchStatus
from llmflow.errors import (
    AuthenticationError,
    BatchCancelledError,
    BatchRowLostError,
    JournalError,
    ProviderError,
    QueueLimitError,
    ResultsTooLargeError,
)

if TYPE_CHECKING:
    from llmflow.batch.queue import Queue

_T = TypeVar("_T")

# In units of the first look's delay: 10, 20, 30, then 60 seconds; after an hour 120.
_FIRST_LOOKS: Final = (1.0, 2.0, 3.0)
_LATER_LOOKS: Final = 6.0
_LAST_LOOKS: Final = 12.0
_IS_OLD: Final = 360.0
# A job that was made a moment ago is not everywhere yet.
_UNKNOWN_PATIENCE: Final = 3.0
_REFUSALS: Final = 5
_CANCEL_PATIENCE: Final = 60.0
_URGENT_PATIENCE: Final = 12.0


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
        self._uploaded: str | None = None
        self.placed = asyncio.Event()
        """Set when it is at the provider, or has to wait for room there, or is over."""
        self.ended = asyncio.Event()
        """Set when it is over."""
        self._settled = asyncio.Event()
        self._wake = asyncio.Event()
        if record.cancel is not None:
            self._wake.set()
        self._journal_error: JournalError | None = None
        self._cancelled_at: float | None = None
        self._cancel_told = False
        self.is_refused = False
        self.path = queue.folder / f"{record.tag}.jsonl"
        self.results = queue.folder / f"{record.tag}.results"

    def __repr__(self) -> str:
        return f"<Job {self.record.job or self.record.tag}: {self.record.state}>"

    async def run(self) -> None:
        """Continue until every row has its outcome, from the recorded state."""
        if self.record.state == "fetched":  # an earlier process may not have come to it
            await results.are_ours(self, self._queue)
            if results.are_here(self):
                await self._clean_up(None)
        while self.record.state != "fetched":
            step = self._follow if self.record.state == "created" else self._submit
            if not await step():
                return
        self.placed.set()
        await self._ingest()

    # --- on the way there -----------------------------------------------------------------------

    async def _submit(self) -> bool:
        """Create the job at the provider; False if that became other jobs' work."""
        queue = self._queue
        if self.record.cancel is not None and not self._found_creating:
            await self._give_up_unsent()
            return False
        try:
            # Not placed while it is primed: nobody would send it once this process has ended.
            await self._heeding(queue.primed(self.record))
            tag, tokens, placed = self.record.tag, self.record.tokens, self.placed
            await self._heeding(queue.admission.enter(tag, tokens, when_full=placed.set))
        except Interrupted:
            if not self._found_creating:
                return True
        try:
            await self._create()
        except Interrupted:
            return True
        except QueueLimitError as error:
            await self.note(state="sealed", uploaded=None, sent_at=None)
            return await wait_for_room(self, queue, error)
        except ProviderError as error:
            if error.transient or self._found_creating:
                raise  # it may have been created: the next process looks for it
            if not error.fatal:
                await self.discard_upload()
            await refused_for(self, queue, (BatchProblem(error),))
            return False
        return True

    async def _create(self) -> None:
        """Create the job, and write its name down.

        One at a time: where jobs have no tag, one that was made without anybody hearing of it
        is told from others because it is the only one that nobody knows.

        Raises:
            Interrupted: it is to be cancelled, and was not created.
        """
        control, rows = self._queue.control, self._rows()
        if not self._found_creating:
            await self._upload(rows)
        async with self._alone():
            found = await control.find(rows, self._known_ids()) if self._found_creating else None
            if found is None:
                self._found_creating = False
                # Uploaded anew where it was found: the other file may have expired.
                await self._upload(rows)
                # Looked for from the first time on, if there were several.
                sent_at = self.record.sent_at or self._queue.clock.wall()
                await self.note(state="creating", uploaded=self._uploaded, sent_at=sent_at)
                status, was_found = await control.create(
                    self._rows(), self._uploaded, self._known_ids, self._wake
                )
            else:
                status, was_found = found, True
            control.creating.known.add(status.id)
        uploaded, self._uploaded = status.uploaded or self.record.uploaded, None
        self._found_creating = False
        await self.note(
            state="created",
            job=status.id,
            found=was_found and status.tag != self.record.tag,
            created_at=self._queue.clock.wall(),
            uploaded=uploaded,
            expires_at=status.expires_at,
            native=status.native,
        )

    def _known_ids(self) -> set[str]:
        queue = self._queue
        return {*queue.known_ids(), *queue.control.creating.known, *self.record.others}

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Let nobody else create a job at the same place in the block."""
        lock = self._queue.control.creating.lock
        acquiring = asyncio.ensure_future(lock.acquire())
        try:
            if self._found_creating:  # it may exist: looked for, whatever is wanted
                await acquiring
            await self._heeding(acquiring)
            yield
        finally:
            if acquiring.done() and not acquiring.cancelled():
                lock.release()

    async def _upload(self, rows: BatchInput) -> None:
        """Bring the file to the provider, unless it is there since the last try."""
        if self._uploaded is None:
            self._uploaded = await self._heeding(self._queue.control.upload(rows))

    async def discard_upload(self) -> None:
        """Delete a file of which no job was made."""
        name, self._uploaded = self._uploaded, None
        if name is not None and not self._queue.settings.keep_files:
            unused = BatchStatus(id="", state="failed", uploaded=name)
            with contextlib.suppress(ProviderError):
                await self._queue.control.clean_up(unused)

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

    async def _give_up_unsent(self) -> None:
        why, names = "cancelled before it was sent", self.names
        self.names = set()
        if self.record.cancel == "deadline":
            self._queue.hand_over(self, names, f"{why}: deadline")
        else:
            await self._cancel_rows(names)
        await self.discard_upload()
        await self.end(why)

    # --- at the provider ------------------------------------------------------------------------

    async def _follow(self) -> bool:
        """Bring the results here; False if that became other jobs' work."""
        self.placed.set()
        queue = self._queue
        queue.admission.enter_at_once(self.record.tag, self.record.tokens)
        status = await self._watch()
        queue.admission.leave(self.record.tag)
        if status is not None and status.problems:
            if _is_refusal(status.problems[0].error):
                await self._clean_up(status)  # its rows are sent from here again
            if await refused_for(self, queue, status.problems):
                return False
        try:
            brought = await results.bring(self, queue, status)
        except ResultsTooLargeError as error:
            await results.refuse(self, queue, error)
            return False
        if not await results.are_ours(self, queue):
            await self._look_for_another()
            return True
        await self.note(state="fetched", found=False, native=self.record.native or "ended")
        # Before anybody has an answer: a program may end with its last one.
        if brought is not None:
            await self._clean_up(brought)
        return True

    async def _look_for_another(self) -> None:
        """Leave a job alone that was found, and is somebody else's."""
        record = self.record
        assert record.job is not None
        self._queue.keeper.decided("found another's job", record=record, rows=record.requests)
        results.forget(self)
        self._found_creating = True
        self.record = record.unmade()
        await self.note(state="creating", found=False, others=(*record.others, record.job))

    async def _watch(self) -> BatchStatus | None:
        """Look at the job until it has ended; None if the provider does not know it.

        Where it was cancelled, and takes too long for that, it has not ended even so.
        """
        queue, record = self._queue, self.record
        assert record.job is not None
        looks, unknown, refusals = 0, 0, 0
        asked_to_wait: float | None = None
        status: BatchStatus | None = None
        while True:
            if await self._cancel_if_wanted():
                return status
            await self.sleep(self._next_look(looks, asked_to_wait))
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
            return poll * min(factor, 1.0)  # whatever is asked for: it is not for long
        return max(poll * factor, asked_to_wait or 0.0)

    async def _heard(self, status: BatchStatus) -> None:
        news = {
            "native": status.native or status.state,
            "succeeded": status.succeeded,
            "failed": status.failed,
            "expires_at": status.expires_at,
        }
        if news["native"] != self.record.native:
            await self.note(**news)
        elif (status.succeeded, status.failed) != (self.record.succeeded, self.record.failed):
            self.record = self.record.but(**news)
            self._queue.keeper.changed(self.record)

    async def _cancel_if_wanted(self) -> bool:
        """Cancel the job once; True when the provider has had its time for that.

        Only a deadline is in a hurry: else what nobody has confirmed goes on, and may be paid.
        What was found, and may be somebody else's, is not cancelled. At the deadline its end is
        waited for even so: it says whose it is, and until then its rows may be paid for.
        """
        record, control = self.record, self._queue.control
        if record.cancel is None:
            return False
        is_urgent = record.cancel == "deadline"
        patience = (_URGENT_PATIENCE if is_urgent else _CANCEL_PATIENCE) * control.poll
        if self._cancelled_at is None:
            self._cancelled_at = asyncio.get_running_loop().time()
            await self.note()  # the next session, too, is to know who did it
            if record.found:
                why = "not cancelled: it may be somebody else's"
                self._queue.keeper.decided(why, record=record, rows=len(self.names))
        if not (record.found or self._cancel_told):
            assert record.job is not None
            # At its end it is found to go on; and who was not heard says it again.
            with contextlib.suppress(ProviderError, TimeoutError):
                async with asyncio.timeout(patience):  # 3.11's wait_for may lose a cancellation
                    await control.cancel(record.job)
                self._cancel_told = True
        if record.found or not is_urgent:
            return False
        return asyncio.get_running_loop().time() - self._cancelled_at > patience

    @property
    def has_given_all(self) -> bool:
        """True if every row has its outcome, to be recorded only."""
        return (self.record.state == "fetched" or self.is_refused) and not self.names

    def request_cancel(self, reason: str) -> bool:
        """Have the job cancelled; what it has answered until then is kept.

        Returns:
            Whether that is news, and there is anything left to cancel.
        """
        if self.record.cancel is not None or self.record.state in ("fetched", "done"):
            return False
        self.record = self.record.but(cancel=reason)
        self._wake.set()
        return True

    # --- on the way back ------------------------------------------------------------------------

    async def _clean_up(self, status: BatchStatus | None) -> None:
        """Delete the provider's files, if that can be done; else they expire there."""
        control, job = self._queue.control, self.record.job
        if job is not None and not self._queue.settings.keep_files:
            with contextlib.suppress(ProviderError):
                status = status or await control.status(job)
                if status.has_ended:
                    await control.clean_up(status)

    async def _ingest(self) -> None:
        queue = self._queue
        ingest = Ingest(self, queue)
        leftovers = await ingest.run(self.results)
        await self.all_settled()
        why = ""
        if leftovers:
            why = await self._place(leftovers)
        await self.end(f"{self.record.native or 'ended'}{why}")

    async def _place(self, leftovers: dict[str, ProviderError]) -> str:
        """Find another way for rows that the job has not answered."""
        queue, record = self._queue, self.record
        # This job has no more to say of them, even if the session ends now.
        names, self.names = set(leftovers), set()
        if record.cancel == "deadline" or queue.is_late:
            queue.hand_over(self, names, "the deadline is near")
            return f"; {len(names):,} asked in parallel"
        # Where a job's own word is no more than "ended", its rows tell.
        is_cancelled = (record.native or "").lower().startswith("cancel") or any(
            isinstance(each, BatchRowLostError) and each.code == "cancelled"
            for each in leftovers.values()
        )
        by_others = record.cancel is None and is_cancelled
        if by_others or record.cancel == "user":
            await self._cancel_rows(names)
            return f"; {len(names):,} not asked again"
        is_few = queue.is_few(len(names), record.requests)
        again = names if is_few or record.round < queue.settings.rounds else set()
        for name in again:
            queue.keeper.retried(leftovers[name])
        if is_few:
            queue.hand_over(self, names, "few leftovers")
            return f"; {len(names):,} asked in parallel"
        self.names = again
        for name in names - again:
            queue.deliver(self, name, leftovers[name])
        await self.all_settled()
        if again := await affordable(self, queue, again, leftovers):
            await queue.next_round(self, again)
        return f"; {len(names):,} not answered"

    async def _cancel_rows(self, names: set[str]) -> None:
        record = self.record
        for name in names:
            error = BatchCancelledError(
                f"the batch job {record.job or record.tag} was cancelled",
                provider=record.provider,
                model=record.model,
                code="cancelled",
            )
            self._queue.deliver(self, name, error)
        await self.all_settled()

    # --- what is common to all steps ------------------------------------------------------------

    def settled(self, error: JournalError | None = None) -> None:
        """Count a recorded outcome; after an error the job stays open."""
        self.outstanding -= error is None
        self._journal_error = self._journal_error or error
        if not self.outstanding or error is not None:
            self._settled.set()

    async def all_settled(self) -> None:
        """Return when what was given out is written down."""
        while self.outstanding and self._journal_error is None:
            self._settled.clear()
            await self._settled.wait()
        if self._journal_error is not None:
            raise self._journal_error
        await self._queue.keeper.drain()

    async def end(self, outcome: str) -> None:
        """Write down that it is over, and how."""
        await self.note(state="done", outcome=outcome)
        self._queue.remove_files(self)

    async def note(self, **changes: Any) -> None:
        """Write down what has changed."""
        record = self.record.but(**changes)
        await self._queue.write(record)
        # A cancellation may have come meanwhile.
        self.record = record.but(cancel=self.record.cancel or record.cancel)
        self._queue.keeper.changed(self.record)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not past a request to cancel."""
        with contextlib.suppress(Interrupted):
            await self._heeding(self._queue.clock.sleep(seconds))

    async def _heeding(self, work: Awaitable[_T]) -> _T:
        """Wait for something, or until the job is to be cancelled.

        Raises:
            Interrupted: it is to be cancelled, and the work was ended.
        """
        if self._cancelled_at is None:
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


def _is_refusal(error: ProviderError) -> bool:
    """Whether a job that failed so has no results to be fetched."""
    return isinstance(error, QueueLimitError) or not error.transient
