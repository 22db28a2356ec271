"""Step 7: reserve what a call may cost, and charge its cost."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from llmflow.calls.call import NOTHING, Call, Step
from llmflow.calls.session import Session
from llmflow.errors import ProviderError
from llmflow.types import Response


def budget(session: Session, ask: Step) -> Step:
    """Return the step that pays, or the next without a budget."""
    spending = session.spending
    if spending is None:
        return ask

    async def paid(call: Call) -> Response:
        payment = await spending.pay(call, batch=session.mode_of(call).is_batch(call))
        try:
            response = await ask(call)
        except ProviderError as error:
            payment.failed(error, is_kept=session.is_conclusive(error))
            raise
        except BaseException:
            if session.is_in_a_job(call):
                spending.keep_for(call.row, payment.kept())
            else:
                payment.cancelled()
            raise
        if call.source == "journal":
            payment.cancelled()
        else:
            spending.answered(payment, response, call.route)
        return response

    async def reserved(call: Call) -> Response:
        """Keep back what a row of a job may cost, without waiting."""
        if not session.mode_of(call).is_batch(call):
            return NOTHING
        if session.batches.is_waited_for(call):
            call.placed = call.done is None
            return NOTHING
        reservation = spending.reserve_now(call)
        try:
            return await ask(call)
        finally:
            if call.placed:
                spending.keep_for(call.row, reservation)
            else:
                reservation.release()

    def step(call: Call) -> Coroutine[Any, Any, Response]:
        return paid(call) if call.wanted else reserved(call)

    return step
