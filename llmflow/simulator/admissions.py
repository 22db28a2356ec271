"""What was admitted when, and the latency that was drawn for it: what an ideal needs."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmflow.simulator.settings import Faults

_KINDS: tuple[str | None, ...] = (None, *(kind for kind, _ in Faults().table()))


class Admission(NamedTuple):
    """One admitted request.

    Attributes:
        at: monotonic seconds of its admission.
        latency: seconds from then until its answer ends; a fault's where it has one.
        tokens: what it was charged on arrival, and of that `input` and `output`.
        input: see `tokens`.
        output: see `tokens`.
        produced: tokens that are charged evenly during its latency.
        fault: the fault injected, or None.

    """

    at: float
    latency: float
    tokens: float
    input: float
    output: float
    produced: int
    fault: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admissions:
    """The first admissions since the start or the last reset, in their order.

    Args:
        started: monotonic seconds at which counting began.
        rows: one for each.
        dropped: admissions beyond the setting `record`, which were counted only.

    """

    started: float
    rows: tuple[Admission, ...]
    dropped: int

    def to_dict(self) -> dict[str, Any]:
        """Return what ``GET /admissions`` serves."""
        rows = [tuple(row) for row in self.rows]
        return {"started": self.started, "dropped": self.dropped, "rows": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Admissions:
        """Read what ``GET /admissions`` served."""
        rows = tuple(Admission(*row) for row in data["rows"])
        return cls(started=data["started"], dropped=data["dropped"], rows=rows)


class AdmissionTally:
    """Keeps so many admissions, in 56 bytes each, and counts the rest.

    >>> tally = AdmissionTally(1, now=0.0)
    >>> for moment in (1.0, 2.0):
    ...     tally.add(Admission(moment, 0.5, 10, 10, 0, 0, None))
    >>> len(tally.snapshot().rows), tally.snapshot().dropped
    (1, 1)
    """

    def __init__(self, most: int, *, now: float) -> None:
        self._most = most
        self._started = now
        self._count = 0
        self._numbers = array("d")

    def add(self, admission: Admission) -> None:
        """Keep an admission while there is room."""
        self._count += 1
        if self._count <= self._most:
            self._numbers.extend((*admission[:-1], _KINDS.index(admission.fault)))

    def snapshot(self) -> Admissions:
        """Return what is kept."""
        width = len(Admission._fields)
        rows = []
        for begin in range(0, len(self._numbers), width):
            at, seconds, tokens, given, output, made, kind = self._numbers[begin : begin + width]
            fault = _KINDS[int(kind)]
            rows.append(Admission(at, seconds, tokens, given, output, int(made), fault))
        dropped = self._count - len(rows)
        return Admissions(started=self._started, rows=tuple(rows), dropped=dropped)
