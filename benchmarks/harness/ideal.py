"""The ideal: the least time in which a client could be answered that knows everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .provider import Level
from .setting import Setting


class Passage(NamedTuple):
    """A request that was let through, with what was drawn for it.

    Args:
        amount: what it was charged.
        ready: the earliest time at which it could have arrived at the provider.
        after: seconds from its arrival until its answer is with the client.
    """

    amount: float
    ready: float
    after: float


def schedule(setting: Setting, passages: Sequence[Passage]) -> list[float]:
    """Return the earliest time at which each request could arrive and be let through.

    The order is that in which they were let through. Arriving as early as the quota allows is
    best: what is taken earlier leaves more room for what comes in.
    """
    bucket = Level(setting, setting.burst)
    times = []
    now = 0.0
    for each in passages:
        now = max(now, each.ready)
        bucket.refilled(now)
        wait = bucket.wait(each.amount)
        if wait > 0.0:
            now += wait
            bucket.refilled(now)
        bucket.take(each.amount)
        times.append(now)
    return times


def ideal(setting: Setting, passages: Sequence[Passage]) -> float:
    """Return the maximum of the earliest moment of each request plus its own latency."""
    times = schedule(setting, passages)
    return max(time + each.after for time, each in zip(times, passages, strict=True))
