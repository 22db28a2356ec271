"""The beginning and the one end of a call, told from around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

from llmflow.clock import SystemClock
from llmflow.errors import ProviderError
from llmflow.events.hooks import emit
from llmflow.events.kinds import (
    RequestCancelled,
    RequestFailed,
    RequestFinished,
    RequestStarted,
)
from llmflow.types import Request, Response

current_run_id: ContextVar[str | None] = ContextVar("llmflow_run_id", default=None)
"""The run that the running code belongs to, as events name it; it flows into tasks."""

_clock: Final = SystemClock()


async def observed(
    ask: Callable[[], Awaitable[Response]],
    *,
    call_id: int,
    provider: str,
    model: str,
    request: Request | None = None,
) -> Response:
    """Ask, and tell of the call's start and of its one end.

    Args:
        ask: gets the answer, from wherever it comes.
        call_id: the call's number.
        provider: the provider's name.
        model: the model's name at the provider.
        request: what is asked, for hooks that want to see it.
    """
    run_id = current_run_id.get()
    started = _clock.monotonic()
    if RequestStarted.wanted:
        emit(
            RequestStarted(
                at=_clock.wall(),
                run_id=run_id,
                call_id=call_id,
                provider=provider,
                model=model,
                request=request,
            )
        )
    try:
        response = await ask()
    except GeneratorExit:
        # The garbage collector is at work, at whatever line of this thread: a hook that
        # takes a lock could wait for itself.
        raise
    except Exception as error:
        if RequestFailed.wanted:
            emit(
                RequestFailed(
                    at=_clock.wall(),
                    run_id=run_id,
                    call_id=call_id,
                    provider=provider,
                    model=model,
                    seconds=_clock.monotonic() - started,
                    error=error,
                    attempts=error.attempts if isinstance(error, ProviderError) else 0,
                )
            )
        raise
    except BaseException:
        if RequestCancelled.wanted:
            emit(
                RequestCancelled(
                    at=_clock.wall(),
                    run_id=run_id,
                    call_id=call_id,
                    provider=provider,
                    model=model,
                    seconds=_clock.monotonic() - started,
                )
            )
        raise
    if RequestFinished.wanted:
        emit(
            RequestFinished(
                at=_clock.wall(),
                run_id=run_id,
                call_id=call_id,
                provider=provider,
                model=model,
                seconds=_clock.monotonic() - started,
                usage=response.usage,
                cost=response.cost,
                finish_reason=response.finish_reason,
                attempts=response.attempts,
                waited=response.waited,
                source=response.source,
                response_model=response.model,
                request_id=response.request_id,
                response=response,
            )
        )
    return response
