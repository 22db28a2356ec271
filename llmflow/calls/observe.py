"""Step 2: count a call, and emit its first and last event."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from llmflow import errors
from llmflow.calls.call import Call, Step
from llmflow.errors import ContentFilterError, ProviderError
from llmflow.events import observed
from llmflow.types import Response

_WORDS: Final[tuple[tuple[type[ProviderError], str], ...]] = (
    (errors.RequestTimeoutError, "time-out"),
    (errors.ConnectionFailedError, "connection"),
    (errors.BatchRowLostError, "lost in a batch job"),
    (errors.BadReplyError, "unreadable reply"),
    (errors.OverloadedError, "overloaded"),
    (errors.ServerError, "server error"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatistics:
    """Counts of a run since it was entered.

    Args:
        answered: calls that the provider answered.
        replayed: calls that were answered from the journal, at no cost.
        cached: calls that were answered by the cache of earlier runs, at no cost.
        shared: calls that got the answer of an equal one in flight, at no cost.
        failed: calls that failed for good.
        failed_before: calls that were not sent, as they had failed in an earlier session.
        in_flight: calls that have not ended.
        requests: requests that were sent for all these; retries among them.
        input_tokens: tokens of the prompts that the provider answered.
        output_tokens: tokens of its answers.
        cost: US dollars of its answers; None where no price is known.
        cut: answers that were cut off at `max_tokens`, wherever they are from.
        empty: answers without any text, or call of a tool.
        retries: how often requests were sent again, by what they had failed with: a status,
            or a word such as ``time-out``. Rate limits are not among them.
    """

    answered: int = 0
    replayed: int = 0
    cached: int = 0
    shared: int = 0
    failed: int = 0
    failed_before: int = 0
    in_flight: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    cut: int = 0
    empty: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)

    @property
    def retried(self) -> int:
        """The number of requests sent again, for any reason."""
        return sum(self.retries.values())

    @property
    def answers(self) -> int:
        """Calls that have an answer, wherever it is from."""
        return self.answered + self.replayed + self.cached + self.shared

    @property
    def done(self) -> int:
        """Calls that have ended, in whatever way."""
        return self.answers + self.failed + self.failed_before


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

    def add(self, name: str, number: int = 1) -> None:
        """Count one thing."""
        with self._lock:
            self._counts[name] += number

    def taken(self, name: str, response: Response) -> None:
        """Count an answer that cost nothing, ``cached`` or ``shared``."""
        with self._lock:
            self._counts[name] += 1
            self._look_at(response)

    def answer(self, response: Response) -> None:
        """Count an answer of the provider."""
        usage, counts = response.usage, self._counts
        with self._lock:
            counts["answered"] += 1
            counts["requests"] += response.attempts
            counts["input_tokens"] += usage.input_tokens
            counts["output_tokens"] += usage.output_tokens
            if response.cost is not None:
                self._cost = (self._cost or 0.0) + response.cost
            self._look_at(response)

    def _look_at(self, response: Response) -> None:
        """Count what is odd about an answer."""
        text = response.text
        if response.finish_reason != "stop" or not text or text.isspace():  # few are so
            self._counts["cut"] += response.is_cut
            self._counts["empty"] += response.is_empty

    def retried(self, error: ProviderError) -> None:
        """Count a request that is sent again after a failure."""
        with self._lock:
            self._retries[kind_of(error)] += 1

    def brought(self, name: str) -> None:
        """Note that a job's outcome arrived before the call."""
        with self._lock:
            self._brought[name] += 1

    def known(self, name: str, response: Response | None = None) -> None:
        """Count a ``replayed`` call or one that ``failed_before``, once."""
        with self._lock:
            if self._brought[name]:
                self._brought[name] -= 1
                return
            self._counts[name] += 1
            if response is not None:
                self._look_at(response)

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


def kind_of(error: ProviderError) -> str:
    """Return a failure's status, or its kind without a reply.

    >>> kind_of(errors.ServerError("oops", status=500))
    '500'
    >>> kind_of(errors.RequestTimeoutError("no answer"))
    'time-out'
    """
    if error.status is not None and error.status >= 400:
        return str(error.status)
    for kind, word in _WORDS:
        if isinstance(error, kind):
            return word
    return type(error).__name__


def observe(tally: Tally, ask: Step) -> Step:
    """Return the step that counts the calls in flight."""
    in_flight = tally.in_flight

    async def counted(call: Call) -> Response:
        in_flight.add(call.id)
        try:
            return await ask(call)
        finally:
            in_flight.discard(call.id)

    return counted


def tell(run_id: str | None, ask: Step) -> Step:
    """Return the step that tells whoever listens of calls."""

    def step(call: Call) -> Coroutine[Any, Any, Response]:
        provider = call.route.provider
        return observed(
            lambda: ask(call),
            call_id=call.id,
            provider=provider.name,
            model=provider.model,
            request=call.request,
            run_id=run_id,
        )

    return step
