"""Automatic mode: live if in time and affordable, else batch jobs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llmflow.calls.call import Call, Mode
from llmflow.calls.mode_options import ModeOptions
from llmflow.calls.session import Session
from llmflow.format import counted, duration
from llmflow.items.idle import active_items
from llmflow.limits import Limiter
from llmflow.rate_limits import DAY, RATE_LIMITS
from llmflow.types import Charge, Response

if TYPE_CHECKING:
    from llmflow.calls.spending import Spending

# Of the deadline: quotas are shared, and what fails is sent again.
_SHARE_OF_DEADLINE: Final = 0.8
# Where no quota is known: so many calls at once, each of so many seconds.
_AT_ONCE: Final = 100
_SECONDS_PER_CALL: Final = 5.0


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
        return not self._decision(call).parallel

    def place(self, call: Call) -> None:
        """Put a call into a job, if these were decided for."""
        self._mode(call).place(call)

    async def complete(self, call: Call) -> Response:
        """Answer a call in the mode that was decided for.

        Raises:
            ProviderError: it failed for good.
        """
        return await self._mode(call).complete(call)

    def _mode(self, call: Call) -> Mode:
        return self._live if self._decision(call).parallel else self._jobs

    def _decision(self, call: Call) -> Decision:
        batches, provider = self._session.batches, call.route.provider
        domain = (provider.domain, provider.model)
        decision: Decision | None = batches.auto.get(domain)
        if decision is None:
            if call.route.has_batch_api:
                assert call.mode_options is not None
                decision = decide(call, call.mode_options, self._session.spending)
            else:
                decision = Decision(True, "no batch API is known")
            batches.auto[domain] = decision
            mode = "parallel" if decision.parallel else "batch"
            batches.decided(f"{mode}: {decision.why}", call.route)
        return decision


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision between live calls and batch jobs.

    Args:
        parallel: whether calls are asked in parallel.
        why: the reason, in a few words.
    """

    parallel: bool
    why: str


def decide(call: Call, options: ModeOptions, spending: Spending | None) -> Decision:
    """Decide for a whole crowd of calls, at its first.

    How many there are is known where a node, a flow or a map has counted its items; else it is
    this one alone. All are taken to be like the first.
    """
    count = max(1, active_items().expected)
    route = call.route
    charge = route.provider.reserve(call.request)
    seconds = seconds_in_parallel(count, charge, route.limiter)
    if math.isinf(seconds):
        return Decision(
            False, f"{counted(count, 'call is', 'calls are')} more than the daily quota"
        )
    time = f"{counted(count, 'call takes', 'calls take')} about {duration(seconds)} in parallel"
    if options.deadline is not None and seconds > options.deadline * _SHARE_OF_DEADLINE:
        return Decision(False, f"{time}: too long for {duration(options.deadline)}")
    if spending is not None and (dear := spending.is_too_dear(call, count)):
        return Decision(False, dear)
    return Decision(True, time)


def seconds_in_parallel(count: int, charge: Charge, limiter: Limiter) -> float:
    """Return the seconds of so many calls; infinite beyond daily quotas.

    Args:
        count: how many calls.
        charge: what one of them is charged.
        limiter: whose quota counts.
    """
    limits = dict(limiter.statistics().limits)
    paces = []
    for name, (unit, period, _) in RATE_LIMITS.items():
        amount, limit = count * charge[unit], limits.get(name)
        if limit and period < DAY:
            paces.append(period * amount / limit)
        elif limit and amount > limit:
            return math.inf
    if paces:
        return float(max(paces))
    return math.ceil(count / _AT_ONCE) * _SECONDS_PER_CALL
