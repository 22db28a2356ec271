"""Rate-limit headers of the Anthropic dialect: rounded amounts, and instants of full refill."""

from __future__ import annotations

import math
import time
from functools import lru_cache

from llmflow.simulator.bucket import Bucket
from llmflow.simulator.quota import Domain
from llmflow.simulator.settings import SimulatorSettings

_THOUSAND = 1000


@lru_cache(maxsize=256)
def format_instant(second: int) -> str:
    """Return a second since 1970 as RFC 3339 has it.

    >>> format_instant(1_786_652_100)
    '2026-08-13T20:15:00Z'
    """
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


def _lines(unit: str, limit: float, remaining: int, reset: float, wall: float) -> str:
    instant = format_instant(math.ceil(wall + reset - 1e-6))
    return (
        f"anthropic-ratelimit-{unit}-limit: {int(limit)}\r\n"
        f"anthropic-ratelimit-{unit}-remaining: {remaining}\r\n"
        f"anthropic-ratelimit-{unit}-reset: {instant}\r\n"
    )


def _thousands(level: float) -> int:
    """Return what is left to the nearest thousand, as the real service does."""
    return _THOUSAND * math.floor(max(0.0, level) / _THOUSAND + 0.5)


def quota_headers(domain: Domain, settings: SimulatorSettings, *, wall: float) -> str:
    """Return the anthropic-ratelimit headers that show the state of a quota at a time of day."""
    if settings.quota_headers == "off":
        return ""
    shown, text = domain.shown, ""
    requests = shown.get("rpm") or shown.get("rpd")
    if requests is not None:
        left = max(0, math.floor(requests.level + 1e-6))
        text = _lines("requests", requests.limit, left, requests.reset, wall)
    for unit, name in (("input-tokens", "itpm"), ("output-tokens", "otpm")):
        if name in shown:
            text += _token_lines(unit, (shown[name],), wall)
    # Of all tokens: the limit on their sum if there is one, else the sum of their limits.
    total = shown.get("tpm") or shown.get("tpd")
    parts = (total,) if total else tuple(shown[n] for n in ("itpm", "otpm") if n in shown)
    return text + _token_lines("tokens", parts, wall) if parts else text


def _token_lines(unit: str, buckets: tuple[Bucket, ...], wall: float) -> str:
    limit = sum(bucket.limit for bucket in buckets)
    left = sum(max(0.0, bucket.level) for bucket in buckets)
    reset = max(bucket.reset for bucket in buckets)
    return _lines(unit, limit, _thousands(left), reset, wall)
