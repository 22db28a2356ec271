"""Step 8: send a call; live calls, and what follows a failure.

The order of a live call is fixed: the user's own gates, then admission by the limiter (quota and
in-flight slot in one), then the call. Both are given back before any back-off
sleep, so a request that waits to be sent again holds nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, cast

from llmflow import transport
from llmflow.calls.call import (
    ALWAYS_FITS,
    NOTHING,
    TIMES_THE_ESTIMATE,
    Call,
    LiveCall,
    Route,
    Step,
    plausible,
)
from llmflow.calls.hedge import Hedge, Hedging
from llmflow.calls.observe import CallReporter
from llmflow.calls.output_methods import method_of, note_answer, refuses_method
from llmflow.calls.payment import Payment, Second
from llmflow.calls.refusals import FILTERED, Refusals, filtered, is_page, may_be_billed
from llmflow.calls.session import Session
from llmflow.clock import Clock, SystemClock
from llmflow.errors import (
    ContentFilterError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
)
from llmflow.events import RequestAdmitted
from llmflow.headers import clock_time
from llmflow.items.runner import item_calls
from llmflow.limits import Limiter, Permit
from llmflow.limits.gates import Gate
from llmflow.provider import ClientProvider, WireProvider
from llmflow.retry import Retry
from llmflow.transport import Timeout
from llmflow.types import Charge, Request, Response

_WORTH_TELLING: Final = 1e-3
_TEMPLATE_CHARACTERS: Final = 16
# The share of calls that fail above which nothing is sent that need not be.
_STRUGGLING: Final = 0.5


def send(session: Session) -> Step:
    """Return the step that asks the provider and reports the cost."""
    retried = session.tally.retried

    async def step(call: Call) -> Response:
        mode = session.mode_of(call)
        if not call.wanted:
            await mode.place((call,))
            return NOTHING
        route, call.retried = call.route, retried
        try:
            response = await mode.complete(call)
        except ProviderError as error:
            price_failure(error, route, in_batch=call.in_batch)
            raise
        if call.source == "journal":
            return response
        return priced(response, route, in_batch=call.in_batch, charge=call.charge)

    return step


def priced(
    response: Response, route: Route, *, in_batch: bool, charge: Charge | None = None
) -> Response:
    """Return an answer with what it cost, if anybody knows.

    `charge` is what was reserved for it, where that is known.
    """
    if in_batch:  # of live calls, the mode has looked at the usage before the limiter
        response = plausible(response, route.provider, charge)
    if response.cost is not None and not route.overrides_cost:
        return response
    price = route.price()
    if price is None:
        return response
    return replace(response, cost=price.cost(response.usage, batch=in_batch))


def price_failure(error: ProviderError, route: Route, *, in_batch: bool) -> None:
    """Note on an error the cost of its stopped answer."""
    if not isinstance(error, ContentFilterError) or error.usage is None:
        return
    price = route.price()
    if price is not None and (error.cost is None or route.overrides_cost):
        error.cost = price.cost(error.usage, batch=in_batch)


class LiveMode:
    """Answers requests by live calls to one provider.

    The `gates` are passed before admission, in their order; `clock` and `rng` give time, sleep
    and jitter.
    """

    def __init__(
        self,
        provider: WireProvider | ClientProvider,
        *,
        limiter: Limiter,
        retry: Retry,
        timeout: Timeout,
        gates: Sequence[Gate] = (),
        hedge: Hedge | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.provider = provider
        self.limiter = limiter
        self.retry = retry
        self.timeout = timeout
        self.gates = tuple(gates)
        self.hedging = None if hedge is None else Hedging(hedge)
        # Not by isinstance: before Python 3.12 that runs a protocol's properties.
        own = hasattr(type(provider), "complete")
        self._client = cast("ClientProvider", provider) if own else None
        self._wire = None if own else cast("WireProvider", provider)
        self._reserves_output = provider.reserves_output
        self._clock = clock or SystemClock()
        self._now = None if clock is None else clock.monotonic
        self._rng = rng or random.Random()
        self._reporter = CallReporter(provider, self._clock)
        self._refusals = Refusals(limiter, self._reporter, self._clock)

    async def place(self, calls: Sequence[Call]) -> None:
        """Do nothing: live calls need somebody who waits for them."""

    def is_batch(self, _call: Call) -> bool:
        """Return False: no job is asked."""
        return False

    async def complete(self, asked: Call) -> Response:
        """Answer one call.

        Raises:
            ProviderError: it failed for good, with the number of its attempts.
        """
        request = asked.request
        charge = asked.charge or self.provider.reserve(request)
        wire = None if self._wire is None else self._wire.encode(request)
        # Of the loop itself: a call asks for the time often.
        now = self._now or asyncio.get_running_loop().time
        call = LiveCall(asked.id, request, charge, wire, now)
        if request.wanted:
            call.chosen = method_of(self.provider, request)
        if not self._reserves_output:
            call.kind = _kind(request)
            call.expect = partial(self.limiter.expectation.of, call.kind, call.charge)
        call.retried = asked.retried
        call.payment = call.sending = asked.payment
        started = now()
        calls = item_calls.get()
        if calls is not None:
            calls.begin()
        try:
            response = await self._attempt(call)
        except ProviderError as failure:
            if not self.retry.retries(failure):
                failure.attempts = call.attempts
                raise
            response = await self._recover(call, failure, started)
        finally:
            if calls is not None:
                calls.end()
        if call.chosen is not None:
            certain = self._wire is not None
            note_answer(self.provider, request, call.chosen, is_certain=certain)
        waited = now() - started - call.in_flight
        if call.attempts == 1 and waited < _WORTH_TELLING:
            return response
        return replace(response, attempts=call.attempts, waited=max(0.0, waited))

    async def _recover(self, call: LiveCall, failure: ProviderError, started: float) -> Response:
        try:
            return await self.retry.recover(
                failure,
                lambda: self._attempt(call),
                started=started,
                clock=self._clock,
                rng=self._rng,
                failing=lambda: self.limiter.failing,
                down=lambda: self.limiter.is_down,
                again=partial(self._reporter.retried, call),
            )
        except ProviderError as final:
            final.attempts = call.attempts
            raise

    async def _attempt(self, call: LiveCall) -> Response:
        """Send until there is an answer or a failure; a rate limit is neither."""
        send: Callable[[LiveCall, Permit], Awaitable[Response]]
        send = self._exchange if self.hedging is None else self._hedged
        if (calls := item_calls.get()) is not None:
            send = calls.sent(send)
        permit, counted = None, 1
        try:
            while True:
                permit = await self._admitted(call, permit, counted)
                counted = 0  # a rate limit is no attempt
                try:
                    return await send(call, permit)
                except (RateLimitError, QuotaExhaustedError) as rejection:
                    _charge(call.payment, rejection)
                    self._pause(call, permit, rejection)
                except ProviderError as error:
                    _charge(call.payment, error)
                    permit.fail(
                        overloaded=error.transient, signals=error.signals, reason=str(error)
                    )
                    if error.transient:
                        raise
                    if call.chosen is not None and self._asks_otherwise(call, error):
                        counted = 1
                        continue
                    await self._refusals.let_pass(call, error, sent=permit.admitted_at)
                    counted = 1
        except ProviderError as error:
            call.rejected_since = None
            error.provider = error.provider or self.provider.name
            error.model = error.model or self.provider.model
            raise
        finally:
            if permit is not None:
                permit.release()
            if call.doubted:
                self.limiter.standing.left(call)

    def _asks_otherwise(self, call: LiveCall, error: ProviderError) -> bool:
        """Return whether a request is sent again with its schema in another way.

        It is remembered by the provider: other calls are sent so at once.
        """
        assert call.chosen is not None
        if not refuses_method(self.provider, call.request, call.chosen, error):
            return False
        call.chosen = method_of(self.provider, call.request)
        if self._wire is not None:
            call.wire = self._wire.encode(call.request)
        self._reporter.retried(call, call.attempts, error, 0.0)
        return True

    async def _admitted(self, call: LiveCall, permit: Permit | None, counted: int) -> Permit:
        """Return the permit of the next request; that of the one before, if there is one."""
        if call.payment is not None:
            await call.payment.renew()
        asked = call.now() if RequestAdmitted.wanted else None
        for gate in self.gates:
            await gate.acquire()
        if permit is None:
            permit = await self.limiter.acquire(
                call.charge,
                expect=call.expect,
                place=call.place,
                patience=self.retry.daily_limit_patience,
                leaves=self._wire is not None,
            )
            call.place = permit.number
        else:
            await permit.renew()
        call.attempts += counted  # only now is it sent: who was refused admission was not
        if asked is not None:
            self._reporter.admitted(call, call.now() - asked)
        if call.payment is not None:
            call.payment.begin(call.attempts)
        return permit

    async def _exchange(self, call: LiveCall, permit: Permit) -> Response:
        sent = call.now()
        try:
            if self._wire is not None:
                assert call.wire is not None
                call.permit = permit
                sending = permit if call.sending is None else call
                reply = await transport.send(call.wire, timeout=self.timeout, sending=sending)
                signals = self._wire.signals(reply)
                try:
                    response = self._wire.decode(reply)
                except ProviderError as error:
                    error.signals = (*error.signals, *signals)
                    error.is_page = is_page(reply)
                    error.may_be_billed = may_be_billed(error, reply.status)
                    raise
            else:
                call.leave()
                response = await self._ask_client(call.request)
                signals = response.signals
        finally:
            call.in_flight += call.now() - sent
        standing = self.limiter.standing
        if not standing.is_sound:
            standing.answered(call, sent=permit.admitted_at)
        charge, usage = call.charge, response.usage
        total = usage.input_tokens + usage.output_tokens
        is_small = total <= ALWAYS_FITS and total <= TIMES_THE_ESTIMATE * charge.input_tokens
        if not is_small or usage.input_tokens < 0 or usage.output_tokens < 0:  # as few are
            response = plausible(response, self.provider, charge)
        actual = self.provider.settle(charge, response.usage)
        if call.expect is not None:
            self.limiter.expectation.learn(call.kind, charge, actual)
        permit.settle(actual, signals=signals)
        if response.finish_reason == FILTERED:
            raise filtered(response)
        return response

    async def _hedged(self, call: LiveCall, permit: Permit) -> Response:
        hedging = self.hedging
        assert hedging is not None
        before, sent = call.in_flight, call.now()
        answered = False
        try:
            response = await hedging.race(
                self._exchange(call, permit),
                again=partial(self._exchange_again, call, sent),
                ready=self._has_time_to_spare,
                failed=partial(self._tell, call, permit),
            )
            answered = True
            return response
        finally:
            # Until the last of the two has ended, and not both times added.
            call.in_flight = before + call.now() - sent
            if call.second is not None:
                _close_second(call, call.second, answered=answered)

    def _has_time_to_spare(self) -> bool:
        return not self.limiter.waiting and self.limiter.failing < _STRUGGLING

    async def _exchange_again(self, call: LiveCall, sent: float) -> Response | None:
        """Send a request a second time; return None if it would have to wait for that."""
        twin = LiveCall(call.id, call.request, call.charge, call.wire, call.now)
        twin.kind, twin.expect, twin.attempts = call.kind, call.expect, call.attempts
        for gate in self.gates:
            await gate.acquire()
        second = None if call.payment is None else call.payment.second()
        if call.payment is not None and second is None:
            return None
        permit = None
        with contextlib.suppress(ProviderError):  # all are refused at the moment
            permit = self.limiter.acquire_nowait(
                twin.charge, expect=twin.expect, leaves=self._wire is not None
            )
        if permit is None:
            if second is not None:
                second.close(charged=False)
            return None
        call.second = twin.sending = second
        try:
            self._reporter.hedged(call, call.now() - sent)
            return await self._exchange(twin, permit)
        except ProviderError as error:
            self._tell(twin, permit, error)
            raise
        finally:
            permit.release()

    def _tell(self, call: LiveCall, permit: Permit, error: ProviderError) -> None:
        """Tell the limiter of a failure that is not the end of the attempt."""
        if call.sending is not None:
            call.sending.note(error)
        if isinstance(error, (RateLimitError, QuotaExhaustedError)):
            with contextlib.suppress(ProviderError):  # it matters where both have failed
                self._pause(call, permit, error)
        else:
            permit.fail(overloaded=error.transient, signals=error.signals, reason=str(error))

    async def _ask_client(self, request: Request) -> Response:
        assert self._client is not None
        seconds = self.timeout.total
        try:
            async with asyncio.timeout(seconds):
                return await self._client.complete(request, timeout=seconds)
        except TimeoutError as error:
            raise RequestTimeoutError(f"no answer within {seconds:g} s") from error
        except ProviderError as error:
            if error.status is not None:
                error.may_be_billed = may_be_billed(error, error.status)
            raise

    def _pause(
        self, call: LiveCall, permit: Permit, rejection: RateLimitError | QuotaExhaustedError
    ) -> None:
        """Pause the domain, and give up where that takes longer than anybody wants to wait."""
        daily = isinstance(rejection, QuotaExhaustedError)
        seconds = rejection.retry_after
        if daily and (seconds is None or seconds > self.retry.daily_limit_patience):
            permit.fail(overloaded=False, signals=rejection.signals, rejected=True)
            self._reporter.rejected(call, rejection, None)
            self.limiter.refuse(rejection, seconds=seconds)
            raise rejection
        told = self._reporter.of_pauses
        before = self.limiter.statistics().paused_for if told else 0.0
        seconds = permit.reject(
            rejection.retry_after,
            kind=type(rejection) if isinstance(rejection, RateLimitError) else RateLimitError,
            dimension=rejection.dimension,
            signals=rejection.signals,
        )
        now = call.now()
        if call.rejected_since is None:
            call.rejected_since = now
        self._reporter.rejected(call, rejection, seconds)
        if told:
            self._reporter.paused(call, rejection, before=before, seconds=seconds)
        patience = math.inf if daily else self.retry.rate_limit_patience
        if patience is None or now + seconds - call.rejected_since <= patience:
            return
        long = seconds > patience  # for all others, too
        if long and seconds <= self.retry.daily_limit_patience:
            call.rejected_since = now + seconds  # as long as one waits for the quota of a day
            return
        kind = QuotaExhaustedError if long else RateLimitError
        end = kind(
            f"only rate limits, {now - call.rejected_since:,.0f} s so far and {seconds:,.0f} s "
            f"still to wait, until {clock_time(self._clock.wall() + seconds)}, which is over "
            f"rate_limit_patience={patience:.0f}; the provider said: {rejection.message}",
            status=rejection.status,
            code=rejection.code,
            request_id=rejection.request_id,
            retry_after=rejection.retry_after,
            dimension=rejection.dimension,
        )
        if long:
            self.limiter.refuse(end, seconds=seconds)
        raise end from rejection


def _charge(payment: Payment | None, error: ProviderError) -> None:
    """Have a failed request paid for, if it may have run."""
    if payment is not None:
        payment.ended(error)


def _close_second(call: LiveCall, second: Second, *, answered: bool) -> None:
    """Charge a second request where both may have run, or where it may have and none answered."""
    call.second = None
    first = call.payment is not None and call.payment.may_have_run
    second.close(charged=second.may_have_run and (first or not answered))


def _kind(request: Request) -> Hashable:
    """Return what a request has in common with others of the same template."""
    start = request.messages[0].get("content")
    head = start[:_TEMPLATE_CHARACTERS] if isinstance(start, str) else None
    return (request.system, request.max_tokens, head)
