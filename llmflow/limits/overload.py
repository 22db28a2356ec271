"""Reduces requests in flight while a provider struggles; circuit breaker.

Single failures are not overload: one request in ten may break for a reason of its own, and
is sent again. Only when most requests fail does the cap on requests in flight come down, and
only when all fail does the circuit breaker open: a pause, one probe, a longer pause.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

_FEWEST_OUTCOMES: Final = 10
_MEMORY: Final = 20.0
_SUSTAINED: Final = 0.5
_DECREASE: Final = 0.5
_INCREASE: Final = 1.25
_FAILURES_IN_A_ROW: Final = 20
_LEAST_SILENCE: Final = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 20.0
# How long a number of requests that the provider has named too high is not tried again.
_FIRST_PATIENCE, _LONGEST_PATIENCE = 5.0, 80.0
OUTAGE_PATIENCE: Final = 300.0
"""Seconds without a single answer after which calls fail instead of waiting on."""


class Overload:
    """Counts the outcomes of requests, and limits those in flight.

    Args:
        now: the time, in seconds on the caller's clock.
        jitter: returns a factor around 1 for its pauses.
    """

    __slots__ = (
        "_bad",
        "_crowded_until",
        "_failing_since",
        "_good",
        "_helpless",
        "_in_a_row",
        "_jitter",
        "_last_good",
        "_openings",
        "_patience",
        "_peak",
        "_since",
        "cap",
        "failing",
    )

    def __init__(self, *, now: float, jitter: Callable[[], float]) -> None:
        self.cap = math.inf
        """Requests in flight at once, as far as overload goes."""
        self.failing = 1.0
        """The share of requests that failed lately; until some were answered, all of them."""
        self._jitter = jitter
        self._since = self._last_good = self._failing_since = now
        self._good = self._bad = self._peak = 0
        self._in_a_row = 0
        self._openings = 0
        self._helpless = False
        self._crowded_until = -math.inf
        self._patience = _FIRST_PATIENCE / 2.0

    @property
    def is_open(self) -> bool:
        """True while the circuit breaker is open."""
        return self._openings > 0

    def succeed(self, *, sent: float, in_flight: int, now: float) -> None:
        """Register a request, sent at `sent`, that the provider handled."""
        self._last_good = now
        self._in_a_row = self._openings = 0
        self.failing -= self.failing / _MEMORY
        if sent >= self._since:
            self._good += 1
            self._helpless = False
            if in_flight > self._peak:
                self._peak = in_flight
            outcomes = self._good + self._bad
            if outcomes >= _FEWEST_OUTCOMES or self.cap <= outcomes == self._good:
                self._review(now)

    def fail(self, *, sent: float, in_flight: int, now: float) -> float | None:
        """Register a request that failed because the provider is unhealthy.

        Returns:
            Seconds for which nothing may be sent, or None.
        """
        self.failing += (1.0 - self.failing) / _MEMORY
        if sent >= self._since:
            self._bad += 1
            self._peak = max(self._peak, in_flight)
        pause = self._break(sent, now)
        if self._good + self._bad >= _FEWEST_OUTCOMES:
            self._review(now)
        return pause

    def crowd(self, in_flight: int, now: float) -> None:
        """Take note that the provider refuses more than `in_flight` requests at once."""
        self.cap = float(max(1, min(self.cap, in_flight)))
        if now >= self._crowded_until:  # not one more of those that were sent too many
            self._patience = min(_LONGEST_PATIENCE, self._patience * 2.0)
        self._crowded_until = now + self._patience
        self._begin(now)

    def outage(self, now: float) -> float | None:
        """Return for how many seconds everything failed, once too long."""
        silent = now - self._failing_since
        return silent if self.is_open and silent >= OUTAGE_PATIENCE else None

    def move(self, shift: float) -> None:
        """Follow a clock that has been set anew."""
        self._since += shift
        self._last_good += shift
        self._failing_since += shift
        self._crowded_until += shift

    def _break(self, sent: float, now: float) -> float | None:
        if sent < self._last_good:
            return None
        if not self._in_a_row:
            self._failing_since = now  # the time in which nobody asked is no silence
        self._in_a_row += 1
        if not self.is_open and (
            self._in_a_row < _FAILURES_IN_A_ROW or now - self._failing_since < _LEAST_SILENCE
        ):
            return None
        self._openings += 1
        seconds = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(self._openings - 1, 10))
        return seconds * self._jitter()

    def _review(self, now: float) -> None:
        """Move the cap, once as many requests have ended as there were in flight."""
        outcomes = self._good + self._bad
        if outcomes < self._peak:
            return
        if self._bad >= _SUSTAINED * outcomes:
            # Where nothing at all succeeds, the number is not what is wrong: the breaker's matter.
            if self._good:
                self.cap = _lower(min(self.cap, self._peak))
            elif not self._helpless and not self.is_open:
                self.cap = _lower(min(self.cap, max(self._peak, _FEWEST_OUTCOMES)))
            self._helpless = not self._good
        elif self.cap < math.inf and now >= self._crowded_until:
            self.cap = self.cap * _INCREASE + 1.0
            if self.cap > 4.0 * max(_FEWEST_OUTCOMES, self._peak):
                self.cap = math.inf
                self._patience = _FIRST_PATIENCE / 2.0
        self._begin(now)

    def _begin(self, now: float) -> None:
        """Begin to count anew: what was sent before says nothing of the new cap."""
        self._since = now
        self._good = self._bad = self._peak = 0


def _lower(cap: float) -> float:
    return float(max(1, math.floor(cap * _DECREASE)))
