"""Step 2: emit a call's events; log lines, and a run's counts."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llmflow import errors
from llmflow.calls.call import Call, LiveCall, Step
from llmflow.clock import Clock
from llmflow.errors import ProviderError
from llmflow.events import (
    DomainPaused,
    Event,
    RequestAdmitted,
    RequestHedged,
    RequestRejected,
    RequestRetried,
    current_run_id,
    emit,
    observed,
)
from llmflow.provider import Provider
from llmflow.types import Response

logger = logging.getLogger("llmflow")

# A pause that is on is told of again where it becomes so many times as long.
_MUCH_LONGER: Final = 2.0
_WORDS: Final[tuple[tuple[type[ProviderError], str], ...]] = (
    (errors.RequestTimeoutError, "time-out"),
    (errors.ConnectionFailedError, "connection"),
    (errors.BatchRowLostError, "lost in a batch job"),
    (errors.BadReplyError, "unreadable reply"),
    (errors.OverloadedError, "overloaded"),
    (errors.ServerError, "server error"),
)


def observe(run_id: str | None, ask: Step) -> Step:
    """Return the step that emits the first and last event of calls."""

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
        reasked: answers that were not accepted and asked again; they count as nothing else, but
            for their requests, tokens and cost.
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
    reasked: int = 0
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


class CallReporter:
    """Tells of the calls of one provider, by events and log lines."""

    def __init__(self, provider: Provider, clock: Clock) -> None:
        self._provider = provider
        self._name = f"{provider.name}/{provider.model}"
        self._clock = clock

    def admitted(self, call: LiveCall, waited: float) -> None:
        """Tell that a request goes."""
        self._emit(RequestAdmitted, call, attempt=call.attempts, waited=waited)

    def hedged(self, call: LiveCall, seconds: float) -> None:
        """Report a hedge, sent after so many seconds."""
        self._emit(RequestHedged, call, seconds=seconds)
        text = "%s: no answer for %.3g s: sent a second time"
        self._log(logging.DEBUG, call, text, self._name, seconds, seconds=seconds)

    def retried(self, call: LiveCall, attempt: int, error: ProviderError, delay: float) -> None:
        """Tell that an attempt failed and another one follows."""
        if call.retried is not None:
            call.retried(error)
        self._emit(RequestRetried, call, attempt=attempt, error=error, delay=delay)
        facts = {"attempt": attempt, "error": type(error).__name__, "delay": delay}
        self._log(logging.INFO, call, "retrying in %.3g s after: %s", delay, error, **facts)

    def rejected(self, call: LiveCall, rejection: ProviderError, seconds: float | None) -> None:
        """Report a rate limit that pauses the domain for some seconds."""
        self._emit(
            RequestRejected,
            call,
            attempt=call.attempts,
            seconds=seconds,
            retry_after=rejection.retry_after,
            dimension=rejection.dimension,
        )

    @property
    def of_pauses(self) -> bool:
        """True if anybody wants to know of pauses."""
        return DomainPaused.wanted or logger.isEnabledFor(logging.INFO)

    def doubted(self, call: LiveCall, refusal: ProviderError, seconds: float) -> None:
        """Report a pause because a working key or model is refused."""
        self._domain_paused(refusal, seconds)
        text = (
            "%s: refused after it has worked: all calls pause for %.3g s, then one is sent once "
            "more (%s)"
        )
        facts = {"seconds": seconds, "error": type(refusal).__name__}
        self._log(logging.WARNING, call, text, self._name, seconds, refusal, **facts)

    def paused(
        self, call: LiveCall, rejection: ProviderError, *, before: float, seconds: float
    ) -> None:
        """Report a pause once, however many calls meet it.

        Without the rejection, the domain would have paused for `before` seconds.
        """
        news = seconds > _MUCH_LONGER * before
        if news:
            self._domain_paused(rejection, seconds)
        level = logging.INFO if news else logging.DEBUG
        text, said = "%s: rate limited, all calls pause for %.3g s (%s)", rejection.message
        asked = {"retry_after": rejection.retry_after, "dimension": rejection.dimension}
        self._log(level, call, text, self._name, seconds, said, seconds=seconds, **asked)

    def _domain_paused(self, why: ProviderError, seconds: float) -> None:
        self._emit(DomainPaused, None, seconds=seconds, reason=why.message, dimension=why.dimension)

    def _emit(self, kind: type[Event], call: LiveCall | None, **facts: Any) -> None:
        if kind.wanted:
            emit(kind(at=self._clock.wall(), **self._who(call), **facts))

    def _who(self, call: LiveCall | None) -> dict[str, Any]:
        who = {"call_id": call.id} if call is not None else {}
        provider = self._provider
        run_id = current_run_id.get()
        return {"run_id": run_id, **who, "provider": provider.name, "model": provider.model}

    def _log(self, level: int, call: LiveCall, text: str, *arguments: object, **facts: Any) -> None:
        """Log a line, with fields of which none is named like one of the record's own."""
        if logger.isEnabledFor(level):
            logger.log(level, text, *arguments, extra={**self._who(call), **facts})
