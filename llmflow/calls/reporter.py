"""Events and log lines of live calls."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from llmflow.clock import Clock
from llmflow.errors import ProviderError
from llmflow.events import (
    DomainPaused,
    RequestAdmitted,
    RequestHedged,
    RequestRejected,
    RequestRetried,
    current_run_id,
    emit,
)
from llmflow.provider import Provider

logger = logging.getLogger("llmflow")

# A pause that is on is told of again where it becomes so many times as long.
_MUCH_LONGER = 2.0


class Retried(Protocol):
    """Facts of a call that is sent again."""

    id: int
    retried: Callable[[ProviderError], None] | None


class CallReporter:
    """Tells of the calls of one provider.

    Args:
        provider: who answers.
        clock: where the time of day comes from.
    """

    def __init__(self, provider: Provider, clock: Clock) -> None:
        self._provider = provider
        self._name = f"{provider.name}/{provider.model}"
        self._clock = clock

    def admitted(self, call_id: int, attempt: int, waited: float) -> None:
        """Tell that a request goes, if `RequestAdmitted` is wanted."""
        emit(RequestAdmitted(**self._of(call_id), attempt=attempt, waited=waited))

    def hedged(self, call_id: int, seconds: float) -> None:
        """Report a hedge, sent after so many seconds."""
        if RequestHedged.wanted:
            emit(RequestHedged(**self._of(call_id), seconds=seconds))
        text = "%s: no answer for %.3g s: sent a second time"
        self._log(logging.DEBUG, call_id, text, self._name, seconds, seconds=seconds)

    def retried(self, call: Retried, attempt: int, error: ProviderError, delay: float) -> None:
        """Tell that an attempt failed and another one follows."""
        call_id = call.id
        if call.retried is not None:
            call.retried(error)
        if RequestRetried.wanted:
            emit(RequestRetried(**self._of(call_id), attempt=attempt, error=error, delay=delay))
        facts = {"attempt": attempt, "error": type(error).__name__, "delay": delay}
        self._log(logging.INFO, call_id, "retrying in %.3g s after: %s", delay, error, **facts)

    def rejected(
        self, call_id: int, attempt: int, rejection: ProviderError, seconds: float | None
    ) -> None:
        """Report a rate limit that pauses the domain for some seconds."""
        if RequestRejected.wanted:
            emit(
                RequestRejected(
                    **self._of(call_id),
                    attempt=attempt,
                    seconds=seconds,
                    retry_after=rejection.retry_after,
                    dimension=rejection.dimension,
                )
            )

    @property
    def of_pauses(self) -> bool:
        """True if anybody wants to know of pauses."""
        return DomainPaused.wanted or logger.isEnabledFor(logging.INFO)

    def doubted(self, call_id: int, refusal: ProviderError, seconds: float) -> None:
        """Report a pause because a working key or model is refused."""
        if DomainPaused.wanted:
            self._domain_paused(refusal, seconds)
        text = (
            "%s: refused after it has worked: all calls pause for %.3g s, then one is sent once "
            "more (%s)"
        )
        facts = {"seconds": seconds, "error": type(refusal).__name__}
        self._log(logging.WARNING, call_id, text, self._name, seconds, refusal, **facts)

    def paused(
        self, call_id: int, rejection: ProviderError, *, before: float, seconds: float
    ) -> None:
        """Report a pause once, however many calls meet it.

        Without the rejection, the domain would have paused for `before` seconds.
        """
        news = seconds > _MUCH_LONGER * before
        if news and DomainPaused.wanted:
            self._domain_paused(rejection, seconds)
        level = logging.INFO if news else logging.DEBUG
        text, said = "%s: rate limited, all calls pause for %.3g s (%s)", rejection.message
        asked = {"retry_after": rejection.retry_after, "dimension": rejection.dimension}
        self._log(level, call_id, text, self._name, seconds, said, seconds=seconds, **asked)

    def _domain_paused(self, why: ProviderError, seconds: float) -> None:
        emit(
            DomainPaused(
                at=self._clock.wall(),
                run_id=current_run_id.get(),
                provider=self._provider.name,
                model=self._provider.model,
                seconds=seconds,
                reason=why.message,
                dimension=why.dimension,
            )
        )

    def _of(self, call_id: int) -> dict[str, Any]:
        return {
            "at": self._clock.wall(),
            "run_id": current_run_id.get(),
            "call_id": call_id,
            "provider": self._provider.name,
            "model": self._provider.model,
        }

    def _log(self, level: int, call_id: int, text: str, *arguments: object, **facts: Any) -> None:
        """Log a line, with fields of which none is named like one of the record's own."""
        if logger.isEnabledFor(level):
            who = self._of(call_id)
            del who["at"]
            logger.log(level, text, *arguments, extra={**who, **facts})
