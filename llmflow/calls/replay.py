"""Step 3: answer a call from the journal of its run."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from llmflow.calls.call import NOTHING, Call, Step
from llmflow.calls.session import Session
from llmflow.types import Response


def replay(session: Session, ask: Step) -> Step:
    """Return the step that looks a call up in the journal."""
    journal, tally = session.journal, session.tally

    async def looked_up(call: Call) -> Response:
        # With a key it was looked up before, and nothing is known.
        found = None if call.key else session.identify(call)
        if found is None:
            return await ask(call)
        if not call.wanted:
            return NOTHING
        if isinstance(found, Response):
            tally.known("replayed", found)
            return found
        tally.known("failed_before")
        error = found.error()
        error.source = "journal"
        raise error

    def step(call: Call) -> Coroutine[Any, Any, Response]:
        call.shares = call.route.shares(call.request)
        if journal is None and call.wanted and not call.shares:
            return ask(call)  # nobody asks for its key
        return looked_up(call)

    return step
