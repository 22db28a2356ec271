"""The plan of a run, and its lines as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llmflow.format import counted, dollars, duration, printable
from llmflow.jobs.plan_estimates import Span
from llmflow.tables import Line, html_table, text_table

if TYPE_CHECKING:
    from llmflow.pricing import Price

COUNTS: Final = ("items", "unusable", "empty", "too_long", "answered", "failed_before", "repeated")
_NARROW: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Expected length of answers, and its basis."""

    each: Span  # tokens of one answer, on average
    # ``sample``: answers for this plan; ``run``: answers of the run; ``history``: earlier runs of
    # the model; ``max_tokens``: the bound of each answer; ``assumed``: nothing is known
    basis: str
    answers: int = 0  # from how many answers that is


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Time that one limit makes a run take."""

    dimension: str  # such as ``"rpm"``; or ``"in_flight"``: waiting for answers
    limit: float  # what it is, per minute or day; or how many calls are in flight
    origin: str  # where the limit comes from
    charge: Span  # what the run uses of it, in its unit; seconds for ``"in_flight"``
    seconds: Span  # the least time that this takes
    days: int = 1  # days on which requests are sent, for a daily limit; else 1

    def __str__(self) -> str:
        if self.dimension == "in_flight":
            return f"{self.limit:,.0f} in flight, {self.origin}"
        return f"{self.dimension} {self.limit:,.0f} ({self.origin})"

    @property
    def takes(self) -> str:
        """The time, in words."""
        return f"{self.days:,} days" if self.days > 1 else duration(self.seconds.likely)


@dataclass(frozen=True, slots=True, kw_only=True)
class Primer:
    """Savings of a cache primer: a first job of one row."""

    tokens: int  # of the marked beginning that all rows share, estimated
    usd: float  # what reading saves against writing it, if all rows but one read it
    chosen: bool  # whether such a job goes first


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetReach:
    """Number of items that a budget covers."""

    usd: float  # the budget, in US dollars
    spent: float  # what the run has spent of it before
    items: Span  # how many of the items left it covers


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """A sample that was asked for the plan."""

    items: int  # how many items
    new: int  # how many of them were not answered before, and are now
    failed: int  # how many failed
    failure: str | None  # the first error, or None
    seconds: float | None  # mean latency; None if no answer was new
    cost: float | None  # of the new answers, in US dollars, if known
    kept: bool  # whether the run's journal holds them, so that the run does not pay again


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """Estimate of a run; ``print(plan)`` and notebooks show it as a table.

    Args:
        model: the model string.
        items: rows.
        unusable: rows from which no prompt can be made; they fail without being sent.
        first_unusable: the first one's index, from 0, and what is wrong with it; or None.
        skips_unusable: whether they are left out instead.
        empty: rows with nothing in their prompt fields.
        first_empty: the first one's index, or None.
        skips_empty: whether they are left out; else they are sent as they are.
        too_long: rows with more tokens than the model takes; they are not in the price.
        first_too_long: the first one's index, or None.
        max_input_tokens: what the model takes; None where that is not known.
        run: the name of the run; None where answers are not kept.
        run_exists: whether there has been a session of it.
        answered: rows that the run has an answer to, which are not sent again.
        failed_before: rows that failed for good in it; retried only with ``--retry-failed``.
        repeated: rows that are identical to an earlier row.
        left: rows that are still to be sent and paid.
        input_tokens: of the prompts of all rows that can be asked.
        input_tokens_left: of those that are left.
        measured: of how many rows the tokens were counted.
        counting: how tokens are counted.
        corrected_by: from how many prompts' tokens, as counted by the provider, the counts
            were corrected; 0 where they were not.
        output: how long answers are expected to be.
        output_tokens_left: of all answers that are left.
        price: what tokens cost; None if that is not known.
        price_source: where it comes from: a day, or a line of a file.
        cost: of what is left, in US dollars; None where no price is known.
        input_cost: the part of it that the prompts cost.
        batch_cost: the same in a batch job; None where no price of it is known.
        primer: what a cache primer saves in a batch job; None where no beginning is marked.
        paces: the time that each known limit makes it take.
        binding: the slowest of them; None if no limit is known.
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
        return text_table(self._title, lines(self, PYTHON))

    def __repr__(self) -> str:
        return f"<Plan: {short(self)}>"

    def _repr_html_(self) -> str:
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


Spelling: TypeAlias = Mapping[str, str]
"""Options as they are written on a command line or in Python."""
COMMAND: Final[Spelling] = {
    "run": "name it with --run, or its output with -o",
    "retry_failed": "--retry-failed",
    "cache": "--cache",
    "sample": "--sample 20",
    "exact": "--exact",
    "max_tokens": "--max-tokens",
    "empty": "asked all the same without --skip-empty",
}
PYTHON: Final[Spelling] = {
    "run": 'name it with run="..."',
    "retry_failed": "retry_failed=True",
    "cache": "cache=True",
    "sample": "sample=20",
    "exact": "exact=True",
    "max_tokens": "max_tokens=...",
    "empty": "asked all the same",
}


def lines(plan: Plan, spelling: Spelling = COMMAND) -> Iterator[Line]:
    """Yield a plan's lines, for people."""
    yield Line("rows", f"{plan.items:,}")
    yield from _not_asked(plan, spelling)
    yield Line("left to ask", f"{plan.left:,}")
    if plan.left:
        yield _input(plan, spelling)
        yield _output(plan, spelling)
    yield from _cost(plan)
    yield _time(plan)
    if plan.budget is not None:
        yield _budget(plan, plan.budget)
    if plan.sample is not None:
        yield _sample(plan.sample)


def short(plan: Plan) -> str:
    """Return what a plan comes to in one line."""
    told = {line.what: line.amount for line in lines(plan)}
    rows = f"{plan.left:,} of {counted(plan.items, 'row')} left to ask {plan.model}"
    return printable(f"{rows}, cost {told['cost']}, time {told['time']}")


def _not_asked(plan: Plan, spelling: Spelling) -> Iterator[Line]:
    if plan.first_unusable is not None:
        what = "left out" if plan.skips_unusable else "cannot be asked"
        yield Line(what, f"{plan.unusable:,}", f"the first: {plan.first_unusable[1]}")
    if plan.empty:
        how = f"nothing in the prompt's fields; the first is row {plan.first_empty}"
        what = "left out" if plan.skips_empty else "empty"
        how = how if plan.skips_empty else f"{how}; {spelling['empty']}"
        yield Line(what, f"{plan.empty:,}", how)
    if plan.first_too_long is not None:
        how = f"{plan.model} takes {plan.max_input_tokens:,} tokens"
        how += f"; the first is row {plan.first_too_long}"
        yield Line("too long", f"{plan.too_long:,}", how)
    if plan.run is None:
        yield Line("answered already", "-", f"no run is named: {spelling['run']}")
    elif not plan.run_exists:
        yield Line("answered already", "0", f"run {plan.run} is new")
    else:
        yield Line("answered already", f"{plan.answered:,}", f"in run {plan.run}, at no cost")
    if plan.failed_before:
        how = f"not retried without {spelling['retry_failed']}"
        yield Line("failed before", f"{plan.failed_before:,}", how)
    if plan.repeated:
        how = f"identical to an earlier row; {spelling['cache']} reuses its answer"
        yield Line("repeated", f"{plan.repeated:,}", how)


def _input(plan: Plan, spelling: Spelling) -> Line:
    asked = plan.items - plan.unusable - plan.too_long - (plan.empty if plan.skips_empty else 0)
    words = [plan.counting]
    if plan.measured < asked:
        words.append(f"a sample of {plan.measured:,} rows; {spelling['exact']} counts all")
    if plan.corrected_by:
        words.append(f"corrected by the provider's own count of {plan.corrected_by:,} prompts")
    elif plan.counting.startswith("estimate"):
        words.append(f"within a factor of two; {spelling['sample']} corrects it")
    span = plan.input_tokens_left
    amount = f"{span.likely:,.0f}" if span.is_exact else _between(span, _count)
    return Line("input tokens", amount, "; ".join(words))


def _output(plan: Plan, spelling: Spelling) -> Line:
    each = f"{plan.output.each.likely:,.0f} each"
    count, measures = counted(plan.output.answers, "answer"), f"{spelling['sample']} measures it"
    how = {
        "sample": f", the average of {count} to these rows",
        "run": f", the average of {count} of this run",
        "history": f", the average of {count} of earlier runs, perhaps to other prompts",
        "max_tokens": f" at most, by max_tokens; {measures}",
        "assumed": f" assumed, nothing is known; {measures}, {spelling['max_tokens']} bounds it",
    }[plan.output.basis]
    return Line("output tokens", _amount(plan, plan.output_tokens_left, _count), each + how)


def _amount(plan: Plan, span: Span, text: Callable[[float], str]) -> str:
    """Return an amount by answer lengths; of a bound, only its end."""
    if plan.output.basis == "max_tokens" and not span.is_exact:
        return f"at most {text(span.high)}"
    if plan.output.basis == "assumed" and plan.left:
        return f"about {text(span.likely)}"  # between nothing and all that the model gives
    return _between(span, text)


def _between(span: Span, text: Callable[[float], str]) -> str:
    """Return an amount with its range, if that is bounded."""
    likely = text(span.likely)
    if span.is_exact:
        return likely
    if math.isinf(span.high):
        return f"about {likely}"
    low, high = text(span.low), text(span.high)
    # Three digits say as much as a range that is narrower than that.
    narrow = low == high or span.high - span.low <= _NARROW * span.likely
    return f"about {likely}" if narrow else f"about {likely} ({low} to {high})"


def _count(value: float) -> str:
    """Return a number rounded to three significant digits."""
    return f"{int(round(value, min(0, 3 - len(str(round(value)))))):,}"


def _cost(plan: Plan) -> Iterator[Line]:
    if plan.price is None or plan.cost is None or plan.input_cost is None:
        how = f"the price of {plan.model} is not known: llmflow.toml can set it"
        yield Line("cost", "unknown", how)
        return
    if plan.price.is_free:
        yield Line("cost", "free", plan.price_source or f"{plan.model} costs nothing")
        return
    how = f"{plan.price}, {plan.price_source}"
    if plan.output.basis in ("max_tokens", "assumed") and plan.left:
        how += f"; the input alone costs {_between(plan.input_cost, dollars)}"
    yield Line("cost", _amount(plan, plan.cost, dollars), how)
    if plan.batch_cost is None:
        yield Line("cost in a batch", "unknown", "no price of batch jobs is known")
    else:
        yield Line("cost in a batch", _amount(plan, plan.batch_cost, dollars))
    if (primer := plan.primer) is not None:
        how = (
            f"the other rows read the {primer.tokens:,} marked tokens instead of writing them, "
            "at a price that is not counted above"
        )
        if not primer.chosen:
            how += "; [batch] primer = true submits one row first"
        yield Line("a cache primer saves", f"up to {dollars(primer.usd)}", how)


def _time(plan: Plan) -> Line:
    if not plan.left:
        return Line("time", "none", "nothing is left to ask")
    binding = plan.binding
    if binding is None:
        how = "no quota is known; `llmflow quotas --probe` asks what the provider allows"
        return Line("time", "unknown", how)
    measured = any(pace.dimension == "in_flight" for pace in plan.paces)
    how = f"limited by {binding}"
    if binding.days > 1:
        how += "; the run stops where a day's limit is used up: run it again the next day"
    elif not measured:
        how += "; how long an answer takes is not known"
    others = [f"{pace}: {pace.takes}" for pace in plan.paces if pace is not binding]
    if others:
        how += f". By {'; '.join(others)}"
    return Line("time", binding.takes if measured else f"at least {binding.takes}", how)


def _budget(plan: Plan, budget: BudgetReach) -> Line:
    spent = f", with {dollars(budget.spent)} of it spent" if budget.spent else ""
    low, likely, high = (f"{each:,.0f}" for each in budget.items)
    covers = f"{likely} of" if low == high else f"about {likely} ({low} to {high}) of"
    if plan.output.basis == "max_tokens" and low != high:
        covers = f"at least {low} of"
    rows = "all" if budget.items.low >= plan.left else f"{covers} {plan.left:,}"
    return Line("budget", dollars(budget.usd), f"covers {rows} rows{spent}")


def _sample(asked: Sampled) -> Line:
    how = f"{asked.new:,} answered"
    if asked.cost:
        how += f" for {dollars(asked.cost)}"
    if asked.new:
        how += " and kept in the run" if asked.kept else " and not kept: there is no run"
    if asked.failed:
        how += f"; {asked.failed:,} failed, such as {asked.failure}"
    return Line("sample", f"{asked.items:,}", how)


def _plain(value: Any) -> Any:
    if isinstance(value, Span):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value
