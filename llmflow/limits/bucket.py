"""One token bucket: the arithmetic of "so many per minute", without waiting or time-keeping."""

from __future__ import annotations

# How far the limiter stays away from the end of the provider's burst window, in
# seconds' worth of the limit: requests that leave evenly arrive unevenly.
BURST_SLACK = 0.25
_EPSILON = 1e-9


def burst_capacity(rate: float, burst_seconds: float) -> float:
    """Return how much a bucket holds, given what the provider lets through at once.

    All of the window but `BURST_SLACK`, and at least half of it.

    >>> burst_capacity(100.0, 1.0)
    75.0
    """
    return rate * max(burst_seconds - BURST_SLACK, burst_seconds / 2)


class TokenBucket:
    """A level that rises at `rate` per second up to `capacity`.

    Nothing runs in the background: the level is computed when somebody asks. It
    can go below zero, when a request turns out to cost more than was reserved or
    is larger than the bucket; the debt is paid before the next admission.

    Args:
        name: the dimension, such as ``"rpm"``.
        unit: index of this dimension's amount in a `Charge`.
        limit: how many per period.
        period: seconds.
        burst_seconds: how many seconds' worth of the limit the provider lets through at once.
        minimum: the least capacity that is useful: 1 for requests.
    """

    __slots__ = (
        "capacity",
        "charged",
        "level",
        "limit",
        "minimum",
        "name",
        "opened",
        "period",
        "rate",
        "stamp",
        "unit",
    )

    def __init__(
        self,
        name: str,
        *,
        unit: int,
        limit: float,
        period: float,
        burst_seconds: float,
        minimum: float,
        now: float,
    ) -> None:
        self.name = name
        self.unit = unit
        self.period = period
        self.minimum = minimum
        self.limit = self.rate = self.capacity = 0.0
        self.level = 0.0
        self.charged = 0.0
        self.stamp = self.opened = now
        self.retune(limit, burst_seconds=burst_seconds)
        self.level = self.capacity

    def retune(self, limit: float, *, burst_seconds: float) -> None:
        """Change the limit; what is in the bucket stays, up to the new capacity."""
        self.limit = limit
        self.rate = limit / self.period
        self.capacity = max(self.minimum, burst_capacity(self.rate, burst_seconds))
        self.level = min(self.level, self.capacity)

    def refill(self, now: float) -> None:
        """Bring the level to what it is at `now`."""
        passed = now - self.stamp
        if passed > 0:
            self.stamp = now
            level = self.level + passed * self.rate
            self.level = level if level < self.capacity else self.capacity

    def delay(self, amount: float) -> float:
        """Return the seconds until `amount` may be taken; 0.0 if now.

        More than the bucket holds may be taken when it is full, as a debt: a large
        request is slow, not impossible.
        """
        need = amount if amount < self.capacity else self.capacity
        missing = need - self.level
        # A residue of rounding must not cost a timer of a nanosecond, again and again.
        return missing / self.rate if missing > _EPSILON * self.capacity else 0.0

    def take(self, amount: float) -> None:
        """Charge `amount`."""
        self.level -= amount
        self.charged += amount

    def give(self, amount: float) -> None:
        """Give back `amount`, or charge more where it is negative."""
        self.charged -= amount
        level = self.level + amount
        self.level = level if level < self.capacity else self.capacity

    def empty_until(self, moment: float) -> None:
        """Count as empty at `moment`: the provider said that it is. A debt keeps being paid."""
        paid = max(0.0, moment - self.stamp) * self.rate
        self.level = min(0.0, self.level + paid)
        self.stamp = max(self.stamp, moment)

    def level_at(self, now: float) -> float:
        """Return what the level is at `now`, without changing anything."""
        return min(self.capacity, self.level + max(0.0, now - self.stamp) * self.rate)

    def utilisation(self, until: float) -> float:
        """Return the share of what the limit allowed up to `until` that was used."""
        allowed = self.capacity + max(0.0, until - self.opened) * self.rate
        return self.charged / allowed
