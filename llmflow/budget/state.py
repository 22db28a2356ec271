"""Snapshot of a ledger, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llmflow.budget.value import DIMENSIONS, Budget, Spent


class Remaining(NamedTuple):
    """The rest of the budget per unit; None where unlimited."""

    usd: float | None
    tokens: float | None
    requests: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """The state of a ledger at one moment.

    Args:
        budget: what may be spent.
        spent: what was, earlier sessions of the run included.
        reserved: what the calls under way may still come to.
        under_way: how many calls those are.
        waiting: calls that wait for one of them to need less than it reserved.
        seconds: how long this session has been going.
        reached: the limit that has ended the run, such as ``"usd"``; None while it goes on.
    """

    budget: Budget
    spent: Spent
    reserved: Spent
    under_way: int
    waiting: int
    seconds: float
    reached: str | None

    @property
    def share(self) -> float:
        """The spent share of the scarcest unit, from 0 to 1."""
        limits = (getattr(self.budget, name) for name in DIMENSIONS)
        used = (*self.spent, self.seconds)
        return min(
            1.0,
            max((u / limit for u, limit in zip(used, limits, strict=True) if limit), default=0.0),
        )
