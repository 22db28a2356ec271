"""State that a run's calls share: journal, budget, counts, batch jobs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from llmflow.calls.in_flight import Coalescer
from llmflow.calls.key import canonical, fingerprint, server_of
from llmflow.calls.ordinals import Ordinals
from llmflow.calls.spending import Spending
from llmflow.calls.statistics import Tally
from llmflow.errors import ProviderError
from llmflow.limits import Limiter, LimiterStatistics
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.budget import Ledger
    from llmflow.calls.call import Call, Mode, Route, Step
    from llmflow.calls.mode_options import ModeOptions
    from llmflow.journal import Journal, Recorded


class Session:
    """Holds what the steps of calls need, and nothing they do.

    Args:
        journal: what was answered before; None where nothing is written down.
        ledger: what may still be spent; None where nothing limits it.
        retry_failed: ask again what the journal knows as failed in an earlier session.
        run_id: what events call the run; None outside of runs.
        mode_options: the mode of calls for which nothing nearer chooses one.
        is_conclusive: whether a failure says something of its request, and is not asked
            again; by default, what is not fatal does.
    """

    ask: Step
    """The first step of its calls; see `llmflow.calls.pipeline`."""
    send: Step
    """Its last steps: cache, budget, mode."""
    open_batches: Callable[[], Any]
    """Returns a batch mode for its calls; see `llmflow.batch.modes`."""
    resolve: Callable[[Session, Call], Mode]
    """Returns the mode that the options of a call stand for."""

    def __init__(
        self,
        *,
        journal: Journal | None = None,
        ledger: Ledger | None = None,
        retry_failed: bool = False,
        run_id: str | None = None,
        mode_options: ModeOptions | None = None,
        is_conclusive: Callable[[ProviderError], bool] | None = None,
    ) -> None:
        self.tally = Tally()
        self.recording = 0
        """How many calls have ended and are being written down."""
        self.journal = journal
        self.spending = None if ledger is None else Spending(ledger, journal)
        self.run_id = run_id
        self.mode_options = mode_options
        self.coalescer = Coalescer()
        self.ordinals = Ordinals(journal)
        self.is_conclusive = is_conclusive or _is_not_fatal
        self._retry_failed = retry_failed
        # Of a run only: what is outside of runs goes on for ever.
        self._routes: dict[Route, LimiterStatistics] = {}
        self._batches: dict[asyncio.AbstractEventLoop | None, Any] = {}
        self.on_quota_used_up: list[Callable[[], None]] = []
        """Called by each call that goes into a job because the daily quota is used up."""
        self._twins: dict[bytes, int] = {}
        self._fatal: ProviderError | None = None
        self._opening = threading.RLock()  # several event loops

    # --- which call it is, and what is known of it --------------------------------------------

    def note_route(self, route: Route) -> None:
        """Record a call's route, before the first call on it."""
        if self.run_id is not None and route not in self._routes:
            self._routes[route] = route.limiter.statistics()

    def limiters(self) -> dict[Limiter, LimiterStatistics]:
        """Return its calls' limiters, each with its first statistics."""
        found: dict[Limiter, LimiterStatistics] = {}
        for route, before in dict(self._routes).items():  # other threads may add to it
            found.setdefault(route.limiter, before)
        return found

    def prices_as_of(self) -> str | None:
        """Return the date of a route's public prices, or None."""
        if not any(route.has_public_price for route in dict(self._routes)):
            return None
        from llmflow.pricing import PRICES_AS_OF

        return PRICES_AS_OF

    def identify(self, call: Call, *, submitted: bool = False) -> Recorded | None:
        """Set a call's key and ordinal; return its journal record."""
        key = call.key = self.fingerprint(call)
        ordinals, cache = self.ordinals, call.route.cache
        if call.shares:
            for (other, its_cache), places in self.coalescer.abandoned():
                if its_cache is None:
                    self._give_back(other, places)
        if submitted or not call.wanted:
            call.ordinal, may_be_known = ordinals.next_submitted(key)
        elif self.journal is None or (call.shares and cache is not None):
            # With a cache an equal question has one answer, whenever it is asked.
            ordinals.note_asked()
            may_be_known = self.journal is not None
        else:
            call.ordinal, may_be_known = ordinals.next(key)
        return self.recorded(call.row) if may_be_known else None

    def recorded(self, row: tuple[bytes, int]) -> Recorded | None:
        """Return the record of a row that is not asked again."""
        journal = self.journal
        found = None if journal is None else journal.find(*row)
        if found is None or isinstance(found, Response) or not self._retry_failed:
            return found
        assert journal is not None
        # What has failed in this session is not asked once more in it.
        return found if found.at >= journal.opened_at else None

    def fingerprint(self, call: Call) -> bytes:
        """Return what stands for a call in the journal.

        Raises:
            ConfigurationError: an option of the call cannot be written down.
        """
        provider = call.route.provider
        return fingerprint(
            provider=provider.name,
            endpoint=server_of(provider),
            model=provider.model,
            body=canonical(call.request),
        )

    def number(self, call: Call) -> None:
        """Set a call's key and ordinal, unless a step did."""
        if not call.key:
            call.key = self.fingerprint(call)
            call.ordinal = self.ordinals.next_unwritten(call.key)

    def give_back(self, call: Call, places: Iterable[int]) -> None:
        """Give ordinals without a record back to equal calls."""
        if call.wanted and call.route.cache is None:
            self._give_back(call.key, places)

    def _give_back(self, key: bytes, places: Iterable[int]) -> None:
        if self.journal is not None:
            self.ordinals.give_back(key, places)

    async def write(
        self, key: bytes, covered: range, response: Response, *, paid: bool = True
    ) -> None:
        """Record an answer for equal calls; returns once it is durable."""
        assert self.journal is not None
        self.recording += 1
        try:
            await self.journal.record(key, covered.start, response, uses=len(covered), paid=paid)
        finally:
            self.recording -= 1

    # --- its batch jobs -------------------------------------------------------------------------

    @property
    def batches(self) -> Any:
        """The batch mode of the run, or else of the loop."""
        loop = None if self.journal is not None else asyncio.get_running_loop()
        with self._opening:
            found = self._batches.get(loop)
            if found is None:
                for other in [each for each in self._batches if each and each.is_closed()]:
                    del self._batches[other]
                found = self._batches[loop] = self.open_batches()
        return found

    @property
    def all_batches(self) -> list[Any]:
        """Those of all its event loops so far."""
        return list(self._batches.values())

    @property
    def batch_jobs(self) -> list[Any]:
        """Records of its batch jobs, those of earlier sessions included."""
        return list({each.tag: each for b in self.all_batches for each in b.jobs}.values())

    @property
    def batch_trouble(self) -> ProviderError | None:
        """The error for which a batch request is being repeated, or None."""
        return next(filter(None, (each.trouble for each in self.all_batches)), None)

    @property
    def batch_decisions(self) -> dict[str, int]:
        """Decisions about batch jobs, with row counts."""
        found: dict[str, int] = {}
        for batches in self.all_batches:
            for decision, rows in batches.decisions.items():
                found[decision] = found.get(decision, 0) + rows
        return found

    async def placed(self) -> None:
        """Return when all batch jobs are submitted, or wait for room."""
        for batches in self.all_batches:
            await batches.placed()

    def cancel_batches(self) -> None:
        """Cancel all running batch jobs; their answers are kept."""
        for batches in self.all_batches:
            batches.cancel_all()

    async def stop_batches(self) -> None:
        """Stop polling batch jobs; they continue at the provider."""
        for batches in self.all_batches:
            await batches.stop()

    def mode_of(self, call: Call) -> Mode:
        """Return the mode that answers a call."""
        return call.route.live if call.mode_options is None else self.resolve(self, call)

    def is_in_a_job(self, call: Call) -> bool:
        """Return whether a job has a call's row, which may be billed."""
        return call.mode_options is not None and any(each.holds(call) for each in self.all_batches)

    async def submit(self, call: Call) -> bool:
        """Have a batch job answer a call; return whether one does.

        Not if its outcome is known already, or comes another way.

        Raises:
            BudgetExceededError: it does not fit into what is left of the budget.
            BatchUnsupportedError: the provider has no batch API.
        """
        await self.ask(call)
        return call.placed

    def submit_anew(self) -> None:
        """Count the calls that are submitted from the first one again."""
        self.ordinals.begin_again()

    def note_twin(self, call: Call) -> None:
        """Note that a submitted call gets its first equal's answer."""
        self._twins[call.key] = max(call.ordinal, self._twins.get(call.key, 0))

    def note_fatal(self, error: ProviderError) -> None:
        """Note an unawaited call's error that concerns all calls."""
        self._fatal = self._fatal or error

    async def settle(self) -> None:
        """Return when all batch jobs have ended and are recorded.

        Raises:
            ProviderError: what came of a call that nobody waits for, and is every call's matter.
        """
        for batches in self.all_batches:
            await batches.settle()
        await self._write_twins()
        if self.spending is not None and self.ordinals.has_submitted:
            self.spending.release_rows()
        fatal, self._fatal = self._fatal, None
        if fatal is not None:
            raise fatal

    async def _write_twins(self) -> None:
        """Write the answers of submitted calls down for the equal ones that share them."""
        twins, self._twins = self._twins, {}
        for key, last in twins.items():
            assert self.journal is not None
            found = self.journal.find(key, 0)
            if isinstance(found, Response):
                await self.journal.record(key, 1, found, uses=last, paid=False)
            elif found is not None:
                await self.journal.record_failure(key, 1, found.error(), uses=last, paid=False)

    def close(self) -> None:
        """Release what the run held for its calls, except the journal."""
        self.ordinals.close()


def _is_not_fatal(error: ProviderError) -> bool:
    return not error.fatal
