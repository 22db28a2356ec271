"""Counters, timeline and admissions of the simulator, in bounded memory."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from llmflow.simulator.batches.store import BatchCounts
from llmflow.simulator.faults import Faults

_BIN_SECONDS = 0.25
_MAX_BINS = 2400
_COUNTS = ("admitted", "rejected", "answered", "max_in_flight")
_COLUMNS = (*_COUNTS, "tokens_charged")
_N = TypeVar("_N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Counts per span of time since the start.

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
        values: dict[str, Any] = {n: tuple(v) if n in _COLUMNS else v for n, v in data.items()}
        return cls(**values)


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
        self._counts: dict[str, list[int]] = {name: [0] for name in _COUNTS}
        self._tokens = [0.0]

    def admit(self, tokens: float, in_flight: int, *, now: float) -> None:
        """Count an admission."""
        self._count("admitted", now)
        self._tokens[-1] += tokens
        self._in_flight = in_flight
        top = self._counts["max_in_flight"]
        if in_flight > top[-1]:
            top[-1] = in_flight

    def reject(self, *, now: float) -> None:
        """Count a rejection."""
        self._count("rejected", now)

    def answer(self, *, now: float) -> None:
        """Count an answer."""
        self._count("answered", now)

    def end(self, tokens: float, in_flight: int, *, now: float) -> None:
        """Count the end of a request, and its further cost."""
        self._turn(now)
        self._tokens[-1] += tokens
        self._in_flight = in_flight

    def snapshot(self) -> Timeline:
        """Return the course up to the last event."""
        columns: dict[str, Any] = {name: tuple(column) for name, column in self._counts.items()}
        return Timeline(bin_seconds=self._width, tokens_charged=tuple(self._tokens), **columns)

    def _count(self, name: str, now: float) -> None:
        self._turn(now)
        self._counts[name][-1] += 1

    def _turn(self, now: float) -> None:
        """Open the span of this moment, and all before it."""
        index = int((now - self._started) / self._width)
        if index < len(self._tokens):
            return
        while index >= _MAX_BINS:
            self._width *= 2
            for name, column in self._counts.items():
                self._counts[name] = _merged(column, max if name == "max_in_flight" else sum)
            self._tokens = _merged(self._tokens, sum)
            index //= 2
        missing = index + 1 - len(self._tokens)
        for name, column in self._counts.items():
            column.extend([self._in_flight if name == "max_in_flight" else 0] * missing)
        self._tokens.extend([0.0] * missing)


def _merged(column: list[_N], fold: Callable[[list[_N]], Any]) -> list[_N]:
    return [fold(column[place : place + 2]) for place in range(0, len(column), 2)]


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
    """The first admissions since the start or the last reset.

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
        numbers = [iter(self._numbers)] * len(Admission._fields)
        rows = tuple(
            Admission._make((*more, int(produced), _KINDS[int(kind)]))
            for *more, produced, kind in zip(*numbers, strict=True)
        )
        return Admissions(started=self._started, rows=rows, dropped=self._count - len(rows))


_HISTORY_SECONDS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorStats:
    """Counts since the start or the last reset.

    Args:
        received: requests for an answer that arrived whole, in all dialects.
        admitted: requests that passed the quota, faults among them.
        answered: answers sent whole with HTTP 200.
        refused: requests that were wrong in themselves, by HTTP status.
        rejected: requests over the quota, by reason.
        faults: injected faults by kind.
        invalid_answers: live answers that did not fit their schema on purpose, by what was
            wrong; see `SimulatorSettings.invalid_answer_rate`. Those of batch jobs are
            in `batches`.
        client_disconnects: clients that left before their answer; hangs among them.
        tokens_charged: tokens charged: on arrival, while an answer was produced, and what
            was given back taken off.
        input_tokens: tokens of the prompts that were answered.
        output_tokens: tokens of the answers.
        in_flight: requests admitted and not yet ended.
        max_in_flight: the highest value of `in_flight`.
        first_arrival: monotonic seconds of the first request's arrival, or None.
        last_arrival: the same of the last one.
        started: monotonic seconds at which counting began.
        admitted_per_second: pairs of a second since `started` and how many requests
            were admitted in it; seconds without one are left out, and all but the
            last ten minutes.
        timeline: what happened when, for plots.
        batches: jobs and rows of the batch APIs; a reset leaves them.

    """

    received: int
    admitted: int
    answered: int
    refused: Mapping[str, int]
    rejected: Mapping[str, int]
    faults: Mapping[str, int]
    invalid_answers: Mapping[str, int]
    client_disconnects: int
    tokens_charged: float
    input_tokens: int
    output_tokens: int
    in_flight: int
    max_in_flight: int
    first_arrival: float | None
    last_arrival: float | None
    started: float
    admitted_per_second: tuple[tuple[int, int], ...]
    timeline: Timeline
    batches: BatchCounts = field(default_factory=BatchCounts)

    @property
    def rejections(self) -> int:
        """The count of requests rejected with a 429."""
        return sum(self.rejected.values())

    def to_dict(self) -> dict[str, Any]:
        """Return what ``GET /stats`` serves."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**values, "timeline": self.timeline.to_dict(), "batches": self.batches.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SimulatorStats:
        """Read what ``GET /stats`` served."""
        values = {item.name: data[item.name] for item in fields(cls)}
        values["admitted_per_second"] = tuple((s, n) for s, n in data["admitted_per_second"])
        values["timeline"] = Timeline.from_dict(data["timeline"])
        values["batches"] = BatchCounts(**data["batches"])
        return cls(**values)


class Tally:
    """Counts while the simulator runs; `snapshot` gives them out."""

    def __init__(self, *, now: float) -> None:
        self.started = now
        self.received = self.admitted = self.answered = self.client_disconnects = 0
        self.refused, self.rejected, self.faults = (Counter[str]() for _ in range(3))
        self.invalid_answers = Counter[str]()
        self.tokens_charged = 0.0
        self.input_tokens = self.output_tokens = 0
        self.in_flight = self.max_in_flight = 0
        self.first_arrival: float | None = None
        self.last_arrival: float | None = None
        self._seconds: deque[tuple[int, int]] = deque()
        self._timeline = TimelineTally(now=now)

    def arrive(self, now: float) -> None:
        """Count a request that arrived."""
        self.received += 1
        self.last_arrival = now
        if self.first_arrival is None:
            self.first_arrival = now

    def admit(self, tokens: float, *, now: float) -> None:
        """Count a request that passed the quota."""
        self.admitted += 1
        self.tokens_charged += tokens
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self._timeline.admit(tokens, self.in_flight, now=now)
        second = int(now - self.started)
        seconds = self._seconds
        if seconds and seconds[-1][0] == second:
            seconds[-1] = (second, seconds[-1][1] + 1)
            return
        seconds.append((second, 1))
        while seconds[0][0] <= second - _HISTORY_SECONDS:
            seconds.popleft()

    def reject(self, reason: str, *, now: float) -> None:
        """Count a request over the quota."""
        self.rejected[reason] += 1
        self._timeline.reject(now=now)

    def end(self, tokens: float, *, now: float) -> None:
        """Count the end of an admitted request, and its further cost."""
        self.tokens_charged += tokens
        self.in_flight -= 1
        self._timeline.end(tokens, self.in_flight, now=now)

    def answer(self, input_tokens: int, output_tokens: int, *, now: float) -> None:
        """Count an answer that was sent whole."""
        self.answered += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self._timeline.answer(now=now)

    def snapshot(self, *, batches: BatchCounts | None = None) -> SimulatorStats:
        """Return the counts of this moment."""
        values: dict[str, Any] = {
            item.name: dict(value) if isinstance(value, Counter) else value
            for item in fields(SimulatorStats)
            if (value := getattr(self, item.name, self)) is not self
        }
        return SimulatorStats(
            **values,
            admitted_per_second=tuple(self._seconds),
            timeline=self._timeline.snapshot(),
            batches=batches or BatchCounts(),
        )
