"""What a limiter says of itself at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LimiterStatistics:
    """What a limiter is doing at one moment.

    Args:
        waiting: calls that wait for admission.
        in_flight: calls that were admitted and have not ended.
        admitted: calls admitted so far; a call that was rejected and sent again counts twice.
        rejected: rate-limit rejections (429) so far.
        paused_for: seconds until the domain's pause ends; 0.0 when it is not paused.
        max_in_flight: the cap on calls in flight.
        limits: the limit in force by dimension, such as ``{"rpm": 500.0}``.
        levels: what may be taken at once, by dimension; negative is a debt.
        utilisation: the share of each limit that was used since the first call.
    """

    waiting: int
    in_flight: int
    admitted: int
    rejected: int
    paused_for: float
    max_in_flight: int
    limits: Mapping[str, float]
    levels: Mapping[str, float]
    utilisation: Mapping[str, float]
