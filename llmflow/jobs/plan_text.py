"""A plan in words: what, how much, and how that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from llmflow.format import counted, dollars, duration, printable
from llmflow.jobs.plan import Plan
from llmflow.jobs.plan_values import ASSUMED, HISTORY, MAX_TOKENS, RUN, SAMPLE, Pace, Span

_NARROW: Final = 0.005


class Line(NamedTuple):
    """One line of a plan.

    Args:
        what: what it is about.
        amount: how much that is.
        how: how that is known, and what follows; may be empty.
    """

    what: str
    amount: str
    how: str = ""


class Spelling(NamedTuple):
    """How what the words advise is written where they are read."""

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
        how = f"no run to look into: {spelling.run}"
        yield Line("answered already", "-", how)
    elif not plan.run_exists:
        yield Line("answered already", "0", f"the run {plan.run} is a new one")
    else:
        yield Line("answered already", f"{plan.answered:,}", f"in the run {plan.run}, at no cost")
    if plan.failed_before:
        how = f"not asked again without {spelling.retry_failed}"
        yield Line("failed before", f"{plan.failed_before:,}", how)
    if plan.repeated:
        asks, they = ("asks", "it has") if plan.repeated == 1 else ("ask", "they have")
        how = f"{asks} what an earlier row asks; with {spelling.cache} {they} its answer"
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
        MAX_TOKENS: f"{each} at most, by max_tokens; {spelling.sample} tells how many come",
        ASSUMED: f"{each} are assumed, nothing is known; {spelling.sample} or "
        f"{spelling.max_tokens} tells",
    }[output.basis]
    return Line("output tokens", _amount(plan, plan.output_tokens_left, _count), how)


def _amount(plan: Plan, span: Span, text: Callable[[float], str]) -> str:
    """Return what depends on the answers' length: of a mere bound, only the upper end."""
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
        how = f"the price of {plan.model} is not known: llmflow.toml can tell it"
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
            f"all rows but it read the {primer.tokens:,} marked tokens, which else each writes, "
            "at a price that is not counted above"
        )
        if not primer.chosen:
            how += "; [batch] primer = true has one row go first"
        yield Line("a cache primer saves", f"up to {dollars(primer.usd)}", how)


def _between(span: Span, text: Callable[[float], str], *, exact: str | None = None) -> str:
    """Return an amount with its range, as far as that has two ends."""
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
    how = f"bound by {_limit(binding)}"
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
    spent = f", of which {dollars(budget.spent)} are spent" if budget.spent else ""
    if budget.items.low >= plan.left:
        return Line("budget", amount, f"reaches for all{spent}")
    low, likely, high = (f"{each:,.0f}" for each in budget.items)
    between = likely if low == high else f"about {likely} ({low} to {high})"
    if plan.output.basis == MAX_TOKENS and low != high:
        between = f"at least {low}"
    return Line("budget", amount, f"reaches for {between} of {plan.left:,}{spent}")


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
    """Return a number with three digits that count, which is more than a forecast has."""
    digits = 3 - len(str(round(value)))
    return int(round(value, min(0, digits)))
