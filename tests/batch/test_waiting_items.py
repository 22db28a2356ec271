"""Items that wait for a batch job: how many at once, and what stands still meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmflow import LLM, AsyncFlow, AsyncNode, AsyncParallelBatchFlow, Failure, Run
from llmflow.batch import Batch
from llmflow.errors import ContentFilterError
from llmflow.pricing import Price
from llmflow.types import MarkedPrefix
from tests.batch.fakes import FakeProvider, FakeServer
from tests.batch.test_inference_node import Shouts
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


@pytest.mark.parametrize("ask", [ask_by_node, ask_by_flow, ask_by_nodes_of_a_flow, ask_by_map])
@pytest.mark.parametrize("where", ["run", "llm"])
@pytest.mark.slow
def test_all_items_go_into_one_job_wherever_the_mode_was_chosen(ask: Ask, where: str) -> None:
    server = FakeServer()
    llm = llm_at(server, mode="batch" if where == "llm" else None)

    async def main() -> None:
        async with Run(mode="batch" if where == "run" else None):
            await ask(llm)

    asyncio.run(main())
    assert server.sizes == [MANY]


def test_a_map_s_items_that_a_job_leaves_over_come_back_one_after_another() -> None:
    server, at_once = FakeServer(fate=lambda prompt, job: None), [0, 0]

    class Counting(FakeProvider):
        async def complete(self, request: Any, *, timeout: float) -> Any:
            at_once[0] += 1
            at_once[1] = max(at_once)
            await asyncio.sleep(0)
            at_once[0] -= 1
            return await super().complete(request, timeout=timeout)

    llm = LLM(Counting(server), batch=QUICK, mode="batch", fallback="parallel")
    results = llm.map_sync([f"{n}" for n in range(60)], concurrency=4)
    assert results.texts() == [f"live: {n}" for n in range(60)]
    assert server.sizes == [60]
    assert at_once[1] == 4


def test_a_map_inside_an_item_lets_other_items_begin() -> None:
    server = FakeServer()
    llm = llm_at(server, mode="batch")

    class Maps(Echoes):
        async def exec_async(self, item: Any) -> Any:
            return (await llm.map([f"{item}-{n}" for n in range(3)], concurrency=1)).texts()

    shared: dict[str, Any] = {"items": range(20)}
    asyncio.run(Maps(llm, concurrency_limit=2).run_async(shared))
    assert shared["answers"][19] == [f"batch: 19-{n}" for n in range(3)]
    assert server.sizes == [60]


class AsksTwoAtOnce(Echoes):
    """Asks two models, of which one takes longer, and works for a while on what they say."""

    work = 0.0

    def __init__(self, slow: FakeServer, **options: Any) -> None:
        super().__init__(llm_at(FakeServer()), **options)
        self.slow = LLM(FakeProvider(slow, model="slow"), batch=QUICK)

    async def exec_async(self, item: Any) -> Any:
        found = await asyncio.gather(self.llm(f"{item}"), self.slow(f"{item}"))
        await asyncio.sleep(self.work)
        return found


@pytest.mark.virtual_time
async def test_the_time_limit_stands_still_until_the_last_of_several_calls_has_its_answer() -> None:
    shared: dict[str, Any] = {"items": range(3)}
    slow = FakeServer(looks=20)
    await AsksTwoAtOnce(slow, mode="batch", timeout=0.1).run_async(shared)
    assert shared["answers"][2] == ["batch: 2", "batch: 2"]


@pytest.mark.virtual_time
async def test_the_time_limit_goes_on_after_the_last_of_several_calls() -> None:
    node = AsksTwoAtOnce(FakeServer(looks=20), mode="batch", timeout=0.5)
    node.work = 0.4
    await node.run_async({"items": range(3)})
    node.work = 0.6
    with pytest.raises(TimeoutError):
        await node.run_async({"items": range(3)})


class Marks(FakeProvider):
    """A provider of whose requests each has the same marked beginning."""

    def marked_prefix(self, request: Any) -> MarkedPrefix:
        return MarkedPrefix(b"x" * 16, 5000, for_an_hour=True)


def primed(server: FakeServer) -> LLM:
    price = Price(input=3, output=15, cached_input=0.3, cache_write=3.75, cache_write_1h=6)
    return LLM(Marks(server), batch=Batch(quiet=0.2, poll=0.01, primer=True), price=price)


async def ask_again_what_was_cancelled(server: FakeServer, *others: str) -> list[str]:
    llm = primed(server)
    async with Run("marked", mode="batch") as run:
        waiting = [asyncio.ensure_future(llm(each)) for each in ("again", *others)]
        await asyncio.sleep(0.05)
        waiting[0].cancel()
        await asyncio.wait(waiting[:1])
        answers = await asyncio.gather(llm("again"), *waiting[1:])
        await run.settled()
        return answers


@pytest.mark.virtual_time
@pytest.mark.parametrize(("others", "sizes"), [((), [1]), (("b",), [1, 1]), (("b", "c"), [1, 2])])
async def test_a_row_that_is_cancelled_and_asked_again_is_one_row_for_a_primer(
    others: tuple[str, ...], sizes: list[int]
) -> None:
    server = FakeServer()
    answers = await ask_again_what_was_cancelled(server, *others)
    assert answers == [f"batch: {each}" for each in ("again", *others)]
    assert server.sizes == sizes
    assert server.calls.count("create") == len(sizes), "and none of no rows"


@pytest.mark.virtual_time
async def test_a_row_whose_like_was_cancelled_has_no_primer() -> None:
    server = FakeServer()
    llm = primed(server)
    async with Run("marked", mode="batch") as run:
        stays, goes = (asyncio.ensure_future(llm(each)) for each in "ab")
        await asyncio.sleep(0.05)
        goes.cancel()
        assert await stays == "batch: a"
        await run.settled()
    assert server.calls.count("create") == 1


@pytest.mark.virtual_time
async def test_an_inference_node_asks_what_failed_once_in_a_session_that_asks_it_again() -> None:
    server = FakeServer(fate=lambda p, job: ContentFilterError("no") if p == "3" else f"batch: {p}")

    async def session(**options: Any) -> None:
        async with Run("failing", **options):
            node = Shouts(llm=llm_at(server), on_error="collect")
            shared: dict[str, Any] = {"items": iter(range(5))}
            await node.run_async(shared)
            assert isinstance(shared["results"][3], Failure)

    await session()
    await session()
    assert server.sizes == [5]
    await session(retry_failed=True)
    assert server.sizes == [5, 1]
