"""What came of many settings: a row per kind, and the worst of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from .world import Outcome

HEADING = (
    f"{'kind':27} {'n':>4}  {'x p50':>6} {'p95':>6} {'max':>6}   "
    f"{'rejected % p50':>14} {'p95':>6} {'max':>6} {'mean':>6}   {'least share':>11} {'missing':>7}"
)


def quantile(values: Sequence[float], part: float) -> float:
    """Return the least value that so great a part of all does not exceed.

    >>> quantile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


class Summary:
    """The outcomes of one kind.

    Args:
        name: the kind.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.outcomes: list[tuple[int, Outcome]] = []

    def add(self, index: int, outcome: Outcome) -> None:
        """Take note of one more."""
        self.outcomes.append((index, outcome))

    @property
    def ratios(self) -> list[float]:
        """Seconds over ideal, of each."""
        return [outcome.ratio for _, outcome in self.outcomes]

    @property
    def rejected(self) -> list[float]:
        """Rejections in percent of the requests, of each."""
        return [outcome.rejected for _, outcome in self.outcomes]

    @property
    def missing(self) -> int:
        """Requests that nobody answered until the run was stopped."""
        return sum(outcome.missing for _, outcome in self.outcomes)

    def row(self) -> str:
        """Return one line of the table."""
        ratios, rejected = self.ratios, self.rejected
        shares = [min(outcome.shares) for _, outcome in self.outcomes if len(outcome.shares) > 1]
        least = f"{quantile(shares, 0.05):11.0%}" if shares else f"{'':11}"
        return (
            f"{self.name:27} {len(ratios):4}  {quantile(ratios, 0.5):6.3f} "
            f"{quantile(ratios, 0.95):6.3f} {max(ratios):6.3f}   {quantile(rejected, 0.5):14.2f} "
            f"{quantile(rejected, 0.95):6.2f} {max(rejected):6.2f} "
            f"{statistics.fmean(rejected):6.2f}   {least} {self.missing or '':>7}"
        )

    def worst(self, count: int) -> list[str]:
        """Return the slowest settings, and those that were refused most."""
        slow = sorted(self.outcomes, key=lambda each: -each[1].ratio)[:count]
        refused = sorted(self.outcomes, key=lambda each: -each[1].rejected)[:count]
        chosen = dict(slow)
        chosen.update((index, outcome) for index, outcome in refused if outcome.rejected > 0.0)
        return [details(self.name, index, outcome) for index, outcome in chosen.items()]


def details(name: str, index: int, outcome: Outcome) -> str:
    """Return one line about one setting."""
    shares = "".join(f" {each:.0%}" for each in outcome.shares) if len(outcome.shares) > 1 else ""
    missing = f" {outcome.missing} missing" if outcome.missing else ""
    return (
        f"{name} {index}: {outcome.ratio:.3f}x ({outcome.seconds:.1f} s of {outcome.ideal:.1f} s) "
        f"{outcome.rejected:.2f}% rejected{shares}{missing}: {outcome.setting}"
    )
