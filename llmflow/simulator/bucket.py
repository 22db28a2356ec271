"""Accounts of a quota that refill all the time, on a clock given as an argument."""

from __future__ import annotations

import math

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
        """Set the limit to `factor` times the original one, a share of which others take."""
        self.limit = self._base * factor
        self.rate = self.limit / self._period
        self.inflow = self.rate * (1.0 - taken)
        self.capacity = self.limit * self._burst / self._period

    def refill(self, now: float) -> None:
        """Add what has come in since the last look, less what was produced."""
        if now > self.updated:
            change = (now - self.updated) * (self.inflow - self.drain)
            self.level = min(self.capacity, self.level + change)
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


class Ramp:
    """Lets traffic grow to `factor` times its own trailing average, and no faster.

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
        """What is allowed in a minute."""
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
        """Return how much is missing before `amount` can be taken; 0 if nothing is."""
        capacity = self.rate * self._burst
        missing = min(amount, capacity) - self.level
        return missing if missing > _ROUNDING * capacity else 0.0

    def take(self, amount: float) -> None:
        """Count an amount that was let in."""
        self.level -= amount
        self._average += amount / self._window
