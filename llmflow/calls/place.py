"""Puts calls into batch jobs, without a task for each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from llmflow.calls.call import Call, Done, RowKey, RunLive
from llmflow.calls.session import Session
from llmflow.errors import (
    BadGenerationError,
    BatchUnsupportedError,
    BudgetExceededError,
    InvalidAnswerError,
    InvalidRequestError,
    ProviderError,
)
from llmflow.events import listening
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.calls.in_flight import InFlight
    from llmflow.calls.judge import Judge
    from llmflow.calls.output_methods import Sent


async def submit_many(session: Session, calls: Sequence[Call]) -> int:
    """Have batch jobs answer many calls; return how many they do.

    They are of one LLM and mode, and want no result. Where more steps than the journal's and the
    mode's have something to do, each takes its own way.

    Raises:
        LLMFlowError: as `Session.submit`, for one of them.
    """
    if session.spending is not None or any(
        each.shares or each.route.cache is not None for each in calls
    ):
        return sum([await _submitted(session, each, alone=len(calls) == 1) for each in calls])
    known = await session.ordinals.known(calls)
    new = [each for each in calls if each.row not in known] if known else calls
    if new:
        await session.mode_of(new[0]).place(new)
    return sum([each.placed for each in new])


async def _submitted(session: Session, call: Call, *, alone: bool) -> bool:
    try:
        return await session.submit(call)
    except InvalidRequestError:  # larger than a job may be; the others go into one
        if alone:
            raise
        return False


async def place(session: Session, call: Call, done: Done) -> bool:
    """Have a batch job answer a call; `done` gets its outcome.

    `done` is called once, on the event loop of the jobs, after the outcome is recorded: with
    the answer or the error. With `RunLive` in its place no job answers it: make the call anew
    and ask it as any other; where that has an answer, it is not accepted, and the call has the
    same row and `answer`. Nothing of the call is kept in memory but its row's name.

    Args:
        session: the session of the call.
        call: the call, of which the journal knows nothing; with a journal, its key is set.
        done: gets the outcome.

    Returns:
        Whether a job will answer it. If not, nothing has happened: ask it as any other.

    Raises:
        InvalidRequestError: its row is larger than a job may be.
        JournalError: its row cannot be written.
        ConfigurationError: another event loop looks after the jobs.
    """
    if call.mode_options is None or call.answer is not None or listening():
        return False
    if session.journal is not None and not call.key:
        return False
    if call.shares and not call.key:
        session.ordinals.identify(call)
    session.ordinals.number(call)
    group = None
    if call.shares:
        group = session.coalescer.lead_new((call.key, call.route.cache), call.ordinal)
        if group is None:  # an equal call is in flight
            return False
    if call.judge is not None:
        done = partial(_judged, session, call.judge, session.refused_rows.sent(call), done)
    call.wanted, call.done = False, partial(_ended, session, call.row, group, done)
    try:
        await session.send(call)
    except (BatchUnsupportedError, BudgetExceededError):
        pass  # it may have room later, or another mode
    finally:
        call.wanted, call.done, call.source = True, None, "provider"
        if call.placed:
            session.note_route(call.route)
            session.tally.add("in_flight")
        elif group is not None:
            group.give_up(call.ordinal)
    return call.placed


def _judged(
    session: Session, judge: Judge, sent: Sent | None, done: Done, outcome: Response | Exception
) -> None:
    """Hand on an outcome; of an answer, whether it is accepted."""
    if isinstance(outcome, BadGenerationError) and judge.output is not None:
        outcome = session.tally.generated(outcome)
    elif (
        isinstance(outcome, ProviderError)
        and sent is not None
        and session.refused_rows.asks_again(sent, outcome)
    ):
        session.tally.forgiven(outcome)
        outcome = RunLive()  # a new call, in whatever mode
    if isinstance(outcome, Response):
        session.refused_rows.answered(sent, outcome)
        try:
            outcome = judge.look(outcome)
        except InvalidAnswerError:
            answer, outcome = outcome, RunLive()
            outcome.answer = answer
    done(outcome)


def _ended(
    session: Session,
    row: RowKey,
    group: InFlight | None,
    done: Done,
    outcome: Response | Exception,
) -> None:
    session.tally.add("in_flight", -1)
    key, ordinal = row
    is_kept = isinstance(outcome, Response) or (
        isinstance(outcome, ProviderError) and session.is_conclusive(outcome)
    )
    unused = set[int]() if is_kept else {ordinal}
    if group is not None:
        if is_kept:
            group.covered = range(ordinal, ordinal + 1)
        if isinstance(outcome, Response):
            group.succeed(outcome)
        elif isinstance(outcome, ProviderError):
            group.fail(outcome)
        else:
            group.give_up(ordinal)
        unused = group.unused()
    session.ordinals.free(key, unused)
    done(outcome)
