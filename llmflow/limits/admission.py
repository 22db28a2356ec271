"""The admission state of one quota domain, as synchronous code.

One FIFO, a few token buckets that are taken all or nothing, a count of what is
in flight, and the way back after a rejection. Nothing here waits, looks at a
clock or knows an event loop: every method is told what time it is, and
`Admission.pump` says how long nothing can happen. That makes it testable by
itself; `llmflow.limits.limiter` puts futures and timers around it.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from llmflow.errors import (
    ConcurrencyLimitError,
    OutageError,
    ProviderError,
    QuotaExhaustedError,
    RampLimitError,
    RateLimitError,
)
from llmflow.limits.congestion import Overload, Recovery, SlowStart
from llmflow.limits.dimensions import ADMITTED, CANCELLED, OVER, WAITING, Dimensions, Ticket
from llmflow.limits.learning import LearningBucket
from llmflow.rate_limits import DAY
from llmflow.shares import part_of
from llmflow.types import Charge, Quota, QuotaSignal

# Loops of one process agree on the time to about a millisecond.
_CLOCK_NOISE: Final = 0.1
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0
_CROWDED_PAUSE: Final = 1.0
_STRIKES_BELIEVED: Final = 5
_LONGEST_DOUBT: Final = 5.0
# A refusal of all is looked at again after this long, where nobody says when it ends.
_PARKED: Final = 60.0
# A daily quota that lets a request through this often is a slow rate, not used up.
_TRICKLE: Final = 60.0
# What can keep the head of the queue waiting, beside a dimension of the quota.
PAUSE, PROBE, IN_FLIGHT, START = "pause", "probe", "in_flight", "start"


class Admission:
    """The admission state of one quota domain.

    `start_in_flight` is how many requests may be in flight at first while no rate is known; None:
    all.
    """

    def __init__(
        self,
        quota: Quota,
        *,
        max_in_flight: int,
        start_in_flight: int | None = None,
        now: float,
        jitter: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.queue: deque[Ticket] = deque()
        self.dimensions = Dimensions(quota, now=now)
        self.overload = Overload(now=now, jitter=jitter)
        self.in_flight = 0
        self.admitted = 0
        self.rejected = 0
        self.paused_until = -math.inf
        self.trouble = ""
        """What the last failure was that is a sign of overload."""
        self.bound: dict[str, float] = {}
        """Seconds for which the head of the queue waited for what."""
        self._waits_for: str | None = None
        self._default_in_flight = max_in_flight
        self._first = None if start_in_flight is None else part_of(start_in_flight, quota.part)
        self._start = None if self._first is None else SlowStart(self._first, now=now)
        self._jitter = jitter
        self._recovery: Recovery | None = None
        self._refusal: tuple[float, ProviderError] | None = None
        self._rejected_at = -math.inf
        self._strikes = 0
        self._cancelled = 0
        self._next_number = 1
        self._now = self.opened = self.active_at = now
        self.retune(quota, now)

    # --- what the queue does -----------------------------------------------------------

    @property
    def waiting(self) -> int:
        """The number of waiting tickets."""
        return len(self.queue) - self._cancelled

    @property
    def window(self) -> float:
        """The number of requests that may be in flight now."""
        top = min(self.max_in_flight, self.overload.cap)
        if self._start is None or self.dimensions.buckets:
            return top
        return min(top, self._start.window)

    def admit_at_once(self, ticket: Ticket, now: float) -> bool:
        """Admit a new ticket if nothing is in the way; else nothing.

        Raises:
            TooLargeForLimitError: it can never be admitted.
            ProviderError: the provider refuses everything for a while.
        """
        self.check_refusal(now)
        ticket.revise()
        self.dimensions.check_fits(ticket.charge)
        self._advance(now)
        if len(self.queue) > self._cancelled or self._delay(ticket, now) > 0.0:
            return False
        if not ticket.number:
            self._number(ticket)
        self._admit(ticket, now)
        return True

    def enqueue(self, ticket: Ticket) -> None:
        """Queue a ticket: at the end, or back in its old place."""
        if ticket.state == CANCELLED:
            self._clear_cancelled()  # else it would stand in the queue twice
        ticket.state = WAITING
        if not ticket.number:
            self._number(ticket)
            self.queue.append(ticket)
            return
        # Tickets that come again are older than nearly all that wait: few steps from the left.
        place = 0
        for waiting in self.queue:
            if waiting.number > ticket.number:
                break
            place += 1
        self.queue.insert(place, ticket)

    def _number(self, ticket: Ticket) -> None:
        ticket.number = self._next_number
        self._next_number += 1

    def pump(self, now: float) -> float | None:
        """Admit from the head of the queue whatever may go now.

        Returns:
            Seconds until the head may go, or None if that needs an event (or nobody waits).
        """
        self._advance(now)
        queue = self.queue
        while queue:
            ticket = queue[0]
            if ticket.state == CANCELLED:
                queue.popleft()
                ticket.state = OVER
                self._cancelled -= 1
                continue
            ticket.revise()
            delay = self._delay(ticket, now)
            if delay > 0.0:
                binding = self.dimensions.binding
                if binding is not None:
                    self._waits_for, binding.bound_at = binding.name, now
                    if binding.period >= DAY and delay > max(_TRICKLE, ticket.patience):
                        self._end_the_day(binding, delay, now)
                        return None
                return delay if delay < math.inf else None
            queue.popleft()
            self._admit(ticket, now)
            ticket.grant()
        self._waits_for = None
        return None

    def cancel(self, ticket: Ticket) -> None:
        """Remove a ticket that no longer waits, or will not be sent."""
        if ticket.state == WAITING:
            ticket.state = CANCELLED
            self._cancelled += 1
            if self._cancelled > 64 and self._cancelled * 2 > len(self.queue):
                self._clear_cancelled()
        elif ticket.state == ADMITTED:
            self._leave(ticket)
            self.admitted -= 1
            self.dimensions.settle(ticket, Charge(0.0))

    def forget_requests(self) -> None:
        """Forget waiting and in-flight requests, but not what was spent."""
        self.queue.clear()
        self._cancelled = self.in_flight = 0

    def _clear_cancelled(self) -> None:
        for ticket in self.queue:
            if ticket.state == CANCELLED:
                ticket.state = OVER
        self.queue = deque(ticket for ticket in self.queue if ticket.state == WAITING)
        self._cancelled = 0

    # --- how an admitted request ended ---------------------------------------------------

    def finish(
        self,
        ticket: Ticket,
        actual: Charge | None,
        now: float,
        *,
        signals: Iterable[QuotaSignal] = (),
    ) -> None:
        """Register an answer and the final charge of its request."""
        if ticket.state != ADMITTED:
            return
        self._advance(now)
        if signals:
            self.dimensions.observe(signals, ticket, now, answered=True)
        self._leave(ticket, answered=True)
        self.overload.succeed(sent=ticket.admitted_at, in_flight=self.in_flight + 1, now=now)
        if self._start is not None and ticket.admitted_at > self._rejected_at:
            self._start.answer()
        # A rejection comes at once: what was let in since need not be answered to tell.
        if self._recovery is None or self._recovery.cleared(now):
            self.dimensions.succeed(now - ticket.admitted_at, now)
        if actual is not None and actual != ticket.charge:
            self.dimensions.settle(ticket, actual)

    def fail(
        self,
        ticket: Ticket,
        now: float,
        *,
        overloaded: bool | None = None,
        signals: Iterable[QuotaSignal] = (),
        reason: str = "",
    ) -> None:
        """Register an attempt without an answer; its charge stays.

        Arguments as `Permit.fail`; `overloaded` is None if nobody knows.
        """
        if ticket.state != ADMITTED:
            return
        self._advance(now)
        self.dimensions.observe(signals, ticket, now)
        self._leave(ticket)
        sent, in_flight = ticket.admitted_at, self.in_flight + 1
        if not overloaded:
            if overloaded is not None:
                self.overload.succeed(sent=sent, in_flight=in_flight, now=now)
            return
        self.trouble = reason
        pause = self.overload.fail(sent=sent, in_flight=in_flight, now=now)
        if pause is not None:
            self.pause_until(now + pause, now)
            silent = self.overload.outage(now)
            if silent is not None:
                error = OutageError(
                    f"not one answer for {silent:.0f} s; the last failure: {reason}"
                )
                self.refuse_all(error, self.paused_until, now)

    def reject(
        self,
        ticket: Ticket,
        retry_after: float | None,
        now: float,
        *,
        kind: type[RateLimitError] = RateLimitError,
        dimension: str | None = None,
        signals: Sequence[QuotaSignal] = (),
    ) -> float:
        """Take note of a rate-limit rejection: the whole domain pauses.

        Arguments as `Permit.reject`. A `retry_after` of zero is no hint: requests would be sent
        again without a pause.

        Returns:
            The time until which the domain pauses.
        """
        if ticket.state != ADMITTED:
            return self.paused_until
        self._advance(now)
        self.dimensions.refund(ticket)
        changed = self.dimensions.observe(signals, ticket, now)
        self._leave(ticket)
        self.rejected += 1
        # Many in flight are rejected at once; only one sent after the last rejection is news.
        news = ticket.admitted_at > self._rejected_at
        if issubclass(kind, ConcurrencyLimitError):
            return self._crowd(retry_after, now, news=news)
        until = hint = now + retry_after if retry_after and 0.0 < retry_after < math.inf else None
        if news:
            # A probe that is refused says "not yet"; it does not say "less than that".
            probe = self._recovery is not None and not self._recovery.cleared(now)
            self._strikes = self._strikes + 1 if probe else 1
            self._rejected_at = now
            self._recovery = Recovery(round_trip=now - ticket.admitted_at)
            self.dimensions.refuse(
                dimension,
                signals,
                ticket.charge,
                until=hint,
                ramp=issubclass(kind, RampLimitError),
                explained=changed or probe,
                sent_at=ticket.admitted_at,
                now=now,
            )
            if self._first is not None and not self.dimensions.buckets:
                self._start = self._start or SlowStart(self._first, now=now)
                self._start.refuse(self.in_flight, until=max(now, hint or now))
        else:
            self.dimensions.recount(ticket.charge, now)
        if until is None:
            until = now + self._back_off() if news else self.paused_until
        elif news and self._strikes > _STRIKES_BELIEVED:
            # "In 10 ms", said again and again, is not the truth.
            until = max(until, now + min(_LONGEST_DOUBT, self._back_off()))
        # What opens its connection still arrives all the same: the probe goes after it.
        self._pause(max(until, now + self.dimensions.arriving()) if news else until, now)
        return self.paused_until

    def _back_off(self) -> float:
        strikes = min(self._strikes - 1, 10)
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**strikes) * self._jitter())

    def _crowd(self, retry_after: float | None, now: float, *, news: bool) -> float:
        """Have fewer requests in flight: the provider counts them."""
        self.overload.crowd(self.in_flight, now)
        if news:
            self._rejected_at = now
            self._recovery = Recovery(round_trip=0.0)
        if retry_after and 0.0 < retry_after < math.inf:
            self._pause(now + retry_after, now)
        elif not self.in_flight:  # others have all the slots
            self._pause(now + _CROWDED_PAUSE * self._jitter(), now)
        return max(now, self.paused_until)

    def pause_until(self, moment: float, now: float, *, round_trip: float = 0.0) -> None:
        """Admit nothing before `moment`. A pause is never shortened."""
        self._advance(now)
        self._pause(moment, now, round_trip)

    def _pause(self, moment: float, now: float, round_trip: float = 0.0) -> None:
        if self._recovery is None:
            self._recovery = Recovery(round_trip=round_trip)
        elif moment > max(self.paused_until, now):
            self._recovery.restart()  # a probe of before does not vouch for the time after
        self.paused_until = max(self.paused_until, moment, now)

    # --- refusing everything -------------------------------------------------------------

    def refuse_all(self, error: ProviderError, until: float | None, now: float) -> None:
        """Fail every call with this error, waiting and future ones.

        `until` is when calls are let through again; None: in a minute, to see.
        """
        self._advance(now)
        self._refusal = (now + _PARKED if until is None else until, error)
        waiting = [ticket for ticket in self.queue if ticket.state == WAITING]
        self._clear_cancelled()
        self.queue.clear()
        for ticket in waiting:
            ticket.state = OVER
            ticket.refuse(copy.copy(error))

    def _end_the_day(self, bucket: LearningBucket, delay: float, now: float) -> None:
        """Have every call fail until a daily quota has room again: that is hours away."""
        error = QuotaExhaustedError(
            f"{bucket.name} of {bucket.limit:,.0f} is used up, as far as is known here; the next "
            f"request fits in {delay:,.0f} s",
            retry_after=delay,
            dimension=bucket.name,
        )
        self.refuse_all(error, now + delay, now)

    def check_refusal(self, now: float) -> None:
        """Raise the error that every call gets now, if any."""
        if self._refusal is None:
            return
        until, error = self._refusal
        if now < until:
            raise copy.copy(error)
        self._refusal = None

    # --- what the limits are -----------------------------------------------------------

    def retune(self, quota: Quota, now: float) -> None:
        """Change the configured limits; levels and the queue stay."""
        self._advance(now)
        self.quota = quota
        self.max_in_flight = part_of(quota.max_concurrent or self._default_in_flight, quota.part)
        self.dimensions.retune(quota, now)

    def observe(self, signals: Iterable[QuotaSignal], now: float) -> bool:
        """Learn from a reply's headers; return whether a limit changed."""
        self._advance(now)
        return self.dimensions.observe(signals, None, now)

    # --- the arithmetic ----------------------------------------------------------------

    def _delay(self, ticket: Ticket, now: float) -> float:
        """Return the seconds until this ticket, at the head, may go; inf: an event decides."""
        self.dimensions.binding = None
        if now < self.paused_until:
            self._waits_for = PAUSE
            return self.paused_until - now
        if self.in_flight >= self.max_in_flight or self.in_flight >= self.overload.cap:
            self._waits_for = IN_FLIGHT
            return math.inf
        if self._start is not None:
            delay = self._starting(now)
            if delay > 0.0:
                self._waits_for = START
                return delay
        if self._recovery is not None:
            delay = self._recovery.delay(now)
            if delay > 0.0:
                self._waits_for = PROBE
                return delay
            if self._recovery.wants_probe:
                return 0.0  # the server named this moment: its word counts, not our buckets
        return self.dimensions.delay(ticket.charge)

    def _starting(self, now: float) -> float:
        """Return the seconds until slow start lets one more go, or end it."""
        assert self._start is not None
        if self.dimensions.buckets or self._start.window >= self.max_in_flight:
            self._start = None
            return 0.0
        return self._start.delay(self.in_flight, now)

    def _admit(self, ticket: Ticket, now: float) -> None:
        ticket.state = ADMITTED
        ticket.admitted_at = self.active_at = now
        if not self.admitted:
            self.opened = now
        self.in_flight += 1
        self.admitted += 1
        self.dimensions.take(ticket, now)
        if self._start is not None:
            self._start.leave(now)
        if self._recovery is not None:
            self._recovery.admitted(ticket, now)
            if self._recovery.over(now, paced=any(b.unit == 0 for b in self.dimensions.buckets)):
                self._recovery = None

    def leave(self, ticket: Ticket, now: float) -> None:
        """Take note that a request is sent: it has a connection now."""
        if ticket.state == ADMITTED:
            self.dimensions.leave(ticket, now)

    def _leave(self, ticket: Ticket, *, answered: bool = False) -> None:
        if ticket.is_opening:
            self.dimensions.leave(ticket, self._now)
        ticket.state = OVER
        self.in_flight -= 1
        if self._recovery is not None:
            self._recovery.left(ticket, answered=answered, now=self._now)

    def _advance(self, now: float) -> None:
        passed = now - self._now
        if passed < -_CLOCK_NOISE:
            self._move(passed)
        elif passed > 0.0 and self._waits_for is not None:
            self.bound[self._waits_for] = self.bound.get(self._waits_for, 0.0) + passed
        self._now = now
        self.dimensions.refill(now)

    def _move(self, shift: float) -> None:
        """Follow another event loop with another clock: what counts is how long ago things were."""
        self.paused_until += shift
        self._rejected_at += shift
        self.opened += shift
        if self._start is not None:
            self._start.move(shift)
        self.active_at += shift
        self._recovery = None
        if self._refusal is not None:
            self._refusal = (self._refusal[0] + shift, self._refusal[1])
        self.overload.move(shift)
        self.dimensions.move(shift)
