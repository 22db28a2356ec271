"""Emits the start and the end of each call."""

from __future__ import annotations

import contextlib
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
    run_id: str | None = None,
) -> Response:
    """Ask, and tell of the call's start and of its one end.

    Args:
        ask: gets the answer, from wherever it comes.
        call_id: the call's number.
        provider: the provider's name.
        model: the model's name at the provider.
        request: what is asked, for hooks that want to see it.
        run_id: the run that the call belongs to, for all events of the call; None: the one
            that the running code is in.
    """
    if run_id is None:
        run_id = current_run_id.get()
    token = current_run_id.set(run_id)
    try:
        return await _observed(ask, call_id, provider, model, request, run_id)
    finally:
        # An abandoned coroutine is closed in another context, where there is nothing to undo.
        with contextlib.suppress(ValueError):
            current_run_id.reset(token)


async def _observed(
    ask: Callable[[], Awaitable[Response]],
    call_id: int,
    provider: str,
    model: str,
    request: Request | None,
    run_id: str | None,
) -> Response:
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
                    source=getattr(error, "source", "provider"),
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
