"""The limiter of one quota domain, shared by all its callers."""

from __future__ import annotations

import asyncio
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import replace
from typing import Self
from weakref import WeakSet

from llmflow.errors import ProviderError, RateLimitError
from llmflow.limits.admission import Admission
from llmflow.limits.dimensions import ADMITTED, Ticket
from llmflow.limits.event_loops import LOOK_AFTER, HeldByLoop, Timers, wake
from llmflow.limits.expectation import Expectation
from llmflow.limits.learned_limits import LearnedLimit
from llmflow.limits.limiter_statistics import LimiterStatistics, remedy_for
from llmflow.limits.standing import Standing
from llmflow.types import Charge, Quota, QuotaSignal

DEFAULT_MAX_IN_FLIGHT = 1000


class Limiter:
    """Admission for one quota domain: requests, tokens and concurrency, all or nothing.

    Fair (first come, first served, whatever the size), safe to cancel at any
    point, shared by all tasks, and by event loops in several threads. Waiting
    costs one future per call and one timer per event loop.

    >>> limiter = Limiter(Quota(rpm=600, tpm="100k"))
    >>> async def call():
    ...     async with await limiter.acquire(Charge(tokens=250)) as permit:
    ...         permit.settle(Charge(tokens=312))

    Args:
        quota: the limits; None where there are none, or none are known.
        max_in_flight: calls in flight at once where the quota does not say.
        start_in_flight: calls in flight at first while no rate is known, from the quota or
            from headers; one more with every answer. None begins with all.
        seed: seed of the jitter on waits that no server asked for.
        more_connections: says how there could be more connections, where they are what
            `max_in_flight` is for.
    """

    def __init__(
        self,
        quota: Quota | None = None,
        *,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        start_in_flight: int | None = None,
        seed: int | None = None,
        more_connections: Callable[[], str] | None = None,
    ) -> None:
        rng = random.Random(seed)
        self._more_connections = more_connections
        self._ended: deque[tuple[Permit, bool]] = deque()
        self._lock = TidyLock(self._ended, self._tidy)
        self._admission = Admission(
            quota or Quota(),
            max_in_flight=max_in_flight,
            start_in_flight=start_in_flight,
            now=_now(),
            jitter=lambda: rng.uniform(0.8, 1.2),
        )
        self.expectation = Expectation()
        """What requests come to, for providers that charge what is produced."""
        self.standing = Standing()
        """Whether the key and the model work."""
        self._timers = Timers(self._on_timer)
        self._held: HeldByLoop[Permit] = HeldByLoop()
        _all.add(self)

    def __repr__(self) -> str:
        s = self.statistics()
        limits = ", ".join(f"{name}={limit:g}" for name, limit in s.limits.items())
        state = f"{s.in_flight} in flight, {s.waiting} waiting"
        pause = f", paused for {s.paused_for:.3g} s" if s.paused_for else ""
        return f"<Limiter {limits or 'no limits'}: {state}{pause}>"

    async def acquire(
        self,
        charge: Charge | None = None,
        *,
        expect: Callable[[], Charge] | None = None,
        place: int = 0,
        patience: float = math.inf,
        leaves: bool = False,
    ) -> Permit:
        """Wait for the right to send one request, and return it.

        Args:
            charge: what the request is expected to be charged.
            expect: returns that anew, for a request that has waited while more was learned.
            place: the `number` of an earlier permit, for a request that is sent again: it
                goes before all that came after it the first time.
            patience: seconds that the request waits for a daily quota.
            leaves: whether `Permit.leave` is called when the request goes out.

        Raises:
            TooLargeForLimitError: the request is larger than a whole limit.
            QuotaExhaustedError: a daily quota has no room for longer than the patience.
            ProviderError: the provider refuses everything for longer than is worth waiting.
        """
        loop = asyncio.get_running_loop()
        permit = Permit(self, charge or Charge(), loop, expect)
        permit.number = place
        permit.patience = patience
        permit.says_when_it_leaves = leaves
        with self._lock:
            at_once = self._admission.admit_at_once(permit, loop.time())
            if at_once:
                self._held[loop].add(permit)
        if not at_once:
            await self._wait(permit)
        return permit

    def acquire_nowait(
        self,
        charge: Charge | None = None,
        *,
        expect: Callable[[], Charge] | None = None,
        leaves: bool = False,
    ) -> Permit | None:
        """Return the right to send at once, or None.

        Arguments and errors as in `acquire`.
        """
        loop = asyncio.get_running_loop()
        permit = Permit(self, charge or Charge(), loop, expect)
        permit.says_when_it_leaves = leaves
        with self._lock:
            if self._admission.admit_at_once(permit, loop.time()):
                self._held[loop].add(permit)
                return permit
            if not self._admission.waiting:
                self._admission.pump(loop.time())  # nobody waits for what was looked at
        return None

    def retune(self, quota: Quota) -> None:
        """Change the configured limits; what waits and what is in flight stays."""
        with self._lock:
            self._admission.retune(quota, _now())
            self._pump()

    def observe(self, signals: Iterable[QuotaSignal]) -> None:
        """Learn limits from what a reply's headers say."""
        with self._lock:
            if self._admission.observe(signals, _now()):
                self._pump()

    def refuse(self, error: ProviderError, *, seconds: float | None = None) -> None:
        """Fail all calls with this error, waiting and future ones.

        Without `seconds`, for a minute, after which one call finds out.
        """
        with self._lock:
            now = _now()
            until = None if seconds is None else now + seconds
            self._admission.refuse_all(error, until, now)

    def pause(self, seconds: float, *, round_trip: float = 0.0) -> None:
        """Pause admission for so many seconds; never shortens a pause.

        `round_trip`: the seconds that the one request which goes first may take to be refused.
        """
        with self._lock:
            now = _now()
            self._admission.pause_until(now + seconds, now, round_trip=round_trip)
            self._pump()

    @property
    def failing(self) -> float:
        """The recent failure rate, from 0 to 1; 1 before any answer."""
        return self._admission.overload.failing

    @property
    def is_down(self) -> bool:
        """True if the provider answers nobody; one call at a time probes."""
        return self._admission.overload.is_open

    @property
    def waiting(self) -> int:
        """The number of calls that wait for admission."""
        return self._admission.waiting

    @property
    def trouble(self) -> str | None:
        """The last call's error while nobody is answered; else None."""
        return self._admission.trouble if self.is_down else None

    @property
    def quota(self) -> Quota:
        """The configured limits."""
        return self._admission.quota

    def oldest_in_flight(self) -> float:
        """Return the age of the oldest request in flight, or 0.0."""
        with self._lock:
            now = _now()
            begun = (each.admitted_at for each in self._held.all() if each.state == ADMITTED)
            return max(0.0, now - min(begun, default=now))

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter is doing now."""
        with self._lock:
            statistics = LimiterStatistics.of(self._admission, _now())
        remedy = remedy_for(statistics, self.quota, self._more_connections)
        return statistics if remedy is None else replace(statistics, remedy=remedy)

    def learned(self) -> tuple[LearnedLimit, ...]:
        """Return the learned limits, for another run to begin with."""
        with self._lock:
            return self._admission.dimensions.learned()

    def recall(self, learned: Iterable[LearnedLimit]) -> None:
        """Begin with an earlier run's limits; replies correct them."""
        with self._lock:
            self._admission.dimensions.recall(learned, _now())
            self._pump()

    # --- for Permit ------------------------------------------------------------------

    async def _wait(self, permit: Permit) -> None:
        future = permit._future = permit._loop.create_future()
        with self._lock:
            self._admission.check_refusal(_now())
            self._admission.enqueue(permit)
            swept = self._held.others(permit._loop) and self._sweep()
            # Behind others it changes nothing, as long as this loop looks after them.
            if swept or self._admission.queue[0] is permit or permit._loop not in self._timers.set:
                self._pump()
        try:
            await future
        except BaseException:
            self._end(permit, sent=False)
            raise

    def _end(self, permit: Permit, *, sent: bool) -> None:
        """Take a permit back without an answer.

        Also called while an abandoned coroutine is collected, and that can happen at any
        line of this thread, the locked ones among them. So it never waits for the lock:
        whoever holds it tidies up afterwards.
        """
        self._ended.append((permit, sent))
        self._tidy()

    def _tidy(self) -> None:
        while self._ended and self._lock.raw.acquire(blocking=False):
            try:
                while self._ended:
                    permit, sent = self._ended.popleft()
                    self._held[permit._loop].discard(permit)
                    if sent:
                        self._admission.fail(permit, _now())
                    else:
                        self._admission.cancel(permit)
                self._pump()
            finally:
                self._lock.raw.release()

    def _after_fork(self) -> None:
        """Forget the parent's requests: their loops and threads are not in this process."""
        self._lock = TidyLock(self._ended, self._tidy)
        self._ended.clear()
        self._timers.set.clear()
        self._held.clear()
        self.standing.after_fork()
        self._admission.forget_requests()

    # --- waking; the lock is held ----------------------------------------------------

    def _sweep(self) -> bool:
        """Take back the places of calls whose loops were closed; return whether there were any.

        They were sent, and what they were charged stays charged.
        """
        abandoned = self._held.abandoned()
        for permit in abandoned:
            self._admission.fail(permit, _now())
        return bool(abandoned)

    def _pump(self) -> None:
        """Admit what may go, and see to it that somebody looks again in time."""
        queue = self._admission.queue
        while queue:
            delay = self._admission.pump(_now())
            queue = self._admission.queue
            if not queue:
                return
            head = queue[0]
            assert isinstance(head, Permit)
            if delay is None:
                # Only an event helps, and a loop that is closed has none any more.
                if not self._held.others(head._loop):
                    return
                delay = LOOK_AFTER
            if self._timers.arm(delay, head._loop):
                return
            self._admission.cancel(head)

    def _on_timer(self) -> None:
        with self._lock:
            self._timers.rang()
            self._sweep()
            self._pump()


class Permit(Ticket):
    """The right to send one request, until settled, rejected or released.

    As an async context manager it is released at the end, whatever happened.
    """

    __slots__ = ("_expect", "_future", "_limiter", "_loop")

    def __init__(
        self,
        limiter: Limiter,
        charge: Charge,
        loop: asyncio.AbstractEventLoop,
        expect: Callable[[], Charge] | None,
    ) -> None:
        super().__init__(charge)
        self._limiter = limiter
        self._loop = loop
        self._expect = expect
        self._future: asyncio.Future[None] | None = None

    def leave(self) -> None:
        """Tell that the request goes out: it has its connection.

        Until then it has not arrived either, and what replies say is left does not count it.
        Only for permits that were acquired with `leaves`; the others leave at once.
        """
        with self._limiter._lock:
            self._limiter._admission.leave(self, self._loop.time())

    def settle(self, actual: Charge | None = None, *, signals: Sequence[QuotaSignal] = ()) -> None:
        """End with an answer.

        Args:
            actual: what the request was charged, where known.
            signals: what the reply's headers say of the quota.
        """
        limiter = self._limiter
        with limiter._lock:
            limiter._held[self._loop].discard(self)
            limiter._admission.finish(self, actual, _now(), signals=signals)
            limiter._pump()

    def reject(
        self,
        retry_after: float | None = None,
        *,
        kind: type[RateLimitError] = RateLimitError,
        dimension: str | None = None,
        signals: Sequence[QuotaSignal] = (),
    ) -> float:
        """End with a rate-limit rejection: the whole domain pauses.

        Args:
            retry_after: seconds that the server asked to wait, or None.
            kind: the class of the limit: of a rate, of its growth, or of concurrency.
            dimension: what was used up, such as ``"tpm"``, where the server says so.
            signals: what the reply's headers say of the quota.

        Returns:
            Seconds until the pause ends.
        """
        limiter = self._limiter
        with limiter._lock:
            limiter._held[self._loop].discard(self)
            now = _now()
            until = limiter._admission.reject(
                self, retry_after, now, kind=kind, dimension=dimension, signals=signals
            )
            limiter._pump()
            return max(0.0, until - now)

    def fail(
        self,
        *,
        overloaded: bool,
        signals: Sequence[QuotaSignal] = (),
        reason: str = "",
        rejected: bool = False,
    ) -> None:
        """End with another failure.

        Args:
            overloaded: whether it is a sign that the provider cannot cope: no capacity, a
                server error, no answer in time, a broken connection.
            signals: what the reply's headers say of the quota.
            reason: what happened, for whoever asks why nothing is answered.
            rejected: whether to count it among the rejections.
        """
        limiter = self._limiter
        with limiter._lock:
            limiter._held[self._loop].discard(self)
            limiter._admission.rejected += rejected
            limiter._admission.fail(
                self, _now(), overloaded=overloaded, signals=signals, reason=reason
            )
            limiter._pump()

    def release(self) -> None:
        """End without an answer. Does nothing if the permit has ended already."""
        if self.state == ADMITTED:
            self._limiter._end(self, sent=True)

    async def renew(self) -> None:
        """Wait again after a rejection, in the queue's old place."""
        if self.state != ADMITTED:
            await self._limiter._wait(self)

    def revise(self) -> None:
        """Charge the present expectation of output; called by the limiter."""
        if self._expect is not None:
            self.charge = self._expect()

    def grant(self) -> None:
        """Wake the task that waits; called by the limiter."""
        if wake(self._loop, self._future):
            self._limiter._held[self._loop].add(self)
        else:  # its loop is closed: nobody will send this request
            self._limiter._admission.cancel(self)

    def refuse(self, error: Exception) -> None:
        """Have the task that waits fail; called by the limiter."""
        wake(self._loop, self._future, error)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


class TidyLock:
    """A lock; after its release, what was deferred meanwhile is done."""

    __slots__ = ("_deferred", "_tidy", "raw")

    def __init__(self, deferred: Sized, tidy: Callable[[], None]) -> None:
        self._deferred = deferred
        self._tidy = tidy
        self.raw = threading.Lock()

    def __enter__(self) -> None:
        self.raw.acquire()

    def __exit__(self, *_: object) -> None:
        self.raw.release()
        if self._deferred:
            self._tidy()


_all: WeakSet[Limiter] = WeakSet()


def _forget_the_parents_requests() -> None:
    for limiter in _all:
        limiter._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parents_requests)


def _now() -> float:
    """Return the running loop's time; outside of one, the clock that such loops use."""
    loop = asyncio._get_running_loop()
    return time.monotonic() if loop is None else loop.time()
