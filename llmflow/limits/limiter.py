"""The limiter of one quota domain, shared by all its callers."""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from weakref import WeakSet

from llmflow.errors import ProviderError, RateLimitError
from llmflow.limits.admission import Admission
from llmflow.limits.expectation import Expectation
from llmflow.limits.holders import Holders
from llmflow.limits.learned import LearnedLimit
from llmflow.limits.lock import TidyLock
from llmflow.limits.permit import Permit
from llmflow.limits.standing import Standing
from llmflow.limits.statistics import LimiterStatistics, remedy_for
from llmflow.limits.ticket import ADMITTED
from llmflow.types import Charge, Quota, QuotaSignal

DEFAULT_MAX_IN_FLIGHT = 1000
# How much later than the head's own loop another one looks whether the head went.
_LOOK_AFTER = 1.0
# At thousands of requests per second one timer serves several.
_SHORTEST_WAIT = 1e-3


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
        self._lock = TidyLock(self._tidy)
        self._more_connections = more_connections
        self._ended: deque[tuple[Permit, bool]] = deque()
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
        # When each loop looks again. uvloop's handles do not always tell.
        self._timers: dict[asyncio.AbstractEventLoop, tuple[float, asyncio.Handle]] = {}
        self._placed: Holders[Permit] = Holders()
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
                self._placed.add(loop, permit)
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
                self._placed.add(loop, permit)
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

        Args:
            error: what they fail with; each with a copy of its own.
            seconds: how long; None: a minute, after which one call finds out.
        """
        with self._lock:
            now = _now()
            until = None if seconds is None else now + seconds
            self._admission.refuse_all(error, until, now)

    def pause(self, seconds: float, *, round_trip: float = 0.0) -> None:
        """Pause admission for so many seconds; never shortens a pause.

        Args:
            seconds: how long.
            round_trip: how long the one request that goes first may take to be refused.
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
            begun = (each.admitted_at for each in self._placed if each.state == ADMITTED)
            return max(0.0, now - min(begun, default=now))

    def statistics(self) -> LimiterStatistics:
        """Return what the limiter is doing now."""
        with self._lock:
            admission, now = self._admission, _now()
            dimensions = admission.dimensions
            buckets = dimensions.buckets
            paused_for = max(0.0, admission.paused_until - now)
            active = max(admission.active_at - admission.opened, 1e-9)
            statistics = LimiterStatistics(
                waiting=admission.waiting,
                in_flight=admission.in_flight,
                admitted=admission.admitted,
                rejected=admission.rejected,
                paused_for=paused_for,
                paused_until=time.time() + paused_for if paused_for else None,
                max_in_flight=admission.max_in_flight,
                window=int(admission.window),
                share=dimensions.portion,
                limits=dimensions.limits(),
                learned={each.dimension: each.limit for each in dimensions.learned()},
                shares={b.name: 1.0 if b.estimated else b.share for b in buckets},
                burst_seconds={b.name: b.window for b in buckets},
                levels={b.name: b.level_at(now) for b in buckets},
                utilisation={b.name: b.utilisation(admission.active_at) for b in buckets},
                bound_by={
                    name: min(1.0, seconds / active) for name, seconds in admission.bound.items()
                },
            )
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
            swept = self._placed.others(permit._loop) and self._sweep()
            # Behind others it changes nothing, as long as this loop looks after them.
            if swept or self._admission.queue[0] is permit or permit._loop not in self._timers:
                self._pump()
        try:
            await future
        except BaseException:
            self._end(permit, sent=False)
            raise

    def _leave(self, permit: Permit) -> None:
        with self._lock:
            self._admission.leave(permit, permit._loop.time())

    def _settle(
        self, permit: Permit, actual: Charge | None, signals: Sequence[QuotaSignal]
    ) -> None:
        with self._lock:
            self._placed.discard(permit._loop, permit)
            self._admission.finish(permit, actual, _now(), signals=signals)
            self._pump()

    def _reject(
        self,
        permit: Permit,
        retry_after: float | None,
        kind: type[RateLimitError],
        dimension: str | None,
        signals: Sequence[QuotaSignal],
    ) -> float:
        with self._lock:
            self._placed.discard(permit._loop, permit)
            now = _now()
            until = self._admission.reject(
                permit, retry_after, now, kind=kind, dimension=dimension, signals=signals
            )
            self._pump()
            return max(0.0, until - now)

    def _fail(
        self,
        permit: Permit,
        overloaded: bool,
        signals: Sequence[QuotaSignal],
        reason: str,
        rejected: bool,
    ) -> None:
        with self._lock:
            self._placed.discard(permit._loop, permit)
            if rejected:
                self._admission.rejected += 1
            self._admission.fail(
                permit, _now(), overloaded=overloaded, signals=signals, reason=reason
            )
            self._pump()

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
                    self._placed.discard(permit._loop, permit)
                    if sent:
                        self._admission.fail(permit, _now())
                    else:
                        self._admission.cancel(permit)
                self._pump()
            finally:
                self._lock.raw.release()

    def _after_fork(self) -> None:
        """Forget the parent's requests: their loops and threads are not in this process."""
        self._lock = TidyLock(self._tidy)
        self._ended.clear()
        self._timers.clear()
        self._placed.clear()
        self.standing.after_fork()
        self._admission.forget_requests()

    # --- waking; the lock is held ----------------------------------------------------

    def _sweep(self) -> bool:
        """Take back the places of calls whose loops were closed; return whether there were any.

        They were sent, and what they were charged stays charged.
        """
        abandoned = self._placed.abandoned()
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
                if not self._placed.others(head._loop):
                    return
                delay = _LOOK_AFTER
            if self._arm(delay, head._loop):
                return
            self._admission.cancel(head)

    def _arm(self, delay: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Have the loop of the queue's head look again in time; return False if it is closed."""
        here = asyncio._get_running_loop()
        if loop is here:
            self._ring(loop, delay)
            return True
        if loop.is_closed():
            return False
        if here is not None:
            # The head's loop may be closed while it waits: then this one sees to the rest.
            self._ring(here, delay + _LOOK_AFTER)
        timer = self._timers.get(loop)
        if timer is None or timer[0] > loop.time() + delay:
            # A loop may be touched from its own thread only: let it look for itself.
            try:
                loop.call_soon_threadsafe(self._on_timer)
            except RuntimeError:  # closed a moment ago
                return False
        return True

    def _ring(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        """Set the timer of the running loop, unless it rings before (and is set anew then)."""
        when = loop.time() + (delay if delay > _SHORTEST_WAIT else _SHORTEST_WAIT)
        timer = self._timers.get(loop)
        if timer is None:
            for closed in [each for each in self._timers if each.is_closed()]:
                del self._timers[closed]
        elif timer[0] <= when:
            return
        else:
            timer[1].cancel()
        self._timers[loop] = when, loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        with self._lock:
            timer = self._timers.pop(asyncio.get_running_loop(), None)
            if timer is not None:
                timer[1].cancel()  # it may be another loop that called, earlier than the timer
            self._sweep()
            self._pump()


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
