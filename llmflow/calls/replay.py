"""Step 3: answer a call from the journal of its run."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from llmflow.calls.call import NOTHING, Call, Step
from llmflow.calls.session import Session
from llmflow.events import listening
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.journal import Recorded


def replay(session: Session, ask: Step) -> Step:
    """Return the step that looks a call up in the journal."""
    journal = session.journal

    async def looked_up(call: Call) -> Response:
        # With a key it was looked up before, and nothing is known.
        found = None if call.key else session.identify(call)
        if found is None:
            return await ask(call)
        return outcome(session, found) if call.wanted else NOTHING

    def step(call: Call) -> Coroutine[Any, Any, Response]:
        call.shares = call.route.shares(call.request)
        if journal is None and call.wanted and not call.shares:
            return ask(call)  # nobody asks for its key
        return looked_up(call)

    return step


def recall(session: Session, call: Call, *, submitted: bool = False) -> Response | None:
    """Return an answer from the journal before the first step.

    Args:
        session: what is to ask the call.
        call: the call; if nothing is known of it, that is not looked up again.
        submitted: whether it has the number of a submitted one.

    Raises:
        ProviderError: it has failed for good.
    """
    if session.journal is None or call.validate is not None or listening():
        return None
    session.note_route(call.route)
    call.shares = call.route.shares(call.request)
    found = session.identify(call, submitted=submitted)
    return None if found is None else outcome(session, found)


def outcome(session: Session, found: Recorded) -> Response:
    """Count what the journal knows of a call, and return it.

    Raises:
        ProviderError: it has failed for good.
    """
    if isinstance(found, Response):
        session.tally.known("replayed", found)
        return found
    session.tally.known("failed_before")
    error = found.error()
    error.source = "journal"
    raise error
