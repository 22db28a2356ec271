"""Payment of one call: reserved for each request, then charged."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llmflow.errors import (
    BudgetExceededError,
    ContentFilterError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
)
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.budget import Estimate, Ledger, Reservation

Charge = Callable[[float, float, int], None]
"""Has later sessions know of dollars, tokens and requests that no row tells of."""


class Sending:
    """Knows if a request may have run at the provider.

    Attributes:
        in_flight: whether it was sent, and has not failed.
        billed: whether it has failed in a way that tells nothing of that.
    """

    __slots__ = ("billed", "in_flight")

    def __init__(self) -> None:
        self.in_flight = self.billed = False

    @property
    def may_have_run(self) -> bool:
        """True if somebody may have to pay for it."""
        return self.in_flight or self.billed

    def note(self, error: ProviderError) -> None:
        """Note that it has failed."""
        self.in_flight = False
        self.billed = self.billed or error.may_be_billed


class Payment(Sending):
    """Budget that is reserved for a call, until it is settled.

    A provider bills a request that was given up, and one that is sent again as well. So each
    that may have run is charged what was kept back for it at once, and the next one needs
    as much again before it is sent: a run never has more on its way than its budget pays.

    `reservation` is for the first request, with `batch` at the price of a row of a batch job;
    `estimate` returns what a live request may cost, with what was learned meanwhile.
    """

    __slots__ = (
        "_batch",
        "_charge",
        "_counted",
        "_estimate",
        "_ledger",
        "_of_row",
        "_requests",
        "prompt",
        "reservation",
    )

    def __init__(
        self,
        ledger: Ledger,
        reservation: Reservation,
        estimate: Callable[[], Estimate],
        charge: Charge,
        *,
        batch: bool,
    ) -> None:
        super().__init__()
        self.reservation: Reservation | None = reservation
        """What is kept back now; None where it was spent."""
        self.prompt = 0.0
        """The tokens of the prompt, as they were counted."""
        self._ledger = ledger
        self._estimate = estimate
        self._charge = charge
        self._batch = batch
        self._of_row = reservation.estimate
        self._requests = 0
        self._counted = 0
        reservation.abandoned = self.cancelled

    def begin(self, requests: int) -> None:
        """Register a request about to be sent, with its companions."""
        self._requests = requests
        self.in_flight = self.billed = False

    def ended(self, error: ProviderError) -> None:
        """Register a failure; its reserve is spent if it may have run."""
        self.note(error)
        if self.billed:
            self.billed = False
            if self.reservation is not None:
                self._charge(*self._settle(*self._reserve_by_now()), 0)
        elif self._ledger.budget.requests is not None and _is_a_spent_request(error):
            # At once: it may wait for another call, which needs a request to go on.
            self._settle(0.0, 0.0)

    async def renew(self) -> None:
        """Keep back what the next request may cost.

        Raises:
            BudgetExceededError: it does not fit any more.
        """
        if self.reservation is None:  # else what has not run leaves its reserve to the next one
            await self._reserve()

    async def go_live(self) -> None:
        """Reserve the cost of a live call instead of a row.

        Raises:
            BudgetExceededError: it does not fit.
        """
        if not self._batch:
            return
        self._batch = False
        if self.reservation is not None:
            self.reservation.release()
            self.reservation = None
        await self._reserve()

    def renew_row(self) -> bool:
        """Reserve for a row's next job round; False if unaffordable."""
        if self.reservation is None:
            self.reservation = affordable(self._ledger, self._of_row)
            if self.reservation is not None:
                self._ledger.detach(self.reservation)  # the jobs' loop need not be the call's
        return self.reservation is not None

    def second(self) -> Second | None:
        """Reserve for a hedge of this one; None if unaffordable."""
        # A second request is not counted as one.
        reservation = self._ledger.reserve_if_free(self._estimate()._replace(requests=0.0))
        return None if reservation is None else Second(reservation, self._charge)

    def answered(self, response: Response) -> None:
        """Settle with an answer."""
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            usd, tokens, _ = reservation.settle_with(response, counted=self._counted)
            self._charge(usd, tokens, 0)

    def failed(self, error: ProviderError, *, is_kept: bool) -> None:
        """Settle with a failure; `is_kept`: recorded, with its requests."""
        self._requests = error.attempts
        self._charge(*self._settle(*spent_on(error)), 0 if is_kept else self._requests)

    def cancelled(self) -> None:
        """Count requests in flight as run and billed, their answers lost."""
        reservation = self.reservation
        if reservation is not None and self._requests == self._counted and not self.may_have_run:
            reservation.release()
            self.reservation = None
        ran = self.may_have_run and self.reservation is not None
        spent = self._settle(*(self._reserve_by_now() if ran else (0.0, 0.0)))
        if self._requests:
            self._charge(*spent, self._requests)
            self._requests = self._counted = 0  # once: it may be collected after it was given up

    def kept(self) -> Reservation | None:
        """Return and release the reserve, for a row that continues."""
        reservation, self.reservation = self.reservation, None
        return reservation

    def _reserve_by_now(self) -> tuple[float, float]:
        """Return what was kept back, or would be by now if answers have shown that to be more."""
        assert self.reservation is not None
        kept, anew = self.reservation.estimate, self._estimate()
        if self._batch:
            return kept.usd, kept.tokens
        return max(kept.usd, anew.usd), max(kept.tokens, anew.tokens)

    def _settle(self, usd: float | None, tokens: float | None) -> tuple[float, float]:
        """Replace what is kept back by what was spent; return its dollars and tokens."""
        reservation, self.reservation = self.reservation, None
        if reservation is None:
            return 0.0, 0.0
        requests, self._counted = self._requests - self._counted, self._requests
        return reservation.settle(usd=usd, tokens=tokens, requests=requests)[:2]

    async def _reserve(self) -> None:
        estimate, ledger = self._estimate(), self._ledger
        reservation = ledger.reserve_nowait(estimate) or await ledger.reserve(
            estimate, anew=self._estimate
        )
        self.reservation = reservation
        reservation.abandoned = self.cancelled


class Second(Sending):
    """Budget reserved for a second request, as for the first."""

    __slots__ = ("_charge", "_reservation")

    def __init__(self, reservation: Reservation, charge: Charge) -> None:
        super().__init__()
        self._reservation = reservation
        self._charge = charge
        reservation.abandoned = self._abandon

    def close(self, *, charged: bool) -> None:
        """Take what was kept back as spent, or give it back."""
        if charged:
            spent = self._reservation.settle(usd=None, tokens=None, requests=0.0)
            self._charge(spent.usd, spent.tokens, 0)
        else:
            self._reservation.release()

    def _abandon(self) -> None:
        self.close(charged=self.may_have_run)


def affordable(ledger: Ledger, estimate: Estimate) -> Reservation | None:
    """Reserve for a row at once; None if it does not fit."""
    try:
        return ledger.reserve_nowait(estimate)
    except BudgetExceededError:
        return None


def _is_a_spent_request(error: ProviderError) -> bool:
    """Whether a request that failed counts as one, and has cost nothing else."""
    waited_for = isinstance(error, RateLimitError | QuotaExhaustedError)
    return not waited_for and spent_on(error) == (0.0, 0.0)


def spent_on(error: ProviderError) -> tuple[float | None, float | None]:
    """Return a failed call's dollars and tokens; None if unknown.

    An answer that was stopped for its content was written, and says what it used.
    """
    if isinstance(error, ContentFilterError) and error.usage is not None:
        tokens = float(error.usage.total_tokens)
        if tokens > 0.0:
            return error.cost or 0.0, tokens
        return None, None
    return (None, None) if error.may_be_billed else (0.0, 0.0)
