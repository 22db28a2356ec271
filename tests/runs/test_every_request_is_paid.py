"""Every request that may have run is charged its reserve; one that was never sent costs nothing."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from llmflow import LLM, Budget, Hedge, Price, Quota, Retry, Run, Timeout
from llmflow.budget import Ledger, estimate
from llmflow.calls.refusals import may_be_billed
from llmflow.errors import (
    AuthenticationError,
    BadReplyError,
    BudgetExceededError,
    ConnectionFailedError,
    LLMFlowError,
    OverloadedError,
    ProviderError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    TooLargeForBudgetError,
)
from llmflow.runs.catalog import find_run
from llmflow.simulator import Faults, Simulator, SimulatorSettings, serve_in_thread
from llmflow.testing import ScriptedProvider, run_virtual
from llmflow.types import Request, Response, Usage
from tests.event_loops import abandon

pytestmark = pytest.mark.slow

DOLLAR_A_TOKEN = Price(input=1e6, output=1e6)
MOST = 100
# Tasks of closed loops: what collects them would find their loops gone.
_LEFT: list[asyncio.Task[Any]] = []


def ledger_of(run: Run) -> Ledger:
    assert run.ledger is not None
    return run.ledger


def used(number: int = 10) -> Response:
    return Response(
        text="ok",
        usage=Usage(input_tokens=number // 2, output_tokens=number - number // 2),
        finish_reason="stop",
        model="m",
        provider="scripted",
    )


def reserve() -> float:
    """Return what is kept back for one call."""

    async def main() -> float:
        async with Run(budget=Budget(usd=1e6)) as run:
            task = asyncio.create_task(
                LLM(ScriptedProvider(latency=60.0), price=DOLLAR_A_TOKEN, max_tokens=MOST)("Hi")
            )
            while not ledger_of(run).state().under_way:  # noqa: ASYNC110
                await asyncio.sleep(0)
            held: float = ledger_of(run).state().reserved.usd
            task.cancel()
            return held

    return run_virtual(main())


async def spent_by(outcomes: list[Any], **options: Any) -> tuple[Any, Any]:
    """Ask once, and return what was spent and what came of it."""
    llm = LLM(ScriptedProvider(outcomes), price=DOLLAR_A_TOKEN, max_tokens=MOST, **options)
    async with Run("paid", budget=Budget(usd=1e6)) as run:
        try:
            came: Any = await llm("Hi")
        except LLMFlowError as error:
            came = error
        return ledger_of(run).spent, came


LATE = RequestTimeoutError("no answer in time")
BROKEN = ConnectionFailedError("the connection broke")


class TestAttempts:
    @pytest.mark.parametrize("failure", [LATE, BROKEN, BadReplyError("cut off")])
    def test_six_that_may_have_run_are_six_reserves(self, failure: ProviderError) -> None:
        each = reserve()
        spent, came = run_virtual(spent_by([failure] * 6, retry=Retry(attempts=6)))
        assert isinstance(came, type(failure))
        assert spent.usd == pytest.approx(6 * each)
        assert spent.requests == 6
        totals = find_run("paid").totals
        assert totals.unsaid_cost == pytest.approx(6 * each)
        assert totals.requests == 6

    def test_also_where_a_later_one_succeeds(self) -> None:
        each = reserve()
        spent, came = run_virtual(spent_by([LATE, ServerError("no", status=500), BROKEN, used()]))
        assert came == "ok"
        assert spent.usd == pytest.approx(2 * each + 10)
        assert spent.requests == 4
        totals = find_run("paid").totals
        assert totals.unsaid_cost == pytest.approx(2 * each)
        assert (totals.cost, totals.requests) == (pytest.approx(10), 4)

    @pytest.mark.parametrize(
        "failure",
        [
            ServerError("no", status=500),
            OverloadedError("no", status=503),
            RateLimitError("no", status=429, retry_after=1.0),
        ],
    )
    def test_what_has_not_run_costs_nothing(self, failure: ProviderError) -> None:
        spent, came = run_virtual(spent_by([failure, failure, used()]))
        assert came == "ok"
        assert spent.usd == pytest.approx(10)

    def test_a_200_without_an_answer_has_run_with_a_client_of_its_own_too(self) -> None:
        each = reserve()
        failure = ServerError("the answer ended with finish_reason 'error'", status=200)
        spent, came = run_virtual(spent_by([failure, used()]))
        assert came == "ok"
        assert spent.usd == pytest.approx(each + 10)

    def test_the_next_one_needs_as_much_again(self) -> None:
        each = reserve()

        async def main() -> None:
            provider = ScriptedProvider(default=LATE)
            llm = LLM(provider, price=DOLLAR_A_TOKEN, max_tokens=MOST)
            async with Run("paid", budget=Budget(usd=2.5 * each)) as run:
                with pytest.raises(BudgetExceededError, match=r"\$[0-9.,]+ spent") as told:
                    await llm("Hi")
                assert ledger_of(run).spent.usd == pytest.approx(2 * each)
            assert told.value.fatal
            assert len(provider.requests) == 2

        run_virtual(main())
        totals = find_run("paid").totals
        assert totals.unsaid_cost == pytest.approx(2 * each)
        assert totals.requests == 2

    def test_requests_are_limited_too(self) -> None:
        async def main() -> None:
            provider = ScriptedProvider(default=ServerError("no", status=500))
            with pytest.raises(BudgetExceededError, match="4 requests"):
                async with Run(budget=Budget(requests=4)):
                    await LLM(provider)("Hi")
            assert len(provider.requests) == 4

        run_virtual(main())

    def test_requests_of_a_failure_that_is_not_written_down_count_in_the_next_session(self) -> None:
        async def main(*outcomes: Any) -> Any:
            async with Run("paid", budget=Budget(requests=10)) as run:
                began = ledger_of(run).spent.requests
                with pytest.raises(AuthenticationError):
                    await LLM(ScriptedProvider(outcomes))("Hi")
            return began

        no, wrong = ServerError("no", status=500), AuthenticationError("no", status=401)
        assert run_virtual(main(no, no, wrong)) == 0
        assert run_virtual(main(wrong)) == 3
        assert find_run("paid").totals.requests == 4

    def test_it_waits_for_others_to_give_back(self) -> None:
        each = reserve()

        async def main() -> None:
            answers = iter([LATE, used(), used(), used()])
            provider = ScriptedProvider(default=lambda _: next(answers), latency=1.0)  # type: ignore[arg-type,return-value]
            llm = LLM(provider, price=DOLLAR_A_TOKEN, max_tokens=MOST)
            async with Run(budget=Budget(usd=2.5 * each)) as run:
                assert await asyncio.gather(llm("a"), llm("b")) == ["ok", "ok"]
                assert ledger_of(run).spent.usd == pytest.approx(each + 20)

        run_virtual(main())


@pytest.mark.parametrize(
    ("error", "status", "billed"),
    [
        (ServerError("gateway"), 504, True),
        (ServerError("gateway"), 524, True),
        (RequestTimeoutError("LiteLLM's proxy"), 408, True),
        (RequestTimeoutError("nginx"), 499, True),
        (ServerError("no"), 500, False),
        (ServerError("said in the body"), 200, True),
        (BadReplyError("HTML"), 200, True),
        (RateLimitError("said in the body"), 200, False),
        (RateLimitError("behind a gateway"), 504, False),
        (AuthenticationError("no"), 401, False),
    ],
)
def test_which_replies_may_be_billed(error: ProviderError, status: int, billed: bool) -> None:
    assert may_be_billed(error, status) is billed


class Hedged(ScriptedProvider):
    """Answers the first thirty at once; afterwards the first request of each call hangs."""

    def __init__(self, second: Callable[[], Any]) -> None:
        super().__init__()
        self.number = itertools.count()
        self.second = second

    async def complete(self, request: Request, *, timeout: float) -> Response:
        number = next(self.number)
        if number < 40:
            await asyncio.sleep(0.1)
            return used()
        if number == 40:
            await asyncio.sleep(100)
            return used()
        outcome = self.second()
        await asyncio.sleep(0.1)
        if isinstance(outcome, Exception):
            raise outcome
        assert isinstance(outcome, Response)
        return outcome


class TestHedging:
    async def spent(self, second: Callable[[], Any], budget: float = 1e9) -> tuple[float, int]:
        provider = Hedged(second)
        llm = LLM(
            provider,
            price=DOLLAR_A_TOKEN,
            max_tokens=MOST,
            hedge=Hedge(percentile=0.9, budget=0.9, minimum=0.0),
            timeout=Timeout(total=1000.0),
        )
        async with Run(budget=Budget(usd=budget)) as run:
            for number in range(40):
                await llm(f"text {number}")
            before = ledger_of(run).spent.usd
            await llm("Hi")
            return ledger_of(run).spent.usd - before, next(provider.number)

    def test_the_one_that_is_dropped_is_charged_its_reserve(self) -> None:
        spent, requests = run_virtual(self.spent(used))
        assert requests == 42
        request = Request(model="m", messages=({"role": "user", "content": "Hi"},), max_tokens=MOST)
        # By then answers have shown that prompts are no longer than they are estimated.
        learned = estimate(request, DOLLAR_A_TOKEN).usd
        assert spent == pytest.approx(learned + 10)

    def test_a_second_one_that_has_failed_without_running_costs_nothing(self) -> None:
        spent, requests = run_virtual(self.spent(lambda: ServerError("no", status=500)))
        assert requests == 42
        assert spent == pytest.approx(10)

    def test_one_that_does_not_fit_is_not_sent_and_ends_nothing(self) -> None:
        # The first forty cost 10 each.
        spent, requests = run_virtual(self.spent(used, budget=400 + 1.5 * reserve()))
        assert requests == 41
        assert spent == pytest.approx(10)


class Server(ScriptedProvider):
    """Answers a fifth of its requests after the time-out, and bills all that it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.billed = 0.0
        self.number = itertools.count()

    async def complete(self, request: Request, *, timeout: float) -> Response:
        number = next(self.number)
        response = used(MOST)
        self.billed += response.usage.total_tokens
        await asyncio.sleep(60.0 if number % 5 == 2 else 1.0)
        return response


def test_with_late_answers_the_bill_is_within_the_budget() -> None:
    async def main() -> None:
        server = Server()
        llm = LLM(
            server,
            price=DOLLAR_A_TOKEN,
            max_tokens=MOST,
            quota=Quota(max_concurrent=200),
            timeout=Timeout(total=5.0),
        )
        budget = 400.0 * MOST
        with pytest.raises(BudgetExceededError):
            async with Run(budget=Budget(usd=budget)):
                await llm.map([f"text {n}" for n in range(2000)], concurrency=200)
        assert 0.5 * budget < server.billed <= budget

    run_virtual(main())


def price_of(use: Usage) -> float:
    return float(use.input_tokens + use.output_tokens) * 1e-4


PRICE = Price(input=100.0, output=100.0)


def llm_at(sim: Any, dialect: str, **options: Any) -> LLM:
    return LLM(
        f"{dialect}/any",
        base_url=sim.root_url if dialect == "anthropic" else sim.url,
        api_key="sk-key-of-the-test",
        price=PRICE,
        quota=Quota(max_concurrent=200),
        **options,
    )


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
class TestOverHttp:
    @pytest.mark.virtual_time(sockets=True)
    async def test_what_the_server_billed_is_within_the_budget(self, dialect: str) -> None:
        settings = SimulatorSettings(
            latency=0.05, answer="echo", faults=Faults(straggler=0.2, straggler_factor=200.0)
        )
        text = "word " * 60
        async with Simulator(settings) as sim:
            llm = llm_at(sim, dialect, max_tokens=20, timeout=Timeout(total=2.0))
            with pytest.raises(BudgetExceededError) as ended:
                async with Run(budget=Budget(usd=5.0)):
                    await llm.map([text] * 3000, concurrency=200)
            assert ended.value.fatal
            stats = sim.stats()
            assert stats.max_in_flight > 100
            assert stats.client_disconnects > 20
            # All requests are alike: each that was admitted is billed what an answer says.
            use = Usage(
                input_tokens=stats.input_tokens // stats.answered,
                output_tokens=stats.output_tokens // stats.answered,
            )
            assert 2.5 < stats.admitted * price_of(use) <= 5.0

    def test_without_faults_what_is_reported_is_what_was_billed(self, dialect: str) -> None:
        with serve_in_thread(SimulatorSettings(latency=0.0)) as sim:
            llm = llm_at(sim, dialect, max_tokens=200)
            with Run("exact", budget=Budget(usd=100.0)) as run:
                llm.map_sync([f"A sentence of {n} words. " * (1 + n % 9) for n in range(300)])
                statistics, spent = run.statistics(), ledger_of(run).spent
            stats = sim.stats()
        assert statistics.input_tokens == stats.input_tokens
        assert statistics.output_tokens == stats.output_tokens
        assert spent.tokens == stats.input_tokens + stats.output_tokens
        assert spent.usd == pytest.approx(spent.tokens * 1e-4)
        assert spent.requests == stats.answered == 300
        totals = find_run("exact").totals
        assert (totals.unsaid_cost, totals.unsaid_tokens) == (0.0, 0.0)

    def test_a_connection_that_breaks_is_charged_and_one_that_never_was_is_not(
        self, dialect: str
    ) -> None:
        with serve_in_thread(SimulatorSettings(latency=0.0, faults=Faults(reset=1.0))) as sim:
            llm = llm_at(sim, dialect, max_tokens=20, retry=Retry(attempts=1))
            assert asyncio.run(self.spent_by(llm)) > 0.0
        # Nobody listens there any more.
        assert asyncio.run(self.spent_by(llm)) == 0.0

    async def spent_by(self, llm: LLM) -> float:
        async with Run(budget=Budget(usd=9.0)) as run:
            with pytest.raises(ConnectionFailedError):
                await llm("Hi")
            spent: float = ledger_of(run).spent.usd
        return spent


def test_a_call_that_goes_live_in_place_of_a_job_is_reserved_at_that_price() -> None:
    price = Price(input=1e6, output=1e6, batch_input=1e3, batch_output=1e3)

    async def main() -> None:
        provider = ScriptedProvider()
        llm = LLM(provider, price=price, max_tokens=MOST)
        with pytest.raises(TooLargeForBudgetError):
            async with Run("live", budget=Budget(usd=5), mode="batch", fallback="parallel"):
                await llm("Hi")
        assert not provider.requests

    asyncio.run(main())


def test_what_a_closed_loop_had_on_its_way_is_charged_and_the_rest_is_given_back() -> None:
    each = reserve()
    left = _LEFT
    with Run(budget=Budget(usd=2.5 * each)) as run:
        llm = LLM(ScriptedProvider(latency=3600.0), price=DOLLAR_A_TOKEN, max_tokens=MOST)

        async def begin() -> None:
            left.append(asyncio.create_task(llm("Hi")))
            while ledger_of(run).state().under_way < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(begin())
        abandon(left[0])
        loop.close()
        assert ledger_of(run).state().reserved.usd == pytest.approx(each)
        quick = LLM(
            ScriptedProvider(default=used(), latency=0.01), price=DOLLAR_A_TOKEN, max_tokens=MOST
        )

        async def after() -> None:
            # The second of these does not fit beside what the closed loop's call held.
            await asyncio.wait_for(asyncio.gather(quick("a"), quick("b")), 9)

        asyncio.run(after())
        state = ledger_of(run).state()
        assert state.under_way == 0
        assert state.spent.usd == pytest.approx(each + 20)
