"""A row of a batch job that may have been billed without an answer is charged its reserve."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Batch, Budget, Price, Run
from llmflow.budget import Ledger, PromptForecast, estimate, prompt_tokens
from llmflow.errors import (
    BadReplyError,
    BatchRowLostError,
    ContentFilterError,
    ProviderError,
    RequestTimeoutError,
    ServerError,
)
from llmflow.runs.catalog import find_run
from llmflow.simulator import BatchSettings, SimulatorSettings, serve_in_thread
from llmflow.types import Request, Usage
from llmflow_providers.batch_base import refused_row, unanswered_row
from tests.batch.fakes import FakeProvider, FakeServer
from tests.batch.test_over_http import DIALECTS, FAST, QUICK

pytestmark = pytest.mark.every_python

PRICE = Price(input=100.0, output=100.0, batch_input=50.0, batch_output=50.0)
ROUNDS = Batch(quiet=0.02, poll=0.005, few=0, rounds=3)


def ledger_of(run: Run) -> Ledger:
    assert run.ledger is not None
    return run.ledger


def reserve(prompt: str, *, batch: bool = True) -> float:
    request = Request(
        model="model", messages=({"role": "user", "content": prompt},), max_tokens=100
    )
    charge = FakeProvider(FakeServer()).reserve(request)
    prompt_is = PromptForecast().tokens(prompt_tokens(request))
    return estimate(request, PRICE, charge=charge, batch=batch, prompt=prompt_is).usd


ANSWER = 15 * 50.0 / 1e6


def asked(
    error: ProviderError, *, budget: float = 1.0, batch: Batch = ROUNDS, **options: Any
) -> tuple[list[Any], float, FakeServer]:
    """Ask for five prompts of which one fails in the first job; return what was spent, too."""

    def fate(prompt: str, job: int) -> str | ProviderError | None:
        return error if prompt == "3" and job == 1 else f"batch: {prompt}"

    server = FakeServer(fate=fate)

    async def main() -> tuple[list[Any], float]:
        run = Run("rows", budget=Budget(usd=budget), mode="batch", **options)
        async with run:
            llm = LLM(FakeProvider(server), batch=batch, price=PRICE, max_tokens=100)
            calls = [llm(f"{n}") for n in range(5)]
            came = await asyncio.gather(*calls, return_exceptions=True)
            return came, ledger_of(run).spent.usd

    came, spent = asyncio.run(main())
    return came, spent, server


class TestOneThatIsAskedAgain:
    def test_is_charged_for_both_if_it_may_have_been_billed(self) -> None:
        came, spent, server = asked(BadReplyError("cut off"))
        assert came == [f"batch: {n}" for n in range(5)]
        assert server.sizes == [5, 1]
        assert spent == pytest.approx(reserve("3") + 5 * ANSWER)
        totals = find_run("rows").totals
        assert totals.unsaid_cost == pytest.approx(reserve("3"))
        assert totals.cost == pytest.approx(5 * ANSWER)

    @pytest.mark.parametrize(
        "error", [ServerError("no", status=500), BatchRowLostError("expired", code="expired")]
    )
    def test_costs_nothing_if_it_has_not_run(self, error: ProviderError) -> None:
        came, spent, _ = asked(error)
        assert came == [f"batch: {n}" for n in range(5)]
        assert spent == pytest.approx(5 * ANSWER)

    def test_is_not_asked_again_where_the_budget_has_no_more(self) -> None:
        # Enough for the five reserves, and not for another one beside what was spent.
        budget = 5 * reserve("3") + 4e-9
        came, spent, server = asked(BadReplyError("cut off"), budget=budget)
        assert server.sizes == [5, 1]  # what the others have given back pays for it
        assert spent <= budget

        def alone(prompt: str, job: int) -> ProviderError:
            return BadReplyError("cut off")

        server = FakeServer(fate=alone)

        async def main() -> tuple[Any, float]:
            async with Run("alone", budget=Budget(usd=1.5 * reserve("3")), mode="batch") as run:
                llm = LLM(FakeProvider(server), batch=ROUNDS, price=PRICE, max_tokens=100)
                (came,) = await asyncio.gather(llm("3"), return_exceptions=True)
                return came, ledger_of(run).spent.usd

        came, spent = asyncio.run(main())
        assert isinstance(came, BadReplyError)
        assert "the budget has no more" in str(came)
        assert server.sizes == [1]
        assert spent == pytest.approx(reserve("3"))

    def test_live_is_charged_for_the_job_too(self) -> None:
        few = Batch(quiet=0.02, poll=0.005, few=5)
        came, spent, server = asked(BadReplyError("cut off"), batch=few, fallback="parallel")
        assert server.sizes == [5]
        assert server.live == ["3"]
        assert isinstance(came[3], str)
        assert spent > reserve("3") + 5 * ANSWER  # and a live answer costs more than a row

    def test_live_costs_no_row_that_has_not_run(self) -> None:
        few = Batch(quiet=0.02, poll=0.005, few=5)
        error = ServerError("no", status=500)
        _, spent, server = asked(error, batch=few, fallback="parallel")
        assert server.live == ["3"]
        assert spent < 4 * ANSWER + reserve("3", batch=False)


def test_a_row_that_nobody_waits_for_is_charged_too() -> None:
    def fate(prompt: str, job: int) -> str | ProviderError | None:
        return BadReplyError("cut off") if prompt == "3" and job == 1 else "ok"

    server = FakeServer(fate=fate, looks=8)

    async def main() -> float:
        async with Run("alone", budget=Budget(usd=1.0), mode="batch") as run:
            llm = LLM(FakeProvider(server), batch=ROUNDS, price=PRICE, max_tokens=100)
            calls = [asyncio.create_task(llm(f"{n}")) for n in range(5)]
            while not server.jobs:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            calls[3].cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            while server.sizes != [5, 1] or ledger_of(run).state().under_way:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            spent: float = ledger_of(run).spent.usd
            return spent

    spent = asyncio.run(asyncio.wait_for(main(), 30))
    assert spent == pytest.approx(reserve("3") + 5 * ANSWER)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_the_server_billed_for_rows_that_went_missing_is_charged(dialect: str) -> None:
    ways = BatchSettings(**FAST, error_rows=0.05, expired_rows=0.05, missing_rows=0.05)
    settings = SimulatorSettings(latency=0.0, answer="echo", batch=ways)
    with serve_in_thread(settings) as sim:
        url = sim.root_url if dialect == "anthropic" else sim.url
        llm = LLM(
            f"{dialect}/any", base_url=url, api_key="sk-k", batch=QUICK, price=PRICE, max_tokens=50
        )
        with Run("missing", budget=Budget(usd=10.0), mode="batch") as run:
            answers = llm.map_sync([f"Item {n} of the list." for n in range(300)])
            spent = ledger_of(run).spent.usd
        bill = sim.stats().batches
    assert len(list(answers)) == 300
    assert bill.rows_billed_twice > 0
    billed = (bill.input_tokens + bill.output_tokens) * 50.0 / 1e6
    assert billed <= spent < 2.5 * billed
    totals = find_run("missing").totals
    assert totals.unsaid_cost > 0.0
    assert totals.cost + totals.unsaid_cost == pytest.approx(spent)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_without_faults_what_is_reported_is_what_was_billed(dialect: str) -> None:
    ways = BatchSettings(**FAST)
    with serve_in_thread(SimulatorSettings(latency=0.0, batch=ways)) as sim:
        url = sim.root_url if dialect == "anthropic" else sim.url
        llm = LLM(
            f"{dialect}/any", base_url=url, api_key="sk-k", batch=QUICK, price=PRICE, max_tokens=50
        )
        with Run("exact", budget=Budget(usd=10.0), mode="batch") as run:
            llm.map_sync([f"Item {n} of the list." for n in range(100)])
            statistics, spent = run.statistics(), ledger_of(run).spent
        bill = sim.stats().batches
    assert statistics.input_tokens == bill.input_tokens
    assert statistics.output_tokens == bill.output_tokens
    assert spent.tokens == bill.input_tokens + bill.output_tokens
    assert spent.usd == pytest.approx(spent.tokens * 50.0 / 1e6)
    assert find_run("exact").totals.unsaid_cost == 0.0


@pytest.mark.parametrize("is_waited_for", [True, False])
async def test_a_filtered_answer_costs_the_price_of_batch_jobs(
    tmp_path: Path, is_waited_for: bool
) -> None:
    usage = Usage(input_tokens=10, output_tokens=5)
    server = FakeServer(fate=lambda prompt, job: ContentFilterError("no", usage=usage))
    llm = LLM(FakeProvider(server), price=PRICE, batch=ROUNDS, max_tokens=100)
    async with Run("rows", budget=Budget(usd=1.0), mode="batch", folder=tmp_path) as run:
        if is_waited_for:
            with pytest.raises(ContentFilterError):
                await llm("3")
        else:
            await llm.submit("3")
            await run.settled()
        assert run.statistics().failed == 1
        assert run.statistics().cost == pytest.approx(ANSWER)
        assert ledger_of(run).spent.usd == pytest.approx(ANSWER)


def test_a_row_that_the_provider_counts_as_failed_is_not_billed() -> None:
    refused = refused_row("a", RequestTimeoutError("timeout", status=504)).error
    answered = unanswered_row("a", ServerError("finish_reason error", status=200)).error
    assert refused is not None
    assert answered is not None
    assert (refused.may_be_billed, answered.may_be_billed) == (False, True)
