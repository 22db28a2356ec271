"""Statistics of a limiter at one moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from llmflow.limits.admission import Admission
from llmflow.types import Quota

# Of the time since the first call.
_WORTH_TELLING: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterStatistics:
    """The state of a limiter at one moment.

    Args:
        waiting: calls that wait for admission.
        in_flight: calls that were admitted and have not ended.
        admitted: calls admitted so far; a call that was rejected and sent again counts twice.
        rejected: rate-limit rejections (429) so far.
        paused_for: seconds until the domain's pause ends; 0.0 when it is not paused.
        paused_until: when that is, in seconds since 1970; None when it is not paused.
        max_in_flight: the cap on calls in flight, by quota or connections.
        window: how many calls may be in flight now: fewer than that at the start, and under
            overload.
        limits: the limit in force by dimension, such as ``{"rpm": 500.0}``: of the account's
            limit, this program's share.
        learned: limits that replies have named or that were estimated, by dimension: those of
            the whole account.
        shares: the share of each limit that is used at the moment; below 1.0 where others
            use the same quota, or after rejections.
        burst_seconds: seconds' worth of each limit that is used at once at the most.
        levels: what may be taken at once, by dimension; negative is a debt.
        utilisation: the share of each limit that was used since the first call.
        bound_by: what calls waited for, as shares of the time since the first one: a
            dimension, ``"in_flight"``, ``"pause"``, ``"probe"`` (after a pause) or ``"start"``
            (while no rate is known). What is missing to 1.0 is time in which nobody waited.
        remedy: how more calls could be in flight, such as by a higher limit on open files, where
            the cap is what calls waited for; else None.
        share: the part of all limits that is this program's own; see `Quota`.
    """

    waiting: int
    in_flight: int
    admitted: int
    rejected: int
    paused_for: float
    paused_until: float | None
    max_in_flight: int
    window: int
    limits: Mapping[str, float]
    learned: Mapping[str, float]
    shares: Mapping[str, float]
    burst_seconds: Mapping[str, float]
    levels: Mapping[str, float]
    utilisation: Mapping[str, float]
    bound_by: Mapping[str, float]
    share: float = 1.0
    remedy: str | None = None

    @classmethod
    def of(cls, admission: Admission, now: float) -> Self:
        """Return those of an admission, without a remedy."""
        dimensions = admission.dimensions
        buckets = dimensions.buckets
        paused_for = max(0.0, admission.paused_until - now)
        active = max(admission.active_at - admission.opened, 1e-9)
        return cls(
            waiting=admission.waiting,
            in_flight=admission.in_flight,
            admitted=admission.admitted,
            rejected=admission.rejected,
            paused_for=paused_for,
            paused_until=time.time() + paused_for if paused_for else None,
            max_in_flight=admission.max_in_flight,
            window=int(admission.window),
            share=dimensions.portion,
            limits=dimensions.limits(),
            learned={each.dimension: each.limit for each in dimensions.learned()},
            shares={b.name: 1.0 if b.estimated else b.share for b in buckets},
            burst_seconds={b.name: b.window for b in buckets},
            levels={b.name: b.level_at(now) for b in buckets},
            utilisation={b.name: b.utilisation(admission.active_at) for b in buckets},
            bound_by={
                name: min(1.0, seconds / active) for name, seconds in admission.bound.items()
            },
        )


def remedy_for(
    statistics: LimiterStatistics, quota: Quota, connections: Callable[[], str] | None
) -> str | None:
    """Return the remedy for too few calls in flight, or None.

    `connections` says how there could be more connections, where they are the cap.
    """
    if statistics.bound_by.get("in_flight", 0.0) < _WORTH_TELLING:
        return None
    if statistics.window < statistics.max_in_flight:
        return None  # the provider struggles
    if quota.max_concurrent is not None:
        return "a higher max_concurrent allows more"
    if quota.part < 1.0:
        whole = round(statistics.max_in_flight / quota.part)
        return f"max_concurrent, above {whole:,} for all who share the quota, allows more"
    return "a higher max_in_flight allows more" if connections is None else connections()
