"""Step 5: count an outcome and make it durable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

from llmflow.calls.call import NOTHING, Call, Done, Route, RowKey, Step
from llmflow.calls.live import price_failure, priced
from llmflow.calls.session import Session
from llmflow.errors import JournalError, ProviderError
from llmflow.types import Charge, Response


def record(session: Session, ask: Step, *, in_mode: bool = True) -> Step:
    """Return the step that writes outcomes down.

    With `in_mode`, a job may have brought an outcome and waits for it to be durable.
    """

    async def confirmed(call: Call) -> Response:
        """Tell the job that has brought an outcome when that is durable."""
        try:
            response = await _recorded(session, ask, call)
        except JournalError as error:
            if call.pending is not None:
                call.pending.mark_failed(error)
            raise
        except BaseException:
            if call.pending is not None:
                call.pending.mark_durable()
            raise
        if call.pending is not None:
            call.pending.mark_durable()
        return response

    return confirmed if in_mode else partial(_recorded, session, ask)


async def _recorded(session: Session, ask: Step, call: Call) -> Response:
    try:
        response = await ask(call)
    except ProviderError as error:
        if call.wanted:
            session.tally.failure(error.attempts, error)
            await _write_failure(session, call, error)
        raise
    except BaseException:
        if call.in_flight is None:
            session.ordinals.give_back(call, (call.ordinal,))
        raise
    if call.source == "provider":
        if response is NOTHING:
            return response
        session.tally.answer(response)
    elif call.source == "journal":
        return session.tally.outcome(response)
    if session.journal is not None or call.route.cache is not None:
        try:
            await _write_answer(session, call, response)
        except JournalError as error:
            error.response = response  # it was paid for
            raise
    if call.source == "cache" and call.wanted:
        session.tally.taken("cached", response)
    return response


async def _write_answer(session: Session, call: Call, response: Response) -> None:
    """Write an answer down, for equal calls too if the one that asked is cancelled now."""
    others, key, nth = call.in_flight, call.key, call.ordinal
    cache = None if call.source == "cache" else call.route.cache
    writes: list[Awaitable[None]] = []
    if session.journal is not None:
        covered = range(nth, nth + 1) if others is None else others.cover(nth)
        paid = call.source != "cache"
        writes.append(
            session.journal.put(key, covered.start, response, uses=len(covered), paid=paid)
        )
    if cache is not None:
        writes.append(cache.store(key, response))
    session.recording += 1
    try:
        if others is None or not writes:
            for each in writes:
                await each
            return
        all_written = _all(writes)
        try:
            await asyncio.shield(all_written)
        except asyncio.CancelledError:
            others.succeed_after(all_written, response, nth)
            raise
    finally:
        session.recording -= 1


async def _write_failure(session: Session, call: Call, error: ProviderError) -> None:
    error.redact()
    others, nth = call.in_flight, call.ordinal
    if session.journal is None or not session.is_conclusive(error):
        if others is None:
            session.ordinals.give_back(call, (nth,))
        return
    covered = range(nth, nth + 1) if others is None else others.cover(nth)
    session.recording += 1
    try:
        await session.journal.put(call.key, covered.start, error, uses=len(covered))
    finally:
        session.recording -= 1


def keep_answers(
    session: Session, route: Route, answers: Sequence[tuple[RowKey, Response, Done | None]]
) -> asyncio.Future[None] | None:
    """Record answers that no call awaits; then call each `done`.

    Returns:
        A future that ends with the writing, or None where nothing is written.

    Raises:
        JournalError: they cannot be written.
    """
    spending, cache = session.spending, route.cache
    told: list[tuple[RowKey, Response]] = []
    for row, response, _ in answers:
        reservation = None if spending is None else spending.kept_for(row)
        charge = None if reservation is None else Charge(tokens=reservation.estimate.tokens)
        response = priced(response, route, in_batch=True, charge=charge)  # noqa: PLW2901
        if spending is not None:
            spending.arrived(reservation, response, route)
        told.append((row, response))
    session.tally.answer(*[response for _, response in told])
    written = None if session.journal is None else session.journal.put_many(told)
    if cache is not None:
        writes: list[Awaitable[None]] = [cache.store(row[0], each) for row, each in told]
        written = _all(writes if written is None else [*writes, written])
    brought = 0
    for (_, response), (_, _, done) in zip(told, answers, strict=True):
        if done is None:
            brought += 1
        else:
            _call_back(done, response, written)
    session.tally.brought("replayed", brought)
    return written


def keep_failure(
    session: Session, route: Route, row: RowKey, error: ProviderError, done: Done | None
) -> asyncio.Future[None] | None:
    """Do what `keep_answers` does, for the failure of one row."""
    spending, written = session.spending, None
    reservation = None if spending is None else spending.kept_for(row)
    error.redact()
    if error.fatal and done is None:  # it says nothing of the call, which is asked again
        session.fatal = session.fatal or error
    else:
        price_failure(error, route, in_batch=True)
        session.tally.failure(error.attempts, error)
    if spending is not None and reservation is not None:
        spending.failed(reservation, error)
    if session.journal is not None and session.is_conclusive(error):
        written = session.journal.put(*row, error)
    if done is not None:
        _call_back(done, error, written)
    elif not error.fatal:
        session.tally.brought("failed_before")
    return written


def _call_back(
    done: Done, outcome: Response | ProviderError, written: asyncio.Future[None] | None
) -> None:
    """Call a function with an outcome, once that is written down."""
    if written is None:
        done(outcome)
    else:
        written.add_done_callback(partial(_after, done, outcome))


def _after(done: Done, outcome: Response | ProviderError, written: asyncio.Future[None]) -> None:
    error = None if written.cancelled() else written.exception()
    done(outcome if error is None else error)  # type: ignore[arg-type]


def _all(writes: Sequence[Awaitable[None]]) -> asyncio.Future[Any]:
    return asyncio.ensure_future(writes[0] if len(writes) == 1 else asyncio.gather(*writes))
