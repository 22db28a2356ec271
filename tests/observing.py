"""Calls of a scripted provider that are told of, for the tests of events and telemetry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmflow import Limiter, Quota, Retry, Timeout
from llmflow.calls.call import Call, Route
from llmflow.calls.hedge import Hedge
from llmflow.calls.live import LiveMode
from llmflow.events import Event, observed
from llmflow.progress import display
from llmflow.testing import ScriptedProvider
from llmflow.types import Request, Response

SECRET_PROMPT = "the prompt nobody may see"
SECRET_ANSWER = "the answer nobody may see"


class Asker:
    """Asks a scripted provider, as an LLM does it.

    Args:
        provider: who answers.
        quota: the provider's limits.
        retry: what happens after a failure.
        hedge: when a slow attempt is sent a second time.
    """

    def __init__(
        self,
        provider: ScriptedProvider,
        *,
        quota: Quota | None = None,
        retry: Retry | None = None,
        hedge: Hedge | None = None,
    ) -> None:
        self.provider = provider
        self.limiter = Limiter(quota, seed=1)
        self.mode = LiveMode(
            provider,
            limiter=self.limiter,
            retry=retry or Retry(),
            timeout=Timeout(),
            hedge=hedge,
        )

    async def ask(
        self, text: str = SECRET_PROMPT, *, run_id: str | None = None, **request: Any
    ) -> Response:
        call = Call(
            Request(
                model=self.provider.model, messages=({"role": "user", "content": text},), **request
            ),
            Route(provider=self.provider, live=self.mode, limiter=self.limiter),
        )
        return await observed(
            lambda: self.mode.complete(call),
            call_id=call.id,
            provider=self.provider.name,
            model=self.provider.model,
            request=call.request,
            run_id=run_id,
        )


def kinds_of(events: Iterable[Event]) -> list[str]:
    return [each.kind for each in events]


def is_drawing() -> bool:
    """Return whether a display of progress is being drawn."""
    return bool(display._drawing)
