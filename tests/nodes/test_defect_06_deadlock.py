"""Defect 6 of the ancestors: limits that contain themselves, or each other, never ended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmflow.flows import AsyncParallelBatchFlow
from llmflow.nodes import AsyncNode, AsyncParallelBatchNode
from llmflow.testing import run_virtual
from tests.examples import examples
from tests.nodes.helpers import Each, now


class Descend(AsyncNode):
    async def post_async(self, shared, prep_res, exec_res):
        shared["visits"] += 1
        return "deeper" if self.params["depth"] < 4 else "end"


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [1, 2, 3, None])
async def test_defect_06_a_limited_flow_may_contain_itself(limit):
    class Tree(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            depth = self.params.get("depth", 0) + 1
            return [{"depth": depth} for _ in range(3)]

    node = Descend()
    tree = Tree(start=node, concurrency_limit=limit)
    node - "deeper" >> tree
    node - "end" >> None
    tree >> None
    shared = {"visits": 0}
    async with asyncio.timeout(60):
        await tree.run_async(shared)
    assert shared["visits"] == 3 + 9 + 27 + 81
    assert tree.get_concurrent_task_count() == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [1, 2])
async def test_defect_06_a_limited_node_may_run_itself(limit):
    peak = 0

    class Recursive(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return [shared["depth"]] * 3

        async def exec_async(self, depth):
            nonlocal peak
            if depth:
                below: dict[str, Any] = {"depth": depth - 1}
                await self.run_async(below)
                return sum(below["out"])
            peak = max(peak, self.get_concurrent_task_count())
            await asyncio.sleep(1)
            return 1

        async def post_async(self, shared, prep_res, exec_res):
            shared["out"] = exec_res

    node = Recursive(concurrency_limit=limit)
    shared: dict[str, Any] = {"depth": 3}
    async with asyncio.timeout(1000):
        await node.run_async(shared)
    assert sum(shared["out"]) == 81
    assert peak == limit
    assert now() >= 81 / limit
    assert node.get_concurrent_task_count() == 0


@pytest.mark.virtual_time
async def test_defect_06_a_flow_and_a_node_may_contain_each_other():
    class Outer(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{"depth": self.params["depth"]} for _ in range(2)]

    class Inner(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return [self.params["depth"]] * 2

        async def exec_async(self, depth):
            await asyncio.sleep(1)
            if depth:
                outer.set_params({"depth": depth - 1})
                await outer.run_async({})

    inner = Inner(concurrency_limit=1)
    outer = Outer(start=inner, concurrency_limit=1)
    outer.set_params({"depth": 3})
    async with asyncio.timeout(100_000):
        await outer.run_async({})
    assert inner.get_concurrent_task_count() == outer.get_concurrent_task_count() == 0


@pytest.mark.virtual_time
async def test_defect_06_crossing_limits_do_not_lock_each_other_out():
    class A(Each):
        async def exec_async(self, item):
            await asyncio.sleep(1)
            if item:
                await b.run_async({"items": [0]})

    class B(Each):
        async def exec_async(self, item):
            await asyncio.sleep(1)
            if item:
                await a.run_async({"items": [0]})

    a, b = A(concurrency_limit=1), B(concurrency_limit=1)
    async with asyncio.timeout(100):
        await asyncio.gather(a.run_async({"items": [1]}), b.run_async({"items": [1]}))


@pytest.mark.virtual_time
async def test_defect_06_a_flow_keeps_its_slot_for_an_ordinary_node_inside():
    peak = running = 0

    class Enter(AsyncNode):
        async def exec_async(self, prep_res):
            nonlocal peak, running
            running += 1
            peak = max(peak, running)

    class Parts(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return range(4)

        async def exec_async(self, part):
            await asyncio.sleep(1)

        async def post_async(self, shared, prep_res, exec_res):
            nonlocal running
            running -= 1

    class Files(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{}] * 6

    class Twice(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{}] * 2

    enter = Enter()
    enter >> Parts(concurrency_limit=1)
    files = Files(start=enter, concurrency_limit=2)
    await Twice(start=files).run_async({})
    assert peak == 2


class Calls(AsyncParallelBatchNode):
    """An item is a list of (node's number, items for it), run one after another."""

    def __init__(self, everyone: list[Calls], **kwargs: Any):
        super().__init__(**kwargs)
        self.everyone = everyone
        everyone.append(self)

    async def prep_async(self, shared):
        return shared["items"]

    async def exec_async(self, item):
        await asyncio.sleep(1)
        for number, items in item:
            await self.everyone[number].run_async({"items": items})
        await asyncio.sleep(1)


ITEMS = st.recursive(
    st.just([]),
    lambda below: st.lists(
        st.tuples(st.integers(0, 2), st.lists(below, min_size=1, max_size=2)), max_size=2
    ),
    max_leaves=12,
)


@examples(300)
@given(
    limits=st.tuples(*[st.integers(1, 2)] * 3),
    runs=st.lists(
        st.tuples(st.integers(0, 2), st.lists(ITEMS, min_size=1, max_size=3)),
        min_size=1,
        max_size=5,
    ),
)
@example(  # two parts of one item wait for its slot, and there is but one
    limits=(2, 2, 1),
    runs=[
        (2, [[], [(0, [[(1, [[(1, [[], []]), (0, [[]])], [(0, [[]])]])]])]]),
        (0, [[], [(0, [[]]), (2, [[]])], [(2, [[], []])]]),
    ],
)
def test_defect_06_no_nesting_of_limits_whatever_deadlocks(limits, runs):
    nodes: list[Calls] = []
    for limit in limits:
        Calls(nodes, concurrency_limit=limit)

    async def scenario():
        async with asyncio.timeout(100_000):
            await asyncio.gather(*(nodes[n].run_async({"items": items}) for n, items in runs))

    run_virtual(scenario())
    assert [node.get_concurrent_task_count() for node in nodes] == [0, 0, 0]
