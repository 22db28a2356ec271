"""A learned limit, in a form that can be stored."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedLimit:
    """One limit, as far as it was learned while it was used.

    Args:
        dimension: the name of the field of `Quota`, such as ``"rpm"``.
        limit: what it is, per minute or day.
        burst_seconds: how many seconds' worth may be used at once.
        estimated: whether it was found by trying; else a reply has named it.
    """

    dimension: str
    limit: float
    burst_seconds: float
    estimated: bool
