"""Table of the rate limits that providers have, one row for each.

A new one is a row here, a field of `llmflow.types.Quota`, and a provider that tells it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

MINUTE: Final = 60.0
DAY: Final = 86_400.0


class RateLimit(NamedTuple):
    """One limit.

    Args:
        unit: the index in `llmflow.types.Charge` of what it counts.
        period: seconds in which all of it comes back.
        title: its name in a sentence.
    """

    unit: int
    period: float
    title: str


RATE_LIMITS: Final[dict[str, RateLimit]] = {
    "rpm": RateLimit(0, MINUTE, "request limit"),
    "tpm": RateLimit(1, MINUTE, "token limit"),
    "itpm": RateLimit(2, MINUTE, "limit of input tokens"),
    "otpm": RateLimit(3, MINUTE, "limit of output tokens"),
    "rpd": RateLimit(0, DAY, "daily request limit"),
    "tpd": RateLimit(1, DAY, "daily token limit"),
}
"""The limits by the names of their fields in `llmflow.types.Quota`."""
