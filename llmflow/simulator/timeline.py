"""What happened when: a run's course in a bounded number of equal spans, for plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

_BIN_SECONDS = 0.25
_MAX_BINS = 2400


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Counts per span of time since the start; the n-th number is of the n-th span.

    A span lasts a quarter of a second. After 2,400 of them, pairs are merged and the
    length doubles, so that a run of any length fits.

    Args:
        bin_seconds: seconds that a span lasts.
        admitted: requests admitted.
        rejected: requests rejected for the quota.
        answered: answers sent whole.
        max_in_flight: the most requests in flight at once.
        tokens_charged: tokens charged; less than 0 where more was given back. What an
            answer is charged while it is produced counts at its end.

    """

    bin_seconds: float
    admitted: tuple[int, ...]
    rejected: tuple[int, ...]
    answered: tuple[int, ...]
    max_in_flight: tuple[int, ...]
    tokens_charged: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what ``GET /stats`` serves of it."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Timeline:
        """Read what ``GET /stats`` served."""
        names = [item.name for item in fields(cls) if item.name != "bin_seconds"]
        return cls(bin_seconds=data["bin_seconds"], **{name: tuple(data[name]) for name in names})


class TimelineTally:
    """Counts while the simulator runs; `snapshot` gives the timeline out.

    >>> tally = TimelineTally(now=0.0)
    >>> tally.admit(10, 1, now=0.1)
    >>> tally.end(-4, 0, now=0.6)
    >>> tally.snapshot().max_in_flight, tally.snapshot().tokens_charged
    ((1, 1, 1), (10.0, 0.0, -4.0))
    """

    def __init__(self, *, now: float) -> None:
        self._started = now
        self._width = _BIN_SECONDS
        self._in_flight = 0
        self._admitted = [0]
        self._rejected = [0]
        self._answered = [0]
        self._top = [0]
        self._tokens = [0.0]

    def admit(self, tokens: float, in_flight: int, *, now: float) -> None:
        """Count an admission."""
        self._turn(now)
        self._admitted[-1] += 1
        self._tokens[-1] += tokens
        self._in_flight = in_flight
        if in_flight > self._top[-1]:
            self._top[-1] = in_flight

    def reject(self, *, now: float) -> None:
        """Count a rejection."""
        self._turn(now)
        self._rejected[-1] += 1

    def answer(self, *, now: float) -> None:
        """Count an answer."""
        self._turn(now)
        self._answered[-1] += 1

    def end(self, tokens: float, in_flight: int, *, now: float) -> None:
        """Count the end of a request, and what it cost beside its first charge."""
        self._turn(now)
        self._tokens[-1] += tokens
        self._in_flight = in_flight

    def snapshot(self) -> Timeline:
        """Return the course up to the last event."""
        return Timeline(
            bin_seconds=self._width,
            admitted=tuple(self._admitted),
            rejected=tuple(self._rejected),
            answered=tuple(self._answered),
            max_in_flight=tuple(self._top),
            tokens_charged=tuple(self._tokens),
        )

    def _turn(self, now: float) -> None:
        """Open the span of this moment, and those that passed with no event."""
        index = int((now - self._started) / self._width)
        missing = index + 1 - len(self._top)
        if missing <= 0:
            return
        while index >= _MAX_BINS:
            self._merge()
            index //= 2
        missing = index + 1 - len(self._top)
        for column in (self._admitted, self._rejected, self._answered):
            column.extend([0] * missing)
        self._tokens.extend([0.0] * missing)
        self._top.extend([self._in_flight] * missing)

    def _merge(self) -> None:
        self._width *= 2
        self._admitted = _pairs(self._admitted)
        self._rejected = _pairs(self._rejected)
        self._answered = _pairs(self._answered)
        tokens = self._tokens
        self._tokens = [sum(tokens[n : n + 2]) for n in range(0, len(tokens), 2)]
        self._top = [max(self._top[n : n + 2]) for n in range(0, len(self._top), 2)]


def _pairs(counts: list[int]) -> list[int]:
    return [sum(counts[n : n + 2]) for n in range(0, len(counts), 2)]
