"""A strict provider: its own token bucket, its own headers, its own rejections.

It shares no code with the limiter that it judges. Nothing above the quota is let through,
and nothing below it is refused.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from .setting import Setting

_ROUNDING_RESIDUE = 1e-9


class Reply(NamedTuple):
    """What the provider sends back.

    Args:
        accepted: whether the request was let through; else it is a 429.
        limit: the header that names the limit per minute, or None where there are no headers.
        remaining: what is left of it.
        reset: seconds until all of it is back, or None.
        retry_after: seconds to wait, with a rejection.
    """

    accepted: bool
    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None
    retry_after: float | None = None


ADMITTED = Reply(True)


class Level:
    """How much a bucket holds that refills at a rate: a lower one at first, perhaps.

    Args:
        setting: the rate, what of it is not there at first, and for how long.
        burst: seconds' worth of the rate that it holds.
    """

    __slots__ = ("capacity", "level", "rate", "slow_capacity", "slow_rate", "slow_until", "stamp")

    def __init__(self, setting: Setting, burst: float) -> None:
        there = 1.0 - setting.taken
        self.rate = setting.rate
        self.capacity = setting.rate * burst
        self.slow_rate = setting.rate * there
        self.slow_capacity = self.capacity * (there if setting.lowered else 1.0)
        self.slow_until = setting.taken_for
        self.stamp = 0.0
        self.level = self.slow_capacity if self.slow_until else self.capacity

    def refilled(self, now: float) -> float:
        """Return the level at `now`, which is not before the last time that was asked for."""
        if self.stamp < self.slow_until:
            until = now if now < self.slow_until else self.slow_until
            level = self.level + (until - self.stamp) * self.slow_rate
            self.level = level if level < self.slow_capacity else self.slow_capacity
            self.stamp = until
        level = self.level + (now - self.stamp) * self.rate
        self.level = level = level if level < self.capacity else self.capacity
        self.stamp = now
        return level

    def wait(self, amount: float) -> float:
        """Return the seconds from the last look until `amount` is there; inf: it never is."""
        missing = amount - self.level
        if missing <= _ROUNDING_RESIDUE * self.capacity:
            return 0.0
        if amount > self.capacity:
            return math.inf
        slow = max(0.0, self.slow_until - self.stamp)
        come = min(slow * self.slow_rate, self.slow_capacity - self.level) if slow else 0.0
        if missing > come:
            return slow + (missing - come) / self.rate
        return missing / self.slow_rate

    def take(self, amount: float) -> None:
        """Take what is there."""
        self.level -= amount


class Provider:
    """Decides on requests as they arrive, strictly.

    Args:
        setting: what it allows, and what it says of that.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._bucket = Level(setting, setting.burst)
        self._told = self._bucket
        if setting.header_burst:
            self._told = Level(replace(setting, taken=0.0), setting.header_burst)

    def arrive(self, amount: float, now: float) -> Reply:
        """Decide on a request that asks for `amount`.

        An answer whose headers are stamped when it leaves has none yet: see `headers`.
        """
        bucket = self._bucket
        bucket.refilled(now)
        wait = bucket.wait(amount)
        if wait > 0.0:
            if self._setting.whole_seconds:
                wait = float(math.ceil(wait))
            else:
                wait = math.ceil(wait * 1e3) / 1e3
            return self.headers(now)._replace(accepted=False, retry_after=wait)
        bucket.take(amount)
        if self._told is not bucket:
            self._told.refilled(now)
            self._told.take(amount)
        if self._setting.headers == "rejections" or self._setting.stamp == "reply":
            return ADMITTED
        return self.headers(now)

    def headers(self, now: float) -> Reply:
        """Return an answer with the headers as of now."""
        setting, told = self._setting, self._told
        if now >= setting.headers_until:
            return ADMITTED
        level = max(0.0, told.refilled(now))
        if setting.header_level is not None:
            level = setting.header_level * told.capacity
        remaining = math.floor(level + 1e-6)
        if setting.rounding > 1:
            remaining = round(remaining / setting.rounding) * setting.rounding
        reset = None
        if setting.reset:
            reset = (told.capacity - level) / told.rate
            reset = float(math.ceil(reset)) if setting.whole_seconds else round(reset, 3)
        lowered = setting.lowered and now < setting.taken_for
        rate = told.slow_rate if lowered else told.rate
        return Reply(True, rate * 60.0, float(remaining), reset)
