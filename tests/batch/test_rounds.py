"""Calls in batch mode: how they come together, and that each gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmflow import (
    LLM,
    AsyncBatchFlow,
    AsyncBatchNode,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchFlow,
    AsyncParallelBatchNode,
    Run,
)
from llmflow.batch import Batch
from llmflow.provider import BatchLimits
from tests.batch.fakes import FakeProvider, FakeServer

pytestmark = pytest.mark.every_python

QUICK = Batch(quiet=0.05, poll=0.01)


def llm_at(server: FakeServer, **options: Any) -> LLM:
    return LLM(FakeProvider(server), batch=options.pop("batch", QUICK), **options)


class Echoes(AsyncParallelBatchNode):
    """Asks once for each item."""

    def __init__(self, llm: LLM, **options: Any) -> None:
        super().__init__(**options)
        self.llm = llm

    async def prep_async(self, shared: Any) -> Any:
        return shared["items"]

    async def exec_async(self, item: Any) -> Any:
        return await self.llm(f"{item}")

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        shared["answers"] = exec_res


def test_one_word_makes_a_node_a_batch() -> None:
    server = FakeServer()
    shared: dict[str, Any] = {"items": range(100)}
    asyncio.run(Echoes(llm_at(server), concurrency_limit=5, mode="batch").run_async(shared))
    assert shared["answers"] == [f"batch: {n}" for n in range(100)]
    assert server.sizes == [100]
    assert not server.live


def test_without_the_word_it_asks_live() -> None:
    server = FakeServer()
    shared: dict[str, Any] = {"items": range(3)}
    asyncio.run(Echoes(llm_at(server)).run_async(shared))
    assert shared["answers"] == ["live: 0", "live: 1", "live: 2"]


def test_the_word_of_the_nearest_counts() -> None:
    server = FakeServer()

    async def main() -> Any:
        async with Run(mode="batch"):
            shared: dict[str, Any] = {"items": [1]}
            await Echoes(llm_at(server)).run_async(shared)
            live: dict[str, Any] = {"items": [2]}
            await Echoes(llm_at(server, mode="parallel")).run_async(live)
            return shared["answers"], live["answers"], await llm_at(server)("three")

    assert asyncio.run(main()) == (["batch: 1"], ["live: 2"], "batch: three")


def test_two_calls_of_an_item_make_two_rounds() -> None:
    server = FakeServer()
    llm = llm_at(server, mode="batch")

    class Twice(Echoes):
        async def exec_async(self, item: Any) -> Any:
            first = await self.llm(f"{item}")
            return await self.llm(f"again {first}")

    shared: dict[str, Any] = {"items": range(50)}
    asyncio.run(Twice(llm, concurrency_limit=3).run_async(shared))
    assert shared["answers"] == [f"batch: again batch: {n}" for n in range(50)]
    assert server.sizes == [50, 50]


def test_a_parallel_flow_makes_one_round_per_stage() -> None:
    server = FakeServer()
    llm = llm_at(server)

    class Stage(AsyncNode):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        async def exec_async(self, prep_res: Any) -> Any:
            return await llm(f"{self.name} {self.params['n']}")

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            shared.setdefault(self.name, {})[self.params["n"]] = exec_res

    class Branches(AsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"n": n} for n in range(30)]

    first, second = Stage("first"), Stage("second")
    first >> second
    shared: dict[str, Any] = {}
    flow = Branches(start=AsyncFlow(start=first), concurrency_limit=4, mode="batch")
    asyncio.run(flow.run_async(shared))
    assert shared["second"] == {n: f"batch: second {n}" for n in range(30)}
    assert server.sizes == [30, 30]


def test_nodes_inside_a_flow_make_one_round_together() -> None:
    server = FakeServer()
    llm = llm_at(server, batch=Batch(quiet=5.0, poll=0.01))

    class Inner(Echoes):
        async def prep_async(self, shared: Any) -> Any:
            return [f"{self.params['n']}-{each}" for each in range(5)]

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
            shared[self.params["n"]] = exec_res

    class Branches(AsyncParallelBatchFlow):
        async def prep_async(self, shared: Any) -> Any:
            return [{"n": n} for n in range(6)]

    shared: dict[str, Any] = {}
    flow = Branches(start=Inner(llm), mode="batch")
    asyncio.run(asyncio.wait_for(flow.run_async(shared), 3.0))
    assert shared[5] == [f"batch: 5-{each}" for each in range(5)]
    assert server.sizes == [30]


def test_jobs_are_split_by_count_and_by_bytes() -> None:
    shared: dict[str, Any] = {"items": range(100)}
    by_count = FakeServer(limits=BatchLimits(requests=30))
    asyncio.run(Echoes(llm_at(by_count), mode="batch").run_async(shared))
    assert sorted(by_count.sizes) == [10, 30, 30, 30]
    by_size = FakeServer(limits=BatchLimits(size=5_000))
    asyncio.run(Echoes(llm_at(by_size), mode="batch").run_async(shared))
    assert len(by_size.sizes) > 1
    assert sum(by_size.sizes) == 100
    assert shared["answers"] == [f"batch: {n}" for n in range(100)]


def test_calls_of_plain_code_wait_for_each_other() -> None:
    server = FakeServer()
    llm = llm_at(server, mode="batch")

    async def main() -> Any:
        return await asyncio.gather(*(llm(f"{n}") for n in range(20)))

    assert asyncio.run(main()) == [f"batch: {n}" for n in range(20)]
    assert server.sizes == [20]


def test_a_map_is_one_round() -> None:
    server = FakeServer()
    llm = llm_at(server, mode="batch")
    assert llm.map_sync([f"{n}" for n in range(500)]).texts() == [f"batch: {n}" for n in range(500)]
    assert server.sizes == [500]


def test_items_that_come_slowly_are_waited_for() -> None:
    server = FakeServer()

    async def slowly() -> AsyncIterator[int]:
        for n in range(4):
            await asyncio.sleep(0.06)
            yield n

    shared: dict[str, Any] = {"items": slowly()}
    asyncio.run(Echoes(llm_at(server), mode="batch").run_async(shared))
    assert shared["answers"] == [f"batch: {n}" for n in range(4)]
    assert server.sizes == [4]


def test_equal_calls_are_rows_of_their_own() -> None:
    server = FakeServer()
    shared: dict[str, Any] = {"items": ["same"] * 3}
    asyncio.run(Echoes(llm_at(server), mode="batch").run_async(shared))
    assert server.sizes == [3]
    shared = {"items": ["same"] * 3}
    asyncio.run(Echoes(llm_at(server, temperature=0), mode="batch").run_async(shared))
    assert server.sizes == [3, 1]
    assert shared["answers"] == ["batch: same"] * 3


def test_a_cancelled_call_is_left_out_of_the_job() -> None:
    server = FakeServer()
    llm = llm_at(server, mode="batch")

    async def main() -> Any:
        tasks = [asyncio.create_task(llm(f"{n}")) for n in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[2].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())
    assert isinstance(results[2], asyncio.CancelledError)
    assert [each for each in results if isinstance(each, str)] == [
        "batch: 0",
        "batch: 1",
        "batch: 3",
        "batch: 4",
    ]
    assert server.sizes == [4]


def test_the_time_that_a_job_takes_is_not_the_attempt_s() -> None:
    server = FakeServer(looks=20)
    shared: dict[str, Any] = {"items": range(3)}
    asyncio.run(Echoes(llm_at(server), mode="batch", timeout=0.2).run_async(shared))
    assert shared["answers"] == ["batch: 0", "batch: 1", "batch: 2"]

    class Slow(Echoes):
        async def exec_async(self, item: Any) -> Any:
            await super().exec_async(item)
            await asyncio.sleep(10)

    with pytest.raises(TimeoutError):
        asyncio.run(Slow(llm_at(server), mode="batch", timeout=0.2).run_async(shared))


def test_one_item_after_another_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="one item after another"):
        AsyncBatchNode(mode="batch")
    with pytest.warns(UserWarning, match="one item after another"):
        AsyncBatchFlow(mode="batch")


@pytest.mark.parametrize("wrong", [{"mode": "batches"}, {"mode": "parallel", "deadline": "6h"}])
def test_a_wrong_word_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mode"):
        AsyncNode(**wrong)
