"""Tables of outcomes: a row per kind, and the worst settings."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from .kinds import KINDS
from .targets import TARGETS, Target
from .world import Outcome

PAGE = Path(__file__).parent.parent / "README.md"
HEADING = (
    f"{'kind':26} {'n':>3}  {'x p50':>5} {'p95':>6} {'max':>6}   {'rejected % p50':>14} {'p95':>5} "
    f"{'max':>5} {'mean':>5}   {'back p05':>8} {'least share p05':>15} {'missing':>7}  target"
)
COLUMNS = (
    "| kind | what | x p50 | p95 | max | rejected % p50 | p95 | max | mean | target | met |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)
_ROUNDING = 5e-4


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

    @property
    def back(self) -> float | None:
        """The part of the quota that is used again after a fall, at the 5th percentile."""
        parts = [outcome.back for _, outcome in self.outcomes if outcome.back is not None]
        return quantile(parts, 0.05) if parts else None

    @property
    def least_share(self) -> float | None:
        """What the slowest client had when the fastest was done, at the 5th percentile.

        Only where all began at once: who came later has no part in what was before.
        """
        shares = [
            min(outcome.shares)
            for _, outcome in self.outcomes
            if len(outcome.shares) > 1 and not outcome.setting.later
        ]
        return quantile(shares, 0.05) if shares else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        target = TARGETS.get(self.name)
        if target is None:
            return None
        checks = [(quantile(self.ratios, 0.95), target.ratio)]
        checks.append((quantile(self.rejected, 0.95), target.rejected))
        checks.append((statistics.fmean(self.rejected), target.mean))
        if self.back is not None and target.back is not None:
            checks.append((-self.back, -target.back))
        met = all(most is None or value <= most + _ROUNDING for value, most in checks)
        return met and not self.missing

    def row(self, *, judged: bool = True) -> str:
        """Return one line of the table for a terminal."""
        ratios, rejected = self.ratios, self.rejected
        back, share = (f"{x:.0%}" if x is not None else "" for x in (self.back, self.least_share))
        verdict = "-"
        if judged and self.met is not None:
            verdict = f"{'met' if self.met else 'MISSED'}: {TARGETS[self.name]}"
        return (
            f"{self.name:26} {len(ratios):3}  {quantile(ratios, 0.5):5.3f} "
            f"{quantile(ratios, 0.95):6.3f} {max(ratios):6.3f}   {quantile(rejected, 0.5):14.2f} "
            f"{quantile(rejected, 0.95):5.2f} {max(rejected):5.2f} "
            f"{statistics.fmean(rejected):5.2f}   {back:>8} {share:>15} {self.missing or '':>7}  "
            f"{verdict}"
        )

    def cells(self, *, wide: bool = False) -> str:
        """Return one line of the table for a page; wide settings have no targets."""
        ratios, rejected = self.ratios, self.rejected
        target = TARGETS.get(self.name, Target())
        met = {True: "yes", False: "**no**", None: ""}[None if wide else self.met]
        of_many = f"{KINDS[self.name].what}; {len(ratios)} settings"
        if self.back is not None:
            of_many += f"; used again p05 {self.back:.0%}"
        if self.least_share is not None:
            of_many += f"; least share p05 {self.least_share:.0%}"
        figures = [
            *(f"{each:.3f}" for each in (quantile(ratios, 0.5), quantile(ratios, 0.95))),
            f"{max(ratios):.2f}",
            *(f"{quantile(rejected, part):.2f}" for part in (0.5, 0.95, 1.0)),
            f"{statistics.fmean(rejected):.2f}",
        ]
        wanted = "-" if wide else str(target)
        return f"| `{self.name}` | {of_many} | {' | '.join(figures)} | {wanted} | {met} |"

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
    back = f" {outcome.back:.0%} used again" if outcome.back is not None else ""
    return (
        f"{name} {index}: {outcome.ratio:.3f}x ({outcome.seconds:.1f} s of {outcome.ideal:.1f} s) "
        f"{outcome.rejected:.2f}% rejected{shares}{back}{missing}: {outcome.setting}"
    )


def write(summaries: Sequence[Summary], *, wide: bool, page: Path = PAGE) -> None:
    """Put the table into the page, between the comments that mark its place."""
    mark = "random settings, wide" if wide else "random settings"
    marked = re.compile(rf"(<!-- {mark} -->\n)(?:(?!<!--).*\n)*(<!-- end -->)")
    rows = [COLUMNS, *(summary.cells(wide=wide) for summary in summaries)]
    table = "\n".join(rows) + "\n"
    text = page.read_text("utf-8")
    page.write_text(marked.sub(lambda found: found[1] + table + found[2], text), "utf-8")
