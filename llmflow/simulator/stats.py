"""What the simulated provider really saw, in bounded memory."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from llmflow.simulator.batches.ledger import BatchCounts
from llmflow.simulator.timeline import Timeline, TimelineTally

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
        """How many requests were rejected with a 429, whatever the reason."""
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
        self.refused: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
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
        """Count the end of an admitted request, and what it cost beside its first charge."""
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
        return SimulatorStats(
            received=self.received,
            admitted=self.admitted,
            answered=self.answered,
            refused=dict(self.refused),
            rejected=dict(self.rejected),
            faults=dict(self.faults),
            client_disconnects=self.client_disconnects,
            tokens_charged=self.tokens_charged,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            in_flight=self.in_flight,
            max_in_flight=self.max_in_flight,
            first_arrival=self.first_arrival,
            last_arrival=self.last_arrival,
            started=self.started,
            admitted_per_second=tuple(self._seconds),
            timeline=self._timeline.snapshot(),
            batches=batches or BatchCounts(),
        )
