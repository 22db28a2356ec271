"""The way of a call through a run: known already, shared, paid for, asked, written down.

The order is fixed: the journal, then an equal call in flight, then the cache, then the
budget, then the provider; and an answer is given out only once it is durable. The journal
comes first, so that what a call was answered once is its answer in every session.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from llmflow.calls.call import Call
from llmflow.calls.choice import Choice, Way, chosen
from llmflow.calls.coalesce import Group, Sharing
from llmflow.calls.ordinals import Returned
from llmflow.calls.route import Route, server_of
from llmflow.calls.spending import Spending
from llmflow.calls.statistics import Tally
from llmflow.errors import JournalError, ProviderError
from llmflow.events import listening, observed
from llmflow.limits import Limiter, LimiterStatistics
from llmflow.types import Request, Response

if TYPE_CHECKING:
    from llmflow.batch.mode import Batching
    from llmflow.budget import Ledger
    from llmflow.calls.payment import CallPayment
    from llmflow.journal import Journal
    from llmflow.calls.submitting import Submitting


class Recorder:
    """Answers calls, each from where it costs least.

    Args:
        journal: what was answered before; None where nothing is written down.
        ledger: what may still be spent; None where nothing limits it.
        retry_failed: ask again what the journal knows as failed.
        run_id: what events call the run; None outside of runs.
        choice: the mode of calls for which nothing nearer chooses one.
    """

    def __init__(
        self,
        *,
        journal: Journal | None = None,
        ledger: Ledger | None = None,
        retry_failed: bool = False,
        run_id: str | None = None,
        choice: Choice | None = None,
    ) -> None:
        self.tally = Tally()
        self.is_conclusive: Callable[[ProviderError], bool] = lambda error: not error.fatal
        """Whether a failure says something of its request, and is not asked again."""
        self.recording = 0
        """How many calls have ended and are being written down."""
        self._journal = journal
        self.spending = None if ledger is None else Spending(ledger, journal)
        self.journal = journal
        self.retry_failed = retry_failed
        self._run_id = run_id
        self._choice = choice
        self._sharing = Sharing()
        # Of a run only: what is outside of runs goes on for ever.
        self._routes: dict[Route, LimiterStatistics] = {}
        self._returned = Returned()
        self._batchings: dict[asyncio.AbstractEventLoop | None, Batching] = {}
        self._unwritten: dict[bytes, int] = {}
        self._submitting: Submitting | None = None
        self._fatal: ProviderError | None = None
        self._giving = threading.RLock()  # several event loops, and calls that are collected

    async def answer(self, request: Request, route: Route) -> Response:
        """Answer one request.

        Raises:
            ProviderError: it failed for good, now or in an earlier session of the run.
            BudgetExceededError: it does not fit into the budget any more.
            JournalError: the answer could not be written down.
        """
        if self._run_id is not None and route not in self._routes:
            self._routes[route] = route.limiter.statistics()
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

    @property
    def has_asked(self) -> bool:
        """Whether any call of the run was more than submitted."""
        return bool(self._routes)

    def limiters(self) -> dict[Limiter, LimiterStatistics]:
        """Return the limiters of its calls, each with its statistics before the first of them."""
        found: dict[Limiter, LimiterStatistics] = {}
        for route, before in dict(self._routes).items():  # other threads may add to it
            found.setdefault(route.limiter, before)
        return found

    def prices_as_of(self) -> str | None:
        """Return the day of the public prices that a route's answers cost; else None."""
        if not any(route.has_public_price for route in dict(self._routes)):
            return None
        from llmflow.pricing import PRICES_AS_OF

        return PRICES_AS_OF

    async def _answer(self, call: Call, route: Route) -> Response:
        tally = self.tally
        tally.add("in_flight")
        try:
            if route.shares(call.request):
                return await self._share(call, route)
            if self._journal is None:
                return await self._ask(call, route, b"", 0, None)
            key = self.fingerprint(call, route)
            nth, known = self._number(key)
            return known or await self._ask(call, route, key, nth, None)
        finally:
            tally.add("in_flight", -1)

    def _number(self, key: bytes) -> tuple[int, Response | None]:
        """Return which of the session's equal calls the next one is, and what is known of it."""
        assert self._journal is not None
        free = self._returned.take(key)
        nth = self._journal.ask(key) if free is None else free
        # What this session asks for the first time, nothing can have been written down of.
        if nth or free is not None or self._submitting or not self._journal.began_empty:
            return nth, self._known(key, nth)
        return nth, None

    def _give_back(self, key: bytes, nth: int, route: Route) -> None:
        """Let the next equal call take the place of one of which nothing was written down."""
        self._give_back_all((key, route.cache), (nth,))

    def _give_back_all(self, each: Any, ordinals: Iterable[int]) -> None:
        key, cache = each
        if self._journal is not None and cache is None:
            self._returned.add(key, ordinals)

    def numbered(self, call: Call, route: Route) -> tuple[bytes, int]:
        """Return what names a call that no journal has numbered."""
        key = self.fingerprint(call, route)
        with self._giving:
            nth = self._unwritten[key] = self._unwritten.get(key, -1) + 1
        return key, nth

    def fingerprint(self, call: Call, route: Route) -> bytes:
        """Return what stands for a call in the journal."""
        provider = route.provider
        return self._fingerprint(
            provider=provider.name,
            endpoint=server_of(provider),
            model=provider.model,
            body=route.body(call),
        )

    @cached_property
    def _fingerprint(self) -> Callable[..., bytes]:
        from llmflow.journal import fingerprint  # SQLite comes with it: not for who needs none

        return fingerprint

    def _known(self, key: bytes, nth: int) -> Response | None:
        """Return what the journal knows of a call.

        Raises:
            ProviderError: it failed in an earlier session.
        """
        found = None if self._journal is None else self._journal.find(key, nth)
        if found is None:
            return None
        if isinstance(found, Response):
            self.tally.known("replayed", found)
            return found
        if self.retry_failed:
            return None
        self.tally.known("failed_before")
        error = found.error()
        error.source = "journal"
        raise error

    async def _share(self, call: Call, route: Route) -> Response:
        """Let an equal call in flight ask, or be the one that asks for the others."""
        key = self.fingerprint(call, route)
        for each, ordinals in self._sharing.abandoned():
            self._give_back_all(each, ordinals)
        # With a cache an equal question has one answer, whenever it is asked.
        is_one = self._journal is None or route.cache is not None
        nth, known = (0, self._known(key, 0)) if is_one else self._number(key)
        if known is not None:
            return known
        group = self._sharing.join((key, route.cache), nth)
        try:
            if not await group.lead(nth):
                return await self._follow(group, key, nth)
            return await self._lead(call, route, key, nth, group)
        finally:
            for each in group.unused():
                self._give_back(key, each, route)

    async def _lead(self, call: Call, route: Route, key: bytes, nth: int, group: Group) -> Response:
        try:
            response = await self._from_cache(route, key, nth, group)
            if response is None:
                response = await self._ask(call, route, key, nth, group)
        except Exception as error:  # of anybody's code: to ask again would be paid again
            group.fail(error)
            raise
        except BaseException:
            group.give_up(nth)
            raise
        group.succeed(response)
        return response

    async def _follow(self, group: Group, key: bytes, nth: int) -> Response:
        """Take the answer of the call that asked."""
        journal, covered = self._journal, nth in group.covered
        try:
            response = group.result()
        except ProviderError as error:
            self.tally.failure(0)
            error.source = "shared"
            if journal is not None and group.covered and not covered:
                await journal.record_failure(key, nth, error, paid=False)
            raise
        if journal is not None and not covered:
            await journal.record(key, nth, response, paid=False)
        self.tally.taken("shared", response)
        return replace(response, source="shared")

    async def _from_cache(
        self, route: Route, key: bytes, nth: int, group: Group
    ) -> Response | None:
        """Return what an earlier run was answered; from now on it is in this run's journal."""
        found = None if route.cache is None else await route.cache.find(key)
        if found is None:
            return None
        if self._journal is not None:
            await self._write_shared(None, key, nth, found, group, paid=False)
        self.tally.taken("cached", found)
        return replace(found, source="cache")

    async def _ask(
        self, call: Call, route: Route, key: bytes, nth: int, group: Group | None
    ) -> Response:
        """Ask in the mode that is chosen, and write down what comes of it."""
        choice = route.choice or chosen.get() or self._choice
        if choice is None:
            return await self._pay(call, route, key, nth, group)
        from llmflow.batch.sink import Waiting

        way = Way(choice, Waiting())
        try:
            response = await self._pay(call, route, key, nth, group, way)
        except JournalError as error:
            way.waiting.lost(error)
            raise
        except BaseException:
            way.waiting.kept()
            raise
        way.waiting.kept()
        return response

    async def _pay(
        self,
        call: Call,
        route: Route,
        key: bytes,
        nth: int,
        group: Group | None,
        way: Way | None = None,
    ) -> Response:
        """Ask the provider within the budget, and write down what comes of it."""
        payment: CallPayment | None = None
        spending, call.retried = self.spending, self.tally.retried
        try:
            if spending is not None:
                batch = way is not None and self.batching.is_for_batch(call, route, way.choice)
                payment = await spending.pay(call, route, (key, nth), batch=batch)
            if way is None:
                response = await route.mode.complete(call)
            else:
                response = await self.batching.answer(call, route, key, nth, way)
                if way.replayed:
                    if payment is not None:
                        payment.cancelled()
                    self.tally.known("replayed", response)
                    return response
        except ProviderError as error:
            route.price_failure(error, in_batch=way is not None and way.in_batch)
            self.tally.failure(error.attempts, error)
            if payment is not None:
                payment.failed(error, is_kept=self.is_conclusive(error))
            await self._write_failure(key, nth, error, route, group)
            raise
        except BaseException:
            if spending is not None and payment is not None:
                if way is not None and any(each.holds(route, key, nth) for each in self.batchings):
                    spending.keep_for((key, nth), payment.kept())
                else:
                    payment.cancelled()
            if group is None:
                self._give_back(key, nth, route)
            raise
        in_batch = way is not None and way.in_batch
        response = route.priced(response, call.request, in_batch=in_batch)
        if spending is not None and payment is not None:
            spending.answered(payment, response, route)
        self.tally.answer(response)
        await self._write_answer(key, nth, response, route, group)
        return response

    @property
    def batching(self) -> Batching:
        """The batch jobs of its calls: of a run with a journal all of them, else the loop's."""
        loop = None if self._journal is not None else asyncio.get_running_loop()
        with self._giving:
            found = self._batchings.get(loop)
            if found is None:
                from llmflow.batch.mode import Batching

                for other in [each for each in self._batchings if each and each.is_closed()]:
                    del self._batchings[other]
                found = self._batchings[loop] = Batching(
                    journal=self._journal,
                    keep=self.keep,
                    numbered=self.numbered,
                    retried=self.tally.retried,
                    spending=self.spending,
                    run_id=self._run_id,
                )
        return found

    @property
    def batchings(self) -> list[Batching]:
        """All that there were so far."""
        return list(self._batchings.values())

    async def submit(self, request: Request, route: Route, choice: Choice) -> bool:
        """Have a call answered by a batch job, with nobody waiting for it.

        Returns:
            Whether it is asked; not if its outcome is known already.
        """
        from llmflow.calls.submitting import Submitting

        if self._submitting is None:
            self._submitting = Submitting(self)
        return await self._submitting.submit(request, route, choice)

    def submit_anew(self) -> None:
        """Count the calls that are submitted from the first one again."""
        if self._submitting is not None:
            self._submitting.begin_again()

    def adopt(self, route: Route, choice: Choice) -> None:
        """Go on with the batch jobs of a model that earlier sessions have left.

        Raises:
            BatchUnsupportedError: the provider has no batch API.
            JournalError: a job cannot be gone on with.
        """
        self.batching.adopt(route, choice)

    async def settle(self) -> None:
        """Return when all batch jobs have ended and all of their rows are written down.

        Raises:
            ProviderError: what came of a call that nobody waits for, and is every call's matter.
        """
        for batching in self.batchings:
            await batching.settle()
        if self._submitting is not None:
            await self._submitting.settle()
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise fatal

    def close(self) -> None:
        """Let go of what the run held for its calls; the journal is its own."""
        if self._submitting is not None:
            self._submitting.close()

    def keep(
        self, key: bytes, nth: int, outcome: Response | ProviderError, route: Route
    ) -> asyncio.Future[None] | None:
        """Write down what a batch job has brought for a call that nobody waits for any more."""
        reservation = None if self.spending is None else self.spending.kept_for((key, nth))
        if isinstance(outcome, Response):
            response = route.priced(outcome, None, in_batch=True, reserved=reservation)
            self.tally.answer(response)
            self.tally.brought("replayed")
            if self.spending is not None:
                self.spending.arrived(reservation, response, route)
            written = None if self._journal is None else self._journal.put(key, nth, response)
            if route.cache is None:
                return written
            kept = route.cache.store(key, response)
            return asyncio.ensure_future(_all([kept] if written is None else [written, kept]))
        outcome.redact()
        if outcome.fatal:  # it says nothing of the call, which is asked again
            self._fatal = self._fatal or outcome
        else:
            route.price_failure(outcome, in_batch=True)
            self.tally.failure(outcome.attempts, outcome)
            self.tally.brought("failed_before")
        if self.spending is not None and reservation is not None:
            self.spending.failed(reservation, outcome)
        if self._journal is None or not self.is_conclusive(outcome):
            return None
        return self._journal.put_failure(key, nth, outcome)

    async def _write_answer(
        self, key: bytes, nth: int, response: Response, route: Route, group: Group | None
    ) -> None:
        try:
            if group is not None:
                if self._journal is not None or route.cache is not None:
                    await self._write_shared(route, key, nth, response, group)
            elif self._journal is not None:
                await self._write(key, range(nth, nth + 1), response)
        except JournalError as error:
            error.response = response  # it was paid for
            raise

    async def _write(
        self, key: bytes, covered: range, response: Response, *, paid: bool = True
    ) -> None:
        assert self._journal is not None
        self.recording += 1
        try:
            await self._journal.record(key, covered.start, response, uses=len(covered), paid=paid)
        finally:
            self.recording -= 1

    async def _write_failure(
        self, key: bytes, nth: int, error: ProviderError, route: Route, group: Group | None
    ) -> None:
        error.redact()
        if self._journal is None or not self.is_conclusive(error):
            if group is None:
                self._give_back(key, nth, route)
            return
        covered = range(nth, nth + 1) if group is None else group.cover(nth)
        self.recording += 1
        try:
            await self._journal.record_failure(key, covered.start, error, uses=len(covered))
        finally:
            self.recording -= 1

    async def _write_shared(
        self,
        route: Route | None,
        key: bytes,
        nth: int,
        response: Response,
        group: Group,
        *,
        paid: bool = True,
    ) -> None:
        """Write an answer down, for the others too if the call that asked is cancelled now."""
        writes = []
        if self._journal is not None:
            writes.append(self._write(key, group.cover(nth), response, paid=paid))
        if route is not None and route.cache is not None:
            writes.append(route.cache.store(key, response))
        writing = asyncio.ensure_future(_all(writes))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            group.succeed_after(writing, response, nth)
            raise


async def _all(writes: Sequence[Awaitable[None]]) -> None:
    if len(writes) == 1:
        await writes[0]
    else:
        await asyncio.gather(*writes)
