"""Batch mode of one run: its queues and what they need."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Coroutine, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmflow.batch import Batch
from llmflow.batch.control import Control
from llmflow.batch.deadline import Lateness
from llmflow.batch.journal_store import FOLDER, JournalStore
from llmflow.batch.names import name_of
from llmflow.batch.queue import Identity, Queue
from llmflow.batch.record import JobRecord, JobStore, MemoryStore
from llmflow.batch.rows import ask_live, identity_of, put_row, supports, unsupported
from llmflow.batch.sink import Keep, RouteKeeper, Sink
from llmflow.batch.waiter import TakenOver, Waiter
from llmflow.calls.call import Call, Route
from llmflow.calls.choice import Choice
from llmflow.clock import SystemClock
from llmflow.errors import (
    BatchUnsupportedError,
    JournalError,
    ProviderError,
    QuotaExhaustedError,
    UsageError,
)
from llmflow.items.idle import suspend_timeouts, time_limits, yield_slot
from llmflow.provider import batch_api_of
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.batch.auto import Decision
    from llmflow.calls.spending import Spending
    from llmflow.journal import Journal


class BatchMode:
    """Batch jobs of one run, or of calls outside of runs.

    It belongs to the event loop of the first call; calls of others are sent there.

    Args:
        journal: where jobs are written down; None: they end with the process.
        keep: writes down an outcome that nobody waits for.
        number: names a call that no journal has numbered.
        on_quota_used_up: called by each call that goes into a job because the daily quota is
            used up.
        retried: is told of each failure after which a row is asked again.
        spending: what the run may still spend, or None.
        run_id: what events call the run.
    """

    def __init__(
        self,
        *,
        journal: Journal | None,
        keep: Keep,
        number: Callable[[Call], None],
        on_quota_used_up: Sequence[Callable[[], None]],
        retried: Callable[[ProviderError], None],
        spending: Spending | None,
        run_id: str | None,
    ) -> None:
        self._journal = journal
        self._number = number
        self._on_quota_used_up = on_quota_used_up
        self._spending = spending
        self._run_id = run_id
        self._clock = SystemClock()
        self._rng = random.Random()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: dict[Hashable, Queue] = {}
        self._store: JobStore = MemoryStore() if journal is None else JournalStore(journal)
        self._folder: Path | None = None
        self._deadlines: dict[Hashable, Lateness] = {}
        self._modes: dict[Hashable, Decision] = {}
        self.sink = Sink(
            journal=journal, keep=keep, retried=retried, spending=spending, run_id=run_id
        )

    async def complete(self, call: Call) -> Response:
        """Answer a call in its mode, or in that mode's fallback.

        Raises:
            ProviderError: it failed for good.
        """
        choice, route = call.choice, call.route
        assert choice is not None
        if not self.is_for_batch(call):
            try:
                return await route.mode.complete(call)
            except QuotaExhaustedError:
                if (choice.mode != "auto" and choice.fallback != "batch") or not supports(route):
                    raise
                self._say_once("the daily quota is used up: on in batch jobs", route)
                for each in self._on_quota_used_up:
                    each()
        self._number(call)
        if self._spending is not None:
            self._spending.wait_for(call.row, call.payment)
        try:
            response = await self._complete(call, choice)
        except TakenOver:
            call.pending = None
        except BatchUnsupportedError:
            if choice.mode != "auto" and choice.fallback != "parallel":
                raise
            self._say_once("no batch API: on in parallel", route)
        else:
            call.in_batch = True
            return response
        finally:
            if self._spending is not None:
                self._spending.wait_for(call.row, None)
        return await ask_live(call)

    async def _complete(self, call: Call, choice: Choice) -> Response:
        """Have a call answered by a batch job."""
        loop = self._enter_loop()
        if loop is not asyncio.get_running_loop():
            there = self._there(call, choice)
            waiting = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(there, loop))
        else:
            waiting = None
        aside, waits = yield_slot.get(), waiting or self._wait(call, choice)
        try:
            with suspend_timeouts() if time_limits.get() else contextlib.nullcontext():
                if aside is None:
                    return await waits
                async with aside():
                    return await waits
        except asyncio.CancelledError:
            # It may have its answer by now, and have waited for its slot, or for its own loop.
            waiter, queue = call.pending, self._queues.get(_domain(call.route))
            call.pending = None
            if isinstance(waiter, Waiter) and queue is not None:
                waiter.on_its_loop(queue.keep_after_all, name_of(*call.row), waiter)
            raise

    async def _there(self, call: Call, choice: Choice) -> Response:
        return await self._wait(call, choice)

    def _enter_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the jobs; this one, if there is none any more."""
        with self._lock:
            here = asyncio.get_running_loop()
            if self._loop is not here and not _is_alive(self._loop):
                for queue in self._queues.values():
                    queue.abandon()
                self._loop, self._queues = here, {}
                self.sink.met.clear()
                self._deadlines.clear()
            assert self._loop is not None
            return self._loop

    def _wait(self, call: Call, choice: Choice) -> Coroutine[Any, Any, Response]:
        """Put a call into a file, and return what waits for its answer."""
        queue, name = self.queue(call.route, choice), name_of(*call.row)
        keeping = queue.keeping(name)
        if keeping is not None or (queue.has_kept and self.sink.is_known(name, answered=True)):
            return self._read(call, name, keeping)
        queue.check(name)
        call.pending = waiter = Waiter(asyncio.get_running_loop().create_future())
        self._put(queue, call, name)
        return queue.wait(name, waiter)

    async def _read(self, call: Call, name: str, keeping: asyncio.Future[None] | None) -> Response:
        """Return an answer that came into the journal after the call had looked there.

        Raises:
            ProviderError: it is a failure.
        """
        if keeping is not None:
            await asyncio.shield(keeping)
        found = self.sink.find(name)
        if isinstance(found, Response):
            call.source = "journal"
            return found
        assert found is not None
        raise found.error()

    def _put(self, queue: Queue, call: Call, name: str) -> None:
        if queue.holds(name):
            return
        charge = put_row(queue, call, name, say=self._say_once)
        if self._deadlines:
            deadline = self._deadlines.get(_domain(call.route))
            if deadline is not None:
                deadline.charge = charge

    def adopt(self, route: Route, choice: Choice) -> None:
        """Resume earlier processes' jobs of a model on this event loop.

        Raises:
            BatchUnsupportedError: the provider has no batch API.
            JournalError: a job cannot be gone on with.
        """
        self._enter_loop()
        self.queue(route, choice)

    def holds(self, call: Call) -> bool:
        """Return whether a job has a call's row, which may be billed."""
        queue = self._queues.get(_domain(call.route))
        return queue is not None and queue.holds(name_of(*call.row))

    def is_waited_for(self, call: Call) -> bool:
        """Return whether a call waits for this row, with a reserve."""
        queue = self._queues.get(_domain(call.route))
        return queue is not None and queue.is_waited_for(name_of(*call.row))

    def enqueue(self, call: Call) -> None:
        """Answer a call by a job, unless it was just answered.

        Raises:
            UsageError: the run's jobs are looked after in another event loop.
        """
        assert call.choice is not None
        self._enter_loop()
        if self._loop is not asyncio.get_running_loop():
            raise UsageError("the run's batch jobs belong to another event loop: submit there")
        queue, name = self.queue(call.route, call.choice), name_of(*call.row)
        # A cache may have taken its time, and a job have brought the answer meanwhile.
        may_be_kept = queue.has_kept and call.route.cache is not None
        if queue.keeping(name) or (may_be_kept and self.sink.is_known(name, answered=True)):
            return
        queue.check(name)
        self._put(queue, call, name)
        call.placed = True

    def queue(self, route: Route, choice: Choice) -> Queue:
        """Return the queue of a model, with the jobs of earlier processes.

        Raises:
            BatchUnsupportedError: the provider has no batch API.
            JournalError: an earlier job cannot be gone on with.
        """
        domain = _domain(route)
        queue = self._queues.get(domain)
        if queue is None:
            queue = self._queues[domain] = self._open(identity_of(route), route)
        queue.takes_over = choice.fallback == "parallel" or choice.mode == "auto"
        if choice.deadline is not None:
            self._see_to_deadline(domain, queue, route, choice.deadline)
        return queue

    def _open(self, identity: Identity, route: Route) -> Queue:
        api = batch_api_of(route.provider)
        if api is None:
            raise unsupported(route)
        from llmflow.transport.channel import StreamChannel

        settings = route.batch or Batch()
        poll = api.limits.poll if settings.poll is None else settings.poll
        channel = StreamChannel(calls_per_minute=api.limits.calls_per_minute)
        account = (
            route.provider.name,
            getattr(route.provider, "base_url", route.provider.domain),
        )
        control = Control(
            api, channel, clock=self._clock, rng=self._rng, poll=poll, account=account
        )
        queue = Queue(
            identity,
            control,
            store=self._store,
            keeper=RouteKeeper(self.sink, route),
            folder=self._folder_here(),
            settings=settings,
            clock=self._clock,
        )
        # Of two keys for one model, the first that comes is taken to be the earlier session's.
        queue.adopt(
            each
            for each in self._store.all()
            if each.is_active and each.queue == identity.key and each.tag not in self.sink.met
        )
        return queue

    def _folder_here(self) -> Path:
        if self._folder is None:
            if self._journal is not None:
                self._folder = self._journal.folder / FOLDER
            else:
                self._folder = Path(tempfile.mkdtemp(prefix="llmflow-batch-"))
                weakref.finalize(self, _remove, self._folder, os.getpid())
        return self._folder

    def is_for_batch(self, call: Call) -> bool:
        """Return whether a call goes into a job; cached for ``"auto"``."""
        choice, route = call.choice, call.route
        assert choice is not None
        if choice.mode != "auto":
            return choice.mode == "batch"
        domain = (route.provider.domain, route.provider.model)
        decision = self._modes.get(domain)
        if decision is None:
            from llmflow.batch.auto import Decision, decide

            if supports(route):
                decision = decide(call, choice, self._spending)
            else:
                decision = Decision(True, "no batch API is known")
            self._modes[domain] = decision
            way = "parallel" if decision.parallel else "batch"
            self._say_once(f"{way}: {decision.why}", route)
        return not decision.parallel

    def _say_once(self, decision: str, route: Route) -> None:
        if decision not in self.sink.decisions:
            self.sink.decided(decision, None, 0, route)

    def _see_to_deadline(
        self, domain: Hashable, queue: Queue, route: Route, seconds: float
    ) -> None:
        """Have what is left asked in parallel, early enough before the deadline.

        It is counted from the first call of a run, which may have been in an earlier process;
        but jobs that were done before this deadline could have begun had another one. Outside
        of runs, which never end, it begins anew with the first call after it.
        """
        current = self._deadlines.get(domain)
        if current is not None:
            if self._run_id is not None or not current.is_over or not queue.is_idle:
                return
            queue.is_late = False
        key, now = queue.identity.key, self._clock.wall()
        spent = 0.0 if self._run_id is None else seconds
        begun = [
            each.sealed_at
            for each in self._store.all()
            if each.queue == key and (each.is_active or each.sealed_at > now - spent)
        ]
        passed = max(0.0, now - min(begun)) if begun else 0.0
        self._deadlines[domain] = Lateness(queue, route.limiter, seconds=seconds, passed=passed)

    @property
    def jobs(self) -> list[JobRecord]:
        """Return all jobs of the run, earlier sessions' included."""
        # What is counted while a job goes on is not worth writing down.
        live = {
            job.record.tag: job.record for each in list(self._queues.values()) for job in each.jobs
        }
        return [live.get(each.tag, each) for each in self._store.all()]

    @property
    def trouble(self) -> ProviderError | None:
        """The error for which a request is being repeated, or None."""
        return next(filter(None, [each.control.trouble for each in self._queues.values()]), None)

    @property
    def unfinished(self) -> list[JobRecord]:
        """The jobs that go on at the provider, or wait here."""
        return [each for each in self._store.all() if each.is_active]

    def cancel_all(self) -> int:
        """Cancel all jobs that are running; their answers are kept.

        Returns:
            How many there are.

        Raises:
            JournalError: it cannot be written down.
        """
        jobs = [job for queue in self._queues.values() for job in queue.jobs]
        # What is ending writes that down itself, at this moment perhaps.
        wanted = [job.record for job in jobs if job.request_cancel("user")]
        self._store.put(wanted)
        return len(wanted)

    async def settle(self) -> None:
        """Return when all jobs have ended and their rows are recorded."""
        for queue in list(self._queues.values()):
            await queue.settle()

    async def placed(self) -> None:
        """Return when all rows are submitted, or wait for room."""
        for queue in list(self._queues.values()):
            await queue.placed()

    async def stop(self) -> None:
        """Stop looking after jobs; what is at the provider goes on there."""
        queues, self._queues = list(self._queues.values()), {}
        for deadline in self._deadlines.values():
            deadline.stop()
        self._deadlines.clear()
        stopping = self._stop_all(queues)
        if self._loop is None or self._loop is asyncio.get_running_loop():
            await stopping
        elif _is_alive(self._loop):
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(stopping, self._loop))
        else:
            stopping.close()

    async def _stop_all(self, queues: Sequence[Queue]) -> None:
        for queue in queues:
            await queue.stop()
            queue.end_calls(
                JournalError("the run is over, and nobody waits for its batch jobs any more")
            )

    def stop_soon(self) -> None:
        """Do what `stop` does, from another thread or without waiting."""
        loop = self._loop
        if loop is not None and not loop.is_closed() and self._queues:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self.stop()))


def _domain(route: Route) -> Hashable:
    return route.provider.domain, route.provider.model


def _is_alive(loop: asyncio.AbstractEventLoop | None) -> bool:
    return loop is not None and not loop.is_closed() and loop.is_running()


def _remove(folder: Path, process: int) -> None:
    if process == os.getpid():  # and not a fork's end
        shutil.rmtree(folder, ignore_errors=True)
