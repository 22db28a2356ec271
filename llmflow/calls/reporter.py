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
        self._clock = clock

    def admitted(self, call_id: int, attempt: int, waited: float) -> None:
        """Tell that a request goes, if `RequestAdmitted` is wanted."""
        emit(RequestAdmitted(**self._of(call_id), attempt=attempt, waited=waited))

    def hedged(self, call_id: int, seconds: float) -> None:
        """Report a hedge, sent after so many seconds."""
        if RequestHedged.wanted:
            emit(RequestHedged(**self._of(call_id), seconds=seconds))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%s/%s: no answer for %.3g s: sent a second time",
                self._provider.name,
                self._provider.model,
                seconds,
                extra=self._extra(call_id, seconds=seconds),
            )

    def retried(self, call: Retried, attempt: int, error: ProviderError, delay: float) -> None:
        """Tell that an attempt failed and another one follows."""
        call_id = call.id
        if call.retried is not None:
            call.retried(error)
        if RequestRetried.wanted:
            emit(RequestRetried(**self._of(call_id), attempt=attempt, error=error, delay=delay))
        if logger.isEnabledFor(logging.INFO):
            kind = type(error).__name__
            logger.info(
                "retrying in %.3g s after: %s",
                delay,
                error,
                extra=self._extra(call_id, attempt=attempt, error=kind, delay=delay),
            )

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
        logger.warning(
            "%s/%s: refused after it has worked: all calls pause for %.3g s, then one is sent "
            "once more (%s)",
            self._provider.name,
            self._provider.model,
            seconds,
            refusal,
            extra=self._extra(call_id, seconds=seconds, error=type(refusal).__name__),
        )

    def paused(
        self, call_id: int, rejection: ProviderError, *, before: float, seconds: float
    ) -> None:
        """Report a pause once, however many calls meet it.

        Args:
            call_id: whose rejection it was.
            rejection: what the provider said.
            before: seconds that the domain would have paused without it.
            seconds: how long it pauses now.
        """
        news = seconds > _MUCH_LONGER * before
        provider, model = self._provider.name, self._provider.model
        if news and DomainPaused.wanted:
            self._domain_paused(rejection, seconds)
        level = logging.INFO if news else logging.DEBUG
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "%s/%s: rate limited, all calls pause for %.3g s (%s)",
                provider,
                model,
                seconds,
                rejection.message,
                extra=self._extra(
                    call_id,
                    seconds=seconds,
                    retry_after=rejection.retry_after,
                    dimension=rejection.dimension,
                ),
            )

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

    def _extra(self, call_id: int, **facts: Any) -> dict[str, Any]:
        """Return what a log line says in fields; none is named like one of the record's own."""
        who = {
            "call_id": call_id,
            "run_id": current_run_id.get(),
            "provider": self._provider.name,
            "model": self._provider.model,
        }
        return {**who, **facts}
