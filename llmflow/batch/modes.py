"""Resolves the options of a call to its mode, with fallback.

Live and batch mode know nothing of each other: `Fallback` has one of them take over what the
other leaves, and `AutoMode` decides between the two.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from llmflow.batch.pending import RunLive
from llmflow.calls.call import Call, Mode
from llmflow.calls.pipeline import last_steps, pipeline
from llmflow.calls.session import Session
from llmflow.errors import BatchUnsupportedError, QuotaExhaustedError
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.batch.batch_mode import BatchMode


def open_session(**settings: Any) -> Session:
    """Return a session with its pipeline and modes; for settings see `Session`."""
    session = Session(**settings)
    session.compose = partial(pipeline, session)
    session.send = last_steps(session)
    session.resolve = resolve
    session.open_batches = partial(_open_batches, session)
    return session


def _open_batches(session: Session) -> BatchMode:
    from llmflow.batch.batch_mode import BatchMode  # with the first call that names a mode

    return BatchMode(session)


def resolve(session: Session, call: Call) -> Mode:
    """Return the mode that a call's options stand for."""
    options, route = call.mode_options, call.route
    assert options is not None
    left: tuple[type[Exception], ...] = (RunLive,)
    if options.mode == "auto" or options.fallback == "parallel":
        left = (RunLive, BatchUnsupportedError)
    live, jobs = route.live, Fallback(session, session.batches, route.live, left)
    if options.mode == "batch":
        return jobs
    if route.has_batch_api:
        live = Fallback(session, live, jobs, (QuotaExhaustedError,))
    if options.mode == "parallel":
        return live
    from llmflow.batch.auto import AutoMode

    return AutoMode(session, live, jobs)


class Fallback:
    """Answers calls by one mode, and what that leaves by another.

    Args:
        session: the session of the calls.
        first: the mode that is asked first.
        second: the mode that takes over.
        left: the errors of the first at which that happens.
    """

    __slots__ = ("_first", "_left", "_second", "_session")

    def __init__(
        self, session: Session, first: Mode, second: Mode, left: tuple[type[Exception], ...]
    ) -> None:
        self._session = session
        self._first = first
        self._second = second
        self._left = left

    def is_batch(self, call: Call) -> bool:
        """Return whether the first mode is the batch jobs."""
        return self._first.is_batch(call)

    def place(self, call: Call) -> None:
        """Place a call in the first mode, unless it must run live."""
        try:
            self._first.place(call)
        except RunLive:
            return

    async def complete(self, call: Call) -> Response:
        """Answer a call by the first mode, or by the second.

        Raises:
            ProviderError: it failed for good.
            BudgetExceededError: a live call does not fit into the budget.
        """
        try:
            return await self._first.complete(call)
        except self._left as error:
            self._tell(call, error)
        if call.payment is not None:
            await call.payment.go_live()  # where its row of a job was paid for
        return await self._second.complete(call)

    def _tell(self, call: Call, error: Exception) -> None:
        if isinstance(error, BatchUnsupportedError):
            self._session.batches.decided("no batch API: on in parallel", call.route)
        elif isinstance(error, QuotaExhaustedError):
            why = "the daily quota is used up: on in batch jobs"
            self._session.batches.decided(why, call.route)
            for each in self._session.on_quota_used_up:
                each()
