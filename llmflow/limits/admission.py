"""Who may go, and when: the state of one quota domain, changed by synchronous code only.

One FIFO, a few token buckets that are taken all or nothing, a count of what is
in flight, and the way back after a rejection. Nothing here waits, looks at a
clock or knows an event loop: every method is told what time it is, and
`Admission.pump` says how long nothing can happen. That makes it testable by
itself; `llmflow.limits.limiter` puts futures and timers around it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from llmflow.errors import TooLargeForLimitError
from llmflow.limits.bucket import TokenBucket
from llmflow.limits.recovery import Recovery
from llmflow.limits.ticket import ADMITTED, CANCELLED, OVER, WAITING, Ticket
from llmflow.types import Charge, Quota, QuotaSignal

DEFAULT_BURST_SECONDS: Final = 1.0
_MINUTE, _DAY = 60.0, 86_400.0
# Loops of one process agree on the time to about a millisecond.
_CLOCK_NOISE: Final = 0.1

# dimension: (index in Charge, period in seconds, least useful capacity)
DIMENSIONS: Final[dict[str, tuple[int, float, float]]] = {
    "rpm": (0, _MINUTE, 1.0),
    "tpm": (1, _MINUTE, 1.0),
    "itpm": (2, _MINUTE, 1.0),
    "otpm": (3, _MINUTE, 1.0),
    "rpd": (0, _DAY, 1.0),
    "tpd": (1, _DAY, 1.0),
}


class Admission:
    """The admission state of one quota domain.

    Args:
        quota: the configured limits; those left out may be learned from headers.
        max_in_flight: requests in flight at once where the quota does not say.
        start_in_flight: requests in flight at first while no rate is known; one more with
            every answer. None begins with all.
        now: the time, in seconds on the caller's clock.
        jitter: returns a factor around 1 for delays that no server gave.
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
        self.buckets: list[TokenBucket] = []
        self.in_flight = 0
        self.admitted = 0
        self.rejected = 0
        self.paused_until = -math.inf
        self.learned: dict[str, float] = {}
        self._default_in_flight = max_in_flight
        self._start = self._window = start_in_flight
        self._jitter = jitter
        self._recovery: Recovery | None = None
        self._rejected_at = -math.inf
        self._strikes = 0
        self._cancelled = 0
        self._next_number = 1
        self._now = self.active_at = now
        self.retune(quota, now)

    # --- what the queue does -----------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return len(self.queue) - self._cancelled

    def admit_at_once(self, ticket: Ticket, now: float) -> bool:
        """Admit a new ticket if nobody waits and everything is free; else change nothing.

        Raises:
            TooLargeForLimitError: it can never be admitted.
        """
        self._check_fits(ticket.charge)
        self._advance(now)
        if len(self.queue) > self._cancelled or self._delay(ticket, now) > 0.0:
            return False
        if not ticket.number:
            self._number(ticket)
        self._admit(ticket, now)
        return True

    def enqueue(self, ticket: Ticket) -> None:
        """Put a ticket at the end of the queue; one that has been there, back in its old place."""
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
            delay = self._delay(ticket, now)
            if delay > 0.0:
                return delay if delay < math.inf else None
            queue.popleft()
            self._admit(ticket, now)
            ticket.grant()
        return None

    def cancel(self, ticket: Ticket) -> None:
        """Take a ticket out: it waits no longer, or was admitted and will not be sent."""
        if ticket.state == WAITING:
            ticket.state = CANCELLED
            self._cancelled += 1
            if self._cancelled > 64 and self._cancelled * 2 > len(self.queue):
                self._clear_cancelled()
        elif ticket.state == ADMITTED:
            self._leave(ticket)
            self.admitted -= 1
            for bucket in self.buckets:
                bucket.give(ticket.charge[bucket.unit])

    def forget_requests(self) -> None:
        """Forget who waits and what is in flight, but not what was spent."""
        self.queue.clear()
        self._cancelled = self.in_flight = 0

    def _clear_cancelled(self) -> None:
        for ticket in self.queue:
            if ticket.state == CANCELLED:
                ticket.state = OVER
        self.queue = deque(ticket for ticket in self.queue if ticket.state == WAITING)
        self._cancelled = 0

    # --- how an admitted request ended ---------------------------------------------------

    def finish(self, ticket: Ticket, actual: Charge | None, now: float) -> None:
        """Take note of an answer, and of what the request was charged in the end."""
        if ticket.state != ADMITTED:
            return
        self._advance(now)
        self._leave(ticket, answered=True)
        if ticket.admitted_at > self._rejected_at:
            self._strikes = 0
            self._widen()
        if actual is not None and actual != ticket.charge:
            for bucket in self.buckets:
                bucket.give(ticket.charge[bucket.unit] - actual[bucket.unit])

    def fail(self, ticket: Ticket, now: float) -> None:
        """Take note of an attempt that ended without an answer. Its charge stays: it was sent."""
        if ticket.state == ADMITTED:
            self._advance(now)
            self._leave(ticket)

    def reject(self, ticket: Ticket, retry_after: float | None, now: float) -> float:
        """Take note of a rate-limit rejection: the whole domain pauses.

        A `retry_after` of zero is no hint: taken at its word, it would have the same
        request sent again and again without a pause.

        Returns:
            The time until which the domain pauses.
        """
        if ticket.state != ADMITTED:
            return self.paused_until
        self._advance(now)
        self._leave(ticket)
        self.rejected += 1
        # Many in flight are rejected at once; only one sent after the last rejection is news.
        news = ticket.admitted_at > self._rejected_at
        if retry_after is not None and retry_after > 0.0:
            until = now + retry_after
        elif news:
            self._strikes += 1
            until = now + min(60.0, 2.0 ** min(self._strikes - 1, 10)) * self._jitter()
        else:
            until = self.paused_until
        if news:
            self._narrow()
            self._rejected_at = now
            self._recovery = Recovery(round_trip=now - ticket.admitted_at)
        self.pause_until(until, now)
        return self.paused_until

    def _widen(self) -> None:
        """Let one more be in flight with every answer, until a rate is known: slow start."""
        if self._window is not None:
            self._window += 1
            if self.buckets or self._window >= self.max_in_flight:
                self._window = None

    def _narrow(self) -> None:
        """Begin anew with half of what was in flight: without a rate there is no other pace."""
        if self._start is not None and not self.buckets:
            self._window = max(self._start, self.in_flight // 2)

    def pause_until(self, moment: float, now: float) -> None:
        """Admit nothing before `moment`. A pause is never shortened."""
        if self._recovery is None:
            self._recovery = Recovery(round_trip=0.0)
        elif moment > max(self.paused_until, now):
            self._recovery.restart()  # a probe of before does not vouch for the time after
        self.paused_until = max(self.paused_until, moment, now)
        for bucket in self.buckets:
            bucket.empty_until(self.paused_until)

    # --- what the limits are -----------------------------------------------------------

    def retune(self, quota: Quota, now: float) -> None:
        """Change the configured limits; levels and the queue stay."""
        self._advance(now)
        self.quota = quota
        self.max_in_flight = quota.max_concurrent or self._default_in_flight
        for name in DIMENSIONS:
            self._set_limit(name, now)

    def observe(self, signals: Iterable[QuotaSignal], now: float) -> bool:
        """Learn from what a reply's headers say. Configured limits are a ceiling.

        Returns:
            Whether a limit is another than before.
        """
        changed = False
        for signal in signals:
            limit = signal.limit
            if limit is None or not 0 < limit < math.inf or signal.dimension not in DIMENSIONS:
                continue
            if self.learned.get(signal.dimension) != limit:
                self._advance(now)  # the time until now was at the old rate
                self.learned[signal.dimension] = limit
                self._set_limit(signal.dimension, now)
                changed = True
        return changed

    def _set_limit(self, name: str, now: float) -> None:
        limits = [
            float(limit)
            for limit in (getattr(self.quota, name), self.learned.get(name))
            if limit is not None
        ]
        existing = next((b for b in self.buckets if b.name == name), None)
        if not limits:
            if existing is not None:
                self.buckets.remove(existing)
            return
        unit, period, minimum = DIMENSIONS[name]
        burst = _DAY if period == _DAY else float(self.quota.burst_seconds or DEFAULT_BURST_SECONDS)
        if existing is not None:
            existing.retune(min(limits), burst_seconds=burst)
            return
        self.buckets.append(
            TokenBucket(
                name,
                unit=unit,
                limit=min(limits),
                period=period,
                burst_seconds=burst,
                minimum=minimum,
                now=now,
            )
        )

    # --- the arithmetic ----------------------------------------------------------------

    def _delay(self, ticket: Ticket, now: float) -> float:
        """Return the seconds until this ticket, at the head, may go; inf: an event decides."""
        if now < self.paused_until:
            return self.paused_until - now
        if self.in_flight >= self.max_in_flight:
            return math.inf
        if self._window is not None and self.in_flight >= self._window and not self.buckets:
            return math.inf
        if self._recovery is not None:
            delay = self._recovery.delay(now)
            if delay > 0.0:
                return delay
            if self._recovery.wants_probe:
                return 0.0  # the server named this moment: its word counts, not our buckets
        delay = 0.0
        charge = ticket.charge
        for bucket in self.buckets:
            wait = bucket.delay(charge[bucket.unit])
            if wait > delay:
                delay = wait
        return delay

    def _admit(self, ticket: Ticket, now: float) -> None:
        ticket.state = ADMITTED
        ticket.admitted_at = self.active_at = now
        self.in_flight += 1
        self.admitted += 1
        charge = ticket.charge
        for bucket in self.buckets:
            bucket.take(charge[bucket.unit])
        if self._recovery is not None:
            self._recovery.admitted(ticket, now)
            if self._recovery.over(now, paced=any(b.unit == 0 for b in self.buckets)):
                self._recovery = None

    def _leave(self, ticket: Ticket, *, answered: bool = False) -> None:
        ticket.state = OVER
        self.in_flight -= 1
        if self._recovery is not None:
            self._recovery.left(ticket, answered=answered, now=self._now)

    def _advance(self, now: float) -> None:
        if now < self._now - _CLOCK_NOISE:
            # Another event loop with another clock: what counts is how long ago things were.
            shift = now - self._now
            self.paused_until += shift
            self._rejected_at += shift
            self.active_at += shift
            self._recovery = None
            for bucket in self.buckets:
                bucket.stamp += shift
                bucket.opened += shift
        self._now = now
        for bucket in self.buckets:
            bucket.refill(now)

    def _check_fits(self, charge: Charge) -> None:
        for bucket in self.buckets:
            # A limit below one request per minute is slow, not impossible.
            if charge[bucket.unit] > max(bucket.limit, bucket.minimum):
                raise TooLargeForLimitError(
                    f"this request needs {charge[bucket.unit]:,.0f} of {bucket.name}, "
                    f"and the limit is {bucket.limit:,.0f}"
                )
