"""The pipeline of a call: its steps, in their order.

The journal comes before everything that costs, so that what a call was answered once is its
answer in every session. An equal call in flight comes before the cache, and the cache before
the budget. An outcome is written down before anybody hears of it.

A step gets the next one, and returns what answers a call: an awaitable of its own, or that of
the next step where it has nothing to do. A call that wants no result passes the same steps.
"""

from __future__ import annotations

from llmflow.calls.budget import budget
from llmflow.calls.cached import cached
from llmflow.calls.call import Step
from llmflow.calls.coalesce import coalesce
from llmflow.calls.observe import observe
from llmflow.calls.recording import record
from llmflow.calls.replay import replay
from llmflow.calls.send import send
from llmflow.calls.session import Session
from llmflow.calls.validate import validate


def pipeline(session: Session) -> Step:
    """Return the first step of the calls of a session."""
    session.send = cached(budget(session, send(session)))
    known = replay(session, coalesce(session, record(session, session.send)))
    return validate(observe(session, known))
