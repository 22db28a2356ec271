"""The limiter that calls wait for: one per quota domain, shared by all who spend its quota."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from llmflow.limits.admission import ADMITTED, Admission, Ticket
from llmflow.types import Charge, Quota, QuotaSignal

DEFAULT_MAX_IN_FLIGHT = 1000


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


class Permit(Ticket):
    """The right to send one request, until one of `settle`, `reject` or `release` is called.

    As an async context manager it is released at the end, whatever happened.
    """

    __slots__ = ("_future", "_limiter", "_loop")

    def __init__(self, limiter: Limiter, charge: Charge, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(charge)
        self._limiter = limiter
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    def settle(self, actual: Charge | None = None) -> None:
        """End with an answer; `actual` is what the request was charged, where known."""
        self._limiter._settle(self, actual)

    def reject(self, retry_after: float | None = None) -> float:
        """End with a rate-limit rejection: the whole domain pauses.

        Args:
            retry_after: seconds that the server asked to wait, or None.

        Returns:
            Seconds until the pause ends.
        """
        return self._limiter._reject(self, retry_after)

    def release(self) -> None:
        """End without an answer. Does nothing if the permit has ended already."""
        if self.state == ADMITTED:
            self._limiter._release(self)

    async def renew(self) -> None:
        """Wait for admission again after a rejection, in the old place of the queue."""
        await self._limiter._wait(self)

    def grant(self) -> None:
        """Wake the task that waits; called by the limiter."""
        loop, future = self._loop, self._future
        if loop is asyncio._get_running_loop():
            _wake(future)
            return
        try:
            loop.call_soon_threadsafe(_wake, future)
        except RuntimeError:  # its loop is closed: nobody will send this request
            self._limiter._admission.cancel(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


class Limiter:
    """Admission for one quota domain: requests, tokens and concurrency, all or nothing.

    Fair (first come, first served, whatever the size), safe to cancel at any
    point, shared by all tasks, and by event loops in several threads. Waiting
    costs one future per call and one timer in all.

    >>> limiter = Limiter(Quota(rpm=600, tpm="100k"))
    >>> async def call():
    ...     async with await limiter.acquire(Charge(tokens=250)) as permit:
    ...         permit.settle(Charge(tokens=312))

    Args:
        quota: the limits; None where there are none, or none are known.
        max_in_flight: calls in flight at once where the quota does not say.
        seed: seed of the jitter on waits that no server asked for.
    """

    def __init__(
        self,
        quota: Quota | None = None,
        *,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        seed: int | None = None,
    ) -> None:
        rng = random.Random(seed)
        self._lock = threading.Lock()
        self._admission = Admission(
            quota or Quota(),
            max_in_flight=max_in_flight,
            now=_now(),
            jitter=lambda: rng.uniform(0.8, 1.2),
        )
        self._timer: asyncio.TimerHandle | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        s = self.statistics()
        limits = ", ".join(f"{name}={limit:g}" for name, limit in s.limits.items())
        state = f"{s.in_flight} in flight, {s.waiting} waiting"
        pause = f", paused for {s.paused_for:.3g} s" if s.paused_for else ""
        return f"<Limiter {limits or 'no limits'}: {state}{pause}>"

    async def acquire(self, charge: Charge | None = None, *, place: int = 0) -> Permit:
        """Wait until one request may be sent, and return the right to send it.

        Args:
            charge: what the request is expected to be charged.
            place: the `number` of an earlier permit, for a request that is sent again: it
                goes before all that came after it the first time.

        Raises:
            TooLargeForLimitError: the request is larger than a whole limit.
        """
        loop = asyncio.get_running_loop()
        permit = Permit(self, charge or Charge(), loop)
        permit.number = place
        with self._lock:
            at_once = self._admission.admit_at_once(permit, loop.time())
        if not at_once:
            await self._wait(permit)
        return permit

    def retune(self, quota: Quota) -> None:
        """Change the configured limits; what waits and what is in flight stays."""
        with self._lock:
            self._admission.retune(quota, _now())
            self._pump()

    def observe(self, signals: Iterable[QuotaSignal]) -> None:
        """Learn limits from what a reply's headers say."""
        with self._lock:
            self._admission.observe(signals, _now())

    def pause(self, seconds: float) -> None:
        """Admit nothing for so many seconds. A pause that is on is never shortened."""
        with self._lock:
            now = _now()
            self._admission.pause_until(now + seconds, now)
            self._pump()

    @property
    def quota(self) -> Quota:
        """The configured limits."""
        return self._admission.quota

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter is doing now."""
        with self._lock:
            admission, now = self._admission, _now()
            buckets = admission.buckets
            return LimiterStatistics(
                waiting=admission.waiting,
                in_flight=admission.in_flight,
                admitted=admission.admitted,
                rejected=admission.rejected,
                paused_for=max(0.0, admission.paused_until - now),
                max_in_flight=admission.max_in_flight,
                limits={b.name: b.limit for b in buckets},
                levels={b.name: b.level_at(now) for b in buckets},
                utilisation={b.name: b.utilisation(admission.active_at) for b in buckets},
            )

    # --- for Permit ------------------------------------------------------------------

    async def _wait(self, permit: Permit) -> None:
        future = permit._future = permit._loop.create_future()
        with self._lock:
            self._admission.enqueue(permit)
            self._pump()
        try:
            await future
        except BaseException:
            with self._lock:
                self._admission.cancel(permit)
                self._pump()
            raise

    def _settle(self, permit: Permit, actual: Charge | None) -> None:
        with self._lock:
            self._admission.finish(permit, actual, _now())
            self._pump()

    def _reject(self, permit: Permit, retry_after: float | None) -> float:
        with self._lock:
            now = _now()
            until = self._admission.reject(permit, retry_after, now)
            self._pump()
            return until - now

    def _release(self, permit: Permit) -> None:
        with self._lock:
            self._admission.fail(permit, _now())
            self._pump()

    # --- waking; the lock is held ----------------------------------------------------

    def _pump(self) -> None:
        """Admit what may go, and see to it that somebody looks again in time."""
        queue = self._admission.queue
        while queue:
            delay = self._admission.pump(_now())
            queue = self._admission.queue
            if delay is None or not queue:
                return
            head = queue[0]
            assert isinstance(head, Permit)
            if self._arm(delay, head._loop):
                return
            self._admission.cancel(head)

    def _arm(self, delay: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Set the one timer on the loop of the queue's head; return False if that is closed."""
        timer = self._timer if self._timer_loop is loop else None
        if loop is not asyncio._get_running_loop():
            # A loop may be touched from its own thread only: let it look for itself.
            if timer is None:
                try:
                    loop.call_soon_threadsafe(self._on_timer)
                except RuntimeError:
                    return False
            return not loop.is_closed()
        when = loop.time() + delay
        if timer is not None:
            if timer.when() <= when:
                return True  # it rings before, and is set anew then
            timer.cancel()
        self._timer = loop.call_at(when, self._on_timer)
        self._timer_loop = loop
        return True

    def _on_timer(self) -> None:
        with self._lock:
            if self._timer_loop is asyncio._get_running_loop():
                self._timer = None
            self._pump()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)


def _now() -> float:
    """Return the running loop's time; outside of one, the clock that such loops use."""
    loop = asyncio._get_running_loop()
    return time.monotonic() if loop is None else loop.time()
