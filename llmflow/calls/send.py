"""Step 8: send a call live, or in a batch job."""

from __future__ import annotations

from llmflow.calls.call import NOTHING, Call, Step
from llmflow.calls.session import Session
from llmflow.errors import ProviderError
from llmflow.types import Response


def send(session: Session) -> Step:
    """Return the step that asks the provider and reports the cost."""
    retried = session.tally.retried

    async def step(call: Call) -> Response:
        mode = session.mode_of(call)
        if not call.wanted:
            mode.place(call)
            return NOTHING
        route, call.retried = call.route, retried
        try:
            response = await mode.complete(call)
        except ProviderError as error:
            route.price_failure(error, in_batch=call.in_batch)
            raise
        if call.source == "journal":
            return response
        return route.priced(response, in_batch=call.in_batch, charge=call.charge)

    return step
