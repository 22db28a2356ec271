"""The simulated provider's own quota: token buckets that refill all the time.

Nothing here is shared with llmflow's limiter: what is measured must not be
measured with itself. Time is an argument, so that a day can be tested at once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from llmflow.simulator.settings import SimulatorSettings

Reason = Literal["rpm", "tpm", "rpd", "tpd", "too_large", "concurrency", "insufficient_quota"]

MINUTE = 60.0
DAY = 86_400.0
_MAX_DOMAINS = 10_000
# A clock of a month's uptime has steps of 5e-10 s; this is far above and still nothing.
_ROUNDING = 1e-7


class Bucket:
    """Holds up to `capacity`, refilled at `limit / period` per second.

    A request that needs more than a full bucket is let in when the bucket is
    full and leaves it in debt; so a short burst window never forbids a size.
    """

    __slots__ = ("_base", "_burst", "_period", "capacity", "level", "limit", "rate", "updated")

    def __init__(self, limit: float, *, period: float, burst: float, now: float) -> None:
        self._base = limit
        self._burst = burst
        self._period = period
        self.updated = now
        self.scale(1.0)
        self.level = self.capacity

    def scale(self, factor: float) -> None:
        """Set the limit to `factor` times the original one."""
        self.limit = self._base * factor
        self.rate = self.limit / self._period
        self.capacity = self.limit * self._burst / self._period

    def refill(self, now: float) -> None:
        """Add what has come in since the last look."""
        if now > self.updated:
            self.level = min(self.capacity, self.level + (now - self.updated) * self.rate)
            self.updated = now

    def deficit(self, amount: float) -> float:
        """Return how much is missing before `amount` can be taken; 0 if nothing is."""
        missing = min(amount, self.capacity) - self.level
        return missing if missing > _ROUNDING * self.capacity else 0.0

    def give(self, amount: float) -> None:
        """Put back what was not used; a negative amount takes more."""
        self.level = min(self.capacity, self.level + amount)

    @property
    def reset(self) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self.capacity - self.level) / self.rate


def _distinct(*buckets: Bucket | None) -> tuple[Bucket, ...]:
    return tuple(dict.fromkeys(bucket for bucket in buckets if bucket is not None))


class Domain:
    """The buckets of one quota, such as that of one key and model."""

    __slots__ = (
        "buckets",
        "counting_requests",
        "counting_tokens",
        "in_flight",
        "per_minute",
        "rpd",
        "rpm",
        "shown_rpm",
        "shown_tpm",
        "tpd",
        "tpm",
    )

    def __init__(self, settings: SimulatorSettings, *, now: float) -> None:
        limits = settings.limits

        def bucket(limit: float | None, period: float, burst: float) -> Bucket | None:
            return None if limit is None else Bucket(limit, period=period, burst=burst, now=now)

        self.rpm = bucket(limits.rpm, MINUTE, settings.burst_seconds)
        self.tpm = bucket(limits.tpm, MINUTE, settings.burst_seconds)
        self.rpd = bucket(limits.rpd, DAY, DAY)
        self.tpd = bucket(limits.tpd, DAY, DAY)
        self.shown_rpm, self.shown_tpm = self.rpm, self.tpm
        if settings.quota_headers == "minute":
            # A second account that nothing is admitted by: what such a provider reports.
            self.shown_rpm = bucket(limits.rpm, MINUTE, MINUTE)
            self.shown_tpm = bucket(limits.tpm, MINUTE, MINUTE)
        self.counting_requests = _distinct(self.rpm, self.rpd, self.shown_rpm)
        self.counting_tokens = _distinct(self.tpm, self.tpd, self.shown_tpm)
        self.per_minute = _distinct(self.rpm, self.tpm, self.shown_rpm, self.shown_tpm)
        self.buckets = (*self.counting_requests, *self.counting_tokens)
        self.in_flight = 0

    @property
    def idle(self) -> bool:
        """Whether this quota is in the state of a new one."""
        return not self.in_flight and all(b.level >= b.capacity for b in self.buckets)


class Decision(NamedTuple):
    """What became of one request at its arrival.

    `retry_after` is in seconds: sent again after that time, and with nobody
    else's requests between, the request is admitted.
    """

    domain: Domain
    tokens: float
    reason: Reason | None = None
    retry_after: float | None = None
    dimension: str = ""
    limit: float = 0.0
    used: float = 0.0
    requested: float = 0.0


_Check = tuple[Bucket | None, Literal["rpm", "rpd", "tpm", "tpd"], float]


class Ledger:
    """All quotas of one simulated provider.

    >>> ledger = Ledger(SimulatorSettings(rpm=60, burst_seconds=1), now=0.0)
    >>> [ledger.admit("key", 1, now=t).reason for t in (0.0, 0.5, 1.0)]
    [None, 'rpm', None]

    Args:
        settings: the limits.
        now: the time at which the schedule begins.

    """

    def __init__(self, settings: SimulatorSettings, *, now: float) -> None:
        self._settings = settings
        self._domains: dict[str, Domain] = {}
        self._credit = settings.credit_requests
        self._steps = [(now + at, factor) for at, factor in settings.schedule]
        self._factor = 1.0

    def admit(self, scope: str, tokens: float, *, now: float) -> Decision:
        """Decide on a request that arrives now and charge it: the whole of admission."""
        self._follow_schedule(now)
        domain = self._domain(scope, now)
        for bucket in domain.buckets:
            bucket.refill(now)
        refusal = self._refusal(domain, tokens)
        if refusal is not None:
            return refusal
        for bucket in domain.counting_requests:
            bucket.level -= 1
        for bucket in domain.counting_tokens:
            bucket.level -= tokens
        domain.in_flight += 1
        if self._credit is not None:
            self._credit -= 1
        return Decision(domain, tokens)

    def release(self, decision: Decision, *, now: float, used: float | None = None) -> None:
        """End an admitted request; `used` tokens are known if it was answered."""
        decision.domain.in_flight -= 1
        if used is not None and self._settings.refund:
            for bucket in decision.domain.counting_tokens:
                bucket.refill(now)
                bucket.give(decision.tokens - used)

    def _refusal(self, domain: Domain, tokens: float) -> Decision | None:
        if self._credit is not None and self._credit <= 0:
            return Decision(domain, tokens, "insufficient_quota")
        top = self._settings.max_concurrent
        if top is not None and domain.in_flight >= top:
            # When a slot comes free is not known: a second is what such providers say.
            return self._reject(Decision(domain, tokens, "concurrency", 1.0, "", top, top))
        token_checks: tuple[_Check, ...] = (
            (domain.tpm, "tpm", tokens),
            (domain.tpd, "tpd", tokens),
        )
        for bucket, name, amount in token_checks:
            if bucket is not None and amount > bucket.limit:
                limit = bucket.limit
                refusal = Decision(domain, tokens, "too_large", None, name, limit, 0, amount)
                return self._reject(refusal)
        checks: tuple[_Check, ...] = (
            (domain.rpm, "rpm", 1.0),
            (domain.rpd, "rpd", 1.0),
            *token_checks,
        )
        for bucket, name, amount in checks:
            missing = bucket.deficit(amount) if bucket is not None else 0.0
            if bucket is not None and missing:
                used = bucket.limit - amount + missing
                refusal = Decision(domain, tokens, name, 0.0, name, bucket.limit, used, amount)
                refusal = self._reject(refusal)
                wait = max(b.deficit(need) / b.rate for b, _, need in checks if b is not None)
                return refusal._replace(retry_after=wait)
        return None

    def _reject(self, refusal: Decision) -> Decision:
        """Charge a rejected request: one request, where a whole one is left.

        Taking fractions too would let no one in whose client sends 1% too fast,
        for each rejection would eat what has just come in.
        """
        enforced = refusal.domain.rpm
        if self._settings.rejections_cost and enforced is not None and enforced.level >= 1:
            for bucket in _distinct(enforced, refusal.domain.shown_rpm):
                bucket.level -= 1
        return refusal

    def _follow_schedule(self, now: float) -> None:
        while self._steps and self._steps[0][0] <= now:
            at, self._factor = self._steps.pop(0)
            for domain in self._domains.values():
                for bucket in domain.per_minute:
                    bucket.refill(at)
                    bucket.scale(self._factor)
                    bucket.give(0.0)  # what no longer fits is gone

    def _domain(self, scope: str, now: float) -> Domain:
        domain = self._domains.get(scope)
        if domain is None:
            if len(self._domains) >= _MAX_DOMAINS:
                self._forget(now)
            domain = self._domains[scope] = Domain(self._settings, now=now)
            for bucket in domain.per_minute:
                bucket.scale(self._factor)
                bucket.level = bucket.capacity
        return domain

    def _forget(self, now: float) -> None:
        """Drop quotas that are as good as new, else the oldest: memory stays bounded."""
        for domain in self._domains.values():
            for bucket in domain.buckets:
                bucket.refill(now)
        idle = [scope for scope, domain in self._domains.items() if domain.idle]
        for scope in idle or [next(iter(self._domains))]:
            del self._domains[scope]
