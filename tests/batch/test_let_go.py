"""What is kept back for rows of calls that were cancelled is given back when no job has them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmflow import LLM, Batch, Budget, Price, Run
from llmflow.errors import BatchRowLostError
from llmflow.simulator import BatchSettings, SimulatorSettings, serve_in_thread

pytestmark = pytest.mark.http

JOBS: dict[str, Any] = {
    "seconds": 0.3,
    "validation_seconds": 0.01,
    "finalizing_seconds": 0.01,
    "expired_rows": 1.0,
}


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_cancelled_row_that_would_be_asked_in_parallel_leaves_room_for_others(
    dialect: str,
) -> None:
    settings = SimulatorSettings(answer="echo", latency=0.0, batch=BatchSettings(**JOBS))
    with serve_in_thread(settings) as sim:
        options: dict[str, Any] = {
            "base_url": sim.root_url if dialect == "anthropic" else sim.url,
            "api_key": "sk-let-go",
            "max_tokens": 50,
        }
        batch = Batch(quiet=0.03, poll=0.02, few=100)
        in_jobs = LLM(f"{dialect}/m", mode="batch", fallback="parallel", batch=batch, **options)
        live = LLM(f"{dialect}/m", **options)
        async with Run("let-go", budget=Budget(requests=3)) as run:
            assert run.ledger is not None
            calls = [asyncio.create_task(in_jobs(f"row {n}")) for n in range(3)]
            while not any(each.job for each in run.batch_jobs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            calls[0].cancel()
            outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
            assert isinstance(outcomes[0], asyncio.CancelledError)
            assert outcomes[1:] == ["row 1", "row 2"]
            assert run.ledger.state().under_way == 0
            assert await asyncio.wait_for(live("row 3"), 30) == "row 3"


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_row_that_is_cancelled_between_two_rounds_leaves_room_for_others(
    dialect: str,
) -> None:
    settings = SimulatorSettings(answer="echo", latency=0.0, batch=BatchSettings(**JOBS))
    with serve_in_thread(settings) as sim:
        llm = LLM(
            f"{dialect}/m",
            base_url=sim.root_url if dialect == "anthropic" else sim.url,
            api_key="sk-let-go",
            max_tokens=50,
            mode="batch",
            batch=Batch(quiet=0.5, poll=0.02, few=0, rounds=3),
        )
        async with Run("let-go", budget=Budget(requests=100)) as run:
            assert run.ledger is not None
            calls = [asyncio.create_task(llm(f"row {n}")) for n in range(3)]
            while not any(each.job for each in run.batch_jobs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            (queue,) = run.session.batches._queues.values()
            while not queue.collecting:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            calls[0].cancel()
            await asyncio.wait(calls[:1])
            assert run.ledger.state().under_way == 2
            outcomes = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
            assert [type(each) for each in outcomes[1:]] == [BatchRowLostError] * 2
            assert run.ledger.state().under_way == 0


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_cancelled_row_that_is_lost_is_charged_once(dialect: str) -> None:
    jobs = {**JOBS, "expired_rows": 0.0, "missing_rows": 0.5}
    settings = SimulatorSettings(answer="echo", latency=0.0, batch=BatchSettings(**jobs))
    with serve_in_thread(settings) as sim:
        llm = LLM(
            f"{dialect}/m",
            base_url=sim.root_url if dialect == "anthropic" else sim.url,
            api_key="sk-let-go",
            max_tokens=50,
            mode="batch",
            price=Price(input=1e6, output=1e6),
            batch=Batch(quiet=0.03, poll=0.02, few=0, rounds=1),
        )
        async with Run("let-go", budget=Budget(usd=1e6)) as run:
            assert run.ledger is not None
            calls = [asyncio.create_task(llm(f"row {n}")) for n in range(20)]
            while not any(each.job for each in run.batch_jobs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for call in calls[:10]:
                call.cancel()
            await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 30)
            await asyncio.wait_for(run.settled(), 30)
            spent = run.ledger.spent
            assert spent.usd > 0
            assert spent.requests == 20
        async with Run("let-go", budget=Budget(usd=1e6)) as again:
            assert again.ledger is not None
            assert again.ledger.spent == pytest.approx(spent)
