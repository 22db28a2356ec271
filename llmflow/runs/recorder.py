"""The way of a call through a run: known already, shared, paid for, asked, written down.

The order is fixed: an equal call in flight, then the journal, then the cache, then the
budget, then the provider; and an answer is given out only once it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

from llmflow.errors import LLMFlowError, ProviderError, RequestTimeoutError
from llmflow.events import listening, observed
from llmflow.modes.mode import Call
from llmflow.runs.route import Route
from llmflow.runs.sharing import Leader, Sharing
from llmflow.runs.statistics import Tally
from llmflow.types import Request, Response

if TYPE_CHECKING:
    from llmflow.budget import Ledger, OutputForecast, Reservation
    from llmflow.journal import Journal


class Recorder:
    """Answers calls, each from where it costs least.

    Args:
        journal: what was answered before; None where nothing is written down.
        ledger: what may still be spent; None where nothing limits it.
        retry_failed: ask again what the journal knows as failed.
        run_id: what events call the run; None outside of runs.
    """

    def __init__(
        self,
        *,
        journal: Journal | None = None,
        ledger: Ledger | None = None,
        retry_failed: bool = False,
        run_id: str | None = None,
    ) -> None:
        self.tally = Tally()
        self.is_conclusive: Callable[[ProviderError], bool] = lambda error: not error.fatal
        """Whether a failure says something of its request, and is not asked again."""
        self.recording = 0
        """How many calls have ended and are being written down."""
        self._journal = journal
        self._ledger = ledger
        self._retry_failed = retry_failed
        self._run_id = run_id
        self._sharing = Sharing()
        self._forecasts: dict[Hashable, OutputForecast] = {}
        self._given_back: dict[bytes, list[int]] = {}

    async def answer(self, request: Request, route: Route) -> Response:
        """Answer one request.

        Raises:
            ProviderError: it failed for good, now or in an earlier session of the run.
            BudgetExceededError: it does not fit into the budget any more.
            JournalError: the answer could not be written down.
        """
        call = route.call(request)
        if not listening():
            return await self._answer(call, route)
        return await observed(
            lambda: self._answer(call, route),
            call_id=call.id,
            provider=route.provider.name,
            model=route.provider.model,
            request=request,
            run_id=self._run_id,
        )

    async def _answer(self, call: Call, route: Route) -> Response:
        tally = self.tally
        tally.add("in_flight")
        try:
            if route.shares(call.request):
                return await self._share(call, route)
            if self._journal is None:
                return await self._ask(call, route, b"", 0, None)
            key = self._fingerprint(call, route)
            return await self._find_or_ask(call, route, key, self._nth(key), None)
        finally:
            tally.add("in_flight", -1)

    def _nth(self, key: bytes) -> int:
        """Return which of the session's equal calls the next one is."""
        assert self._journal is not None
        free = self._given_back.pop(key, None)
        if free is None:
            return self._journal.ask(key)
        first = min(free)
        free.remove(first)
        if free:
            self._given_back[key] = free
        return first

    def _give_back(self, key: bytes, nth: int, route: Route) -> None:
        """Let the next equal call take the place of one of which nothing was written down.

        Else a node that asks again after a time-out would leave a place without an answer,
        to be asked for in every session.
        """
        if self._journal is not None and not route.cache:
            self._given_back.setdefault(key, []).append(nth)

    def _fingerprint(self, call: Call, route: Route) -> bytes:
        from llmflow.journal import fingerprint

        provider = route.provider
        return fingerprint(
            provider=provider.name,
            endpoint=route.endpoint,
            model=provider.model,
            body=route.body(call),
        )

    async def _share(self, call: Call, route: Route) -> Response:
        """Let an equal call in flight ask, or be the one that asks for the others."""
        key = self._fingerprint(call, route)
        journal = self._journal
        nth = 0 if journal is None or route.cache else self._nth(key)
        while True:
            leader = self._sharing.lead(key)
            if leader is None:
                response = await self._sharing.follow(key)
                if response is not None:
                    self.tally.add("shared")
                    return replace(response, source="shared")
                if (
                    journal is not None and not route.cache
                ):  # it was cancelled, and its place is free
                    self._give_back(key, nth, route)
                    nth = self._nth(key)
                continue
            try:
                response = await self._find_or_ask(call, route, key, nth, leader)
            except LLMFlowError as error:
                leader.fail(error)
                raise
            except BaseException:
                leader.give_up()
                raise
            leader.succeed(response)
            return response

    async def _find_or_ask(
        self, call: Call, route: Route, key: bytes, nth: int, leader: Leader | None
    ) -> Response:
        found = None if self._journal is None else self._journal.find(key, nth)
        if found is None:
            return await self._ask(call, route, key, nth, leader)
        if isinstance(found, Response):
            self.tally.add("replayed")
            return found
        if self._retry_failed:
            return await self._ask(call, route, key, nth, leader)
        self.tally.add("failed_before")
        error = found.error()
        error.source = "journal"
        raise error

    async def _ask(
        self, call: Call, route: Route, key: bytes, nth: int, leader: Leader | None
    ) -> Response:
        """Ask the provider within the budget, and write down what comes of it."""
        reservation: Reservation | None = None
        try:
            if self._ledger is not None:
                reservation = await self._reserve(call, route)
            response = await route.mode.complete(call)
        except ProviderError as error:
            self.tally.failure(error.attempts)
            if reservation is not None:
                # A request that was given up may have run, and be billed.
                spent = None if isinstance(error, RequestTimeoutError) else 0.0
                reservation.settle(usd=spent, tokens=spent, requests=error.attempts)
            if self._journal is not None and self.is_conclusive(error):
                self.recording += 1
                try:
                    await self._journal.record_failure(key, nth, error, uses=_uses(leader))
                finally:
                    self.recording -= 1
            else:
                self._give_back(key, nth, route)
            raise
        except BaseException:
            if reservation is not None:
                reservation.release()
            self._give_back(key, nth, route)
            raise
        unpriced = response.cost is None or route.overrides_cost
        if unpriced and (price := route.price()) is not None:
            response = replace(response, cost=price.cost(response.usage))
        if reservation is not None:
            reservation.settle_with(response)
            self._forecast(route).observe(response.usage.output_tokens)
        self.tally.answer(response)
        if self._journal is not None:
            self.recording += 1
            try:
                await self._journal.record(key, nth, response, uses=_uses(leader))
            finally:
                self.recording -= 1
        return response

    async def _reserve(self, call: Call, route: Route) -> Reservation:
        from llmflow.budget import estimate

        assert self._ledger is not None
        price, provider = route.price(), route.provider
        self._ledger.budget.check_price(f"{provider.name}/{provider.model}", price)
        expected = estimate(
            call.request,
            price,
            charge=provider.reserve(call.request),
            expected_output=self._forecast(route).tokens,
        )
        return self._ledger.reserve_nowait(expected) or await self._ledger.reserve(expected)

    def _forecast(self, route: Route) -> OutputForecast:
        """Return what is known of the length of a model's answers in this run."""
        provider = route.provider
        model = (provider.name, provider.model)
        forecast = self._forecasts.get(model)
        if forecast is None:
            from llmflow.budget import OutputForecast
            from llmflow.pricing import context_of

            context = context_of("/".join(model), base_url=route.endpoint or None)
            most = None if context is None else context.max_output_tokens
            forecast = self._forecasts[model] = OutputForecast(most=most)
        return forecast


def _uses(leader: Leader | None) -> int:
    """Return how many calls an answer is for; from now on there are no more of them."""
    if leader is None:
        return 1
    leader.close()
    return leader.uses
