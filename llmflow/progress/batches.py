"""Batch jobs in the progress display: states, rows and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmflow.format import counted, duration


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchView:
    """The batch jobs of some work at one moment.

    >>> BatchView(states={"running": 2}, rows=100, done=40, age=90, left=135).words()
    'batch: 2 running, 40/100 rows, for 1 min 30 s, about 2 min 15 s left'

    When they will be done is a guess: no provider says so, and none works evenly.

    Args:
        states: what the jobs that have not ended are doing, and how many do so.
        rows: the rows of these.
        done: how many of them are answered or failed, as far as that is known.
        age: for how many seconds the oldest job that has not ended has been there.
        left: for how many more seconds they will be, at the pace so far; None where there is none.
        latest: after how many more seconds the provider gives the last of them up; None where
            that is not known.
        trouble: why a request about them is repeated at the moment; None if none is.
        submitting: rows that were put into jobs so far, while more are; else None.
    """

    states: Mapping[str, int] = field(default_factory=dict)
    rows: int = 0
    done: int = 0
    age: float = 0.0
    left: float | None = None
    latest: float | None = None
    trouble: str | None = None
    submitting: int | None = None

    @property
    def news(self) -> tuple[object, ...]:
        """The part of it whose change is worth a new log line."""
        return (
            tuple(sorted(self.states.items())),
            self.rows,
            self.done,
            self.submitting,
            self.trouble,
        )

    def words(self) -> str:
        """Return it in one line."""
        parts = [*self._states(), *self.times()]
        if self.trouble is not None:
            parts.append(f"trying again: {self.trouble}")
        return f"batch: {', '.join(parts)}"

    def state_words(self) -> str:
        """Return what the jobs are doing, without the times."""
        parts = self._states()
        if self.trouble is not None:
            parts.insert(0, f"trying again: {self.trouble}")
        return f"batch: {', '.join(parts)}"

    def _states(self) -> list[str]:
        parts = [f"{number:,} {state}" for state, number in self.states.items()]
        if self.submitting is not None:
            parts.insert(0, f"submitting, {counted(self.submitting, 'row')} so far")
        if self.rows:
            parts.append(f"{self.done:,}/{counted(self.rows, 'row')}")
        return parts

    def times(self) -> list[str]:
        """Return the jobs' age, and the time until they expire."""
        parts = []
        if self.states and self.age >= 1.0:
            parts.append(f"for {duration(self.age)}")
        if self.left is not None:
            parts.append(f"about {duration(self.left)} left")
        elif self.states and self.latest is not None:
            parts.append(f"{duration(self.latest)} left at the most")
        return parts
