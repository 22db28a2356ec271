"""One limiter per quota domain in this process, whoever asks for it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Hashable

from llmflow.limits.limiter import Limiter
from llmflow.types import Quota

# How many calls find out what a provider allows that nobody has described.
START_IN_FLIGHT = 10

_limiters: dict[Hashable, Limiter] = {}
_explicit: set[Hashable] = set()
_lock = threading.Lock()


def limiter_for(
    domain: Hashable,
    quota: Quota | None,
    *,
    max_in_flight: int,
    default: Quota | None = None,
) -> Limiter:
    """Return the limiter of a domain, made at the first call.

    The domain's limiter is kept for the life of the process: a quota that was
    spent a moment ago is still spent when the next object asks.

    Args:
        domain: what shares the quota, such as provider, key and model.
        quota: the limits given in code, or None to take what is there already. Where it
            differs from what was there before, it replaces that, with a warning.
        max_in_flight: requests in flight at once where the quota does not say.
        default: the limits of a configuration or a provider, for a domain to which nobody
            has given any in code.
    """
    with _lock:
        if quota is not None:
            _explicit.add(domain)
        elif domain not in _explicit:
            quota = default
        limiter = _limiters.get(domain)
        if limiter is None:
            limiter = _limiters[domain] = Limiter(
                quota, max_in_flight=max_in_flight, start_in_flight=START_IN_FLIGHT
            )
            return limiter
    if quota is not None and quota != limiter.quota:
        if limiter.quota != Quota():
            warnings.warn(
                f"the quota of a model is changed from {limiter.quota} to {quota}: objects with "
                "the same provider, key and model share one limiter",
                UserWarning,
                stacklevel=4,
            )
        limiter.retune(quota)
    return limiter


def forget_limiters() -> None:
    """Forget every limiter. For tests: a running program would spend its quota twice."""
    with _lock:
        _limiters.clear()
        _explicit.clear()
