"""Methods of a node that are async where they must not be, or not where they must."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmflow import (
    AsyncBatchFlow,
    AsyncBatchNode,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchFlow,
    AsyncParallelBatchNode,
    BatchFlow,
    BatchNode,
    Flow,
    Node,
)
from llmflow.errors import ConfigurationError
from llmflow.inference import BatchInferenceNode
from llmflow.nodes import BaseNode
from llmflow.testing import ScriptedProvider

ASYNC = [
    AsyncNode,
    AsyncBatchNode,
    AsyncParallelBatchNode,
    AsyncFlow,
    AsyncBatchFlow,
    AsyncParallelBatchFlow,
]
SYNC = [BaseNode, Node, BatchNode, Flow, BatchFlow]


@pytest.mark.parametrize("kind", ASYNC)
@pytest.mark.parametrize("hook", ["prep_async", "post_async", "exec_async"])
@pytest.mark.parametrize("returned", [None, ["a", "b"]], ids=["nothing", "a list"])
async def test_a_plain_method_in_the_place_of_an_async_one_is_named(
    kind: type[Any], hook: str, returned: Any
) -> None:
    is_flow = issubclass(kind, AsyncFlow)
    if hook == "exec_async" and is_flow:
        return  # a flow has none

    async def items(self: Any, shared: Any) -> Any:
        return [{}]

    def plain(self: Any, *arguments: Any) -> Any:
        return returned

    mine = type("Mine", (kind,), {"prep_async": items, hook: plain})
    node = mine(start=AsyncNode()) if is_flow else mine(max_retries=3)
    with pytest.raises(ConfigurationError, match=f"Mine.{hook} is not async: write `async def"):
        await node.run_async({})


async def test_a_plain_fallback_is_named() -> None:
    class Mine(AsyncNode):
        async def exec_async(self, item: Any) -> Any:
            raise OSError

        def exec_fallback_async(self, item: Any, exc: Exception) -> Any:  # type: ignore[override]
            return "x"

    with pytest.raises(ConfigurationError, match=r"Mine.exec_fallback_async is not async"):
        await Mine().run_async({})


async def test_a_prep_that_yields_is_named() -> None:
    class Mine(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            yield 1

    with pytest.raises(ConfigurationError, match=r"Mine.prep_async yields"):
        await Mine().run_async({})


async def test_what_can_be_awaited_need_not_be_a_coroutine() -> None:
    class Mine(AsyncNode):
        def prep_async(self, shared: Any) -> Any:
            return asyncio.ensure_future(asyncio.sleep(0, "prepared"))

        def exec_async(self, prep_res: Any) -> Any:
            return asyncio.ensure_future(asyncio.sleep(0, prep_res))

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            return exec_res

    assert await Mine().run_async({}) == "prepared"


async def test_it_is_not_tried_again_and_ends_a_batch_that_collects() -> None:
    calls = 0

    class Mine(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Any:
            return range(100)

        def exec_async(self, item: Any) -> Any:  # type: ignore[override]
            nonlocal calls
            calls += 1
            return item

    with pytest.raises(ConfigurationError, match=r"Mine.exec_async is not async"):
        await Mine(max_retries=3, concurrency_limit=1, on_error="collect").run_async({})
    assert calls == 1


@pytest.mark.parametrize("kind", SYNC)
@pytest.mark.parametrize("hook", ["prep", "exec", "post"])
@pytest.mark.parametrize("around", ["alone", "in an async flow"])
def test_an_async_method_in_the_place_of_a_plain_one_is_named(
    kind: type[Any], hook: str, around: str
) -> None:
    if hook == "exec" and issubclass(kind, Flow):
        return  # a flow has none

    async def coroutine(self: Any, *arguments: Any) -> Any:
        return None

    def items(self: Any, shared: Any) -> Any:
        return [{}]

    mine = type("Mine", (kind,), {"prep": items, hook: coroutine})()
    said = f"Mine.{hook} is async, and Mine is not: .* `async def {hook}_async"
    with pytest.raises(ConfigurationError, match=said):
        mine.run({}) if around == "alone" else asyncio.run(AsyncFlow(start=mine).run_async({}))


def test_an_inference_node_is_told_too() -> None:
    class Mine(BatchInferenceNode):
        def prep_async(self, shared: Any) -> Any:  # type: ignore[override]
            return ["a"]

    from llmflow import LLM

    node = Mine(llm=LLM(ScriptedProvider()), mode="parallel")
    with pytest.raises(ConfigurationError, match=r"Mine.prep_async is not async"):
        asyncio.run(node.run_async({}))
