"""Reserves and charges of calls in a run's budget."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from llmflow.calls.call import Call, Route, RowKey
from llmflow.calls.payment import Payment, affordable, spent_on
from llmflow.errors import BudgetExceededError, ProviderError
from llmflow.format import counted, dollars
from llmflow.types import Response

if TYPE_CHECKING:
    from llmflow.budget import Estimate, Ledger, OutputForecast, PromptForecast, Reservation
    from llmflow.journal import JournalProtocol


class _Learned(NamedTuple):
    """Forecasts for one model, learned from the answers of a run."""

    prompts: PromptForecast
    outputs: OutputForecast


class Spending:
    """Reserves before a call, and settles after it.

    The journal keeps what no row tells of for later sessions.
    """

    def __init__(self, ledger: Ledger, journal: JournalProtocol | None) -> None:
        self._ledger = ledger
        self._journal = journal
        self._learned: dict[Hashable, _Learned] = {}
        self._of_rows: dict[RowKey, Reservation] = {}
        self._waiting: dict[RowKey, Payment] = {}
        # Budgets are imported where there is one, and not again with each call.
        from llmflow.budget import estimate, prompt_tokens

        self._reckon, self._count = estimate, prompt_tokens

    def keep_for(self, row: RowKey, reservation: Reservation | None) -> None:
        """Keep the reserve of a job's row without a waiting call."""
        if reservation is not None:
            self._ledger.detach(reservation)
            self._of_rows[row] = reservation

    def kept_for(self, row: RowKey) -> Reservation | None:
        """Return what was kept for a row, once."""
        return self._of_rows.pop(row, None)

    def wait_for(self, row: RowKey, payment: Payment | None) -> None:
        """Register the call that waits for a row; None: no more."""
        if payment is None:
            self._waiting.pop(row, None)
        else:
            self._waiting[row] = payment

    def row_lost(self, row: RowKey, error: ProviderError) -> None:
        """Charge the reserve of a row that may be billed, unanswered."""
        if not error.may_be_billed:
            return
        payment = self._waiting.get(row)
        if payment is not None:
            payment.begin(error.attempts)
            payment.ended(error)
        elif (reservation := self._of_rows.get(row)) is not None:
            reservation.settle(usd=None, tokens=None, requests=0.0)
            self._charge(reservation.estimate.usd, reservation.estimate.tokens)

    def renew_row(self, row: RowKey) -> bool:
        """Reserve for a row's next job round; False if unaffordable."""
        payment, reservation = self._waiting.get(row), self._of_rows.get(row)
        if payment is not None:
            return payment.renew_row()
        if reservation is None:
            return True  # an earlier session's, and charged when it comes
        anew = affordable(self._ledger, reservation.estimate)
        if anew is None:
            del self._of_rows[row]
            return False
        self.keep_for(row, anew)
        return True

    def let_go(self, rows: Iterable[RowKey]) -> None:
        """Return the reserves of rows that did not run."""
        for row in rows:
            reservation = self.kept_for(row)
            if reservation is not None:
                reservation.release()

    def release_rows(self) -> None:
        """Return the reserves of rows that left all jobs."""
        self.let_go(list(self._of_rows))

    async def pay(self, call: Call, *, batch: bool) -> Payment:
        """Reserve a call's cost; waits while other calls may free some.

        Raises:
            BudgetExceededError: it does not fit.
        """
        prompt = self._counted(call)
        live = self._estimator(call, batch=False, prompt=prompt)
        anew = self._estimator(call, batch=True, prompt=prompt) if batch else live
        reservation, ledger = self.kept_for(call.row), self._ledger
        if reservation is not None and not batch:  # it was for a row of a job
            reservation.release()
            reservation = None
        if reservation is None:
            expected = anew()
            reservation = ledger.reserve_nowait(expected) or await ledger.reserve(
                expected, anew=anew
            )
        payment = Payment(ledger, reservation, live, self._charge, batch=batch)
        payment.prompt = prompt
        call.payment = payment
        return payment

    def reserve_now(self, call: Call) -> Reservation:
        """Reserve what a call may cost in a batch job, without waiting.

        Raises:
            BudgetExceededError: it does not fit into what is left.
        """
        expected = self._estimator(call, batch=True)()
        reservation = self._ledger.reserve_nowait(expected)
        if reservation is None:
            raise BudgetExceededError(
                f"the next call may cost {expected}, which does not fit into what is left of "
                f"{self._ledger.budget}"
            )
        return reservation

    def is_too_dear(self, call: Call, count: int) -> str | None:
        """Return why so many live calls exceed the budget, or None."""
        price = call.route.price()
        if price is not None and not price.has_batch:
            return None  # jobs would cost the same, as far as is known
        each = self._estimator(call, batch=False)()
        left = self._ledger.remaining()
        if left.usd is not None and each.usd * count > left.usd:
            return (
                f"{counted(count, 'call costs', 'calls cost')} about {dollars(each.usd * count)}, "
                f"and {dollars(left.usd)} is left"
            )
        return None

    def answered(self, payment: Payment, response: Response, route: Route) -> None:
        """Settle with an answer."""
        payment.answered(response)
        prompts, outputs = self._of_model(route)
        prompts.observe(payment.prompt, response.usage.input_tokens)
        outputs.observe(response.usage.output_tokens)

    def arrived(self, reservation: Reservation | None, response: Response, route: Route) -> None:
        """Settle with a job's answer, with or without a reserve."""
        from llmflow.budget import Spent

        usage = response.usage
        if reservation is None:
            self._ledger.charge(Spent(response.cost or 0.0, usage.total_tokens, response.attempts))
            return
        usd, tokens, _ = reservation.settle_with(response)
        self._charge(usd, tokens)
        self._of_model(route).outputs.observe(usage.output_tokens)

    def failed(self, reservation: Reservation, error: ProviderError) -> None:
        """Settle with a failure that a job brought."""
        if reservation.is_over:  # charged when the row was lost, but for its requests
            from llmflow.budget import Spent

            self._ledger.charge(Spent(requests=error.attempts))
            return
        usd, tokens = spent_on(error)
        spent = reservation.settle(usd=usd, tokens=tokens, requests=error.attempts)
        self._charge(spent.usd, spent.tokens)

    def _charge(self, usd: float, tokens: float, requests: int = 0) -> None:
        """Have later sessions know what the budget was charged and no row tells of."""
        if self._journal is not None and (usd > 0.0 or tokens > 0.0 or requests):
            self._journal.charge(cost=max(0.0, usd), tokens=max(0.0, tokens), requests=requests)

    def _estimator(
        self, call: Call, *, batch: bool, prompt: float | None = None
    ) -> Callable[[], Estimate]:
        """Return what estimates a call, again with what was learned meanwhile."""
        counted = float(self._counted(call) if prompt is None else prompt)
        route = call.route
        price, provider = route.price(), route.provider
        self._ledger.budget.check_price(f"{provider.name}/{provider.model}", price)
        # Not of the call, which refers to this: a cycle for each call would have to be collected.
        request, learned, reckon = call.request, self._of_model(route), self._reckon
        charge = call.charge = provider.reserve(request)

        def anew() -> Estimate:
            return reckon(
                request,
                price,
                charge=charge,
                expected_output=learned.outputs.tokens,
                batch=batch,
                prompt=learned.prompts.tokens(counted),
            )

        return anew

    def _counted(self, call: Call) -> int:
        """Return about how many tokens a call's prompt has, its schema among them."""
        return self._count(call.request, getattr(call.route.provider, "outputs", None))

    def _of_model(self, route: Route) -> _Learned:
        """Return what is known of a model's prompts and answers in this run."""
        provider = route.provider
        model = (provider.name, provider.model)
        learned = self._learned.get(model)
        if learned is None:
            from llmflow.budget import OutputForecast, PromptForecast
            from llmflow.pricing import context_of

            context = context_of("/".join(model), base_url=route.endpoint or None)
            most = None if context is None else context.max_output_tokens
            learned = _Learned(PromptForecast(), OutputForecast(most=most))
            self._learned[model] = learned
        return learned
