"""Resolves the options of a call to its mode, with fallback.

Live and batch mode know nothing of each other: `Fallback` has one of them take over what the
other leaves, and `AutoMode` decides between the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llmflow.calls.call import Call, Mode, Route, RunLive
from llmflow.calls.mode_options import ModeOptions
from llmflow.calls.pipeline import last_steps, pipeline
from llmflow.calls.session import Session
from llmflow.errors import BatchUnsupportedError, QuotaExhaustedError
from llmflow.format import counted, duration
from llmflow.items.idle import active_items
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.batch.batch_mode import BatchMode
    from llmflow.calls.spending import Spending

# Of the deadline: quotas are shared, and what fails is sent again.
_SHARE_OF_DEADLINE: Final = 0.8


def open_session(**settings: Any) -> Session:
    """Return a session with its pipeline and modes; for settings see `Session`."""
    session = Session(**settings)
    session.compose = partial(pipeline, session)
    session.send = last_steps(session)
    session.resolve = resolve
    session.open_batches = partial(_open_batches, session)
    return session


def _open_batches(session: Session) -> BatchMode:
    from llmflow.batch.batch_mode import BatchMode  # with the first call that names a mode

    return BatchMode(session)


def resolve(session: Session, call: Call) -> Mode:
    """Return the mode that a call's options stand for."""
    options, route, batches = call.mode_options, call.route, session.batches
    assert options is not None
    last = batches.last_mode
    if last[:2] != (route, options):  # of most programs, all calls have one
        last = batches.last_mode = route, options, _resolved(session, route, options)
    mode: Mode = last[2]
    return mode


def _resolved(session: Session, route: Route, options: ModeOptions) -> Mode:
    left: tuple[type[Exception], ...] = (RunLive,)
    if options.mode == "auto" or options.fallback == "parallel":
        left = (RunLive, BatchUnsupportedError)
    live, jobs = route.live, Fallback(session, session.batches, route.live, left)
    if options.mode == "batch":
        return jobs
    if route.has_batch_api:
        live = Fallback(session, live, jobs, (QuotaExhaustedError,))
    if options.mode == "parallel":
        return live
    return AutoMode(session, live, jobs)


class Fallback:
    """Answers calls by one mode, and what that leaves by another.

    Args:
        session: the session of the calls.
        first: the mode that is asked first.
        second: the mode that takes over.
        left: the errors of the first at which that happens.
    """

    __slots__ = ("_first", "_left", "_second", "_session")

    def __init__(
        self, session: Session, first: Mode, second: Mode, left: tuple[type[Exception], ...]
    ) -> None:
        self._session = session
        self._first = first
        self._second = second
        self._left = left

    def is_batch(self, call: Call) -> bool:
        """Return whether the first mode is the batch jobs."""
        return self._first.is_batch(call)

    async def place(self, calls: Sequence[Call]) -> None:
        """Place calls in the first mode."""
        await self._first.place(calls)

    async def complete(self, call: Call) -> Response:
        """Answer a call by the first mode, or by the second.

        Raises:
            ProviderError: it failed for good.
            BudgetExceededError: a live call does not fit into the budget.
        """
        try:
            return await self._first.complete(call)
        except self._left as error:
            self._tell(call, error)
        if call.payment is not None:
            await call.payment.go_live()  # where its row of a job was paid for
        return await self._second.complete(call)

    def _tell(self, call: Call, error: Exception) -> None:
        if isinstance(error, BatchUnsupportedError):
            self._session.batches.decided("no batch API: on in parallel", call.route)
        elif isinstance(error, QuotaExhaustedError):
            why = "the daily quota is used up: on in batch jobs"
            self._session.batches.decided(why, call.route)
            if call.mode_options is not None and call.mode_options.on_quota_used_up is not None:
                call.mode_options.on_quota_used_up()


class AutoMode:
    """Answers calls live or by batch jobs, decided once per model.

    Args:
        session: the session of the calls.
        live: the mode of live calls.
        jobs: the mode of batch jobs.
    """

    __slots__ = ("_jobs", "_live", "_session")

    def __init__(self, session: Session, live: Mode, jobs: Mode) -> None:
        self._session = session
        self._live = live
        self._jobs = jobs

    def is_batch(self, call: Call) -> bool:
        """Return whether batch jobs were decided for."""
        return self._mode(call).is_batch(call)

    async def place(self, calls: Sequence[Call]) -> None:
        """Put calls into jobs, if these were decided for."""
        await self._mode(calls[0]).place(calls)

    async def complete(self, call: Call) -> Response:
        """Answer a call in the mode that was decided for.

        Raises:
            ProviderError: it failed for good.
        """
        return await self._mode(call).complete(call)

    def _mode(self, call: Call) -> Mode:
        batches, provider = self._session.batches, call.route.provider
        domain = (provider.domain, provider.model)
        is_live = batches.auto.get(domain)
        if is_live is None:
            is_live, why = True, "no batch API is known"
            if call.route.has_batch_api:
                assert call.mode_options is not None
                is_live, why = decide(call, call.mode_options, self._session.spending)
            batches.auto[domain] = is_live
            batches.decided(f"{'parallel' if is_live else 'batch'}: {why}", call.route)
        return self._live if is_live else self._jobs


def decide(call: Call, options: ModeOptions, spending: Spending | None) -> tuple[bool, str]:
    """Return whether to ask a whole crowd of calls live, and why.

    How many there are is known where a node, a flow or a map has counted its items; else it is
    this one alone. All are taken to be like the first.
    """
    from llmflow.batch.deadline import seconds_in_parallel

    count = max(1, active_items().expected)
    route = call.route
    charge = route.provider.reserve(call.request)
    seconds = seconds_in_parallel(count, charge, route.limiter)
    if math.isinf(seconds):
        return False, f"{counted(count, 'call is', 'calls are')} more than the daily quota"
    time = f"{counted(count, 'call takes', 'calls take')} about {duration(seconds)} in parallel"
    if options.deadline is not None and seconds > options.deadline * _SHARE_OF_DEADLINE:
        return False, f"{time}: too long for {duration(options.deadline)}"
    if spending is not None and (dear := spending.is_too_dear(call, count)):
        return False, dear
    return True, time
