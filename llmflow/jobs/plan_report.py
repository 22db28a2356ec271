"""The plan of a run, and its lines as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llmflow.format import counted, dollars, duration, printable
from llmflow.jobs.plan_table import Line, html_table, text_table
from llmflow.jobs.plan_values import (
    ASSUMED,
    HISTORY,
    MAX_TOKENS,
    RUN,
    SAMPLE,
    BudgetReach,
    Output,
    Pace,
    Primer,
    Sampled,
    Span,
)

if TYPE_CHECKING:
    from llmflow.pricing import Price

_NARROW: Final = 0.005


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


class Spelling(NamedTuple):
    """Options as they are written on a command line or in Python."""

    run: str
    retry_failed: str
    cache: str
    sample: str
    exact: str
    max_tokens: str
    empty: str


COMMAND: Final = Spelling(
    run="name it with --run, or its output with -o",
    retry_failed="--retry-failed",
    cache="--cache",
    sample="--sample 20",
    exact="--exact",
    max_tokens="--max-tokens",
    empty="asked all the same without --skip-empty",
)
"""On the command line."""
PYTHON: Final = Spelling(
    run='name it with run="..."',
    retry_failed="retry_failed=True",
    cache="cache=True",
    sample="sample=20",
    exact="exact=True",
    max_tokens="max_tokens=...",
    empty="asked all the same",
)
"""In a program, or a notebook."""


def lines(plan: Plan, spelling: Spelling = COMMAND) -> Iterator[Line]:
    """Yield a plan's lines, for people."""
    yield Line("rows", f"{plan.items:,}")
    yield from _not_asked(plan, spelling)
    yield Line("left to ask", f"{plan.left:,}")
    if plan.left:
        how = _input_words(plan, spelling)
        yield Line("input tokens", _tokens(plan.input_tokens_left), how)
        yield _output(plan, spelling)
    yield from _cost(plan)
    yield from _time(plan)
    if plan.budget is not None:
        yield _budget(plan)
    if plan.sample is not None:
        yield _sample(plan)


def short(plan: Plan) -> str:
    """Return what a plan comes to in one line."""
    told = {line.what: line.amount for line in lines(plan)}
    rows = f"{plan.left:,} of {counted(plan.items, 'row')} left to ask"
    parts = (f"{rows} {plan.model}", f"cost {told['cost']}", f"time {told['time']}")
    return printable(", ".join(parts))


def _not_asked(plan: Plan, spelling: Spelling) -> Iterator[Line]:
    if plan.first_unusable is not None:
        what = "left out" if plan.skips_unusable else "cannot be asked"
        yield Line(what, f"{plan.unusable:,}", f"the first: {plan.first_unusable[1]}")
    if plan.empty:
        yield _empty(plan, spelling)
    if plan.first_too_long is not None:
        takes = f"{plan.model} takes {plan.max_input_tokens:,} tokens"
        yield Line(
            "too long", f"{plan.too_long:,}", f"{takes}; the first is row {plan.first_too_long}"
        )
    if plan.run is None:
        how = f"no run is named: {spelling.run}"
        yield Line("answered already", "-", how)
    elif not plan.run_exists:
        yield Line("answered already", "0", f"run {plan.run} is new")
    else:
        yield Line("answered already", f"{plan.answered:,}", f"in run {plan.run}, at no cost")
    if plan.failed_before:
        how = f"not retried without {spelling.retry_failed}"
        yield Line("failed before", f"{plan.failed_before:,}", how)
    if plan.repeated:
        how = f"identical to an earlier row; {spelling.cache} reuses its answer"
        yield Line("repeated", f"{plan.repeated:,}", how)


def _empty(plan: Plan, spelling: Spelling) -> Line:
    fields = f"nothing in the prompt's fields; the first is row {plan.first_empty}"
    if plan.skips_empty:
        return Line("left out", f"{plan.empty:,}", fields)
    return Line("empty", f"{plan.empty:,}", f"{fields}; {spelling.empty}")


def _input_words(plan: Plan, spelling: Spelling) -> str:
    asked = plan.items - plan.unusable - plan.too_long
    if plan.skips_empty:
        asked -= plan.empty
    words = [plan.counting]
    if plan.measured < asked:
        words.append(f"a sample of {plan.measured:,} rows; {spelling.exact} counts all")
    if plan.corrected_by:
        words.append(f"corrected by the provider's own count of {plan.corrected_by:,} prompts")
    elif plan.counting.startswith("estimate"):
        words.append(f"within a factor of two; {spelling.sample} corrects it")
    return "; ".join(words)


def _output(plan: Plan, spelling: Spelling) -> Line:
    output = plan.output
    each = f"{output.each.likely:,.0f} each"
    count = counted(output.answers, "answer")
    how = {
        SAMPLE: f"{each}, the average of {count} to these rows",
        RUN: f"{each}, the average of {count} of this run",
        HISTORY: f"{each}, the average of {count} of earlier runs, perhaps to other prompts",
        MAX_TOKENS: f"{each} at most, by max_tokens; {spelling.sample} measures it",
        ASSUMED: f"{each} assumed, nothing is known; {spelling.sample} measures it, "
        f"{spelling.max_tokens} bounds it",
    }[output.basis]
    return Line("output tokens", _amount(plan, plan.output_tokens_left, _count), how)


def _amount(plan: Plan, span: Span, text: Callable[[float], str]) -> str:
    """Return an amount by answer lengths; of a bound, only its end."""
    if plan.output.basis == MAX_TOKENS and span.low != span.high:
        return f"at most {text(span.high)}"
    if plan.output.basis == ASSUMED and plan.left:
        return f"about {text(span.likely)}"  # between nothing and all that the model gives
    return _between(span, text)


def _tokens(span: Span) -> str:
    return _between(span, _count, exact=f"{span.likely:,.0f}")


def _count(value: float) -> str:
    return f"{_rounded(value):,}"


def _cost(plan: Plan) -> Iterator[Line]:
    if plan.price is None or plan.cost is None or plan.input_cost is None:
        how = f"the price of {plan.model} is not known: llmflow.toml can set it"
        yield Line("cost", "unknown", how)
        return
    if plan.price.is_free:
        yield Line("cost", "free", plan.price_source or f"{plan.model} costs nothing")
        return
    how = f"{plan.price}, {plan.price_source}"
    if plan.output.basis in (MAX_TOKENS, ASSUMED) and plan.left:
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


def _between(span: Span, text: Callable[[float], str], *, exact: str | None = None) -> str:
    """Return an amount with its range, if that is bounded."""
    if span.low == span.high:
        return text(span.likely) if exact is None else exact
    likely = text(span.likely)
    if math.isinf(span.high):
        return f"about {likely}"
    low, high = text(span.low), text(span.high)
    # Three digits say as much as a range that is narrower than that.
    narrow = low == high or span.high - span.low <= _NARROW * span.likely
    return f"about {likely}" if narrow else f"about {likely} ({low} to {high})"


def _time(plan: Plan) -> Iterator[Line]:
    if not plan.left:
        yield Line("time", "none", "nothing is left to ask")
        return
    binding = plan.binding
    if binding is None:
        how = "no quota is known; `llmflow quotas --probe` asks what the provider allows"
        yield Line("time", "unknown", how)
        return
    measured = any(pace.dimension == "in_flight" for pace in plan.paces)
    how = f"limited by {_limit(binding)}"
    if binding.days > 1:
        how += "; the run stops where a day's limit is used up: run it again the next day"
    elif not measured:
        how += "; how long an answer takes is not known"
    others = [f"{_limit(pace)}: {_takes(pace)}" for pace in plan.paces if pace is not binding]
    if others:
        how += f". By {'; '.join(others)}"
    yield Line("time", f"at least {_takes(binding)}" if not measured else _takes(binding), how)


def _limit(pace: Pace) -> str:
    if pace.dimension == "in_flight":
        return f"{pace.limit:,.0f} in flight, {pace.origin}"
    return f"{pace.dimension} {pace.limit:,.0f} ({pace.origin})"


def _takes(pace: Pace) -> str:
    if pace.days > 1:
        return f"{pace.days:,} days"
    return duration(pace.seconds.likely)


def _budget(plan: Plan) -> Line:
    budget = plan.budget
    assert budget is not None
    amount = dollars(budget.usd)
    spent = f", with {dollars(budget.spent)} of it spent" if budget.spent else ""
    if budget.items.low >= plan.left:
        return Line("budget", amount, f"covers all rows{spent}")
    low, likely, high = (f"{each:,.0f}" for each in budget.items)
    between = likely if low == high else f"about {likely} ({low} to {high})"
    if plan.output.basis == MAX_TOKENS and low != high:
        between = f"at least {low}"
    return Line("budget", amount, f"covers {between} of {plan.left:,} rows{spent}")


def _sample(plan: Plan) -> Line:
    asked = plan.sample
    assert asked is not None
    words = [f"{asked.new:,} answered"]
    if asked.cost is not None and asked.cost:
        words.append(f"for {dollars(asked.cost)}")
    if asked.new:
        words.append("and kept in the run" if asked.kept else "and not kept: there is no run")
    if asked.failed:
        words.append(f"; {asked.failed:,} failed, such as {asked.failure}")
    return Line("sample", f"{asked.items:,}", " ".join(words).replace(" ;", ";"))


def _rounded(value: float) -> int:
    """Return a number rounded to three significant digits."""
    digits = 3 - len(str(round(value)))
    return int(round(value, min(0, digits)))


def _plain(value: Any) -> Any:
    if isinstance(value, Span):
        return {name: _plain(amount) for name, amount in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isinf(value) else value
