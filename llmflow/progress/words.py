"""Amounts and durations as people write them."""

from __future__ import annotations

from llmflow.budget.messages import dollars
from llmflow.budget.state import LedgerState

_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def duration(seconds: float) -> str:
    """Return a duration as people write it.

    >>> duration(3725)
    '1 h 2 min'
    """
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours / 24:.0f} days"


def per_second(rate: float) -> str:
    """Format a rate with three digits, or all before the point.

    >>> per_second(0.7871), per_second(49.86), per_second(18_461.5)
    ('0.787/s', '49.9/s', '18,462/s')
    """
    return f"{rate:,.0f}/s" if rate >= 999.5 else f"{rate:.3g}/s"


def compact(number: float) -> str:
    """Return a number in three digits or so.

    >>> compact(950), compact(12_345), compact(2_000_000)
    ('950', '12.3k', '2M')
    """
    for size, unit in _UNITS:
        if number >= size * 0.9995:
            return f"{number / size:.{4 if number >= 1e3 * size else 3}g}{unit}"
    return f"{number:.0f}"


def budget_words(state: LedgerState) -> list[str]:
    """Return the used part of each limit, such as ``$0.41 of $5.00``."""
    budget, spent, words = state.budget, state.spent, []
    if budget.usd is not None:
        words.append(f"{dollars(spent.usd)} of {dollars(float(budget.usd))}")
    if budget.tokens is not None:
        words.append(f"{compact(spent.tokens)} of {compact(float(budget.tokens))} tokens")
    if budget.requests is not None:
        words.append(f"{spent.requests:,.0f} of {float(budget.requests):,.0f} requests")
    if budget.seconds is not None:
        words.append(f"{duration(state.seconds)} of {duration(float(budget.seconds))}")
    return words
