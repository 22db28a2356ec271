"""Defects 12 to 28 of the ancestors, about nodes, edges and arguments: a test or more for each."""

from __future__ import annotations

import asyncio
import warnings
from pathlib import Path
from typing import Any

import pytest

import llmflow
from llmflow.engine.graph import BaseNode
from llmflow.errors import StepLimitError
from llmflow.flows import AsyncBatchFlow, AsyncFlow, AsyncParallelBatchFlow, BatchFlow, Flow
from llmflow.nodes import AsyncBatchNode, AsyncNode, AsyncParallelBatchNode, BatchNode, Node
from tests.nodes.helpers import Each, now

# --- 12: limits without effect ----------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", [AsyncFlow, AsyncBatchFlow])
async def test_defect_12_sequential_flows_accept_a_limit(kind):
    flow = kind(start=AsyncNode(), concurrency_limit=2)
    await flow.run_async({})
    assert flow.concurrency_limit == 2


# --- 13: limit types --------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, True, False, 1.5, "3"])
@pytest.mark.parametrize(
    "kind", [AsyncParallelBatchNode, AsyncFlow, AsyncBatchFlow, AsyncParallelBatchFlow]
)
def test_defect_13_a_limit_is_a_whole_number_from_one_up(kind, limit):
    with pytest.raises(ValueError, match="concurrency_limit must be at least 1"):
        kind(concurrency_limit=limit)


# --- 14: async in sync ------------------------------------------------------------------------


class SomeParallelFlow(AsyncParallelBatchFlow):
    async def prep_async(self, shared):
        return [{}]


@pytest.mark.parametrize("kind", [AsyncNode, AsyncFlow, SomeParallelFlow, AsyncBatchFlow])
def test_defect_14_async_in_a_sync_flow_raises_with_the_right_call(kind):
    with pytest.raises(RuntimeError, match=rf"Use run_async\. {kind.__name__} is async"):
        Flow(start=kind()).run({})
    with pytest.raises(RuntimeError, match=r"Use run_async\."):
        kind().run({})


def test_defect_14_an_async_flow_of_sync_nodes_does_not_run_the_sync_way():
    with pytest.raises(RuntimeError, match=r"Use run_async\."):
        AsyncFlow(start=Node()).run({})


# --- 15: sync hooks on async classes ----------------------------------------------------------


@pytest.mark.parametrize("hook", ["prep", "exec", "post", "exec_fallback"])
@pytest.mark.parametrize("base", [AsyncNode, AsyncParallelBatchNode, AsyncFlow])
def test_defect_15_a_sync_hook_on_an_async_class_warns_where_the_class_is_made(base, hook):
    with pytest.warns(UserWarning, match=f"write `async def {hook}_async`") as caught:
        type("Mine", (base,), {hook: lambda self, *args: None})
    assert [w.filename for w in caught] == [__file__]


def test_defect_15_no_warning_where_the_async_hook_is_there_too():
    class Helper(AsyncNode):
        def exec(self, prep_res):
            return 1

        async def exec_async(self, prep_res):
            return self.exec(prep_res)

        async def post_async(self, shared, prep_res, exec_res):
            return exec_res

    assert asyncio.run(Helper().run_async({})) == 1


# --- 16: gaps ---------------------------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", [AsyncBatchNode, AsyncParallelBatchNode])
async def test_defect_16_none_from_prep_means_no_items(kind):
    class Nothing(kind):
        async def post_async(self, shared, prep_res, exec_res):
            return exec_res

    assert await Nothing().run_async({}) == []


@pytest.mark.parametrize("kind", [BatchFlow, AsyncBatchFlow, AsyncParallelBatchFlow])
def test_defect_16_none_from_prep_of_a_flow_means_no_runs(kind):
    flow = kind(start=BaseNode())
    if isinstance(flow, AsyncNode):
        assert asyncio.run(flow.run_async({})) is None
    else:
        assert flow.run({}) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"max_retries": 0},
        {"max_retries": True},
        {"max_retries": 1.5},
        {"wait": -1},
        {"wait": "1"},
        {"wait": float("nan")},
        {"max_wait": -0.1},
        {"timeout": 0},
    ],
)
def test_defect_16_retry_arguments_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        AsyncParallelBatchNode(**bad)
    if "timeout" not in bad:
        with pytest.raises(ValueError, match=next(iter(bad))):
            Node(**bad)


# --- 17: cancellation from inside ---------------------------------------------------------------


@pytest.mark.virtual_time
@pytest.mark.parametrize("on_error", ["raise", "collect"])
async def test_defect_17_cancelled_error_is_never_a_fallback_nor_a_failure(on_error):
    fallbacks = []

    class Node_(Each):
        async def exec_async(self, item):
            if item == 1:
                raise asyncio.CancelledError
            await asyncio.sleep(10)

        async def exec_fallback_async(self, item, exc):
            fallbacks.append(item)

    with pytest.raises(asyncio.CancelledError):
        await Node_(max_retries=3, on_error=on_error).run_async({"items": [0, 1, 2]})
    assert fallbacks == []
    assert now() == 0


# --- 18, 19: actions ----------------------------------------------------------------------------


class Returns(BaseNode):
    def __init__(self, action: Any):
        super().__init__()
        self.action = action

    def post(self, shared, prep_res, exec_res):
        return self.action


@pytest.mark.parametrize("action", [{"a": 1}, ["x"]])
def test_defect_18_an_action_that_cannot_choose_names_the_node(action):
    node = Returns(action)
    node >> BaseNode()
    with pytest.raises(TypeError, match=r"Returns returned (dict|list) .* return an action"):
        Flow(start=node).run({})


@pytest.mark.parametrize("action", [{"a": 1}, ["x"]])
def test_defect_18_the_last_node_may_return_anything(action):
    assert Flow(start=Returns(action)).run({}) == action


@pytest.mark.parametrize("action", [None, "", 0, False])
def test_defect_19_falsy_actions_mean_default(action):
    node = Returns(action)
    node >> Returns("end")
    assert Flow(start=node).run({}) == "end"


# --- 20, 21: edges --------------------------------------------------------------------------------


def test_defect_20_a_transition_is_not_a_node():
    a, b, c = BaseNode(), BaseNode(), BaseNode()
    with pytest.raises(TypeError, match="a line of its own"):
        a >> b - "x" >> c
    assert a.successors == {}


@pytest.mark.parametrize("bad", [5, "b", BaseNode])
def test_defect_21_only_nodes_follow(bad):
    with pytest.raises(TypeError, match="a node or None"):
        BaseNode() >> bad
    with pytest.raises(TypeError, match="a node or None"):
        Flow(start=bad)


def test_defect_21_none_is_a_silent_end():
    node = Returns("stop")
    node - "stop" >> None
    node >> BaseNode()
    assert Flow(start=node).run({}) == "stop"


def test_defect_22_the_inner_flows_last_action_chooses_the_outer_edge():
    inner = Flow(start=Returns("done"))
    inner - "done" >> Returns("outer end")
    assert Flow(start=inner).run({}) == "outer end"


# --- 24, 26, 27 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Node, BatchNode, AsyncNode, AsyncParallelBatchNode])
def test_defect_24_cur_retry_is_zero_before_the_first_run(kind):
    assert kind().cur_retry == 0


def test_defect_26_a_batch_flow_keeps_the_results_of_its_runs():
    class Last(Node):
        def post(self, shared, prep_res, exec_res):
            return self.params["n"] ** 2

    class Runs(BatchFlow):
        def prep(self, shared):
            return [{"n": n} for n in range(4)]

    flow = Runs(start=Last())
    assert flow.run({}) is None
    assert flow.last_results == [0, 1, 4, 9]


def test_defect_27_warnings_point_at_the_users_line():
    node = Returns("nowhere")
    node >> BaseNode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        node >> BaseNode()
        node.run({})
        Flow(start=node).run({})
        asyncio.run(AsyncFlow(start=node).run_async({}))
    assert [str(w.message) for w in caught] == [
        "Overwriting successor for action 'default'",
        "Node won't run successors. Use Flow.",
        "Flow ends: 'nowhere' not found in ['default']",
        "Flow ends: 'nowhere' not found in ['default']",
    ]
    assert {w.filename for w in caught} == {__file__}
    assert len({w.lineno for w in caught}) == 4


@pytest.mark.virtual_time
async def test_defect_27_warnings_of_a_branch_point_outside_the_library():
    node = AsyncNode()
    node - "never" >> BaseNode()

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{}]

    with pytest.warns(UserWarning, match="Flow ends: 'None' not found") as caught:
        await Fan(start=node).run_async({})
    library = Path(llmflow.__file__).parent
    assert library not in Path(caught[0].filename).parents


# --- 28: loops ------------------------------------------------------------------------------------


def test_defect_28_an_endless_cycle_ends_with_a_remedy():
    node = BaseNode()
    node >> node
    with pytest.raises(StepLimitError, match=r"BaseNode would be next.*higher max_steps"):
        Flow(start=node, max_steps=50).run({})


@pytest.mark.virtual_time
async def test_defect_28_an_endless_async_cycle_ends_too():
    node = AsyncNode()
    node >> node
    with pytest.raises(StepLimitError, match="went through 7 nodes"):
        await AsyncFlow(start=node, max_steps=7).run_async({})


@pytest.mark.parametrize("limit", [None, 5])
def test_defect_28_a_loop_within_the_bound_is_let_alone(limit):
    class Loop(BaseNode):
        def post(self, shared, prep_res, exec_res):
            shared["n"] += 1
            return "again" if shared["n"] < 5 else "done"

    node = Loop()
    node - "again" >> node
    node - "done" >> None
    shared = {"n": 0}
    assert Flow(start=node, max_steps=limit).run(shared) == "done"


@pytest.mark.parametrize("bad", [0, -1, True, 2.0])
def test_defect_28_max_steps_is_checked(bad):
    with pytest.raises(ValueError, match="max_steps"):
        Flow(max_steps=bad)
