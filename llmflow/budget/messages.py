"""Messages about budgets that are used up."""

from __future__ import annotations

from llmflow.budget.value import Budget, Estimate, Spent
from llmflow.errors import TooLargeForBudgetError


def refusal(
    reached: str,
    budget: Budget,
    spent: Spent,
    reserved: Spent,
    *,
    under_way: int,
    estimate: Estimate,
) -> str:
    """Return why a call is refused, and what to do.

    Args:
        reached: the limit, as the field of `Budget` is called.
        budget: what may be spent.
        spent: what was.
        reserved: what the calls under way may come to.
        under_way: how many calls those are.
        estimate: what the refused call may come to.
    """
    limit = float(getattr(budget, reached))
    remedy = "Raise the budget and run again: what is in the journal costs nothing."
    if reached == "seconds":
        return f"the budget of {limit:,g} seconds is used up. {remedy}"
    used, held, need = (
        _amount(reached, getattr(each, reached)) for each in (spent, reserved, estimate)
    )
    calls = "1 call" if under_way == 1 else f"{under_way:,} calls"
    waiting = f" and {held} reserved for {calls} under way" if under_way else ""
    return (
        f"the budget of {_amount(reached, limit)} is reached: {used} spent{waiting}, and the "
        f"next call may come to {need}. {remedy}"
    )


def too_large(dimension: str, budget: Budget, estimate: Estimate) -> TooLargeForBudgetError:
    """Return the refusal of a call above the whole budget.

    Args:
        dimension: what is too small, as the field of `Budget` is called.
        budget: what may be spent.
        estimate: what the call may come to.
    """
    limit, needed = float(getattr(budget, dimension)), float(getattr(estimate, dimension))
    return TooLargeForBudgetError(
        f"this call alone may come to {_amount(dimension, needed)}, which is above the whole "
        f"budget of {_amount(dimension, limit)}; other calls go on. Shorten its prompt, lower "
        "max_tokens, or raise the budget.",
        dimension=dimension,
        needed=needed,
        limit=limit,
    )


def _amount(unit: str, value: float) -> str:
    if unit != "usd":
        return f"{value:,.0f} {unit.removesuffix('s') if value == 1 else unit}"
    return dollars(value)


def dollars(value: float) -> str:
    """Return an amount of money with enough digits for small prices.

    >>> dollars(5), dollars(0.0123456), dollars(1234.5), dollars(0.0000042)
    ('$5.00', '$0.0123', '$1,234.50', '$0.0000042')
    """
    if value >= 1 or value == 0:
        return f"${value:,.2f}"
    digits = 4
    while digits < 10 and round(value, digits) < 100 * 10**-digits and value < 0.001:
        digits += 1
    text = f"{value:.{digits}f}"
    whole, _, fraction = text.partition(".")
    return f"${whole}.{fraction.rstrip('0').ljust(2, '0')}"
