"""One limiter per quota domain in this process, whoever asks for it."""

from __future__ import annotations

import atexit
import os
import threading
import time
import warnings
from collections.abc import Hashable
from dataclasses import replace

from llmflow.limits import learned_limits
from llmflow.limits.limiter import Limiter
from llmflow.shares import part_of, share_of_environment
from llmflow.transport import check_connections, how_to_have_more
from llmflow.types import Quota

# How many calls find out what a provider allows that nobody has described.
START_IN_FLIGHT = 10

_limiters: dict[Hashable, Limiter] = {}
_explicit: set[Hashable] = set()
_remembered: dict[str, learned_limits.Remembered] | None = None
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
    spent a moment ago is still spent when the next object asks. It begins with what
    an earlier process has learned of the domain.

    Args:
        domain: what shares the quota, such as provider, key and model.
        quota: the limits given in code, or None to take what is there already. Where it
            differs from what was there before, it replaces that, with a warning.
        max_in_flight: requests in flight at once where the quota does not say.
        default: the limits of a configuration or a provider, for a domain to which nobody
            has given any in code.

    Raises:
        ConfigurationError: there cannot be as many connections as calls may be in flight, or
            ``LLMFLOW_SHARE`` is no share.
    """
    with _lock:
        given = quota is not None
        if given or domain not in _explicit:
            quota = quota if given else default
            has_share = quota is not None and quota.share is not None
            share = None if has_share else share_of_environment()
            if share is not None:
                quota = replace(quota or Quota(), share=share)
            if quota is not None and quota.max_concurrent is not None:
                check_connections("max_concurrent", part_of(quota.max_concurrent, quota.part))
        if given:
            _explicit.add(domain)
        limiter = _limiters.get(domain)
        if limiter is None:
            limiter = _limiters[domain] = Limiter(
                quota,
                max_in_flight=max_in_flight,
                start_in_flight=START_IN_FLIGHT,
                more_connections=how_to_have_more,
            )
            _recall(domain, limiter)
            return limiter
    if quota is not None and quota != limiter.quota:
        if replace(limiter.quota, share=None) != Quota():
            warnings.warn(
                f"the quota of a model is changed from {limiter.quota} to {quota}: objects with "
                "the same provider, key and model share one limiter",
                UserWarning,
                stacklevel=3,
            )
        limiter.retune(quota)
    return limiter


def remember_limits() -> None:
    """Store what limiters learned, for later runs. Never raises for files.

    Called at the end of the process; earlier, it saves what is known by then. It reads and
    writes a file: not for an event loop.
    """
    path = learned_limits.state_file()
    if path is None:
        return
    with _lock:
        limiters, known = dict(_limiters), _remembered or {}
    now, found = time.time(), {}
    for domain, limiter in limiters.items():
        key, learned = learned_limits.digest(domain), limiter.learned()
        if key is None or not learned:
            continue
        assert isinstance(domain, tuple)
        before = known.get(key) or learned_limits.Remembered(provider=domain[0], model=domain[-1])
        rejected = limiter.statistics().rejected > 0
        found[key] = before.updated(learned, rejected=rejected, now=now)
    learned_limits.save(path, found, now=now)


def forget_limiters() -> None:
    """Forget all limiters and stored limits; the file stays.

    For tests: a running program would spend its quota twice.
    """
    global _remembered  # noqa: PLW0603 - one memory per process
    with _lock:
        _limiters.clear()
        _explicit.clear()
        _remembered = None


def _recall(domain: Hashable, limiter: Limiter) -> None:
    """Begin with what earlier runs have learned; the lock is held."""
    global _remembered  # noqa: PLW0603 - one memory per process
    key = learned_limits.digest(domain)
    if key is None:
        return
    if _remembered is None:
        _remembered = learned_limits.load(learned_limits.state_file())
        atexit.unregister(remember_limits)
        atexit.register(remember_limits)
    entry = _remembered.get(key)
    if entry is not None:
        limiter.recall(entry.limits.values())


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
