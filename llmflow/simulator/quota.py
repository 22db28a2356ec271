"""The simulated quota: who is admitted, what it costs, when to retry.

Nothing here is shared with llmflow's limiter: what is measured must not be
measured with itself. Time is an argument, so that a day can be tested at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from llmflow.simulator.settings import SimulatorSettings

# A clock of a month's uptime has steps of 5e-10 s; this is far above and still nothing.
_ROUNDING = 1e-7


class Bucket:
    """Holds up to `capacity`, refilled at `limit / period` per second.

    A request that needs more than a full bucket is let in when the bucket is
    full and leaves it in debt; so a short burst window never forbids a size.
    Answers that are being produced take `drain` per second out of it, and of what comes in
    other clients may take a share: `inflow` is the rest.
    """

    __slots__ = (
        "_base",
        "_burst",
        "_period",
        "capacity",
        "drain",
        "inflow",
        "level",
        "limit",
        "rate",
        "updated",
    )

    def __init__(self, limit: float, *, period: float, burst: float, now: float) -> None:
        self._base = limit
        self._burst = burst
        self._period = period
        self.updated = now
        self.drain = 0.0
        self.scale(1.0)
        self.level = self.capacity

    def scale(self, factor: float, *, taken: float = 0.0) -> None:
        """Set the limit to `factor` times the original one."""
        self.limit = self._base * factor
        self.rate = self.limit / self._period
        self.inflow = self.rate * (1.0 - taken)
        self.capacity = self.limit * self._burst / self._period

    def refill(self, now: float) -> None:
        """Add the inflow since the last call, less what was produced."""
        if now > self.updated:
            change = (now - self.updated) * (self.inflow - self.drain)
            self.level = min(self.capacity, self.level + change)
            self.updated = now

    def deficit(self, amount: float) -> float:
        """Return what is missing before `amount` can be taken, or 0."""
        missing = min(amount, self.capacity) - self.level
        return missing if missing > _ROUNDING * self.capacity else 0.0

    def give(self, amount: float) -> None:
        """Put back what was not used; a negative amount takes more."""
        self.level = min(self.capacity, self.level + amount)

    @property
    def reset(self) -> float:
        """Seconds until the bucket is full."""
        return max(0.0, self.capacity - self.level) / self.rate


class Ramp:
    """Lets traffic grow to `factor` times its own trailing average.

    It is a bucket whose rate follows an average that forgets exponentially.
    Providers name such a rule without its formula; this one is our reading.

    >>> ramp = Ramp(2, window=10, floor=60, burst=1, now=0.0)
    >>> ramp.limit
    60.0

    Args:
        factor: how many times the average is allowed.
        window: seconds after which an amount weighs 1/e of what it did.
        floor: what is allowed in a minute whatever the average, to who comes from nothing.
        burst: seconds' worth of the allowed rate that may come at once.
        now: the time.

    """

    __slots__ = ("_average", "_burst", "_factor", "_floor", "_updated", "_window", "level", "rate")

    def __init__(
        self, factor: float, *, window: float, floor: float, burst: float, now: float
    ) -> None:
        self._factor = factor
        self._window = window
        self._floor = floor / 60
        self._burst = burst
        self._average = 0.0
        self._updated = now
        self.rate = self._floor
        self.level = self.rate * burst

    @property
    def limit(self) -> float:
        """The amount allowed in a minute."""
        return self.rate * 60

    def refill(self, now: float) -> None:
        """Let the average fade, and add what has come in."""
        elapsed = now - self._updated
        if elapsed > 0:
            self._average *= math.exp(-elapsed / self._window)
            self._updated = now
        self.rate = max(self._factor * self._average, self._floor)
        self.level = min(self.rate * self._burst, self.level + max(0.0, elapsed) * self.rate)

    def deficit(self, amount: float) -> float:
        """Return what is missing before `amount` can be taken, or 0."""
        capacity = self.rate * self._burst
        missing = min(amount, capacity) - self.level
        return missing if missing > _ROUNDING * capacity else 0.0

    def take(self, amount: float) -> None:
        """Count an amount that was let in."""
        self.level -= amount
        self._average += amount / self._window


Dimension = Literal["rpm", "rpd", "tpm", "tpd", "itpm", "otpm"]
Reason = Dimension | Literal["ramp", "too_large", "concurrency", "insufficient_quota"]

MINUTE = 60.0
DAY = 86_400.0
_PER_DAY = ("rpd", "tpd")
# Of a request's needs: itself, its tokens, their input, their output.
_PARTS: dict[Dimension, int] = {"rpm": 0, "rpd": 0, "tpm": 1, "tpd": 1, "itpm": 2, "otpm": 3}
# What is charged while an answer is produced: tokens and output.
_PRODUCED = (1, 3)
_MAX_DOMAINS = 10_000
# What takes less is charged at once: a rate of tokens in no time would be no number.
_INSTANT = 1e-6


class Charge(NamedTuple):
    """The tokens that a request takes: total, input and output.

    The three are separate accounts, so a rule may leave some at 0.
    """

    tokens: float
    input: float = 0.0
    output: float = 0.0


class Account(NamedTuple):
    """One dimension of a quota: the enforced and the shown bucket.

    `part` is the place of what it counts in a request's needs.
    """

    name: Dimension
    bucket: Bucket
    shown: Bucket
    part: int


class Domain:
    """The accounts of one quota, such as one key and model."""

    __slots__ = (
        *("accounts", "buckets", "display", "in_flight", "per_minute", "produced"),
        *("ramp", "shown"),
    )

    def __init__(self, settings: SimulatorSettings, *, now: float) -> None:
        accounts = []
        limits = settings.limits
        for name, part in _PARTS.items():
            limit: float | None = getattr(limits, name)
            if limit is None:
                continue
            daily = name in _PER_DAY
            period, burst = (DAY, DAY) if daily else (MINUTE, settings.burst_seconds)
            bucket = shown = Bucket(limit, period=period, burst=burst, now=now)
            if settings.quota_headers == "minute" and not daily:
                # A second account that nothing is admitted by: what such a provider reports.
                shown = Bucket(limit, period=MINUTE, burst=MINUTE, now=now)
            accounts.append(Account(name, bucket, shown, part))
        self.accounts = tuple(accounts)
        self.shown: dict[str, Bucket] = {account.name: account.shown for account in accounts}
        buckets = [(each, a) for a in accounts for each in dict.fromkeys((a.bucket, a.shown))]
        self.buckets = tuple((bucket, account.part) for bucket, account in buckets)
        self.per_minute = [bucket for bucket, account in buckets if account.name not in _PER_DAY]
        self.produced = [bucket for bucket, part in self.buckets if part in _PRODUCED]
        self.ramp: Ramp | None = None
        if settings.ramp is not None:
            self.ramp = Ramp(
                settings.ramp,
                window=settings.ramp_window,
                floor=float(settings.ramp_floor),
                burst=settings.burst_seconds,
                now=now,
            )
        self.in_flight = 0
        self.display: list[tuple[str, str, tuple[Bucket, ...]]] | None = None
        """Units, header lines and buckets, as the dialect shows them."""

    @property
    def idle(self) -> bool:
        """True if this quota is in the state of a new one."""
        return not self.in_flight and all(b.level >= b.capacity for b, _ in self.buckets)

    def refill(self, now: float) -> None:
        """Bring all accounts to this moment."""
        for bucket, _ in self.buckets:
            bucket.refill(now)
        if self.ramp is not None:
            self.ramp.refill(now)

    def take(self, charge: Charge) -> None:
        """Charge an admitted request."""
        needs = (1.0, *charge)
        for bucket, part in self.buckets:
            bucket.level -= needs[part]
        if self.ramp is not None:
            self.ramp.take(charge.input)

    def settle(self, charged: Charge, used: Charge) -> None:
        """Correct what was charged to what was used."""
        unused = (0.0, *(before - after for before, after in zip(charged, used, strict=True)))
        for bucket, part in self.buckets:
            bucket.give(unused[part])

    def drain(self, tokens_per_second: float) -> None:
        """Take tokens at a rate while an answer is produced."""
        for bucket in self.produced:
            bucket.drain += tokens_per_second
            if not self.in_flight:
                bucket.drain = 0.0  # without what rounding left


@dataclass(slots=True)
class Decision:
    """The decision on one request at its arrival.

    `retry_after` is in seconds: sent again after that time, and with nobody
    else's requests between and none under way, the request is admitted.
    """

    domain: Domain
    charge: Charge
    reason: Reason | None = None
    retry_after: float | None = None
    dimension: Dimension | None = None
    limit: float = 0.0
    used: float = 0.0
    requested: float = 0.0
    flow: float = 0.0
    """Tokens of the answer produced in a second."""
    since: float = 0.0
    """When that began."""


class Ledger:
    """All quotas of one dialect of a simulated provider.

    >>> ledger = Ledger(SimulatorSettings(rpm=60, burst_seconds=1), now=0.0)
    >>> [ledger.admit("key", Charge(1), now=t).reason for t in (0.0, 0.5, 1.0)]
    [None, 'rpm', None]

    Args:
        settings: the limits.
        now: the time at which the schedule begins.
        rejections_cost: whether a rejected request is charged as one request.

    """

    def __init__(
        self, settings: SimulatorSettings, *, now: float, rejections_cost: bool = False
    ) -> None:
        self._settings = settings
        self._rejections_cost = rejections_cost
        self._domains: dict[str, Domain] = {}
        self._credit = settings.credit_requests
        steps = [(now + at, "factor", value) for at, value in settings.schedule]
        steps += [(now + at, "taken", value) for at, value in settings.others]
        self._steps = sorted(steps, key=lambda step: step[0])
        self._factor, self._taken = 1.0, 0.0

    def admit(self, scope: str, charge: Charge, *, now: float) -> Decision:
        """Decide on a request that arrives now, and charge it."""
        self._follow_schedule(now)
        domain = self._domain(scope, now)
        domain.refill(now)
        refusal = self._refusal(domain, charge)
        if refusal is not None:
            return refusal
        domain.take(charge)
        domain.in_flight += 1
        if self._credit is not None:
            self._credit -= 1
        return Decision(domain, charge)

    def produce(self, decision: Decision, tokens: float, *, seconds: float, now: float) -> None:
        """Charge an answer's tokens evenly over the seconds of its production."""
        if not decision.domain.produced or not tokens:
            return
        if seconds > _INSTANT:
            decision.flow, decision.since = tokens / seconds, now
            decision.domain.drain(decision.flow)
        else:
            decision.domain.settle(Charge(0.0), Charge(tokens, 0.0, tokens))
            total, given, made = decision.charge
            decision.charge = Charge(total + tokens, given, made + tokens)

    def release(self, decision: Decision, *, now: float, used: Charge | None = None) -> float:
        """End an admitted request, and settle its charge.

        Returns how many tokens it was charged in the end.
        """
        domain, charged = decision.domain, decision.charge
        domain.in_flight -= 1
        if not decision.flow and used is None:
            return charged.tokens
        for bucket, _ in domain.buckets:
            bucket.refill(now)
        if decision.flow:
            made = decision.flow * (now - decision.since)
            charged = Charge(charged.tokens + made, charged.input, charged.output + made)
            domain.drain(-decision.flow)
        if used is not None:
            domain.settle(charged, used)
        return charged.tokens if used is None else used.tokens

    def _refusal(self, domain: Domain, charge: Charge) -> Decision | None:
        if self._credit is not None and self._credit <= 0:
            return Decision(domain, charge, "insufficient_quota")
        top = self._settings.max_concurrent
        if top is not None and domain.in_flight >= top:
            # When a slot comes free is not known: a second is what such providers say.
            return self._reject(Decision(domain, charge, "concurrency", 1.0, None, top, top))
        if not domain.accounts and domain.ramp is None:
            return None
        tokens, input_tokens, output = charge
        # Where output is charged as it is produced, there must be room for a first token.
        needs = (1.0, tokens, input_tokens, output if output > 1.0 else 1.0)
        for name, bucket, _, part in domain.accounts:
            if needs[part] > max(bucket.limit, 1.0):
                refusal = Decision(domain, charge, "too_large", None, name, bucket.limit)
                refusal.requested = needs[part]
                return self._reject(refusal)
        for name, bucket, _, part in domain.accounts:
            missing = bucket.deficit(needs[part])
            if missing:
                need = needs[part]
                used = bucket.limit - need + missing
                refusal = Decision(domain, charge, name, 0.0, name, bucket.limit, used, need)
                refusal = self._reject(refusal)
                refusal.retry_after = max(
                    each.bucket.deficit(needs[each.part]) / each.bucket.rate
                    for each in domain.accounts
                )
                return refusal
        ramp = domain.ramp
        if ramp is not None and (missing := ramp.deficit(charge.input)):
            wait = missing / ramp.rate
            return self._reject(Decision(domain, charge, "ramp", wait, None, ramp.limit))
        return None

    def _reject(self, refusal: Decision) -> Decision:
        """Charge a rejected request: one request, where a whole one is left.

        Taking fractions too would let no one in whose client sends 1% too fast,
        for each rejection would eat what has just come in.
        """
        if self._rejections_cost:
            for name, bucket, shown, _ in refusal.domain.accounts:
                if name == "rpm" and bucket.level >= 1:
                    for each in {bucket, shown}:
                        each.level -= 1
        return refusal

    def _follow_schedule(self, now: float) -> None:
        while self._steps and self._steps[0][0] <= now:
            at, what, value = self._steps.pop(0)
            if what == "factor":
                self._factor = value
            else:
                self._taken = value
            for domain in self._domains.values():
                for bucket in domain.per_minute:
                    bucket.refill(at)
                    bucket.scale(self._factor, taken=self._taken)
                    bucket.give(0.0)  # what no longer fits is gone

    def _domain(self, scope: str, now: float) -> Domain:
        domain = self._domains.get(scope)
        if domain is None:
            if len(self._domains) >= _MAX_DOMAINS:
                self._forget(now)
            domain = self._domains[scope] = Domain(self._settings, now=now)
            for bucket in domain.per_minute:
                bucket.scale(self._factor, taken=self._taken)
                bucket.level = bucket.capacity
        return domain

    def _forget(self, now: float) -> None:
        """Drop quotas that are as good as new, else the oldest."""
        for domain in self._domains.values():
            domain.refill(now)
        idle = [scope for scope, domain in self._domains.items() if domain.idle]
        for scope in idle or [next(iter(self._domains))]:
            del self._domains[scope]
