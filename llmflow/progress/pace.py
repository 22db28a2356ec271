"""Rates of work, and the time that is left."""

from __future__ import annotations

from typing import Final

# The rate of the last half minute or so: an early lull must not spoil the forecast.
MEMORY_SECONDS: Final = 30.0
_STEP_SECONDS: Final = 1.0


class Pace:
    """Rates of new items, apart from those that were known before.

    What the journal or the cache answers comes thousands of times as fast as what is
    asked, and mostly at the start. Time in which nothing but that came is left out: it
    says nothing of how fast the rest will come.
    """

    def __init__(self, now: float) -> None:
        self._at, self._active = now, 0.0
        self._new = self._known = self._requests = 0
        self._seen: list[tuple[float, int, int]] = [(0.0, 0, 0)]
        self._reading: tuple[float, int] | None = None
        self._last_known: float | None = None

    def note(self, now: float, *, new: int, known: int, requests: int) -> None:
        """Take note of what has come by now."""
        passed, more_new, more_known = now - self._at, new - self._new, known - self._known
        self._at, self._new, self._known, self._requests = now, new, known, requests
        if more_known:
            self._last_known = now
        if more_known and not more_new:
            seconds, number = self._reading or (0.0, 0)
            self._reading = seconds + passed, number + more_known
            return
        if passed > 0:
            self._reading = None
        self._active += passed
        seen = self._seen
        while len(seen) > 2 and self._active - seen[1][0] >= MEMORY_SECONDS:
            del seen[0]
        if self._active - seen[-1][0] >= _STEP_SECONDS:
            seen.append((self._active, new, requests))

    @property
    def rate(self) -> float:
        """New items per second, lately."""
        since, before, _ = self._seen[0]
        return (self._new - before) / max(1e-9, self._active - since)

    @property
    def requests(self) -> float:
        """Requests per second in the last while."""
        since, _, before = self._seen[0]
        return (self._requests - before) / max(1e-9, self._active - since)

    @property
    def reading(self) -> float | None:
        """Known items per second while only those come; else None."""
        if self._reading is None:
            return None
        seconds, number = self._reading
        return number / max(1e-9, seconds)

    def left(self, remaining: int, *, expected: int = 0) -> float | None:
        """Return the seconds left; None if that is unknown.

        Args:
            remaining: what is still to come.
            expected: how much of that the journal may know. It is believed as long as it
                goes on answering: what was asked otherwise before, it does not know now.
        """
        lately = self._last_known is not None and self._at - self._last_known < MEMORY_SECONDS
        new = remaining - (min(expected, remaining) if lately else 0)
        if self.reading is not None or new <= 0 or self.rate <= 0:
            return None
        return new / self.rate
