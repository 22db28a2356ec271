"""Messages for calls that a budget refuses."""

from __future__ import annotations

from llmflow.budget.value import Budget, Estimate, Spent
from llmflow.errors import TooLargeForBudgetError
from llmflow.format import dollars


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

    `reached` is the limit, as the field of `Budget` is called.
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
    """Return the refusal of a call that exceeds the whole budget."""
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
