"""Values of a plan: amounts with bounds, and what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple


class Span(NamedTuple):
    """An uncertain amount: a likely value between two bounds.

    >>> Span.exactly(3) + Span(1, 2, 4)
    Span(low=4.0, likely=5.0, high=7.0)
    """

    low: float
    likely: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Span:
        """Return an amount that is known."""
        return cls(float(value), float(value), float(value))

    def __add__(self, other: object) -> Span:
        if not isinstance(other, Span):
            return NotImplemented
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def times(self, factor: float) -> Span:
        """Return so many times the amount; `factor` is at least 0."""
        if not factor:
            return Span.exactly(0)  # of what has no known bound, too
        return Span(self.low * factor, self.likely * factor, self.high * factor)

    def by(self, other: Span) -> Span:
        """Return the product with another uncertain amount."""
        return Span(self.low * other.low, self.likely * other.likely, self.high * other.high)

    @property
    def is_exact(self) -> bool:
        """True if it is known exactly."""
        return self.low == self.high


SAMPLE: Final = "sample"
RUN: Final = "run"
HISTORY: Final = "history"
MAX_TOKENS: Final = "max_tokens"
ASSUMED: Final = "assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Expected length of answers, and its basis.

    Args:
        each: tokens of one answer, on average.
        basis: ``sample``: items of this input that were asked for the plan; ``run``: answers
            that the run has already; ``history``: earlier runs of the same model;
            ``max_tokens``: the bound of the request, so at most; ``assumed``: nothing is known.
        answers: from how many answers that is.
    """

    each: Span
    basis: str
    answers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Time that one limit makes a run take.

    Args:
        dimension: the limit, such as ``"rpm"``; or ``"in_flight"``: answers that are waited for.
        limit: what it is, per minute or day; or how many calls are in flight.
        origin: who says so.
        charge: what the run needs of it, in the limit's unit; seconds for ``"in_flight"``.
        seconds: how long that takes at the least.
        days: on how many days the run asks, where the limit is a day's; else 1.
    """

    dimension: str
    limit: float
    origin: str
    charge: Span
    seconds: Span
    days: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Primer:
    """Savings of a cache primer: a first job of one row.

    Args:
        tokens: of the marked beginning that all rows share, estimated.
        usd: what reading saves against writing it, if all rows but one read it.
        chosen: whether such a job goes first.
    """

    tokens: int
    usd: float
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReach:
    """Number of items that a budget covers.

    Args:
        usd: the budget, in US dollars.
        spent: what the run has spent of it before.
        items: for how many of the items that are left it reaches.
    """

    usd: float
    spent: float
    items: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A sample that was asked for the plan.

    Args:
        items: how many items.
        new: how many of them were not answered before, and are now.
        failed: how many failed.
        failure: what the first of those said, or None.
        seconds: how long an answer took on average; None where none was new.
        cost: what the new answers cost, in US dollars; None where nobody knows.
        kept: whether the run's journal holds them, so that the run does not pay again.
    """

    items: int
    new: int
    failed: int
    failure: str | None
    seconds: float | None
    cost: float | None
    kept: bool
