"""The pipeline of a call: its steps, in their order.

The journal comes before everything that costs, so that what a call was answered once is its
answer in every session. An equal call in flight comes before the cache, and the cache before
the budget. An outcome is written down before anybody hears of it.

A step gets the next one, and returns what answers a call. A call passes the steps that have
something to do for calls of its kind; one that wants no result passes the same.
"""

from __future__ import annotations

from llmflow.calls.budget import budget
from llmflow.calls.cached import cached
from llmflow.calls.call import Step
from llmflow.calls.coalesce import coalesce
from llmflow.calls.live import send
from llmflow.calls.observe import observe
from llmflow.calls.recording import record
from llmflow.calls.replay import replay
from llmflow.calls.session import Session
from llmflow.calls.validate import validate


def pipeline(
    session: Session,
    wanted: bool,
    shares: bool,
    in_mode: bool,
    validates: bool,
    caches: bool,
    is_heard: bool,
) -> Step:
    """Return the first step for one kind of calls.

    `Session.ask` tells kinds apart. Steps are put together from the last one on. A call is
    `wanted` if its answer is waited for, and `is_heard` if anybody listens to events.
    """
    step = last_steps(session, caches)
    if wanted or caches:
        step = record(session, step, in_mode=in_mode)
    if shares:
        step = coalesce(session, step)
    if shares or not wanted or session.journal is not None:
        step = replay(session.ordinals, session.tally.outcome, step)
    if wanted:
        step = session.tally.counting(step)
    if wanted and is_heard:
        step = observe(session.run_id, step)
    if validates:
        step = validate(session, step)
    return step


def last_steps(session: Session, caches: bool = True) -> Step:
    """Return the steps below those that search the run."""
    step = budget(session, send(session))
    return cached(step) if caches else step
