"""State that a run's calls share: journal, budget, counts, batch jobs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, Token
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from llmflow.calls.in_flight import Coalescer
from llmflow.calls.observe import RunStatistics, kind_of
from llmflow.calls.output_methods import RefusedRows
from llmflow.calls.replay import Ordinals
from llmflow.calls.spending import Spending
from llmflow.errors import (
    BadGenerationError,
    ContentFilterError,
    InvalidAnswerError,
    ProviderError,
    UsageError,
)
from llmflow.events import Event, current_run_id
from llmflow.limits import Limiter, LimiterStatistics
from llmflow.types import Response, Usage

if TYPE_CHECKING:
    from llmflow.budget import Ledger
    from llmflow.calls.call import Call, Mode, Route, Step
    from llmflow.calls.mode_options import ModeOptions
    from llmflow.journal import JournalProtocol, Recorded

_COUNTED_AS: Final = {"cache": "cached", "shared": "shared"}

_entered: ContextVar[Session | None] = ContextVar("llmflow_session", default=None)
"""The session of the innermost run whose block the running code is in.

It flows into tasks and into the threads of asyncio and of nodes, but not into those that
a program starts by itself: they have no context but their own.
"""
_whole_program: list[Session] = []
"""Sessions of runs whose blocks the main thread is in, and no event loop around them.

Such a block is the whole program while it lasts, so its threads belong to it, too.
"""


def current_session() -> Session | None:
    """Return the session that the running code belongs to, or None."""
    session = _entered.get()
    while session is not None and session.is_detached:
        session = session.outer
    if session is None and _whole_program:
        session = _whole_program[-1]
    return session


class Tally:
    """Counts, from any number of threads."""

    def __init__(self) -> None:
        # Again by its own thread: a call may be collected at any line, the locked ones among them.
        self._lock = threading.RLock()
        self.in_flight: set[int] = set()
        """The ids of the calls that have not ended; those that jobs have are only counted."""
        self._counts = {each.name: 0 for each in fields(RunStatistics) if each.default == 0}
        self._cost: float | None = None
        self._retries: Counter[str] = Counter()
        self._brought = {"replayed": 0, "failed_before": 0}

    def counting(self, ask: Step) -> Step:
        """Return the step that counts the calls in flight."""
        in_flight = self.in_flight

        async def counted(call: Call) -> Response:
            in_flight.add(call.id)
            try:
                return await ask(call)
            finally:
                in_flight.discard(call.id)

        return counted

    def add(self, name: str, number: int = 1) -> None:
        """Count one thing."""
        with self._lock:
            self._counts[name] += number

    def taken(self, name: str, response: Response) -> None:
        """Count an answer that cost nothing, ``cached`` or ``shared``."""
        with self._lock:
            self._counts[name] += 1
            self._look_at(response)

    def answer(self, *responses: Response) -> None:
        """Count answers of the provider."""
        counts = self._counts
        with self._lock:
            counts["answered"] += len(responses)
            for response in responses:
                usage = response.usage
                counts["requests"] += response.attempts
                counts["input_tokens"] += usage.input_tokens
                counts["output_tokens"] += usage.output_tokens
                if response.cost is not None:
                    self._cost = (self._cost or 0.0) + response.cost
                self._look_at(response)

    def forgiven(self, error: ProviderError) -> None:
        """Count a failure no more: it is asked again in another way."""
        with self._lock:
            self._take_back("failed_before", "failed", error.source)

    def generated(self, error: BadGenerationError) -> Response:
        """Count what a provider has not handed out as an answer."""
        with self._lock:
            was_known = self._take_back("failed_before", "failed", error.source)
            name = "replayed" if was_known else _COUNTED_AS.get(error.source, "answered")
            self._counts[name] += 1
            response = Response(
                text=error.partial_text,
                usage=Usage(),
                finish_reason="stop",
                model=error.model or "",
                provider=error.provider or "",
                request_id=error.request_id,
                attempts=error.attempts,
                source=error.source,
            )
            self._look_at(response)  # `not_accepted` takes that back
        return response

    def not_accepted(self, response: Response, *, again: bool) -> None:
        """Count an answer no more; it is asked `again`, or fails."""
        source = response.source
        with self._lock:
            was_known = self._take_back("replayed", _COUNTED_AS.get(source, "answered"), source)
            self._look_at(response, -1)
            failed = "failed_before" if was_known else "failed"
            self._counts["reasked" if again else failed] += 1

    def _take_back(self, known: str, new: str, source: str) -> bool:
        """Count one call less; return whether an earlier session's outcome was meant."""
        counts = self._counts
        # What a job has brought in this session was counted as new, before the call came.
        was_known = source == "journal" and counts[known] > 0
        counts[known if was_known else new] -= 1
        return was_known

    def _look_at(self, response: Response, number: int = 1) -> None:
        """Count what is odd about an answer."""
        text = response.text
        if response.finish_reason != "stop" or not text or text.isspace():  # few are so
            self._counts["cut"] += number * response.is_cut
            self._counts["empty"] += number * response.is_empty

    def retried(self, error: ProviderError) -> None:
        """Count a request that is sent again after a failure."""
        with self._lock:
            self._retries[kind_of(error)] += 1

    def brought(self, name: str, number: int = 1) -> None:
        """Note that jobs' outcomes arrived before the calls."""
        with self._lock:
            self._brought[name] += number

    def known(self, name: str, response: Response | None = None, *, number: int = 1) -> None:
        """Count calls that are ``replayed`` or ``failed_before``, once."""
        with self._lock:
            brought = min(self._brought[name], number)
            self._brought[name] -= brought
            self._counts[name] += number - brought
            if response is not None and not brought:
                self._look_at(response)

    def outcome(self, found: Recorded) -> Response:
        """Count, once, what the journal knows of a call, and return it.

        Raises:
            ProviderError: it has failed for good.
        """
        if isinstance(found, Response):
            self.known("replayed", found)
            return found
        self.known("failed_before")
        error = found.error()
        error.source = "journal"
        raise error

    def failure(self, attempts: int, error: ProviderError | None = None) -> None:
        """Count a final failure, its attempts and its cost."""
        usage = error.usage if isinstance(error, ContentFilterError) else None
        cost = error.cost if isinstance(error, ContentFilterError) else None
        with self._lock:
            self._counts["failed"] += 1
            self._counts["requests"] += attempts
            if usage is not None:
                self._counts["input_tokens"] += usage.input_tokens
                self._counts["output_tokens"] += usage.output_tokens
            if cost is not None:
                self._cost = (self._cost or 0.0) + cost

    def statistics(self) -> RunStatistics:
        """Return the counts of this moment."""
        with self._lock:
            counts = dict(self._counts)
            counts["in_flight"] += len(self.in_flight)
            return RunStatistics(**counts, cost=self._cost, retries=dict(self._retries))


class Session:
    """Holds what the steps of calls need, and nothing they do.

    Args:
        journal: what was answered before; None where nothing is written down.
        ledger: what may still be spent; None where nothing limits it.
        retry_failed: ask again what the journal knows as failed in an earlier session.
        run: the run; None outside of runs.
        run_id: what events call the run; None outside of runs.
        mode_options: the mode of calls for which nothing nearer chooses one.
        is_conclusive: whether a failure says something of its request, and is not asked
            again; by default, what is not fatal does.
    """

    compose: Callable[..., Step]
    """Returns the first step of calls of one kind; see `llmflow.calls.pipeline`."""
    send: Step
    """Its last steps: cache, budget, mode."""
    open_batches: Callable[[], Any]
    """Returns a batch mode for its calls; see `llmflow.batch.modes`."""
    resolve: Callable[[Session, Call], Mode]
    """Returns the mode that the options of a call stand for."""

    def __init__(
        self,
        *,
        journal: JournalProtocol | None = None,
        ledger: Ledger | None = None,
        retry_failed: bool = False,
        run: object = None,
        run_id: str | None = None,
        mode_options: ModeOptions | None = None,
        is_conclusive: Callable[[ProviderError], bool] | None = None,
    ) -> None:
        self._steps: dict[tuple[bool, ...], Step] = {}
        self.tally = Tally()
        self.recording = 0
        """How many calls have ended and are being written down."""
        self.journal = journal
        self.ledger = ledger
        self.known = 0
        """How many calls of earlier sessions need not be asked again."""
        if journal is not None:
            totals = journal.totals
            self.known = totals.answers + (0 if retry_failed else totals.failures)
        self.spending = None if ledger is None else Spending(ledger, journal)
        self.run = run
        self.run_id = run_id
        self.mode_options = mode_options
        self.coalescer = Coalescer()
        self.ordinals = Ordinals(
            journal, retry_failed=retry_failed, abandoned=self.coalescer.abandoned
        )
        self.refused_rows = RefusedRows()
        self.is_conclusive = is_conclusive or (lambda error: not error.fatal)
        # Of a run only: what is outside of runs goes on for ever.
        self._routes: dict[Route, LimiterStatistics] = {}
        self._batches: dict[asyncio.AbstractEventLoop | None, Any] = {}
        self.fatal: ProviderError | None = None
        """The error of an unawaited call that concerns all calls, until `settle`."""
        self._opening = threading.RLock()  # several event loops
        self._pid = os.getpid()
        self._is_over = False
        self._tokens: tuple[Token[Session | None], Token[str | None]] | None = None
        self.outer: Session | None = None
        """The session around its block."""
        self.is_detached = False
        """Whether its block was left in another context than it was entered in."""

    # --- the block of its run -----------------------------------------------------------------

    def enter(self) -> None:
        """Take in the calls of the running code and of its tasks."""
        self.outer = _entered.get()
        self._tokens = _entered.set(self), current_run_id.set(self.run_id)
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and asyncio._get_running_loop() is None:
            _whole_program.append(self)

    def set_current(self) -> None:
        """Do what `enter` does, in a context that nobody leaves."""
        _entered.set(self)
        current_run_id.set(self.run_id)

    def leave(self) -> None:
        """Undo `enter`; safe to repeat."""
        if self in _whole_program:
            _whole_program.remove(self)
        tokens, self._tokens = self._tokens, None
        if tokens is None:
            return
        # A generator's block may be left in another context than it was entered, or after the
        # block around it. What it was entered in keeps it, and has to look through it.
        self.is_detached = _entered.get() is not self
        if not self.is_detached:
            try:
                _entered.reset(tokens[0])
                current_run_id.reset(tokens[1])
            except ValueError:
                self.is_detached = True
        if _entered.get() is not None:  # maybe of a block that was left out of order
            inside = current_session()
            current_run_id.set(None if inside is None else inside.run_id)

    def end(self) -> None:
        """Take no more calls."""
        self._is_over = True

    def check(self) -> None:
        """Check that it takes calls.

        Raises:
            UsageError: its run is over, or another process's.
        """
        if self._is_over:
            raise UsageError(
                f"{self.run!r} is over, and something that was started in its block asks only "
                "now: wait for it inside the block, or start it outside"
            )
        if self.run_id is not None and self._pid != os.getpid():
            raise UsageError(
                f"{self.run!r} belongs to the process that this one was forked from: enter a Run "
                "of another name here, or let the other process ask"
            )

    def ask(self, call: Call) -> Coroutine[Any, Any, Response]:
        """Return what answers a call, by the steps for its kind."""
        route = call.route
        if call.wanted and self.run_id is not None:
            self.note_route(route)
        kind = (
            call.wanted,
            call.shares,
            call.mode_options is not None,
            call.judge is not None,
            route.cache is not None,
            Event.wanted,
        )
        step = self._steps.get(kind)
        if step is None:
            step = self._steps[kind] = self.compose(*kind)
        return step(call)

    def recall(self, call: Call, *, submitted: bool = False) -> Response | None:
        """Return an answer from the journal before the first step.

        If nothing is known of the call, that is not looked up again. With `submitted`, it has
        the number of a submitted one. Where the journal is waited for, the step does so. A wrong
        answer is as in `judged`.

        Raises:
            ProviderError: it has failed for good.
        """
        if self.journal is None or self.ordinals.waits or Event.wanted:
            return None
        self.note_route(call.route)
        found = self.ordinals.identify(call, submitted=submitted)
        return None if found is None else self.judged(call, found)

    def judged(self, call: Call, found: Recorded) -> Response | None:
        """Count a call's record; return its answer if that is accepted.

        If not, the call holds it as its `answer`, and is to be asked as it is.

        Raises:
            ProviderError: it has failed for good.
        """
        try:
            response = self.tally.outcome(found)
        except ProviderError as error:
            if call.judge is None or call.judge.output is None:
                raise
            if not isinstance(error, BadGenerationError):
                self._refused(call, error)
                return None
            response = self.tally.generated(error)
        if call.judge is None:
            return response
        try:
            return call.judge.look(response)
        except InvalidAnswerError:
            call.answer = response
            return None

    def _refused(self, call: Call, error: ProviderError) -> None:
        """Have a call asked as a new one if its failure was of how its schema was sent."""
        sent = self.refused_rows.sent(call)
        if sent is None or not self.refused_rows.asks_again(sent, error):
            raise error
        self.tally.forgiven(error)
        call.key, call.ordinal = b"", 0

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
    def batch_trouble(self) -> ProviderError | None:
        """The error for which a batch request is being repeated, or None."""
        return next(filter(None, (each.trouble for each in self.all_batches)), None)

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

    async def settle(self) -> None:
        """Return when all batch jobs have ended and are recorded.

        Raises:
            ProviderError: what came of a call that nobody waits for, and is every call's matter.
        """
        for batches in self.all_batches:
            await batches.settle()
        await self.ordinals.write_twins()
        if self.spending is not None and self.ordinals.has_submitted:
            self.spending.release_rows()
        fatal, self.fatal = self.fatal, None
        if fatal is not None:
            raise fatal

    def close(self) -> None:
        """Release what the run held for its calls, except the journal."""
        self.ordinals.close()
