"""The ideal of a run: a client that knows everything, with the latencies that were drawn.

It sends the requests in the order in which they were admitted, each at the earliest moment
at which the quota allows it, and each takes the latency that it drew in this run. The ideal is
the maximum of that moment plus that latency over all requests. Those that a fault hit count,
for they were admitted and charged. Sending and reading take no time.

Where all is charged at the admission, no client can be faster. Where output is charged while
it is produced (Anthropic), an early answer can keep a later one waiting; the ideal is then
what comes of sending each as soon as it is allowed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from llmflow.simulator import Admission, Admissions, SimulatorSettings
from llmflow.simulator.quota import Bucket

MINUTE = 60.0
_NO_LONGER = 1e-9


class _Account:
    """One limit of the provider, and what a request needs of it."""

    def __init__(self, name: str, limit: float, burst: float) -> None:
        self.name = name
        self.bucket = Bucket(limit, period=MINUTE, burst=burst, now=0.0)

    def need(self, request: Admission) -> float:
        """Return what must be there at the admission."""
        if self.name == "rpm":
            return 1.0
        if self.name == "otpm":  # charged while it is produced; a first token must fit
            return max(1.0, request.output)
        return request.tokens if self.name == "tpm" else request.input

    def take(self, request: Admission) -> None:
        """Charge what is charged at the admission."""
        self.bucket.level -= request.output if self.name == "otpm" else self.need(request)

    @property
    def produced(self) -> bool:
        """Whether output is charged here while it is produced."""
        return self.name in ("tpm", "otpm")

    def wait(self, request: Admission) -> float:
        """Return the seconds until the request fits, if nothing changes meanwhile."""
        missing = self.bucket.deficit(self.need(request))
        if not missing:
            return 0.0
        growth = self.bucket.inflow - self.bucket.drain
        return missing / growth if growth > 0 else math.inf


class _Quota:
    """All limits, on a clock that begins with the client's first request."""

    def __init__(self, settings: SimulatorSettings, *, begin: float) -> None:
        limits = settings.limits._asdict()
        daily = [name for name in ("rpd", "tpd") if limits[name] is not None]
        if daily or settings.max_concurrent is not None or settings.ramp is not None:
            raise ValueError("the ideal is known of limits per minute only")
        self.now = 0.0
        self._accounts = [
            _Account(name, limit, settings.burst_seconds)
            for name, limit in limits.items()
            if limit is not None
        ]
        self._factor, self._taken = 1.0, 0.0
        steps = [(at - begin, "factor", value) for at, value in settings.schedule]
        steps += [(at - begin, "taken", value) for at, value in settings.others]
        self._steps = sorted(steps, key=lambda step: step[0])
        self._ends: list[tuple[float, float]] = []  # of production: when, and tokens per second
        self._go_to(0.0)
        for account in self._accounts:
            account.bucket.level = account.bucket.capacity

    def admit(self, request: Admission) -> float:
        """Return the earliest moment at which a request is admitted, and charge it."""
        while True:  # what is produced meanwhile may take what was there
            wait = max((each.wait(request) for each in self._accounts), default=0.0)
            if wait <= _NO_LONGER:
                break
            moment = min(self.now + wait, self._next_change())
            if moment == math.inf:
                raise ValueError("the quota never allows what was admitted")
            self._go_to(moment)
        for account in self._accounts:
            account.take(request)
        if request.produced:
            self._produce(request)
        return self.now

    def _produce(self, request: Admission) -> None:
        if request.latency <= _NO_LONGER:
            for account in self._accounts:
                account.bucket.level -= request.produced * account.produced
            return
        flow = request.produced / request.latency
        heapq.heappush(self._ends, (self.now + request.latency, flow))
        self._drain(flow)

    def _drain(self, flow: float) -> None:
        for account in self._accounts:
            if account.produced:
                # Without what rounding left when nothing is produced any more.
                account.bucket.drain = account.bucket.drain + flow if self._ends else 0.0

    def _next_change(self) -> float:
        step = self._steps[0][0] if self._steps else math.inf
        return min(step, self._ends[0][0] if self._ends else math.inf)

    def _go_to(self, moment: float) -> None:
        for account in self._accounts:
            account.bucket.refill(moment)
        self.now = max(self.now, moment)
        while self._ends and self._ends[0][0] <= moment:
            self._drain(-heapq.heappop(self._ends)[1])
        while self._steps and self._steps[0][0] <= moment:
            _, what, value = self._steps.pop(0)
            if what == "factor":
                self._factor = value
            else:
                self._taken = value
            for account in self._accounts:
                account.bucket.scale(self._factor, taken=self._taken)
                account.bucket.give(0.0)  # what no longer fits is gone


def ideal_of(
    settings: SimulatorSettings, requests: Iterable[Admission], *, begin: float = 0.0
) -> float:
    """Return the seconds that a client would have taken that knows everything.

    Args:
        settings: the provider's; limits per minute only.
        requests: in the order of their admission, with what each was charged and drew.
        begin: when the client began, in seconds on the clock of the settings' schedule.
    """
    quota = _Quota(settings, begin=begin)
    return max((quota.admit(each) + each.latency for each in requests), default=0.0)


def ideal_of_run(settings: SimulatorSettings, seen: Admissions, *, began: float) -> float:
    """Return the ideal of what a simulator has recorded; `began` is of the same clock."""
    if seen.dropped:
        raise ValueError(f"{seen.dropped} admissions were not recorded; raise `record`")
    return ideal_of(settings, seen.rows, begin=began - seen.started)
