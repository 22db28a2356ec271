"""Bounds requests in flight: slow start, overload and circuit breaker, recovery.

`SlowStart` finds out what a provider takes that names no limit. `Overload` sends less while
requests fail: single failures are no overload, one in ten may break for a reason of its own and
is sent again. Only when most fail does the cap on requests in flight come down, and only when
all fail does the circuit breaker open: a pause, one probe, a longer pause. `Recovery` comes
after each pause: one probe, then a growing number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

# One more with every answer, and one more with every second's worth of silence: a
# rejection comes at once, so requests that were not refused within a second were accepted,
# however slow their answers.
_GROWTH_SECONDS = 1.4  # doubling every second
# Answers come back in bursts; what they let go leaves over this many seconds. Then few
# have left when the first is refused.
_SPREAD_SECONDS = 0.25
_LATE_SECONDS = 0.005
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
# A rejection comes back within a round trip, an answer takes seconds. So silence for
# twice the rejection's round trip means that the probe was let in.
_GRACE_LEAST: Final = 0.02
_GRACE_MOST: Final = 1.0
# Without a known request rate the release doubles in steps of this many seconds at least.
_STEP_LEAST: Final = 0.25
_DOUBLINGS: Final = 12


class SlowStart:
    """A limit on requests in flight that doubles with every round trip."""

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


class Overload:
    """Counts the outcomes of requests, and limits those in flight."""

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
        """Register a failure of the provider; return seconds of pause, or None."""
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


class Recovery:
    """Admission between the end of a pause and normal service.

    First one request, the probe. When it is answered, or not rejected within a grace time, the
    rest follows: at the buckets' own pace where a request limit is known, else twice as many with
    every step of time. `round_trip` is the time from sending to the rejection that caused the
    pause.
    """

    __slots__ = ("_cleared_at", "_probe", "_probe_at", "_released", "grace", "step")

    def __init__(self, *, round_trip: float) -> None:
        self.grace = min(_GRACE_MOST, _GRACE_LEAST + 2.0 * max(0.0, round_trip))
        self.step = max(_STEP_LEAST, self.grace)
        self._probe: object | None = None
        self._probe_at = 0.0
        self._cleared_at: float | None = None
        self._released = 0

    def restart(self) -> None:
        """Begin anew with a probe: the pause was prolonged."""
        self._probe = self._cleared_at = None
        self._released = 0

    @property
    def wants_probe(self) -> bool:
        """True if the next request is the probe."""
        return self._probe is None and self._cleared_at is None

    def cleared(self, now: float) -> bool:
        """Return whether the probe was let in, as far as is known."""
        if self._cleared_at is not None:
            return True
        return self._probe is not None and now >= self._probe_at + self.grace

    def delay(self, now: float) -> float:
        """Return the seconds until recovery admits the next request."""
        if self.wants_probe:
            return 0.0
        if self._cleared_at is None:
            silent = self._probe_at + self.grace
            if now < silent:
                return silent - now
            self._cleared_at = silent
        # 2 at once, 4 after one step, 8 after two, ...
        due = self._cleared_at + self.step * (math.log2(self._released + 1) - 1.0)
        return max(0.0, due - now)

    def admitted(self, ticket: object, now: float) -> None:
        """Take note that a request went."""
        if self.wants_probe:
            self._probe, self._probe_at = ticket, now
        else:
            self._released += 1

    def left(self, ticket: object, *, answered: bool, now: float) -> None:
        """Register a returned request; the probe's answer ends recovery."""
        if ticket is not self._probe:
            return
        self._probe = None
        if answered and self._cleared_at is None:
            self._cleared_at = now

    def over(self, now: float, *, paced: bool) -> bool:
        """Return whether normal service may begin; `paced`: a bucket limits requests anyway."""
        if self._cleared_at is None:
            return False
        return paced or now - self._cleared_at > self.step * _DOUBLINGS
