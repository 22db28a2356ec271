"""Deadlines of batch jobs: the rest is asked live in time."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from llmflow.rate_limits import DAY, RATE_LIMITS
from llmflow.types import Charge

if TYPE_CHECKING:
    from llmflow.batch.scheduler import BatchScheduler
    from llmflow.limits import Limiter

# Of the deadline, for what is asked in parallel: what that takes, but no less and no more.
_LEAST_LEAD: Final = 0.25
_MOST_LEAD: Final = 0.5
# Quotas are shared, and what fails is sent again.
_MARGIN: Final = 1.25
_LOOKS: Final = 50
_SHORTEST_WAIT: Final = 0.01
# Where no quota is known: so many calls at once, each of so many seconds.
_AT_ONCE: Final = 100
_SECONDS_PER_CALL: Final = 5.0


class Lateness:
    """Ends the jobs of one queue in time for live calls.

    How long that takes is told from the quota and from the rows that have no answer yet: what
    jobs answer meanwhile makes it shorter. Where all of it would take longer than half of
    the time there is, jobs have the other half all the same: only they can be in time.

    Must be made on the event loop of the jobs.

    Args:
        queue: what collects rows and looks after their jobs.
        limiter: whose quota counts in parallel.
        seconds: the deadline.
        passed: how many of them have passed, in earlier processes.
    """

    def __init__(
        self, queue: BatchScheduler, limiter: Limiter, *, seconds: float, passed: float
    ) -> None:
        self.charge: Charge | None = None
        """What the latest row would be charged in parallel; None where none is known."""
        self._queue = queue
        self._limiter = limiter
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + seconds - passed
        # Whoever has the first row has put it nowhere yet.
        self._timer = self._loop.call_later(_SHORTEST_WAIT, self._look)

    @property
    def is_over(self) -> bool:
        """True if the deadline has passed."""
        return self._loop.time() >= self._end

    def stop(self) -> None:
        """Look no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        spare = self._end - self._loop.time() - self.lead()
        if spare <= 0:
            self._queue.late(f"the deadline of {self._seconds:,.0f} s is near")
            return
        wait = max(_SHORTEST_WAIT, min(spare, self._seconds / _LOOKS))
        self._timer = self._loop.call_later(wait, self._look)

    def lead(self) -> float:
        """Return how long before the deadline the fallback must begin."""
        rows = self._unanswered()
        charge = self.charge or self._average()
        needed = seconds_in_parallel(rows, charge, self._limiter) * _MARGIN if rows else 0.0
        return min(max(needed, self._seconds * _LEAST_LEAD), self._seconds * _MOST_LEAD)

    def _unanswered(self) -> int:
        jobs = self._queue.jobs
        return self._queue.collecting + sum(
            max(0, len(each.names) - (each.record.succeeded or 0)) for each in jobs
        )

    def _average(self) -> Charge:
        """Return what rows of earlier processes would be charged; their answers are unknown."""
        jobs = [each.record for each in self._queue.jobs]
        tokens = sum(each.tokens for each in jobs) / max(1, sum(each.requests for each in jobs))
        return Charge(1.0, tokens, tokens, 0.0)


def begin(queue: BatchScheduler, limiter: Limiter, seconds: float, *, in_run: bool) -> None:
    """Have what is left of a queue asked live in time.

    The deadline is counted from the first call of a run, which may have been in an earlier
    process; but jobs that were done before this deadline could have begun had another one.
    Outside of runs, which never end, it begins anew with the first call after it.
    """
    if queue.deadline is not None:
        if in_run or not queue.deadline.is_over or not queue.is_idle:
            return
        queue.is_late = False
    now, spent = queue.clock.wall(), seconds if in_run else 0.0
    begun = [
        each.sealed_at
        for each in queue.store.all()
        if each.queue == queue.identity.key and (each.is_active or each.sealed_at > now - spent)
    ]
    passed = max(0.0, now - min(begun)) if begun else 0.0
    queue.deadline = Lateness(queue, limiter, seconds=seconds, passed=passed)


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
