"""A loop that is closed with calls in flight gives back all that they held."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from llmflow import LLM, Budget, Hedge, Quota, Run
from llmflow.simulator import SimulatorSettings, SimulatorThread, serve_in_thread
from llmflow.testing import ScriptedProvider
from tests.event_loops import abandon

# Somebody may refer to them for ever: they are never collected, either.
_LEFT: list[asyncio.Task[Any]] = []


def left_in_flight(sim: SimulatorThread, calls: list[Coroutine[Any, Any, Any]]) -> None:
    """Close a loop once the first call is at the server; nobody ends the tasks."""
    loop = asyncio.new_event_loop()
    received = sim.stats().received

    async def begin() -> list[asyncio.Task[Any]]:
        tasks = [asyncio.create_task(call) for call in calls]
        while sim.stats().received <= received:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        return tasks

    tasks = loop.run_until_complete(begin())
    abandon(*tasks)
    loop.close()
    _LEFT.extend(tasks)


class TestTheNextLoopsCallIsAnsweredAtOnce:
    @pytest.mark.parametrize("named", [False, True])
    def test_also_an_equal_one_that_would_be_shared(self, named: bool) -> None:
        with serve_in_thread(SimulatorSettings(latency=0.2, answer="echo")) as sim:
            llm = LLM("openai/any", base_url=sim.url, quota=Quota(max_concurrent=2), temperature=0)
            run = Run("run" if named else None)
            with run:
                left_in_flight(sim, [llm("Hi") for _ in range(5)])
                for _ in range(2):
                    assert asyncio.run(asyncio.wait_for(llm("Hi"), 9)) == "Hi"
            if named:
                # The places of the calls that were left went to those that came.
                received = sim.stats().received
                with Run("run"):
                    for _ in range(2):
                        assert asyncio.run(asyncio.wait_for(llm("Hi"), 9)) == "Hi"
                assert sim.stats().received == received

    def test_with_several_left_one_after_the_other(self) -> None:
        with serve_in_thread(SimulatorSettings(latency=0.2, answer="echo")) as sim:
            llm = LLM("openai/any", base_url=sim.url, quota=Quota(max_concurrent=1))
            for n in range(3):
                left_in_flight(sim, [llm(f"Hi {n}"), llm("there")])
            assert asyncio.run(asyncio.wait_for(llm("Hi"), 9)) == "Hi"
            assert llm.limiter.statistics().in_flight == 0


@pytest.mark.parametrize("hedge", [None, Hedge(percentile=0.5, budget=0.9, minimum=0.0)])
def test_a_call_that_is_collected_after_its_loop_was_closed_ends_without_a_word(
    hedge: Hedge | None,
) -> None:
    llm = LLM(ScriptedProvider(latency=0.05), hedge=hedge)
    with Run(budget=Budget(tokens=1e6)) as run:
        assert run.ledger is not None
        loop = asyncio.new_event_loop()
        for number in range(30 if hedge else 0):  # until it is known how long answers take
            loop.run_until_complete(llm(f"{number}"))
        spent = run.ledger.spent
        task = loop.create_task(llm("Hi"))
        loop.run_until_complete(asyncio.sleep(0.01))
        abandon(task)
        loop.close()
        coroutine = task.get_coro()
        assert coroutine is not None
        coroutine.close()  # as whoever collects it does, and says what is raised
        state = run.ledger.state()
        assert state.under_way == 0
        assert state.spent.tokens > spent.tokens  # it may have run
