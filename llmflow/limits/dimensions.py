"""All limits of a quota domain, and tickets of requests."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from llmflow.errors import TooLargeForLimitError
from llmflow.limits.bucket import LEAST_CAPACITY
from llmflow.limits.learned_limits import LearnedLimit
from llmflow.limits.learning import LearningBucket
from llmflow.rate_limits import DAY, RATE_LIMITS
from llmflow.types import Charge, Quota, QuotaSignal

DEFAULT_BURST_SECONDS: Final = 1.0
_ESTIMATE_BURST_SECONDS: Final = 0.5
# What was sent in this many seconds tells how much a provider takes that says nothing.
_LOOK_BACK: Final = 1.0
_LOOK_STEP: Final = 0.1
_ROUND_TRIPS: Final = 8.0
_ENOUGH_TO_TELL: Final = 10
_FIRST_ESTIMATE: Final = 0.85
# By then most connections are open, or are not opened at all.
_OPENING_SECONDS: Final = 0.6
# Whoever names less than this names no limit: it would stop everything for hours.
_LEAST_LIMIT: Final = 1e-3

# The states of a ticket. CANCELLED: over, but its old place in the queue has still to be cleared.
WAITING, ADMITTED, OVER, CANCELLED = 0, 1, 2, 3


class Ticket:
    """One request's place in the queue, later its right to be sent."""

    __slots__ = (
        "admitted_at",
        "charge",
        "is_opening",
        "left_at",
        "mark",
        "number",
        "patience",
        "says_when_it_leaves",
        "state",
    )

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.number = 0
        self.state = WAITING
        self.admitted_at = 0.0
        self.patience = math.inf
        """Seconds that this request waits for a daily quota."""
        self.says_when_it_leaves = False
        """Whether `leave` is called; else it is taken to be sent when it is admitted."""
        self.is_opening = False
        """Whether it was admitted, and waits for a connection."""
        self.left_at = 0.0
        self.mark: tuple[float, ...] = ()
        """What had been sent in each unit when it was, itself included."""

    def revise(self) -> None:
        """Bring the charge up to date, before this ticket is looked at."""

    def grant(self) -> None:
        """Called on admission, while the state changes: must only take note."""

    def refuse(self, error: Exception) -> None:
        """Be told that there will be no admission; likewise."""


@dataclass
class _Guess:
    """What a limit was estimated from."""

    bucket: LearningBucket
    sent: float
    seconds: float
    made_at: float

    def limit(self) -> float:
        bucket = self.bucket
        return max(LEAST_CAPACITY, _FIRST_ESTIMATE * self.sent / self.seconds * bucket.period)


class Dimensions:
    """The buckets of one quota domain, taken all or nothing."""

    def __init__(self, quota: Quota, *, now: float) -> None:
        self.buckets: list[LearningBucket] = []
        self.named: dict[str, float] = {}
        """Limits that replies have named: those of the whole account."""
        self._named_at: dict[str, float] = {}
        """When the requests were sent whose replies have named them."""
        self.portion = 1.0
        """The part of all limits that is this program's own."""
        self._hearsay: set[str] = set()
        """Dimensions whose limit was named to an earlier run, and not yet to this one."""
        self.binding: LearningBucket | None = None
        """What kept the last request waiting that was looked at."""
        self._guess: _Guess | None = None
        self._round_trip = 0.0
        self._spent = [0.0, 0.0, 0.0, 0.0]
        self._opening = [0.0, 0.0, 0.0, 0.0]
        self._history: deque[tuple[float, tuple[float, ...]]] = deque(maxlen=256)
        self.retune(quota, now)

    # --- taking ------------------------------------------------------------------------

    def refill(self, now: float) -> None:
        """Bring all levels to what they are at `now`."""
        for bucket in self.buckets:
            bucket.refill(now)

    def delay(self, charge: Charge) -> float:
        """Return the seconds until a charge fits, and note what blocks."""
        delay, self.binding = 0.0, None
        for bucket in self.buckets:
            wait = bucket.delay(charge[bucket.unit])
            if wait > delay:
                delay, self.binding = wait, bucket
        return delay

    def take(self, ticket: Ticket, now: float) -> None:
        """Take a charge, and note the totals on its ticket."""
        charge, spent = ticket.charge, self._spent
        for bucket in self.buckets:
            bucket.take(charge[bucket.unit])
        spent[0] += charge[0]
        spent[1] += charge[1]
        spent[2] += charge[2]
        spent[3] += charge[3]
        ticket.left_at = now
        ticket.mark = mark = tuple(spent)
        if ticket.says_when_it_leaves:
            ticket.is_opening = True
            opening = self._opening
            opening[0] += charge[0]
            opening[1] += charge[1]
            opening[2] += charge[2]
            opening[3] += charge[3]
        history = self._history
        if not history or now - history[-1][0] >= _LOOK_STEP:
            history.append((now, mark))

    def leave(self, ticket: Ticket, now: float) -> None:
        """Register that a request leaves, now that it has a connection."""
        if not ticket.is_opening:
            return
        ticket.is_opening = False
        charge, spent, opening = ticket.charge, self._spent, self._opening
        opening[0] -= charge[0]
        opening[1] -= charge[1]
        opening[2] -= charge[2]
        opening[3] -= charge[3]
        ticket.left_at = now
        ticket.mark = (
            spent[0] - opening[0],
            spent[1] - opening[1],
            spent[2] - opening[2],
            spent[3] - opening[3],
        )

    def settle(self, ticket: Ticket, actual: Charge) -> None:
        """Correct a request's charge to what it was in the end."""
        charge = ticket.charge
        for unit, (before, after) in enumerate(zip(charge, actual, strict=True)):
            self._spent[unit] += after - before
        for bucket in self.buckets:
            # A limit that was named since has charged nothing that could be given back.
            if bucket.opened <= ticket.admitted_at:
                bucket.give(charge[bucket.unit] - actual[bucket.unit])

    def refund(self, ticket: Ticket) -> None:
        """Register a refused request: the provider has charged nothing."""
        spent, charge = self._spent, ticket.charge
        for unit in range(len(spent)):
            spent[unit] -= charge[unit]

    def arriving(self) -> float:
        """Return the seconds until requests still connecting are paid for."""
        seconds = 0.0
        for bucket in self.buckets:
            seconds = max(seconds, self._opening[bucket.unit] / bucket.rate)
        return min(_OPENING_SECONDS, seconds)

    def check_fits(self, charge: Charge) -> None:
        """Refuse what can never be admitted.

        Raises:
            TooLargeForLimitError: it is larger than a whole limit; the message has the numbers.
        """
        for bucket in self.buckets:
            # A limit below one request per minute is slow, not impossible; an estimate is no limit.
            # Of a limit of which we use a part, too, what fits the whole of it is a debt.
            if charge[bucket.unit] > max(bucket.whole, LEAST_CAPACITY) and not bucket.estimated:
                limit = bucket.whole
                if bucket.name in self._hearsay:  # it may have been raised since
                    limit = float(getattr(self.quota, bucket.name) or math.inf)
                if charge[bucket.unit] <= limit:
                    continue
                raise TooLargeForLimitError(
                    f"this request needs {charge[bucket.unit]:,.0f} of {bucket.name}, "
                    f"and the limit is {limit:,.0f}",
                    dimension=bucket.name,
                )

    # --- learning ----------------------------------------------------------------------

    def retune(self, quota: Quota, now: float) -> None:
        """Change the configured limits; levels stay."""
        self.quota, self.portion = quota, quota.part
        for name in RATE_LIMITS:
            self._set_limit(name, now)

    def observe(
        self,
        signals: Iterable[QuotaSignal],
        ticket: Ticket | None,
        now: float,
        *,
        answered: bool = False,
    ) -> bool:
        """Learn from a reply's headers; return whether a limit changed.

        Configured limits are a ceiling. `ticket` is None where the request is not known;
        `answered` says that it was not refused.
        """
        changed = False
        for signal in signals:
            name, limit = signal.dimension, signal.limit
            if name not in RATE_LIMITS:
                continue
            if limit is not None and _LEAST_LIMIT <= limit < math.inf:
                if self._hearsay:
                    self._hearsay.discard(name)
                if self.named.get(name) != limit:
                    sent_at = now if ticket is None else ticket.left_at
                    if sent_at < self._named_at.get(name, -math.inf):
                        continue  # overtaken by the reply that named the limit of today
                    self.named[name], self._named_at[name] = limit, sent_at
                    self._set_limit(name, now)
                    changed = True
            bucket = self.bucket(name)
            if bucket is None or ticket is None or not ticket.mark:
                continue
            unit = bucket.unit
            bucket.sample(
                signal,
                sent_at=ticket.left_at,
                sent=ticket.mark[unit],
                spent=self._spent[unit],
                opening=self._opening[unit],
                answered=answered,
                now=now,
            )
        return changed

    def refuse(
        self,
        dimension: str | None,
        signals: Iterable[QuotaSignal],
        charge: Charge,
        *,
        until: float | None,
        ramp: bool,
        explained: bool,
        sent_at: float,
        now: float,
    ) -> None:
        """Learn from a rejection of a charge.

        `until` is when the provider will have room again, where it says so; `ramp` means that
        traffic grew too fast. Nothing is to be learned of the rate if it is `explained`: the
        headers name another limit than was known, or it was a probe.
        """
        told = {signal.dimension: signal for signal in signals}
        fresh = None
        if dimension in RATE_LIMITS and self.bucket(dimension) is None:
            fresh = self._estimate(dimension, now)
        elif not self.buckets:
            fresh = self._estimate("rpm", now)
        for bucket in self._implicated(dimension, told, charge):
            # What was sent before the limit was known says nothing of how it was kept.
            if not explained and bucket is not fresh and sent_at >= bucket.opened:
                bucket.refuse(told.get(bucket.name), ramp=ramp, now=now)
            bucket.empty_until(now if until is None else until)

    def _implicated(
        self, dimension: str | None, told: Mapping[str, QuotaSignal], charge: Charge
    ) -> list[LearningBucket]:
        """Return what can have been used up: what was named, else what was short, else all."""
        if dimension in RATE_LIMITS:
            named = self.bucket(dimension)
            return [] if named is None else [named]
        short = [
            bucket
            for bucket in self.buckets
            if (signal := told.get(bucket.name)) is not None
            and signal.remaining is not None
            and signal.remaining < max(LEAST_CAPACITY, charge[bucket.unit])
        ]
        return short or self.buckets

    def recount(self, charge: Charge, now: float) -> None:
        """Correct a fresh estimate by a request that was refused late."""
        guess = self._guess
        if guess is None or not guess.bucket.estimated or now - guess.made_at > _LOOK_BACK:
            self._guess = None
            return
        guess.sent -= charge[guess.bucket.unit]
        guess.bucket.retune(guess.limit(), burst_seconds=guess.bucket.window)

    def succeed(self, round_trip: float, now: float) -> None:
        """Take note of an answer, and of the seconds it took."""
        self._round_trip += (round_trip - self._round_trip) / _ROUND_TRIPS
        for bucket in self.buckets:
            bucket.succeed(now)

    def bucket(self, name: str | None) -> LearningBucket | None:
        """Return the bucket of a dimension, or None."""
        for bucket in self.buckets:
            if bucket.name == name:
                return bucket
        return None

    def move(self, shift: float) -> None:
        """Follow a clock that has been set anew."""
        self._history.clear()
        self._named_at = {name: at + shift for name, at in self._named_at.items()}
        for bucket in self.buckets:
            bucket.move(shift)

    def limits(self) -> Mapping[str, float]:
        """Return the limits in force here: of each, this program's part."""
        return {b.name: b.effective_limit if b.estimated else b.limit for b in self.buckets}

    def learned(self) -> tuple[LearnedLimit, ...]:
        """Return learned limits of the whole account, for a later run.

        What refusals tell is what was there beside the others: a part of what all got.
        """
        return tuple(
            LearnedLimit(
                dimension=bucket.name,
                limit=(
                    bucket.effective_limit / self.portion
                    if bucket.estimated
                    else self.named[bucket.name]
                ),
                burst_seconds=bucket.window,
                estimated=bucket.estimated,
            )
            for bucket in self.buckets
            if bucket.estimated or bucket.name in self.named
        )

    def recall(self, learned: Iterable[LearnedLimit], now: float) -> None:
        """Begin with what an earlier run has learned."""
        for each in learned:
            if each.dimension not in RATE_LIMITS or not _LEAST_LIMIT <= each.limit < math.inf:
                continue
            if not each.estimated:
                self.named[each.dimension] = each.limit
                self._hearsay.add(each.dimension)
                self._set_limit(each.dimension, now)
            elif self.bucket(each.dimension) is None:
                guess = each.limit * _FIRST_ESTIMATE * self.portion
                self._add(each.dimension, guess, estimated=True, now=now)
            bucket = self.bucket(each.dimension)
            if bucket is not None:
                bucket.shorten(each.burst_seconds)

    def _estimate(self, name: str, now: float) -> LearningBucket | None:
        """Guess a limit from what was sent lately, just before it was refused."""
        unit, period, _ = RATE_LIMITS[name]
        if period >= DAY:
            return None
        # Requests leave in bursts, one with every round trip, until a rate is known.
        horizon = max(_LOOK_BACK, self._round_trip)
        since = next((entry for entry in self._history if now - entry[0] <= horizon), None)
        if since is None or self._spent[0] - since[1][0] < _ENOUGH_TO_TELL:
            return None
        sent = self._spent[unit] - since[1][unit]
        self._add(name, LEAST_CAPACITY, estimated=True, now=now)
        self._guess = _Guess(self.buckets[-1], sent=sent, seconds=horizon, made_at=now)
        self.buckets[-1].retune(self._guess.limit(), burst_seconds=_ESTIMATE_BURST_SECONDS)
        return self.buckets[-1]

    def _add(self, name: str, limit: float, *, estimated: bool, now: float) -> None:
        burst = _ESTIMATE_BURST_SECONDS if estimated else self._burst(RATE_LIMITS[name].period)
        self.buckets.append(
            LearningBucket(
                name,
                limit=limit,
                burst_seconds=burst,
                now=now,
                estimated=estimated,
                # An estimate is of what there was here, beside the others: our part already.
                portion=1.0 if estimated else self.portion,
                configured=getattr(self.quota, name) is not None,
            )
        )

    def _burst(self, period: float) -> float:
        """Return the seconds' worth of a limit that may be used at once, until more is known."""
        return DAY if period >= DAY else float(self.quota.burst_seconds or DEFAULT_BURST_SECONDS)

    def _set_limit(self, name: str, now: float) -> None:
        limits = [
            float(limit)
            for limit in (getattr(self.quota, name), self.named.get(name))
            if limit is not None
        ]
        existing = self.bucket(name)
        if not limits:
            if existing is not None and not existing.estimated:
                self.buckets.remove(existing)
            return
        if existing is None:
            self._add(name, min(limits), estimated=False, now=now)
            return
        existing.refill(now)  # the time until now was at the old rate
        burst = self._burst(existing.period)
        existing.set_limit(min(limits), burst_seconds=burst, portion=self.portion)
