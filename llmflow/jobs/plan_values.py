"""Values of a plan: amounts with bounds, and the plan itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from llmflow.pricing import Price


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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """Estimate of a run; ``print(plan)`` and notebooks show it as a table.

    Args:
        model: the model string.
        items: rows.
        unusable: rows that no prompt can be made of; they fail without being asked.
        first_unusable: the first one's index, from 0, and what is wrong with it; or None.
        skips_unusable: whether they are left out instead.
        empty: rows with nothing in their prompt fields.
        first_empty: the first one's index, or None.
        skips_empty: whether they are left out; else they are asked as they are.
        too_long: rows with more tokens than the model takes; they are not in the price.
        first_too_long: the first one's index, or None.
        max_input_tokens: what the model takes; None where that is not known.
        run: the name of the run; None where answers are not kept.
        run_exists: whether there has been a session of it.
        answered: rows that the run has an answer to, which are not asked again.
        failed_before: rows that failed for good in it; asked again only with ``--retry-failed``.
        repeated: rows that ask what an earlier row asks.
        left: rows that are left to ask and to pay.
        input_tokens: of the prompts of all rows that can be asked.
        input_tokens_left: of those that are left.
        measured: of how many rows the tokens were counted.
        counting: how tokens are counted.
        corrected_by: from how many prompts' tokens, as counted by the provider, the counts
            were corrected; 0 where they were not.
        output: how long answers are expected to be.
        output_tokens_left: of all answers that are left.
        price: what tokens cost; None where nobody knows.
        price_source: who says so: a day, or a line of a file.
        cost: of what is left, in US dollars; None where no price is known.
        input_cost: the part of it that the prompts cost.
        batch_cost: the same in a batch job; None where no price of it is known.
        primer: what a cache primer saves in a batch job; None where no beginning is marked.
        paces: how long each limit makes it take; empty where none is known.
        binding: the one that makes it take longest; None where none is known.
        budget: how far a budget goes; None without one.
        sample: the sample that was asked, or None.
    """

    model: str
    items: int
    unusable: int
    first_unusable: tuple[int, str] | None
    skips_unusable: bool
    empty: int
    first_empty: int | None
    skips_empty: bool
    too_long: int
    first_too_long: int | None
    max_input_tokens: int | None
    run: str | None
    run_exists: bool
    answered: int
    failed_before: int
    repeated: int
    left: int
    input_tokens: Span
    input_tokens_left: Span
    measured: int
    counting: str
    corrected_by: int
    output: Output
    output_tokens_left: Span
    price: Price | None
    price_source: str | None
    cost: Span | None
    input_cost: Span | None
    batch_cost: Span | None
    primer: Primer | None
    paces: tuple[Pace, ...]
    binding: Pace | None
    budget: BudgetReach | None
    sample: Sampled | None

    def __str__(self) -> str:
        from llmflow.jobs.plan_text import PYTHON, lines, text_table

        return text_table(self._title, lines(self, PYTHON))

    def __repr__(self) -> str:
        from llmflow.jobs.plan_text import short

        return f"<Plan: {short(self)}>"

    def _repr_html_(self) -> str:
        from llmflow.jobs.plan_text import PYTHON, html_table, lines

        return html_table(self._title, lines(self, PYTHON))

    @property
    def _title(self) -> str:
        return f"plan: {self.model}"

    @property
    def seconds(self) -> Span | None:
        """Time that it takes at least; None if no limit is known."""
        return None if self.binding is None else self.binding.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; amounts as ``low``, ``likely``, ``high``."""
        data: dict[str, Any] = _plain({**asdict(self), "seconds": self.seconds})
        first = self.first_unusable
        data["first_unusable"] = first and {"index": first[0], "reason": first[1]}
        return data


def _plain(value: Any) -> Any:
    if isinstance(value, Span):
        return {name: _plain(amount) for name, amount in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value
