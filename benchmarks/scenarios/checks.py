"""Figures with a target each, for scenarios that have more to say than one ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Check(NamedTuple):
    """One figure, and what is asked of it.

    Args:
        what: the figure in words.
        value: what was measured.
        unit: put behind the number; ``x`` for a ratio.
        most: the target where less is better, or None.
        least: the target where more is better, or None.
    """

    what: str
    value: float
    unit: str = "x"
    most: float | None = None
    least: float | None = None


def checked(what: str, n: int, checks: Sequence[Check], **figures: Any) -> dict[str, Any]:
    """Return a scenario's result; it is met if all its targets are."""
    rows = [check._asdict() for check in checks]
    return {"what": what, "n": n, **figures, "checks": rows, "met": all(map(is_met, rows))}


def is_met(check: dict[str, Any]) -> bool:
    """Return whether a figure is within its target; one without a target always is."""
    value, most, least = check["value"], check["most"], check["least"]
    return (most is None or value <= most) and (least is None or value >= least)
