"""Bottleneck of a run: the limit that kept it from being faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from llmflow.limits import LimiterStatistics
from llmflow.limits.learned_limits import LearnedLimit
from llmflow.rate_limits import RATE_LIMITS
from llmflow.shares import share_text
from llmflow.transport import connection_limit, how_to_have_more
from llmflow.types import Quota

# Less than this says nothing: what a start costs is not what a run costs.
_LEAST_SECONDS: Final = 2.0
_LEAST_REQUESTS: Final = 20
_PAUSES: Final = ("pause", "probe")
_WORTH_TELLING: Final = 0.05
_FULL: Final = 0.5
_BUSY: Final = 0.9
# Alone on a quota that binds all the time, a run gets more of it than this.
_ALONE: Final = 0.75
_MOSTLY: Final = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """Facts of an ended run that explain its speed."""

    statistics: LimiterStatistics  # the limiter's, at the end
    learned: Sequence[LearnedLimit]  # what the limiter has learned
    quota: Quota  # the configured limits
    seconds: float  # how long the run took
    cpu_seconds: float  # how much of that this process computed
    requests: int  # requests that were sent
    rejected: int  # rate-limit rejections
    rows: int  # rows that have ended
    concurrency: int  # how many rows could be under way at once
    row_seconds: float  # for how long rows were under way, all together
    once: bool  # whether the rows came through a pipe
    stopped: bool  # whether the run ended before the last row


def explain_bottleneck(facts: RunFacts) -> str | None:
    """Return what limited a run and its remedy; None if unclear."""
    if facts.seconds < _LEAST_SECONDS or facts.requests < _LEAST_REQUESTS:
        return None
    bound = dict(facts.statistics.bound_by)
    paused = sum(bound.pop(name, 0.0) for name in _PAUSES)
    if facts.stopped:  # admission was closed until the last answers had come
        paused = 0.0
    candidates = {**bound, "pause": paused, "": max(0.0, 1.0 - sum(bound.values()) - paused)}
    name = max(candidates, key=candidates.__getitem__)
    if name == "pause":
        return _pause(paused, facts.rejected)
    if name == "":
        # Rows that were never asked say nothing of how many could have been under way.
        found = None if facts.stopped else _unlimited(facts)
    elif name == "in_flight":
        found = _in_flight(facts)
    elif name == "start":
        found = "limited by the careful start, while no rate was known: --rpm would spare it"
    else:
        found = _dimension(name, bound[name], facts)
    if facts.rejected and paused >= _WORTH_TELLING:
        pause = _pause(paused, facts.rejected)
        return pause if found is None else f"{found}; {pause}"
    return found


def _pause(share: float, rejected: int) -> str:
    reason = "for rate limits (429)" if rejected else "because nothing was answered"
    return f"paused {min(1.0, share):.0%} of the time {reason}"


def _dimension(name: str, share: float, facts: RunFacts) -> str:
    """Explain a limit of the quota."""
    statistics = facts.statistics
    head = f"limited by {name} ({share:.0%} of the time)"
    known = {each.dimension: each for each in facts.learned}.get(name)
    if known is not None and known.estimated:
        return f"{head}: the provider takes about {known.limit:,.0f}, found by trying"
    configured = getattr(facts.quota, name, None)
    if known is not None and configured is not None and configured < known.limit:
        return f"{head}: {configured:,.0f} is set, and the provider names {known.limit:,.0f}"
    if statistics.share < 1.0:
        part = share_text(statistics.share)
        return f"{head}, of which this run's share is {part}: a larger one would make it faster"
    got = statistics.utilisation.get(name, 1.0)
    alone = statistics.shares.get(name, 1.0) >= 1.0 or got >= _ALONE or share < _MOSTLY
    if not alone and name.endswith("m"):
        return f"{head}: others seem to use this quota too; this run got about {got:.0%} of {name}"
    title = RATE_LIMITS[name].title if name in RATE_LIMITS else "limit"
    or_less = ", or a smaller --max-tokens," if name == "tpm" else ""
    return f"{head}: a higher {title}{or_less} would make it faster"


def _in_flight(facts: RunFacts) -> str:
    """Explain a limit of calls in flight."""
    statistics = facts.statistics
    if statistics.window < statistics.max_in_flight:
        return (
            "limited by the provider's failures: while most requests fail, fewer are sent at once"
        )
    most = f"{statistics.max_in_flight:,} in flight"
    if facts.quota.max_concurrent:
        return f"limited by max_concurrent ({most}): a higher one would make it faster"
    how = statistics.remedy or "a higher limit of open files allows more"
    return f"limited by the connections ({most}): {how}"


def _unlimited(facts: RunFacts) -> str | None:
    """Explain a run that the limiter did not hold up."""
    if facts.cpu_seconds >= _BUSY * facts.seconds:
        return "limited by this computer's processor, of which one core is used"
    concurrency = facts.concurrency
    if facts.rows <= concurrency:
        return "limited by the answers' own latency: all rows were under way at once"
    if facts.row_seconds / facts.seconds >= _FULL * concurrency:
        if concurrency >= connection_limit():
            return f"limited by the connections ({concurrency:,} rows): {how_to_have_more()}"
        return f"limited by --concurrency {concurrency:,}: a higher one would make it faster"
    return "limited by how fast rows came in" if facts.once else None
