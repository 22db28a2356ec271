"""Failures and partial results."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
from typing import Any

import pytest

from llmflow.engine.graph import BaseNode
from llmflow.engine.results import Failure, NotRun, partial_results
from llmflow.flows import AsyncBatchFlow, AsyncParallelBatchFlow, BatchFlow
from llmflow.nodes import AsyncBatchNode, AsyncNode, AsyncParallelBatchNode, BatchNode


class Invert(BatchNode):
    def prep(self, shared):
        return shared["items"]

    def exec(self, item):
        return 1 / item

    def post(self, shared, prep_res, exec_res):
        shared["out"] = exec_res


def async_kind(kind):
    class InvertAsync(kind):
        async def prep_async(self, shared):
            return shared["items"]

        async def exec_async(self, item):
            return 1 / item

        async def post_async(self, shared, prep_res, exec_res):
            shared["out"] = exec_res

    return InvertAsync


def run(node, shared):
    return asyncio.run(node.run_async(shared)) if isinstance(node, AsyncNode) else node.run(shared)


NODES = pytest.mark.parametrize(
    "kind", [Invert, async_kind(AsyncBatchNode), async_kind(AsyncParallelBatchNode)]
)


@NODES
def test_collect_puts_a_failure_at_the_place_of_the_item(kind):
    shared: dict[str, Any] = {"items": [1, 0, 2]}
    run(kind(max_retries=2, on_error="collect"), shared)
    failure = shared["out"][1]
    assert shared["out"] == [1.0, Failure(index=1, item=0, error=failure.error, attempts=2), 0.5]
    assert isinstance(failure.error, ZeroDivisionError)


@NODES
def test_raise_attaches_what_was_finished_before(kind):
    with pytest.raises(ZeroDivisionError) as caught:
        run(kind(max_retries=2), {"items": [1, 0, 2]})
    results = partial_results(caught.value)
    assert results is not None
    assert results[:2] == [1.0, Failure(index=1, item=0, error=caught.value, attempts=2)]
    assert len(results) == 3


@pytest.mark.parametrize("kind", [BatchNode, AsyncParallelBatchNode, BatchFlow, AsyncBatchFlow])
def test_the_policy_is_checked(kind):
    with pytest.raises(ValueError, match="on_error must be"):
        kind(on_error="ignore")


class Fan(AsyncParallelBatchFlow):
    async def prep_async(self, shared):
        return [{"items": [1, n]} for n in shared["ns"]]


class FanInTurn(AsyncBatchFlow):
    async def prep_async(self, shared):
        return [{"items": [1, n]} for n in shared["ns"]]


class SyncFan(BatchFlow):
    def prep(self, shared):
        return [{"items": [1, n]} for n in shared["ns"]]


class Leaf(async_kind(AsyncParallelBatchNode)):
    async def prep_async(self, shared):
        return self.params["items"]

    async def post_async(self, shared, prep_res, exec_res):
        return sum(exec_res)


class SyncLeaf(Invert):
    def prep(self, shared):
        return self.params["items"]

    def post(self, shared, prep_res, exec_res):
        return sum(exec_res)


FLOWS = pytest.mark.parametrize(
    ("flow", "leaf"), [(SyncFan, SyncLeaf), (FanInTurn, Leaf), (FanInTurn, SyncLeaf), (Fan, Leaf)]
)


@FLOWS
def test_a_flow_collects_failures_of_its_runs(flow, leaf):
    fan = flow(start=leaf(), on_error="collect")
    run(fan, {"ns": [1, 0, 2]})
    failure = fan.last_results[1]
    assert fan.last_results == [
        2.0,
        Failure(index=1, item={"items": [1, 0]}, error=failure.error, attempts=1),
        1.5,
    ]
    assert partial_results(failure.error) == partial_results(failure)


@FLOWS
def test_nested_partial_results_are_reached_through_the_failure(flow, leaf):
    with pytest.raises(ZeroDivisionError) as caught:
        run(flow(start=leaf()), {"ns": [1, 0]})
    outer = partial_results(caught.value)
    assert outer is not None
    assert outer[0] == 2.0
    inner = partial_results(outer[1])
    assert inner == [1.0, Failure(index=1, item=0, error=caught.value, attempts=1)]


def test_an_error_object_raised_again_does_not_drag_old_results_along():
    error = ValueError("always the same object")

    class Always(BatchNode):
        def prep(self, shared):
            return [1]

        def exec(self, item):
            raise error

    for _ in range(3):
        with pytest.raises(ValueError, match="same object"):
            Always().run({})
    results = partial_results(error)
    assert results is not None
    assert partial_results(results[0]) is None


def test_an_error_that_came_from_no_batch_has_no_results():
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first  # even a chain that is a ring ends
    assert partial_results(first) is None
    assert partial_results(Failure(index=0, item=None, error=first, attempts=1)) is None


def test_an_error_is_pickled_without_the_results():
    with pytest.raises(ZeroDivisionError) as caught:
        Invert().run({"items": [lambda: "cannot be pickled", 0]} | {"items": [0]})
    assert partial_results(pickle.loads(pickle.dumps(caught.value))) is None


def test_failures_are_frozen_and_pickled():
    failure = Failure(index=3, item="item", error=ValueError("x"), attempts=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        failure.index = 4
    other = pickle.loads(pickle.dumps(failure))
    assert (other.index, other.item, other.attempts) == (3, "item", 2)
    assert repr(failure) == "Failure(index=3, item='item', error=ValueError('x'), attempts=2)"


def test_not_run_is_one_object_with_a_name():
    assert pickle.loads(pickle.dumps(NotRun)) is NotRun
    assert f"{NotRun} {NotRun!r}" == "NotRun NotRun"


@pytest.mark.parametrize("on_error", ["raise", "collect"])
def test_keyboard_interrupt_is_never_collected(on_error):
    class Interrupted(BatchNode):
        def prep(self, shared):
            return [1, 2]

        def exec(self, item):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Interrupted(on_error=on_error).run({})


@pytest.mark.parametrize("on_error", ["raise", "collect"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_parallel_item_ends_the_program_and_stops_the_others(on_error, error):
    stopped = []

    class Interrupted(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return range(3)

        async def exec_async(self, item):
            if item == 2:
                raise error
            try:
                await asyncio.sleep(60)
            finally:
                stopped.append(item)

    node = Interrupted(on_error=on_error)
    with pytest.raises(error):
        asyncio.run(node.run_async({}))
    assert sorted(stopped) == [0, 1]
    assert node.get_concurrent_task_count() == 0


@pytest.mark.virtual_time
async def test_a_cancellation_during_the_clean_up_wins_and_everything_still_stops():
    cleaned = []

    class Slow(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return range(3)

        async def exec_async(self, item):
            if item == 0:
                await asyncio.sleep(1)
                raise ValueError
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(5)
                cleaned.append(item)

    task = asyncio.create_task(Slow().run_async({}))
    await asyncio.sleep(2)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert cleaned == [1, 2]


def test_a_flow_of_base_nodes_counts_one_attempt():
    class Bad(BaseNode):
        def exec(self, prep_res):
            raise ValueError

    class Runs(BatchFlow):
        def prep(self, shared):
            return [{}]

    flow = Runs(start=Bad(), on_error="collect")
    flow.run({})
    assert flow.last_results[0].attempts == 1
