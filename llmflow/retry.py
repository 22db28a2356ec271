"""The retry policy: which failures, how often, after which delay.

The vocabulary is tenacity's: a policy is a `stop`, a `wait` and a `retry`
object. tenacity is entered only once something has failed, so that the
requests that succeed, nearly all of them, do not pay for it.

A rate limit (429) is not handled here: it is the whole domain's matter, costs
the request no attempt, and is waited out in the limiter.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from llmflow.arguments import values_by_name
from llmflow.clock import Clock
from llmflow.errors import (
    ConfigurationError,
    OutageError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
)

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.retry import retry_base
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

_T = TypeVar("_T")

# What the limiter has waited for already, as long as anybody wants to.
_WAITED_FOR = (RateLimitError, QuotaExhaustedError, OutageError)

_SECONDS = ("wait_initial", "wait_max", "total", "rate_limit_patience", "daily_limit_patience")

# 2 ** 1000 still is a float; beyond, the doubling must not raise.
_MAX_DOUBLINGS = 1000


def backoff(attempt: int, *, initial: float, maximum: float, rng: random.Random) -> float:
    """Return the seconds to wait after failed attempt number `attempt` (from 1).

    Exponential backoff with full jitter: uniform between 0 and
    ``min(maximum, initial * 2 ** (attempt - 1))``. Full jitter spreads a crowd of
    failed requests best ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015).

    >>> backoff(3, initial=1.0, maximum=60.0, rng=random.Random(7))
    1.2953...
    """
    ceiling = min(maximum, initial * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS))
    return rng.uniform(0.0, ceiling)


@values_by_name()
@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The policy for requests that failed for a passing reason.

    Passing reasons are the errors with ``transient = True``: overload, server
    errors, time-outs, broken connections, unreadable replies. A rate limit is not
    counted here. Billing, authentication, invalid and too large requests are
    never retried.

    >>> Retry(attempts=3, wait_max=10.0).attempts
    3

    For other rules, hand in tenacity's own objects; they win over the numbers:

    >>> from tenacity import stop_after_attempt, wait_fixed
    >>> policy = Retry(stop=stop_after_attempt(2), wait=wait_fixed(1))

    Args:
        attempts: how often a request is sent at the most, the first time included. While
            the provider answers nobody, attempts are not counted: see `OutageError`.
        wait_initial: upper bound of the first wait, in seconds; it doubles each time. While
            fewer than half of all requests fail, waits are shorter: it is no overload.
        wait_max: upper bound of every wait, in seconds. A ``Retry-After`` of the
            server is a floor and is never shortened by it.
        total: give up when this many seconds have passed since the first attempt.
        rate_limit_patience: give up on a request that met nothing but rate limits
            for this many seconds; None waits for ever.
        daily_limit_patience: wait for a daily or monthly quota to come back, where the
            provider says that it takes no longer than this many seconds. 0 ends with
            `QuotaExhaustedError` at once, and so do all other calls until then.
        stop: a tenacity stop object instead of `attempts` and `total`.
        wait: a tenacity wait object instead of `wait_initial` and `wait_max`.
        retry: a tenacity retry object that says which errors are retried.

    Raises:
        ConfigurationError: a number is out of range.
    """

    attempts: int = 6
    wait_initial: float = 0.5
    wait_max: float = 60.0
    total: float | None = None
    rate_limit_patience: float | None = 3600.0
    daily_limit_patience: float = 0.0
    stop: stop_base | None = field(default=None, compare=False)
    wait: wait_base | None = field(default=None, compare=False)
    retry: retry_base | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise ConfigurationError(f"attempts must be a whole number; got {self.attempts!r}")
        if self.attempts < 1:
            raise ConfigurationError(
                f"attempts must be at least 1 (1 means: never send again); got {self.attempts}"
            )
        for name in _SECONDS:
            value = getattr(self, name)
            if value is None and name in ("total", "rate_limit_patience"):
                continue
            if not isinstance(value, int | float) or not value >= 0:
                raise ConfigurationError(f"{name} must be seconds, 0 or more; got {value!r}")

        for name in ("stop", "wait", "retry"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ConfigurationError(f"{name} must be one of tenacity's objects; got {value!r}")

    async def recover(
        self,
        failure: ProviderError,
        send: Callable[[], Awaitable[_T]],
        *,
        started: float,
        clock: Clock,
        rng: random.Random,
        failing: Callable[[], float] = lambda: 1.0,
        down: Callable[[], bool] = lambda: False,
        again: Callable[[int, ProviderError, float], None] | None = None,
    ) -> _T:
        """Retry after a first failure, until success or the policy's end.

        Args:
            failure: the error of the first attempt.
            send: makes one further attempt.
            started: the clock's time at which the first attempt began.
            clock: where time and sleep come from.
            rng: where jitter comes from.
            failing: returns the share of all requests that failed lately.
            down: returns whether nobody's requests are answered at the moment. A failure is
                then no fault of this request, and counts as no attempt.
            again: is told before each further attempt: the number of the one that failed,
                what it failed with, and the seconds until the next.

        Raises:
            ProviderError: the last failure, unchanged but for its `attempts`.
        """
        from tenacity import AsyncRetrying

        pending: ProviderError | None = failure
        excused = 0

        async def attempt() -> _T:
            # tenacity's first call is the attempt that has failed already.
            nonlocal pending
            if pending is not None:
                first, pending = pending, None
                raise first
            return await send()

        def stop(state: RetryCallState) -> bool:
            nonlocal excused
            excused += down()
            if self.stop is not None:
                # stop_after_delay() and its like: count from the first attempt, on our clock.
                passed = clock.monotonic() - started
                state.start_time = (state.outcome_timestamp or 0.0) - passed
                return self.stop(state)
            waited = clock.monotonic() - started + state.upcoming_sleep
            late = self.total is not None and waited >= self.total
            return late or state.attempt_number - excused >= self.attempts

        def tell(state: RetryCallState) -> None:
            error = _error(state)
            if again is not None and isinstance(error, ProviderError):
                again(state.attempt_number, error, state.upcoming_sleep)

        # One object for this call alone: a shared one mixes up concurrent calls.
        retrying = AsyncRetrying(
            stop=stop,
            wait=self._waiting(rng, failing, lambda: excused),
            retry=self._retrying,
            before_sleep=tell,
            sleep=clock.sleep,
            reraise=True,
        )
        try:
            return await retrying(attempt)
        except ProviderError as error:
            error.attempts = retrying.statistics["attempt_number"]
            raise

    def retries(self, error: BaseException) -> bool:
        """Return whether an error can lead to another attempt at all."""
        if not isinstance(error, ProviderError) or isinstance(error, _WAITED_FOR):
            return False
        again = self.stop is not None or self.attempts > 1
        return self.retry is not None or (error.transient and again)

    async def _retrying(self, state: RetryCallState) -> bool:
        """Ask the policy, but never of what is no provider's error.

        tenacity shows its `retry` objects every outcome. ``retry_if_not_exception_type(...)``
        would have a cancelled call go on, and a rate limit has been waited for already.
        """
        error = _error(state)
        if not isinstance(error, ProviderError) or isinstance(error, _WAITED_FOR):
            return False
        if self.retry is None:
            return error.transient
        answer: object = self.retry(state)
        return bool(await answer if isinstance(answer, Awaitable) else answer)

    def _waiting(
        self, rng: random.Random, failing: Callable[[], float], excused: Callable[[], int]
    ) -> Callable[[RetryCallState], float]:
        def wait(state: RetryCallState) -> float:
            if self.wait is not None:
                seconds = float(self.wait(state))
            else:
                seconds = backoff(
                    state.attempt_number - excused(),
                    initial=self.wait_initial,
                    maximum=self.wait_max,
                    rng=rng,
                )
                # Back-off spares a provider that struggles. Where nearly all others are
                # answered, this request has met with an accident of its own.
                seconds *= min(1.0, 2.0 * failing()) ** 2
            error = _error(state)
            floor = error.retry_after if isinstance(error, ProviderError) else None
            return max(seconds, floor or 0.0)

        return wait


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
