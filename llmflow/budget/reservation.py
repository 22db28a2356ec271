"""The reservation of one call, and why a budget refuses one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from llmflow.budget.value import Budget, Estimate, Spent
from llmflow.errors import TooLargeForBudgetError
from llmflow.format import dollars
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.budget.ledger import Ledger

WAITING: Final = 0
GRANTED: Final = 1
OVER: Final = 2


class Reservation:
    """The right to make one call, and its reserve until settled."""

    __slots__ = ("_ledger", "abandoned", "anew", "estimate", "future", "loop", "refused", "state")

    def __init__(
        self, ledger: Ledger, estimate: Estimate, anew: Callable[[], Estimate] | None = None
    ) -> None:
        self.estimate = estimate
        self.anew = anew
        self._ledger = ledger
        self.state = WAITING
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[None] | None = None
        self.abandoned: Callable[[], None] | None = None
        """Called where the loop of its call was closed: nobody else will end it."""
        self.refused: TooLargeForBudgetError | None = None
        """Why this call alone was refused, if it was."""

    def __repr__(self) -> str:
        names = {WAITING: "waiting", GRANTED: "granted", OVER: "over"}
        return f"<Reservation of {self.estimate}: {names[self.state]}>"

    def settle(
        self, *, usd: float | None = 0.0, tokens: float | None = 0.0, requests: float = 1.0
    ) -> Spent:
        """Replace the reserve by the real cost, once; return that.

        Args:
            usd: US dollars; None: nobody knows, so what was reserved.
            tokens: input and output tokens; None: likewise.
            requests: how often the request was sent.
        """
        estimate = self.estimate
        usd = estimate.usd if usd is None else usd
        tokens = estimate.tokens if tokens is None else tokens
        # A provider's own numbers: nothing that it says makes the budget larger.
        spent = Spent(
            usd if usd > 0.0 else 0.0,
            tokens if tokens > 0.0 else 0.0,
            requests if requests > 0.0 else 0.0,
        )
        self._ledger.end(self, spent)
        return spent

    def settle_with(self, response: Response, *, counted: float = 0.0) -> Spent:
        """Settle with an answer; return what was spent beyond what it tells.

        An answer that does not say what it used is taken to have used what was reserved.
        """
        tokens, cost = response.usage.total_tokens, response.cost
        spent = self.settle(
            usd=cost if tokens or cost else None,
            tokens=tokens or None,
            requests=response.attempts - counted,
        )
        return Spent(spent.usd - max(0.0, cost or 0.0), spent.tokens - max(0, tokens))

    def release(self) -> None:
        """Give everything back: nothing was spent. Does nothing after `settle`."""
        self._ledger.end(self, None)

    @property
    def is_over(self) -> bool:
        """True if it was settled or given back."""
        return self.state == OVER


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
