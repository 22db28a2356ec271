"""Batch mode: calls become rows of batch jobs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import shutil
import tempfile
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmflow.batch import Batch
from llmflow.batch.client import BatchClient
from llmflow.batch.outcomes import PendingCall, ResultSink
from llmflow.batch.record import FOLDER, JobRecord, JobStore
from llmflow.batch.scheduler import BatchScheduler, Identity
from llmflow.batch.spool import name_of
from llmflow.calls.call import Call, Route, RunLive
from llmflow.calls.mode_options import ModeOptions
from llmflow.calls.replay import server_of
from llmflow.calls.session import Session
from llmflow.clock import SystemClock
from llmflow.errors import (
    BatchUnsupportedError,
    ConfigurationError,
    InvalidRequestError,
    JournalError,
    ProviderError,
)
from llmflow.items.idle import suspend_timeouts, time_limits, yield_slot
from llmflow.parts import OutputSchema
from llmflow.provider import batch_api_of
from llmflow.types import MarkedPrefix, Request, Response

if TYPE_CHECKING:
    from llmflow.calls.spending import Spending

_DIGEST: Final = 8
_NO_LIMITS: Final = contextlib.nullcontext()


class BatchMode:
    """Answers a session's calls by batch jobs, on one event loop.

    That is the loop of the first call. Where it has ended, the next call's takes its place.

    Args:
        session: the session of the calls; without a journal, jobs end with the process.
    """

    def __init__(self, session: Session) -> None:
        self.decisions: dict[str, int] = {}
        """What was decided, and for how many rows; 0 where it was not for rows."""
        self.auto: dict[Hashable, bool] = {}
        """Whether the automatic mode asks live, by provider and model."""
        self.last_mode: tuple[Any, ...] = (None, None, None)
        """Route and options of the last call, and the mode they stand for."""
        self._session = session
        self._clock = SystemClock()
        self._rng = random.Random()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: dict[Hashable, BatchScheduler] = {}
        self._last: tuple[Route, ModeOptions, BatchScheduler] | None = None
        self._met: set[str] = set()
        self._store = JobStore(session.journal)
        self._folder: Path | None = None

    # --- its calls ------------------------------------------------------------------------------

    def is_batch(self, _call: Call) -> bool:
        """Return True: a job answers each call."""
        return True

    def complete(self, call: Call) -> Coroutine[Any, Any, Response]:
        """Have a call answered by a job.

        Raises:
            RunLive: it is to be asked live.
            BatchUnsupportedError: the provider has no batch API.
            ProviderError: it failed for good.
            ConfigurationError: another event loop looks after the jobs.
        """
        self._session.ordinals.number(call)
        spending = self._session.spending
        return self._answer(call) if spending is None else self._paid(call, spending)

    async def _paid(self, call: Call, spending: Spending) -> Response:
        spending.wait_for(call.row, call.payment)
        try:
            return await self._answer(call)
        finally:
            spending.wait_for(call.row, None)

    async def _answer(self, call: Call) -> Response:
        queue, name = self._queue_of(call), name_of(*call.row)
        keeping = queue.keeping.get(name)
        if keeping is not None or queue.has_kept:
            found = await _kept(queue, name, keeping)
            if found is not None:
                call.source = "journal"
                return found
        queue.check(name)
        if call.pending is not None:  # of a job in which it failed: another model is asked now
            call.pending.mark_durable()
        call.pending = pending = PendingCall()
        _put(queue, call, name)
        call.in_batch = True
        try:
            with suspend_timeouts() if time_limits.get() else _NO_LIMITS:
                aside = yield_slot.get()
                if aside is None:
                    return await queue.wait(name, pending)
                async with aside():
                    return await queue.wait(name, pending)
        except asyncio.CancelledError:
            # It may have its answer by now, and have waited for its slot.
            call.pending = None
            queue.record_cancelled(name, pending)
            raise
        except RunLive:
            call.pending, call.charge, call.in_batch = None, None, False
            raise

    async def place(self, calls: Sequence[Call]) -> None:
        """Have jobs answer calls of one kind, unless they must run live.

        Their outcomes are written down, and given to their `done`, on the event loop of the jobs.

        Raises:
            InvalidRequestError: the only call's row is larger than a job may be.
            BatchUnsupportedError: the provider has no batch API.
            ConfigurationError: another event loop looks after the jobs.
        """
        queue = self._queue_of(calls[0])
        # A cache may have taken its time, and a job have brought the answer meanwhile.
        may_be_kept = queue.has_kept and calls[0].route.cache is not None
        for call in calls:
            name = name_of(call.key, call.ordinal)
            if name in queue.keeping or (may_be_kept and await _kept(queue, name) is not None):
                continue
            try:
                queue.check(name)
                _put(queue, call, name)
            except (RunLive, InvalidRequestError) as error:
                if isinstance(error, RunLive) or len(calls) > 1:  # the others go into a job
                    continue
                raise
            if call.done is not None:
                queue.pending.place(name, call.done)
            call.placed = True

    def withdraw(self, route: Route, row: tuple[bytes, int]) -> None:
        """Forget who placed a row, and the row unless it was sent."""
        queue = self._queues.get(_domain(route))
        if queue is not None:
            queue.withdraw(name_of(*row))

    def adopt(self, route: Route, options: ModeOptions) -> None:
        """Resume earlier processes' jobs of a model on this event loop.

        Raises:
            BatchUnsupportedError: the provider has no batch API.
            JournalError: a job cannot be gone on with.
            ConfigurationError: another event loop looks after the jobs.
        """
        self._enter_loop()
        self._queue(route, options)

    def holds(self, call: Call) -> bool:
        """Return whether a job has a call's row, which may be billed."""
        queue = self._queues.get(_domain(call.route))
        return queue is not None and queue.holds(name_of(*call.row))

    def is_waited_for(self, call: Call) -> bool:
        """Return whether somebody waits for this row, with a reserve."""
        queue = self._queues.get(_domain(call.route))
        return queue is not None and name_of(*call.row) in queue.pending

    def decided(self, decision: str, route: Route) -> None:
        """Tell once of a decision that is not about rows."""
        self._sink(route).decided(decision)

    # --- its queues -----------------------------------------------------------------------------

    def _enter_loop(self) -> None:
        """Look after the jobs on this event loop.

        Raises:
            ConfigurationError: another one does, and has not ended.
        """
        here = asyncio.get_running_loop()
        if self._loop is here:
            return
        with self._lock:
            if self._runs_elsewhere():
                raise ConfigurationError(  # all other calls would fail, too
                    "the batch jobs of a run belong to one event loop, and another one, which is "
                    "still running, looks after them: make all batch calls of the run on one "
                    "loop, or by the synchronous API (llm.map_sync, llm.complete_sync), which "
                    "has one loop for all threads"
                )
            for queue in self._queues.values():
                queue.abandon()
            self._loop, self._queues, self._last = here, {}, None
            self._met.clear()

    def _runs_elsewhere(self) -> bool:
        loop = self._loop
        return loop is not None and loop is not asyncio._get_running_loop() and loop.is_running()

    def _queue_of(self, call: Call) -> BatchScheduler:
        assert call.mode_options is not None
        self._enter_loop()
        return self._queue(call.route, call.mode_options)

    def _queue(self, route: Route, options: ModeOptions) -> BatchScheduler:
        """Return the queue of a model, with the jobs of earlier processes."""
        last = self._last
        if last is not None and last[0] is route and last[1] is options:  # as nearly always
            return last[2]
        domain = _domain(route)
        queue = self._queues.get(domain)
        if queue is None:
            queue = self._queues[domain] = self._open(route)
        queue.takes_over = options.fallback == "parallel" or options.mode == "auto"
        self._last = None if options.deadline is not None else (route, options, queue)
        if options.deadline is not None:
            from llmflow.batch import deadline

            in_run = self._session.run_id is not None
            deadline.begin(queue, route.limiter, options.deadline, in_run=in_run)
        return queue

    def _open(self, route: Route) -> BatchScheduler:
        api = batch_api_of(route.provider)
        if api is None:
            raise _unsupported(route)
        from llmflow.transport.streams import StreamChannel

        settings, provider = route.batch or Batch(), route.provider
        queue = BatchScheduler(
            identity_of(route),
            BatchClient(
                api,
                StreamChannel(calls_per_minute=api.limits.calls_per_minute),
                clock=self._clock,
                rng=self._rng,
                poll=api.limits.poll if settings.poll is None else settings.poll,
                account=(provider.name, getattr(provider, "base_url", provider.domain)),
            ),
            store=self._store,
            sink=self._sink(route),
            folder=self._folder_here(),
            settings=settings,
            clock=self._clock,
        )
        # Of two keys for one model, the first that comes is taken to be the earlier session's.
        queue.adopt(
            each
            for each in self._store.all()
            if each.is_active and each.queue == queue.identity.key and each.tag not in self._met
        )
        return queue

    def _sink(self, route: Route) -> ResultSink:
        return ResultSink(self._session, route, decisions=self.decisions, met=self._met)

    def _folder_here(self) -> Path:
        if self._folder is None:
            if self._session.journal is not None:
                self._folder = self._session.journal.folder / FOLDER
            else:
                self._folder = Path(tempfile.mkdtemp(prefix="llmflow-batch-"))
                weakref.finalize(self, _remove, self._folder, os.getpid())
        return self._folder

    # --- its jobs -------------------------------------------------------------------------------

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
        return next(filter(None, [each.client.trouble for each in self._queues.values()]), None)

    def cancel_all(self) -> int:
        """Cancel all jobs that are running; their answers are kept.

        Returns:
            How many there are.

        Raises:
            JournalError: it cannot be written down.
        """
        cancelled = [queue.cancel_all() for queue in self._queues.values()]
        self._store.put([record for _, records in cancelled for record in records])
        return sum(count for count, _ in cancelled)

    async def settle(self) -> None:
        """Return when all jobs have ended and their rows are recorded."""
        await self._for_each(self._queues, BatchScheduler.settle)

    async def placed(self) -> None:
        """Return when all rows are submitted, or wait for room."""
        await self._for_each(self._queues, BatchScheduler.placed)

    async def stop(self) -> None:
        """Stop looking after jobs; what is at the provider goes on there."""
        queues, self._queues, self._last = self._queues, {}, None
        if self._loop is not None and self._loop.is_running():  # else they have ended with it
            await self._for_each(queues, _stop)

    async def _for_each(
        self,
        queues: Mapping[Hashable, BatchScheduler],
        work: Callable[[BatchScheduler], Awaitable[None]],
    ) -> None:
        """Wait for work on the event loop of the jobs: a run may be left on another one."""

        async def work_off() -> None:
            for each in tuple(queues.values()):
                await work(each)

        if self._runs_elsewhere():
            assert self._loop is not None
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work_off(), self._loop))
        else:
            await work_off()

    def stop_soon(self) -> None:
        """Do what `stop` does, from another thread or without waiting."""
        loop = self._loop
        if loop is not None and not loop.is_closed() and self._queues:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: asyncio.ensure_future(self.stop()))


async def _stop(queue: BatchScheduler) -> None:
    await queue.stop()
    queue.pending.fail_all(
        JournalError("the run is over, and nobody waits for its batch jobs any more")
    )


async def _kept(
    queue: BatchScheduler, name: str, keeping: asyncio.Future[None] | None = None
) -> Response | None:
    """Return an answer that came into the journal after the call had looked there.

    Raises:
        ProviderError: it is a failure, and was being recorded.
    """
    if keeping is not None:
        await asyncio.shield(keeping)
    elif queue.holds(name):  # it may come while the journal is asked, and is waited for
        return None
    found = (await queue.sink.find_many([name])).get(name)
    if isinstance(found, Response):
        return found
    if keeping is None:
        return None
    assert found is not None
    raise found.error()


def _put(queue: BatchScheduler, call: Call, name: str) -> None:
    """Put a call into a file, unless a job has it; note its charge.

    Raises:
        BatchUnsupportedError: the provider has a client of its own.
        InvalidRequestError: the row is larger than a job may be.
        JournalError: it cannot be written.
    """
    if queue.holds(name):
        return
    route, request = call.route, call.request
    encode = getattr(route.provider, "encode", None)
    if encode is None:
        raise _unsupported(route)
    wire = encode(request)
    charge = call.charge = call.charge or route.provider.reserve(request)
    spool = queue.collector.add(
        name,
        queue.client.api.line(name, wire),
        tokens=charge.input_tokens or charge.tokens,
        schema=_schema(request) if queue.limits.uniform_schema else "",
        round_=1,
    )
    prefix = _prefix(queue, call) if queue.settings.primer else None
    if prefix is not None:
        spool.note_prefix(prefix, name)
    if queue.deadline is not None:
        queue.deadline.charge = charge


def _unsupported(route: Route) -> ProviderError:
    """Return the error of a provider without a batch API."""
    provider = route.provider
    return BatchUnsupportedError(
        "llmflow knows no batch API of this provider",
        provider=provider.name,
        model=provider.model,
    )


def identity_of(route: Route) -> Identity:
    """Return the identity of a model's batch queue, without the key."""
    provider = route.provider
    text = "\n".join((provider.name, server_of(provider), provider.model))
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST).hexdigest()
    return Identity(key=digest, provider=provider.name, model=provider.model)


def _prefix(queue: BatchScheduler, call: Call) -> bytes | None:
    """Return what tells a marked beginning from others, if a primer pays for it."""
    route = call.route
    find = getattr(route.provider, "marked_prefix", None)
    marked: MarkedPrefix | None = None if find is None else find(call.request)
    if marked is None:
        return None
    price = route.price()
    if price is not None and price.saved_by_cache(marked, batch=True):
        return marked.digest
    queue.sink.decided("no cache primer: no price says that it saves anything")
    return None


def _schema(request: Request) -> str:
    """Return what tells the JSON schema that a call wants from others."""
    if (output := request.output) is not None:
        return _digest_of(output)
    options = request.options
    wanted = {
        name: options[name] for name in ("response_format", "output_config") if name in options
    }
    return _digest(wanted) if wanted else ""


@functools.lru_cache(maxsize=128)
def _digest_of(output: OutputSchema) -> str:
    return _digest([output.name, output.strict, dict(output.schema)])


def _digest(wanted: Any) -> str:
    import orjson

    try:
        text = orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS, default=str)
    except TypeError:
        text = repr(wanted).encode()
    return blake2b(text, digest_size=_DIGEST).hexdigest()


def _domain(route: Route) -> Hashable:
    return route.provider.domain, route.provider.model


def _remove(folder: Path, process: int) -> None:
    if process == os.getpid():  # and not a fork's end
        shutil.rmtree(folder, ignore_errors=True)
