"""A token bucket: pure arithmetic, without waiting or clocks."""

from __future__ import annotations

import math

from llmflow.rate_limits import RATE_LIMITS

# The least capacity that is useful.
LEAST_CAPACITY = 1.0
# How far the limiter stays away from the end of the provider's burst window, in
# seconds' worth of the limit: requests that leave evenly arrive unevenly.
BURST_SLACK = 0.25
# What has been saved up is spent at little more than the rate at first, and faster the longer
# that goes well. A burst that turns out not to be there then costs few rejections.
FIRST_GAIN = 1.7
_GAIN_SECONDS = 0.5
# It is there once so many seconds' worth more than came in were spent, and refused by nobody
# within the patience: providers refuse at once. From then on the pace grows faster.
_PROOF_SECONDS = 1.5
_PROOF_PATIENCE = 0.2
_PROVED_GAIN_SECONDS = 0.08
# The pace bucket holds so many seconds' worth of the limit, or of the present pace if that
# is more: timers are late.
_PACE_SECONDS = 0.1
_LATE_SECONDS = 0.02
# Timers are late by so much, on a busy machine.
_LATE_TIMER = 0.1
# Nobody was kept waiting by the pace for so long: the next burst begins slowly again.
_PACE_PATIENCE = 0.5
# The last of what is saved up is spent slowly: in no less than so many seconds.
_LAST_SECONDS = 0.6
_EPSILON = 1e-9


def burst_capacity(rate: float, burst_seconds: float) -> float:
    """Return a bucket's capacity, given the provider's burst.

    All of the window but `BURST_SLACK`, and at least half of it.

    >>> burst_capacity(100.0, 1.0)
    75.0
    """
    return rate * max(burst_seconds - BURST_SLACK, burst_seconds / 2)


class TokenBucket:
    """A level that rises at `rate` up to `capacity`.

    Nothing runs in the background: the level is computed when somebody asks. It
    can go below zero, when a request turns out to cost more than was reserved or
    is larger than the bucket; the debt is paid before the next admission.

    A second, small bucket holds the pace: refilled at `gain` times the rate, it
    spreads what is in the first one. The gain grows with what is spent, so that a
    minute's worth of requests is gone within seconds, yet never all at once, and it is
    bounded by what is left, so that the last is spent slowly. It falls back to where it
    began only when the pace has kept nobody waiting for a while: a late timer finds the
    pace bucket full, too.

    Args:
        name: the dimension, such as ``"rpm"``.
        limit: how many per period.
        burst_seconds: how many seconds' worth of the limit the provider lets through at once.
        paced: whether to spread what is saved up; a day's quota need not be.
    """

    __slots__ = (
        "capacity",
        "charged",
        "excess",
        "gain",
        "granted",
        "held_at",
        "level",
        "limit",
        "name",
        "opened",
        "pace",
        "pace_capacity",
        "paced",
        "period",
        "proved_at",
        "rate",
        "share",
        "stamp",
        "top",
        "unit",
    )

    def __init__(
        self,
        name: str,
        *,
        limit: float,
        burst_seconds: float,
        now: float,
        paced: bool = True,
    ) -> None:
        self.name = name
        self.unit, self.period, _ = RATE_LIMITS[name]
        self.paced = paced
        self.share = 1.0
        self.gain = FIRST_GAIN
        self.level = self.pace = self.charged = 0.0
        self.granted = 0.0
        """What a deeper bucket than was assumed turned out to hold, in all."""
        self.stamp = self.opened = self.held_at = now
        self.excess = 0.0
        """What was spent beyond what came in."""
        self.proved_at: float | None = None
        self.retune(limit, burst_seconds=burst_seconds)
        self.level, self.pace = self.capacity, self.pace_capacity

    def retune(self, limit: float, *, burst_seconds: float, widest: float = 0.0) -> None:
        """Change the limit; the level stays, up to the new capacity.

        `burst_seconds`' worth of it is used at once; the provider lets through `widest` seconds'
        worth, where that is more.
        """
        self.limit = limit
        self.rate = self.share * limit / self.period
        come = limit / self.period
        # What comes in while a timer is late must find room, if the provider has it.
        widest = burst_capacity(come, max(widest, burst_seconds))
        late = min(LEAST_CAPACITY + come * _LATE_TIMER, widest)
        self.capacity = max(LEAST_CAPACITY, burst_capacity(come, burst_seconds), late)
        self.top = self.capacity
        """How far the level may rise by itself."""
        self.pace_capacity = 0.0 if self.paced else math.inf
        self._set_pace(self.gain)
        self.level = min(self.level, self.capacity)
        self.pace = min(self.pace, self.pace_capacity)

    def _set_pace(self, gain: float) -> None:
        """Spend at so many times the rate from now on."""
        self.gain = gain
        if self.paced:
            seconds = max(_PACE_SECONDS, gain * _LATE_SECONDS)
            self.pace_capacity = max(LEAST_CAPACITY, self.limit / self.period * seconds)

    def use(self, share: float) -> None:
        """Use this share of the limit from now on."""
        self.share = share
        self.rate = share * self.limit / self.period

    def refill(self, now: float) -> None:
        """Bring the level to what it is at `now`."""
        passed = now - self.stamp
        if passed > 0:
            self.stamp = now
            come = passed * self.rate
            excess = self.excess - come
            self.excess = excess if excess > 0.0 else 0.0
            level = self.level
            if level < self.top:
                level += come
                self.level = level if level < self.top else self.top
            pace = self.pace + come * self.gain
            if pace >= self.pace_capacity:
                pace = self.pace_capacity
                if self.gain > FIRST_GAIN and now - self.held_at > _PACE_PATIENCE:
                    self._set_pace(FIRST_GAIN)
            self.pace = pace

    def delay(self, amount: float) -> float:
        """Return the seconds until `amount` may be taken; 0.0 if now.

        More than the bucket holds may be taken when it is full, as a debt: a large
        request is slow, not impossible.
        """
        need = amount if amount < self.capacity else self.capacity
        missing = need - self.level
        # A residue of rounding must not cost a timer of a nanosecond, again and again.
        delay = missing / self.rate if missing > _EPSILON * self.capacity else 0.0
        need = amount if amount < self.pace_capacity else self.pace_capacity
        missing = need - self.pace
        if missing > _EPSILON * self.capacity:
            slow = missing / (self.rate * self.gain)
            if slow > delay:
                self.held_at = self.stamp
                return slow
        return delay

    def take(self, amount: float) -> None:
        """Charge `amount`."""
        self.level -= amount
        self.charged += amount
        self.pace -= amount
        self.excess += amount
        gain = self.gain
        if self.pace < self.pace_capacity * 0.5:
            seconds = _PROVED_GAIN_SECONDS if self._is_proved() else _GAIN_SECONDS
            gain += amount / (self.rate * seconds)
        if gain > FIRST_GAIN:
            most = FIRST_GAIN + max(0.0, self.level) / (self.rate * _LAST_SECONDS)
            self._set_pace(gain if gain < most else most)

    def _is_proved(self) -> bool:
        """Whether more was spent than any slice holds, and nothing of it refused at once."""
        if self.excess < self.limit / self.period * _PROOF_SECONDS:
            return False
        if self.proved_at is None:
            self.proved_at = self.stamp + _PROOF_PATIENCE
        return self.stamp >= self.proved_at

    def give(self, amount: float) -> None:
        """Give back `amount`, or charge more where it is negative."""
        self.charged -= amount
        if amount < 0.0:
            self.level += amount
            return
        if self.level < self.top:
            level = self.level + amount
            self.level = level if level < self.top else self.top
        pace = self.pace + amount
        self.pace = pace if pace < self.pace_capacity else self.pace_capacity

    def empty_until(self, moment: float) -> None:
        """Set the level to zero at `moment`; a debt remains."""
        paid = max(0.0, moment - self.stamp) * self.rate
        self.level = min(0.0, self.level + paid)
        self.stamp = max(self.stamp, moment)
        self.top = self.capacity
        self.excess, self.proved_at = 0.0, None
        self._set_pace(FIRST_GAIN)

    def level_at(self, now: float) -> float:
        """Return what the level is at `now`, without changing anything."""
        if self.level >= self.top:
            return self.level
        return min(self.top, self.level + max(0.0, now - self.stamp) * self.rate)

    def utilisation(self, until: float) -> float:
        """Return the used share of the limit up to `until`."""
        allowed = (
            self.capacity + self.granted + max(0.0, until - self.opened) * self.limit / self.period
        )
        return self.charged / allowed
