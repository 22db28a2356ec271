"""Items that wait for a batch job: how many at once, and what stands still meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmflow import LLM, AsyncFlow, AsyncNode, AsyncParallelBatchFlow, Run
from llmflow.batch import Batch
from tests.batch.fakes import FakeProvider, FakeServer
from tests.batch.test_rounds import Echoes

QUICK = Batch(quiet=0.05, poll=0.01)
MANY = 1_200  # more than may be aside before another attempt


def llm_at(server: FakeServer, **options: Any) -> LLM:
    return LLM(FakeProvider(server), batch=options.pop("batch", QUICK), **options)


async def ask_by_node(llm: LLM, **options: Any) -> None:
    shared: dict[str, Any] = {"items": range(MANY)}
    await Echoes(llm, concurrency_limit=5, **options).run_async(shared)
    assert shared["answers"] == [f"batch: {n}" for n in range(MANY)]


async def ask_by_flow(llm: LLM) -> None:
    class Asks(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            return await llm(f"{self.params['n']}")

    class Branches(AsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"n": n} for n in range(MANY)]

    await Branches(start=AsyncFlow(start=Asks()), concurrency_limit=5).run_async({})


async def ask_by_nodes_of_a_flow(llm: LLM) -> None:
    class Inner(Echoes):
        async def prep_async(self, shared: Any) -> Any:
            return [self.params["n"]]

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            pass

    class Branches(AsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"n": n} for n in range(MANY)]

    await Branches(start=Inner(llm), concurrency_limit=5).run_async({})


async def ask_by_map(llm: LLM) -> None:
    assert (await llm.map([f"{n}" for n in range(MANY)], concurrency=5)).texts() == [
        f"batch: {n}" for n in range(MANY)
    ]


Ask = Callable[[LLM], Any]


@pytest.mark.parametrize("ask", [ask_by_node, ask_by_flow, ask_by_nodes_of_a_flow])
@pytest.mark.parametrize("where", ["run", "llm"])
def test_all_items_go_into_one_job_wherever_the_mode_was_chosen(ask: Ask, where: str) -> None:
    server = FakeServer()
    llm = llm_at(server, mode="batch" if where == "llm" else None)

    async def main() -> None:
        async with Run(mode="batch" if where == "run" else None):
            await ask(llm)

    asyncio.run(main())
    assert server.sizes == [MANY]
