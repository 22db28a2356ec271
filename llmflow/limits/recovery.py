"""Resumes after a rejection: one probe, then a growing number."""

from __future__ import annotations

import math
from typing import Final

# A rejection comes back within a round trip, an answer takes seconds. So silence for
# twice the rejection's round trip means that the probe was let in.
_GRACE_LEAST: Final = 0.02
_GRACE_MOST: Final = 1.0
# Without a known request rate the release doubles in steps of this many seconds at least.
_STEP_LEAST: Final = 0.25
_DOUBLINGS: Final = 12


class Recovery:
    """Admission between the end of a pause and normal service.

    First one request, the probe. When it is answered, or not rejected within a
    grace time, the rest follows: at the buckets' own pace where a request limit
    is known, else twice as many with every step of time.

    Args:
        round_trip: seconds from sending to the rejection that caused the pause.
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
