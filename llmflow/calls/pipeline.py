"""The pipeline of a call: its steps, in their order.

The journal comes before everything that costs, so that what a call was answered once is its
answer in every session. An equal call in flight comes before the cache, and the cache before
the budget. An outcome is written down before anybody hears of it.

A step gets the next one, and returns what answers a call: an awaitable of its own, or that of
the next step where it has nothing to do. A call that wants no result passes the same steps.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llmflow.calls.budget import budget
from llmflow.calls.cached import cached
from llmflow.calls.call import Step
from llmflow.calls.coalesce import coalesce
from llmflow.calls.observe import observe
from llmflow.calls.recording import keep, record
from llmflow.calls.replay import replay
from llmflow.calls.send import send
from llmflow.calls.session import Session
from llmflow.calls.validate import validate

if TYPE_CHECKING:
    from llmflow.batch.mode import BatchMode


def pipeline(session: Session) -> Step:
    """Return the first step of the calls of a session."""
    mode = send(session)
    paid = record(session, cached(budget(session, mode)))
    known = replay(session, coalesce(session, paid))
    return validate(observe(session, known))


def open_session(**settings: Any) -> Session:
    """Return a session with its pipeline; the settings are those of `Session`."""
    session = Session(**settings)
    session.ask = pipeline(session)
    session.open_batches = partial(_open_batches, session)
    return session


def _open_batches(session: Session) -> BatchMode:
    from llmflow.batch.mode import BatchMode  # with the first call that names a mode

    return BatchMode(
        journal=session.journal,
        keep=partial(keep, session),
        number=session.number,
        on_quota_used_up=session.on_quota_used_up,
        retried=session.tally.retried,
        spending=session.spending,
        run_id=session.run_id,
    )
