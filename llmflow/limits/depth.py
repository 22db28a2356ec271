"""Estimates how much a bucket holds at most, from replies."""

from __future__ import annotations

import math


class Depth:
    """The depth of a bucket, learned from balances and resets.

    A ``reset`` in whole seconds was rounded up, perhaps, and so tells two bounds a second
    apart. Replies at other moments of the second narrow them.

    >>> depth = Depth()
    >>> depth.note(7.0, 1.0, rate=10.0, most=600.0)  # 7 left, and all is back within a second
    >>> depth.note(1.0, 1.0, rate=10.0, most=600.0)
    >>> depth.value
    11.0
    """

    __slots__ = ("_least", "_most", "value")

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: the limit is another, or something was refused."""
        self.value = self._least = 0.0
        self._most = math.inf

    def note(
        self,
        remaining: float,
        reset: float | None,
        *,
        rate: float,
        most: float,
        least: float = 0.0,
    ) -> None:
        """Take note of a reply.

        Args:
            remaining: what it says is left.
            reset: seconds until all is back; None where it does not say.
            rate: what comes in per second.
            most: the whole limit: no bucket holds more.
            least: what the bucket is known to hold.
        """
        low = high = remaining
        if reset is not None and 0.0 < reset < math.inf:
            high = min(most, remaining + reset * rate)
            low = max(remaining, high - rate) if reset.is_integer() else high
            if low < high < self._most:
                self._most = high
        self._least = max(self._least, low, least)
        self.value = max(self._least, min(high, self._most))
