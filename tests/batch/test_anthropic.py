"""Batch mode at Anthropic: a node over the simulator's Message Batches, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from llmflow import LLM, Batch, Run
from llmflow.simulator import BatchSettings, SimulatorSettings, SimulatorThread, serve_in_thread
from tests.batch.test_rounds import Echoes

pytestmark = pytest.mark.http

FAST: dict[str, Any] = {"seconds": 0.05, "cancel_seconds": 0.0}


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[SimulatorThread]:
    batch = BatchSettings(**{**FAST, **getattr(request, "param", {})})
    with serve_in_thread(SimulatorSettings(latency=0, answer="echo", batch=batch)) as sim:
        yield sim


def ask(sim: SimulatorThread, count: int, *, mode: Any = "batch") -> list[str]:
    llm = LLM(
        "anthropic/claude-x",
        base_url=sim.url,
        api_key="sk-ant-right",
        max_tokens=50,
        batch=Batch(quiet=0.05, poll=0.02),
    )
    shared: dict[str, Any] = {"items": [f"Item {n}." for n in range(count)]}

    async def main() -> None:
        async with Run():
            await Echoes(llm, mode=mode).run_async(shared)

    asyncio.run(main())
    answers: list[str] = shared["answers"]
    return answers


def test_it_answers_as_live_calls_do(served: SimulatorThread) -> None:
    assert ask(served, 40) == ask(served, 40, mode="parallel")
    assert served.stats().batches.jobs_created == 1
    assert served.stats().batches.rows_billed == 40


@pytest.mark.parametrize(
    "served",
    [{"error_rows": 0.05, "expired_rows": 0.1, "missing_rows": 0.03, "duplicate_rows": 0.05}],
    indirect=True,
)
def test_rows_that_fail_expire_or_go_missing_are_recovered(served: SimulatorThread) -> None:
    answers = ask(served, 100)
    assert len(answers) == 100
    assert all(f"Item {n}." in answer for n, answer in enumerate(answers))
    assert served.stats().batches.jobs_created > 1


@pytest.mark.parametrize("served", [{"lost_creates": (1,)}], indirect=True)
def test_a_create_that_was_not_answered_is_found_by_its_time_and_rows(
    served: SimulatorThread,
) -> None:
    assert len(ask(served, 10)) == 10
    assert served.stats().batches.jobs_created == 1
