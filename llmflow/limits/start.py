"""Slow start: bounds requests in flight while no limit is known."""

from __future__ import annotations

# One more with every answer, and one more with every second's worth of silence: a
# rejection comes at once, so requests that were not refused within a second were accepted,
# however slow their answers.
_GROWTH_SECONDS = 1.4  # doubling every second
# Answers come back in bursts; what they let go leaves over this many seconds. Then few
# have left when the first is refused.
_SPREAD_SECONDS = 0.25
_LATE_SECONDS = 0.005


class SlowStart:
    """A limit on requests in flight that doubles with every round trip.

    Args:
        first: how many at first.
        now: the time, in seconds on the caller's clock.
    """

    __slots__ = ("_first", "_free", "_grown_at", "_left_at", "window")

    def __init__(self, first: int, *, now: float) -> None:
        self.window = float(first)
        """How many may be in flight."""
        self._first = self._free = first
        self._grown_at = now
        self._left_at = now - _SPREAD_SECONDS

    def delay(self, in_flight: int, now: float) -> float:
        """Return the seconds until one more may go."""
        if in_flight >= self.window:
            full = self._grown_at + _GROWTH_SECONDS / self.window - now
            if full > 0.0:
                return full
            self._grown_at = now
            self.window += 1.0
        if self._free:
            return 0.0
        return max(0.0, self._left_at + _SPREAD_SECONDS / self.window - now)

    def leave(self, now: float) -> None:
        """Register a departure; compensates for slightly late timers."""
        if self._free:
            self._free -= 1
        due = self._left_at + _SPREAD_SECONDS / self.window
        self._left_at = due if now - due < _LATE_SECONDS else now

    def answer(self) -> None:
        """Take note of an answer: one more may be in flight."""
        self.window += 1.0

    def refuse(self, in_flight: int, until: float) -> None:
        """Begin anew, after a pause, with half of what was in flight."""
        self.window = float(max(self._first, in_flight // 2))
        self._free = 0
        self._grown_at = until
        self._left_at = until - _SPREAD_SECONDS

    def move(self, shift: float) -> None:
        """Follow a clock that has been set anew."""
        self._grown_at += shift
        self._left_at += shift
