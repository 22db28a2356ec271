"""Settings of batch jobs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from llmflow.arguments import values_by_name
from llmflow.errors import ConfigurationError
from llmflow.types import parse_amount


@values_by_name("requests")
@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Settings of batch jobs: their size, their timing and their polling.

    >>> Batch(enqueued_tokens="2M").enqueued_tokens
    2000000.0

    Args:
        quiet: seconds without another call after which those that wait become a job. Where
            items of a node are still at work, it takes up to thirty times as long; where all
            of them wait, no time at all.
        poll: seconds until the first look at a job; None for what suits the provider, which is
            10 if it says nothing. Later ones come less often: after 2, 3 and then 6 times as long,
            and 12 times once a job is older than 360.
        rounds: how often a row may go into a job, the first time included. Rows that expired,
            went missing, or failed for a passing reason, go into the next one.
        requests: the most rows of a job; None for what the provider allows.
        size: the most bytes of a job's file, likewise.
        enqueued_tokens: prompt tokens that may wait at the provider at once; None for what is
            known of it, or what it says when it is too much.
        jobs: how many jobs may run at once; None for what the provider allows.
        few: up to how many leftovers of a job are asked in parallel at once, where the
            fallback is ``"parallel"``; of larger jobs also up to one in a hundred.
        primer: whether rows with a marked beginning (`cache_control`) wait for a job of one such
            row, so that they find it in the provider's prompt cache. It is done where the price
            of the model makes that cheaper, and takes the time of another job.
        keep_files: whether the provider's copies of files stay until they expire there.

    Raises:
        ConfigurationError: a number is out of range.
    """

    quiet: float = 0.5
    poll: float | None = None
    rounds: int = 8
    requests: int | None = None
    size: int | None = None
    enqueued_tokens: float | str | None = None
    jobs: int | None = None
    few: int = 100
    primer: bool = False
    keep_files: bool = False

    def __post_init__(self) -> None:
        _check_seconds("quiet", self.quiet)
        if self.poll is not None:
            _check_seconds("poll", self.poll)
        for name, least in (("rounds", 1), ("requests", 1), ("size", 1), ("jobs", 1), ("few", 0)):
            value = getattr(self, name)
            if value is None and name not in ("rounds", "few"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigurationError(
                    f"{name} must be a whole number of at least {least}; got {value!r}"
                )
        for name in ("primer", "keep_files"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigurationError(f"{name} must be True or False; got {value!r}")
        if self.enqueued_tokens is not None:
            amount = parse_amount(self.enqueued_tokens, name="enqueued_tokens")
            object.__setattr__(self, "enqueued_tokens", amount)

    def __repr__(self) -> str:
        given = [
            f"{each.name}={getattr(self, each.name)!r}"
            for each in fields(self)
            if getattr(self, each.name) != each.default
        ]
        return f"Batch({', '.join(given)})"


def _check_seconds(name: str, value: object) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:  # type: ignore[operator]
        raise ConfigurationError(f"{name} must be seconds, 0 or more; got {value!r}")
