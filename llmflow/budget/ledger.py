"""Accounts of a budget: spent, reserved, and calls waiting for the rest."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from llmflow.budget.reservation import GRANTED, OVER, WAITING, Reservation, refusal, too_large
from llmflow.budget.value import Budget, Estimate, LedgerState, Remaining, Spent
from llmflow.clock import SystemClock
from llmflow.errors import BudgetExceededError
from llmflow.events import BudgetReached, current_run_id, emit
from llmflow.limits.event_loops import HeldByLoop, wake
from llmflow.limits.limiter import TidyLock

# Dollars are sums of many small parts: rounding must refuse nobody.
_ROUNDING: Final = 1.0 + 1e-9
_NO_LIMIT: Final = float("inf")
# So many places in the queue may be those of calls that were cancelled.
_UNTIDY: Final = 64
# Loops may ring a moment too early, and nobody rings twice.
_LATE: Final = 0.01
# Seconds between two looks for loops that were closed.
_LOOK_AFTER: Final = 1.0
# In place of what was spent: the reservation goes on without its loop.
_DETACHED: Final = Spent()


class Ledger:
    """Keeps a run within its budget: reserves before calls, settles after.

    What a call may come to is reserved in all units or in none, so that what is spent
    and reserved together never exceeds the budget, but for what an answer costs more than
    was reserved for it.

    A call that does not fit waits, first come, first served, as long as calls under way
    may give back what it needs. When that cannot help any more it is refused, and with it
    every later call, even one that would fit; but for one that is above the whole budget by
    itself, which is refused alone. What is left is too little for the work, and
    a run that goes on with its smallest items only would spend it on a choice that nobody
    made, and would end at another place each time.

    Safe to cancel at any point; tasks of several event loops in threads may share it.

    >>> ledger = Ledger(Budget(usd=1))
    >>> async def call():
    ...     reservation = await ledger.reserve(Estimate(usd=0.02, tokens=900))
    ...     reservation.settle(usd=0.013, tokens=640)

    Args:
        budget: what may be spent.
        spent: what earlier sessions of the run have spent.
        clock: returns seconds that only go forward; by default the running loop's time.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        spent: Spent | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.budget = budget
        self._clock = clock or SystemClock().monotonic
        self._started = self._clock()
        self._limits = tuple(
            _NO_LIMIT if limit is None else float(limit) * _ROUNDING
            for limit in (budget.usd, budget.tokens, budget.requests)
        )
        self._deadline = (
            _NO_LIMIT if budget.seconds is None else self._started + float(budget.seconds)
        )
        self._usd, self._tokens, self._requests = spent or Spent()
        self._held_usd = self._held_tokens = self._held_requests = 0.0
        self._under_way = 0
        self._queue: deque[Reservation] = deque()
        self._waiting = 0
        self._reached: str | None = None
        self._refusal = ""
        self._told = False
        self._ended: deque[tuple[Reservation, Spent | None]] = deque()
        self._lock = TidyLock(self._ended, self._tidy)
        self._placed: HeldByLoop[Reservation] = HeldByLoop()
        self._is_of_loops = False  # whether calls of several loops have waited

    def __repr__(self) -> str:
        state = self.state()
        reached = f", {state.reached} reached" if state.reached else ""
        return f"<Ledger of {self.budget}: {state.under_way} under way{reached}>"

    def reserve_nowait(self, estimate: Estimate) -> Reservation | None:
        """Reserve at once, or return None if that takes waiting.

        Raises:
            BudgetExceededError: it does not fit, and nothing under way can change that.
            TooLargeForBudgetError: it is above the whole budget; other calls are not concerned.
        """
        reservation = Reservation(self, estimate)
        with self._lock:
            if self._ended:
                self._settle_ended()
            granted = self._grant_at_once(reservation)
        if granted:
            return reservation
        if reservation.refused is not None:
            raise reservation.refused
        if self._reached is not None:
            raise self._error()
        return None

    async def reserve(
        self, estimate: Estimate, *, anew: Callable[[], Estimate] | None = None
    ) -> Reservation:
        """Reserve a call's cost, and wait for room where that helps.

        `anew` estimates again when its turn comes, for answers since then may have told more.

        Raises:
            BudgetExceededError: it does not fit, and nothing under way can change that; or an
                earlier call was refused.
        """
        reservation = self.reserve_nowait(estimate)
        return await self._wait(estimate, anew) if reservation is None else reservation

    def reserve_if_free(self, estimate: Estimate) -> Reservation | None:
        """Reserve for optional work if nobody else needs it; else None."""
        reservation = Reservation(self, estimate)
        with self._lock:
            if self._ended:
                self._settle_ended()
            if self._reached is not None or self._waiting or not self._fits(estimate):
                return None
            self._hold(reservation)
        return reservation

    def detach(self, reservation: Reservation) -> None:
        """Keep a reservation beyond its loop, for a batch row.

        Never waits for the lock, as `end`.
        """
        reservation.abandoned = _nothing
        self.end(reservation, _DETACHED)

    @property
    def spent(self) -> Spent:
        """Amounts spent, earlier sessions included."""
        return self.state().spent

    @property
    def reached(self) -> str | None:
        """The limit that has ended the run, such as ``"usd"``, or None."""
        return self._reached

    def remaining(self) -> Remaining:
        """Return the free amount in each unit; None where unlimited."""
        state, budget = self.state(), self.budget
        left = (
            None if limit is None else max(0.0, float(limit) - spent - reserved)
            for limit, spent, reserved in zip(
                (budget.usd, budget.tokens, budget.requests, budget.seconds),
                (*state.spent, state.seconds),
                (*state.reserved, 0.0),
                strict=True,
            )
        )
        return Remaining(*left)

    def state(self) -> LedgerState:
        """Return what the ledger holds now."""
        with self._lock:
            if self._ended:
                self._settle_ended()
            return LedgerState(
                budget=self.budget,
                spent=Spent(self._usd, self._tokens, self._requests),
                reserved=Spent(self._held_usd, self._held_tokens, self._held_requests),
                under_way=self._under_way,
                waiting=self._waiting,
                seconds=max(0.0, self._clock() - self._started),
                reached=self._reached,
            )

    # --- waiting ----------------------------------------------------------------------

    async def _wait(
        self, estimate: Estimate, anew: Callable[[], Estimate] | None = None
    ) -> Reservation:
        reservation = Reservation(self, estimate, anew)
        loop = reservation.loop = asyncio.get_running_loop()
        future = reservation.future = loop.create_future()
        alarm = None
        if self._deadline < _NO_LIMIT:
            left = max(0.0, self._deadline - self._clock())
            alarm = loop.call_later(left + _LATE, self._look_again)
        try:
            with self._lock:
                if self._queue and self._queue[-1].loop is not loop:
                    self._is_of_loops = True
                self._queue.append(reservation)
                self._waiting += 1
                if self._is_of_loops or self._placed.others(loop):
                    self._sweep()
                    loop.call_later(_LOOK_AFTER, self._look_after, reservation)
                self._settle_ended()
                self._pump()  # what was under way may have ended since
            await future
        except BaseException:
            reservation.release()
            raise
        finally:
            if alarm is not None:
                alarm.cancel()
        if reservation.state != GRANTED:
            raise reservation.refused or self._error()
        return reservation

    def _look_after(self, reservation: Reservation) -> None:
        """See, while a call waits, whether a loop was closed with what it waits for."""
        if reservation.state == WAITING and reservation.loop is not None:
            with self._lock:
                self._sweep()
            reservation.loop.call_later(_LOOK_AFTER, self._look_after, reservation)

    def _sweep(self) -> None:
        """End what the calls of closed loops held; it is settled when the lock is free."""
        for reservation in self._placed.abandoned():
            (reservation.abandoned or reservation.release)()

    def _look_again(self) -> None:
        with self._lock:
            self._pump()

    def charge(self, spent: Spent) -> None:
        """Count what was spent without having been reserved."""
        with self._lock:
            self._usd += spent.usd
            self._tokens += spent.tokens
            self._requests += spent.requests

    def end(self, reservation: Reservation, spent: Spent | None) -> None:
        """Take a reservation back, for `Reservation`.

        Also called while an abandoned coroutine is collected, and that can happen at any
        line of this thread, the locked ones among them. So it never waits for the lock:
        whoever holds it does this afterwards.
        """
        self._ended.append((reservation, spent))
        self._tidy()

    def _tidy(self) -> None:
        while self._ended and self._lock.raw.acquire(blocking=False):
            try:
                self._settle_ended()
            finally:
                self._lock.raw.release()

    # --- state changes; the lock is held ------------------------------------------------

    def _grant_at_once(self, reservation: Reservation) -> bool:
        """Reserve if that is possible now. Close the ledger if it will never be."""
        if self._reached is None and not self._waiting and self._fits(reservation.estimate):
            self._hold(reservation)
            return True
        if self._reached is None and not self._is_refused(reservation) and not self._waiting:
            self._check_hope(reservation.estimate)
        return False

    def _is_refused(self, reservation: Reservation) -> bool:
        """Return whether a call is above the whole budget by itself.

        Where nothing is left of the budget it is not for the size of this one.
        """
        spent = (self._usd, self._tokens, self._requests)
        for name, limit, used, need in zip(
            Spent._fields, self._limits, spent, reservation.estimate, strict=True
        ):
            if need > limit > used * _ROUNDING:
                reservation.refused = too_large(name, self.budget, reservation.estimate)
                return True
        return False

    def _fits(self, estimate: Estimate) -> bool:
        usd, tokens, requests = estimate
        most_usd, most_tokens, most_requests = self._limits
        return (
            self._usd + self._held_usd + usd <= most_usd
            and self._tokens + self._held_tokens + tokens <= most_tokens
            and self._requests + self._held_requests + requests <= most_requests
            and (self._deadline == _NO_LIMIT or self._clock() < self._deadline)
        )

    def _hold(self, reservation: Reservation) -> None:
        usd, tokens, requests = reservation.estimate
        self._held_usd += usd
        self._held_tokens += tokens
        self._held_requests += requests
        self._under_way += 1
        reservation.state = GRANTED
        loop = reservation.loop = reservation.loop or asyncio._get_running_loop()
        if loop is not None:
            self._placed[loop].add(reservation)

    def _settle_ended(self) -> None:
        while self._ended:
            reservation, spent = self._ended.popleft()
            if spent is _DETACHED:
                if reservation.loop is not None:
                    self._placed[reservation.loop].discard(reservation)
                reservation.loop = None
                continue
            state, reservation.state = reservation.state, OVER
            if state == GRANTED:
                if reservation.loop is not None:
                    self._placed[reservation.loop].discard(reservation)
                self._give_back(reservation.estimate)
                if spent is not None:
                    self._usd += spent.usd
                    self._tokens += spent.tokens
                    self._requests += spent.requests
            elif state == WAITING:
                self._waiting -= 1
        if self._queue:
            self._pump()
        if len(self._queue) > 2 * self._waiting + _UNTIDY:  # behind a head that waits long
            self._queue = deque(each for each in self._queue if each.state == WAITING)

    def _give_back(self, estimate: Estimate) -> None:
        self._under_way -= 1
        if not self._under_way:  # exactly nothing, whatever was rounded on the way
            self._held_usd = self._held_tokens = self._held_requests = 0.0
            return
        self._held_usd -= estimate.usd
        self._held_tokens -= estimate.tokens
        self._held_requests -= estimate.requests

    def _pump(self) -> None:
        """Let those go that waited longest, as far as it reaches."""
        queue = self._queue
        while queue:
            head = queue[0]
            if head.state == WAITING:
                loop = head.loop
                assert loop is not None
                granted = not loop.is_closed() and self._reached is None
                if granted and head.anew is not None:
                    head.estimate = head.anew()
                if granted and not self._fits(head.estimate):
                    granted = False
                    if not self._is_refused(head) and not self._check_hope(head.estimate):
                        return
                self._waiting -= 1
                if granted:
                    self._hold(head)
                else:
                    head.state = OVER
                if not wake(loop, head.future) and granted:  # its loop was closed a moment ago
                    head.state = OVER
                    self._give_back(head.estimate)
            queue.popleft()

    def _check_hope(self, estimate: Estimate) -> bool:
        """Close the ledger and return True if nothing under way can make room for this."""
        reached = self._beyond(estimate)
        if reached is None:
            return False
        self._reached = reached
        held = Spent(self._held_usd, self._held_tokens, self._held_requests)
        spent = Spent(self._usd, self._tokens, self._requests)
        self._refusal = refusal(
            reached, self.budget, spent, held, under_way=self._under_way, estimate=estimate
        )
        return True

    def _beyond(self, estimate: Estimate) -> str | None:
        """Return the limit that a call is beyond even if all that is reserved comes back."""
        if self._clock() >= self._deadline:
            return "seconds"
        spent = (self._usd, self._tokens, self._requests)
        for name, limit, used, need in zip(
            Spent._fields, self._limits, spent, estimate, strict=True
        ):
            if not used + need <= limit:  # what is not a number does not fit, either
                return name
        return None

    # --- refusals -----------------------------------------------------------------------

    def _error(self) -> BudgetExceededError:
        if not self._told:
            self._told = True
            if BudgetReached.wanted:
                self._tell()
        return BudgetExceededError(self._refusal)

    def _tell(self) -> None:
        state = self.state()
        name = state.reached or "usd"
        limit = float(getattr(self.budget, name))
        used = state.seconds
        if name != "seconds":
            used = getattr(state.spent, name) + getattr(state.reserved, name)
        emit(
            BudgetReached(
                at=time.time(),
                run_id=current_run_id.get(),
                dimension=name,
                spent=used,
                limit=limit,
            )
        )


def _nothing() -> None:
    """End nothing: what was kept is for a row of a job, whatever becomes of its call's loop."""
