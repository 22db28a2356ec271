"""Step 2: count a call, and emit its first and last event."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from llmflow.calls.call import Call, Step
from llmflow.calls.session import Session
from llmflow.events import listening, observed
from llmflow.types import Response


def observe(session: Session, ask: Step) -> Step:
    """Return the step that counts calls and tells of them."""
    tally = session.tally

    async def counted(call: Call) -> Response:
        tally.add("in_flight")
        try:
            return await ask(call)
        finally:
            tally.add("in_flight", -1)

    def step(call: Call) -> Coroutine[Any, Any, Response]:
        if not call.wanted:
            return ask(call)
        session.note_route(call.route)
        if not listening():
            return counted(call)
        return observed(
            lambda: counted(call),
            call_id=call.id,
            provider=call.route.provider.name,
            model=call.route.provider.model,
            request=call.request,
            run_id=session.run_id,
        )

    return step
