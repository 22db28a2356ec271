"""Step 4: one of equal calls asks, the others share its answer."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from llmflow.calls.call import NOTHING, Call, Step
from llmflow.calls.in_flight import InFlight
from llmflow.calls.session import Session
from llmflow.errors import ProviderError
from llmflow.types import Response


def coalesce(session: Session, ask: Step) -> Step:
    """Return the step that lets one of equal calls ask."""

    async def shared(call: Call) -> Response:
        others = session.coalescer.join((call.key, call.route.cache), call.ordinal)
        call.in_flight = others
        try:
            if await others.lead(call.ordinal):
                return await _lead(call, others, ask)
            return await _follow(session, call, others)
        finally:
            session.ordinals.give_back(call, others.unused())

    async def later(call: Call) -> Response:
        """Leave a call that nobody waits for to the first one, whose answer it gets."""
        if call.ordinal:
            session.ordinals.note_twin(call)
            return NOTHING
        return await ask(call)

    def step(call: Call) -> Coroutine[Any, Any, Response]:
        if not call.shares:
            return ask(call)
        return shared(call) if call.wanted else later(call)

    return step


async def _lead(call: Call, others: InFlight, ask: Step) -> Response:
    try:
        response = await ask(call)
    except Exception as error:  # of anybody's code: to ask again would be paid again
        others.fail(error)
        raise
    except BaseException:
        others.give_up(call.ordinal)
        raise
    others.succeed(response)
    return response


async def _follow(session: Session, call: Call, others: InFlight) -> Response:
    """Take the answer of the call that asked."""
    journal, covered = session.journal, call.ordinal in others.covered
    try:
        response = others.result()
    except ProviderError as error:
        session.tally.failure(0)
        error.source = "shared"
        if journal is not None and others.covered and not covered:
            await journal.put(call.key, call.ordinal, error, paid=False)
        raise
    if journal is not None and not covered:
        await journal.put(call.key, call.ordinal, response, paid=False)
    session.tally.taken("shared", response)
    return replace(response, source="shared")
