"""A plan as text: lines, and tables for terminals and notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from llmflow.format import counted, dollars, duration, printable
from llmflow.jobs.plan_values import ASSUMED, HISTORY, MAX_TOKENS, RUN, SAMPLE, Pace, Plan, Span

_NARROW: Final = 0.005
WIDTH = 80
HEIGHT = 23  # of a screen's 24 lines one is the prompt's
_MARGIN = 2
_WIDEST_AMOUNT = 24
_NARROWEST = 40
_CELL = "text-align: left; vertical-align: top"


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


def text_table(
    title: str, lines: Iterable[Line], *, width: int = WIDTH, height: int | None = HEIGHT
) -> str:
    """Return a title and lines as a table that fits a screen.

    What a line has to say beside its amount goes under it where it does not fit; of that,
    the ends are left out where there are too many lines.

    >>> print(text_table("plan: openai/m", [Line("rows", "3"), Line("cost", "free", "why")]))
    plan: openai/m
      rows  3
      cost  free  why

    Args:
        title: the first line.
        lines: the others.
        width: columns of the screen.
        height: lines that it has room for; None for any number of them.
    """
    cells = [_printable(line) for line in lines]
    width = max(width, _NARROWEST)
    blocks = list(_blocks(cells, width))
    if height is not None:
        _shorten(blocks, width, height - 1)
    top = next(_wrapped(printable(title), width), "")
    return "\n".join([top, *(line for block in blocks for line in block)])


def html_table(title: str, lines: Iterable[Line]) -> str:
    """Return a title and lines as an escaped table for a notebook."""
    rows = [
        f'<tr><th scope="row" style="{_CELL}">{what}</th>'
        f'<td style="{_CELL}">{amount}</td><td style="{_CELL}">{how}</td></tr>'
        for what, amount, how in (map(html.escape, _printable(line)) for line in lines)
    ]
    caption = f'<caption style="text-align: left">{html.escape(printable(title))}</caption>'
    return f"<table>{caption}<tbody>{''.join(rows)}</tbody></table>"


def _printable(line: Line) -> Line:
    return Line(*map(printable, line))


def _blocks(lines: Sequence[Line], width: int) -> Iterator[list[str]]:
    """Yield each line as one or more lines of a screen."""
    first = max((_width(line.what) for line in lines), default=0)
    amounts = (_width(line.amount) for line in lines)
    second = max((each for each in amounts if each <= _WIDEST_AMOUNT), default=0)
    indent = " " * (_MARGIN + first + _MARGIN)
    for line in lines:
        amount = _padded(line.amount, second) if line.how else line.amount
        head = f"{' ' * _MARGIN}{_padded(line.what, first)}{' ' * _MARGIN}{amount}"
        whole = f"{head}{' ' * _MARGIN}{line.how}".rstrip()
        if _width(whole) <= width:
            yield [whole]
            continue
        start = f"{' ' * _MARGIN}{_padded(line.what, first)}{' ' * _MARGIN}"
        room = width - len(indent)
        yield [
            *_joined(start, indent, _wrapped(line.amount, room)),
            *(f"{indent}  {each}" for each in _wrapped(line.how, room - 2)),
        ]


def _joined(start: str, indent: str, parts: Iterable[str]) -> Iterator[str]:
    for number, part in enumerate(parts):
        yield f"{indent if number else start}{part}"


def _shorten(blocks: list[list[str]], width: int, height: int) -> None:
    """Cut the longest blocks until all of them fit."""
    while sum(map(len, blocks)) > height:
        longest = max(blocks, key=len)
        if len(longest) == 1:
            return  # nothing is left to leave out but whole amounts
        longest.pop()
        if len(longest) > 1:
            kept = longest[-1].rstrip(" …")
            while _width(kept) > width - 2:
                kept = kept[:-1]
            longest[-1] = f"{kept} …"


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Yield a text wrapped to a width, between words if possible."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if _width(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        line = word
        while _width(line) > width:
            kept = _kept(line, width)
            yield kept
            line = line[len(kept) :]
    if line:
        yield line


def _kept(text: str, width: int) -> str:
    kept = text[:width]
    while _width(kept) > width:
        kept = kept[:-1]
    return kept


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # letters of East Asia take two columns

    return cell_len(text)
