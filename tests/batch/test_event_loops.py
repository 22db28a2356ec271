"""The batch jobs of a run belong to one event loop; a second one gets a clear error."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, AsyncFlow, AsyncNode, Node, Run
from llmflow.batch import Batch
from llmflow.errors import UsageError
from llmflow.journal import read_jobs
from tests.batch.fakes import FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.005)
REFUSED = "belong to one event loop.*make all batch calls of the run on one loop.*map_sync"


def llm_at(server: FakeServer, **options: Any) -> LLM:
    return LLM(FakeProvider(server), batch=QUICK, **options)


def in_a_loop_of_its_own(llm: LLM, text: str) -> str:
    async def main() -> str:
        return await asyncio.wait_for(llm(text), 10)

    return asyncio.run(main())


async def test_a_thread_with_a_loop_of_its_own_is_refused(tmp_path: Path) -> None:
    server = FakeServer()
    llm = llm_at(server)
    async with Run("run", mode="batch", folder=tmp_path):
        first = asyncio.ensure_future(llm("1"))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match=REFUSED):
            await asyncio.to_thread(in_a_loop_of_its_own, llm, "2")
        assert await first == "batch: 1", "and the first loop's calls go on"
        assert await llm("2") == "batch: 2"
    assert server.sizes == [1, 1]
    assert {each["state"] for each in read_jobs(tmp_path / "run")} == {"done"}


async def test_a_synchronous_call_beside_a_notebook_s_loop_is_refused(tmp_path: Path) -> None:
    """As in Jupyter: one cell awaits, and another one asks by the synchronous API."""
    llm = llm_at(FakeServer())
    async with Run("run", mode="batch", folder=tmp_path) as run:
        assert await llm("1") == "batch: 1"
        with pytest.raises(UsageError, match=REFUSED):
            await asyncio.to_thread(llm.run, "2")
        with pytest.raises(UsageError, match=REFUSED):
            await asyncio.to_thread(lambda: llm.map_sync(["3"] * 100))
        await run.settled()


async def test_a_sync_node_beside_an_async_one_is_refused(tmp_path: Path) -> None:
    llm = llm_at(FakeServer())

    class Awaits(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            return await llm("1")

    class Blocks(Node):
        def exec(self, prep_res: Any) -> Any:
            return llm.run("2")

    first, second = Awaits(), Blocks()
    _ = first >> second
    with pytest.raises(UsageError, match=REFUSED):
        async with Run("run", mode="batch", folder=tmp_path):
            await AsyncFlow(start=first).run_async({})


async def test_what_is_submitted_from_a_second_loop_is_refused(tmp_path: Path) -> None:
    server = FakeServer()
    llm = llm_at(server)

    def submit() -> None:
        asyncio.run(llm.submit("2"))  # type: ignore[arg-type]

    async with Run("run", mode="batch", folder=tmp_path) as run:
        assert await llm.submit("1")
        with pytest.raises(UsageError, match=REFUSED):
            await asyncio.to_thread(submit)
        await run.settled()
    assert server.sizes == [1]


def test_one_loop_after_another_goes_on_with_the_jobs(tmp_path: Path) -> None:
    server = FakeServer(looks=10**9)
    llm = llm_at(server)

    async def begin() -> None:
        asking = [asyncio.ensure_future(llm(f"{n}")) for n in range(3)]
        while "status" not in server.calls:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
        assert not any(each.done() for each in asking)

    async def go_on() -> list[str]:
        return list(await asyncio.wait_for(asyncio.gather(*(llm(f"{n}") for n in range(3))), 10))

    with Run("run", mode="batch", folder=tmp_path):
        asyncio.run(begin())
        server.looks = 1
        assert asyncio.run(go_on()) == [f"batch: {n}" for n in range(3)]
    assert server.sizes == [3]


def test_synchronous_calls_of_several_threads_have_one_loop(tmp_path: Path) -> None:
    server = FakeServer()
    llm = llm_at(server)
    loops = set[asyncio.AbstractEventLoop | None]()

    def ask(number: int) -> list[Any]:
        texts = llm.map_sync([f"{number} {n}" for n in range(5)]).texts()
        loops.update(each._loop for each in run.session.all_batches)
        return [*texts, llm.complete_sync(f"{number}").text]

    with Run("run", mode="batch", folder=tmp_path) as run, ThreadPoolExecutor(4) as threads:
        found = list(threads.map(ask, range(4)))
    assert len(loops) == 1
    assert found == [
        [*(f"batch: {number} {n}" for n in range(5)), f"batch: {number}"] for number in range(4)
    ]


async def test_a_run_is_settled_and_left_on_another_loop_than_its_calls(tmp_path: Path) -> None:
    server = FakeServer()
    llm = llm_at(server)
    async with Run("run", mode="batch", folder=tmp_path) as run:
        answers = await asyncio.to_thread(lambda: llm.map_sync(["1", "2"]).texts())
        await asyncio.wait_for(run.submitted(), 10)
        await asyncio.wait_for(run.settled(), 10)
    assert answers == ["batch: 1", "batch: 2"]
    assert {each["state"] for each in read_jobs(tmp_path / "run")} == {"done"}


async def test_outside_of_runs_each_loop_has_jobs_of_its_own() -> None:
    server = FakeServer()
    llm = llm_at(server, mode="batch")
    thread_s = asyncio.create_task(asyncio.to_thread(in_a_loop_of_its_own, llm, "2"))
    assert await llm("1") == "batch: 1"
    assert await thread_s == "batch: 2"
    assert threading.active_count() > 1
