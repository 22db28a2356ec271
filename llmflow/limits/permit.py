"""The right to send one request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from llmflow.errors import RateLimitError
from llmflow.limits.ticket import ADMITTED, Ticket
from llmflow.types import Charge, QuotaSignal

if TYPE_CHECKING:
    from llmflow.limits.limiter import Limiter


class Permit(Ticket):
    """The right to send one request, until settled, rejected or released.

    As an async context manager it is released at the end, whatever happened.
    """

    __slots__ = ("_expect", "_future", "_limiter", "_loop")

    def __init__(
        self,
        limiter: Limiter,
        charge: Charge,
        loop: asyncio.AbstractEventLoop,
        expect: Callable[[], Charge] | None,
    ) -> None:
        super().__init__(charge)
        self._limiter = limiter
        self._loop = loop
        self._expect = expect
        self._future: asyncio.Future[None] | None = None

    def leave(self) -> None:
        """Tell that the request goes out: it has its connection.

        Until then it has not arrived either, and what replies say is left does not count it.
        Only for permits that were acquired with `leaves`; the others leave at once.
        """
        self._limiter._leave(self)

    def settle(self, actual: Charge | None = None, *, signals: Sequence[QuotaSignal] = ()) -> None:
        """End with an answer.

        Args:
            actual: what the request was charged, where known.
            signals: what the reply's headers say of the quota.
        """
        self._limiter._settle(self, actual, signals)

    def reject(
        self,
        retry_after: float | None = None,
        *,
        kind: type[RateLimitError] = RateLimitError,
        dimension: str | None = None,
        signals: Sequence[QuotaSignal] = (),
    ) -> float:
        """End with a rate-limit rejection: the whole domain pauses.

        Args:
            retry_after: seconds that the server asked to wait, or None.
            kind: the class of the limit: of a rate, of its growth, or of concurrency.
            dimension: what was used up, such as ``"tpm"``, where the server says so.
            signals: what the reply's headers say of the quota.

        Returns:
            Seconds until the pause ends.
        """
        return self._limiter._reject(self, retry_after, kind, dimension, signals)

    def fail(
        self,
        *,
        overloaded: bool,
        signals: Sequence[QuotaSignal] = (),
        reason: str = "",
        rejected: bool = False,
    ) -> None:
        """End with another failure.

        Args:
            overloaded: whether it is a sign that the provider cannot cope: no capacity, a
                server error, no answer in time, a broken connection.
            signals: what the reply's headers say of the quota.
            reason: what happened, for whoever asks why nothing is answered.
            rejected: whether to count it among the rejections.
        """
        self._limiter._fail(self, overloaded, signals, reason, rejected)

    def release(self) -> None:
        """End without an answer. Does nothing if the permit has ended already."""
        if self.state == ADMITTED:
            self._limiter._end(self, sent=True)

    async def renew(self) -> None:
        """Wait again after a rejection, in the queue's old place."""
        if self.state == ADMITTED:
            return
        await self._limiter._wait(self)

    def revise(self) -> None:
        """Charge the present expectation of output; called by the limiter."""
        if self._expect is not None:
            self.charge = self._expect()

    def grant(self) -> None:
        """Wake the task that waits; called by the limiter."""
        if self._tell(None):
            self._limiter._placed.add(self._loop, self)
        else:  # its loop is closed: nobody will send this request
            self._limiter._admission.cancel(self)

    def refuse(self, error: Exception) -> None:
        """Have the task that waits fail; called by the limiter."""
        self._tell(error)

    def _tell(self, error: Exception | None) -> bool:
        loop, future = self._loop, self._future
        if loop is asyncio._get_running_loop():
            _wake(future, error)
            return True
        try:
            loop.call_soon_threadsafe(_wake, future, error)
        except RuntimeError:
            return False
        return True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


def _wake(future: asyncio.Future[None] | None, error: Exception | None = None) -> None:
    if future is None or future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
