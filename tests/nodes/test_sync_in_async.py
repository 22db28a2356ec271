"""Sync nodes and flows inside async flows: exec in a thread, all else as before.

Threads and virtual time do not mix: these tests run on a real loop, ordered by events.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from llmflow.engine.graph import BaseNode
from llmflow.flows import AsyncFlow, AsyncParallelBatchFlow, BatchFlow, Flow
from llmflow.items.slots import step_aside
from llmflow.nodes import AsyncParallelBatchNode, BatchNode, Node

variable: ContextVar[str] = ContextVar("variable", default="unset")


class Where(Node):
    def prep(self, shared):
        shared["prep"] = threading.current_thread()
        return shared

    def exec(self, shared):
        shared["exec"] = threading.current_thread()
        shared["variable"] = variable.get()
        return "result"

    def post(self, shared, prep_res, exec_res):
        shared["post"] = threading.current_thread()
        return exec_res


@pytest.mark.parametrize("wrap", [lambda n: n, lambda n: Flow(start=n), lambda n: Inner(start=n)])
async def test_only_exec_leaves_the_thread_of_the_loop(wrap):
    variable.set("callers")
    shared: dict[str, Any] = {}
    await AsyncFlow(start=wrap(Where())).run_async(shared)
    here = threading.current_thread()
    assert shared["prep"] is shared["post"] is here
    assert shared["exec"] is not here
    assert shared["variable"] == "callers"


class Inner(BatchFlow):
    def prep(self, shared):
        return [{}]


async def test_a_class_can_stay_on_the_loops_thread():
    class Stays(Where):
        run_in_thread = False

    shared: dict[str, Any] = {}
    assert await AsyncFlow(start=Stays()).run_async(shared) == "result"
    assert shared["exec"] is threading.current_thread()


async def test_actions_and_errors_are_those_of_the_node():
    class Raises(Node):
        def exec(self, prep_res):
            raise KeyError("mine")

    where = Where()
    where - "result" >> Raises()
    with pytest.raises(KeyError, match="mine"):
        await AsyncFlow(start=where).run_async({})


async def test_retries_and_batches_work_in_the_thread():
    class Batch(BatchNode):
        def prep(self, shared):
            return [1, 2]

        def exec(self, item):
            if self.cur_retry == 0:
                raise ValueError
            return item * self.cur_retry

        def post(self, shared, prep_res, exec_res):
            return exec_res

    assert await AsyncFlow(start=Batch(max_retries=2)).run_async({}) == [1, 2]


async def test_stop_iteration_becomes_a_runtime_error_and_does_not_hang():
    class Stops(Node):
        def exec(self, prep_res):
            return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await AsyncFlow(start=Stops()).run_async({})


async def test_system_exit_passes():
    class Exits(Node):
        def exec(self, prep_res):
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await AsyncFlow(start=Exits(max_retries=3)).run_async({})


class Blocks(Node):
    """Signals that it has begun, then waits for leave to go on."""

    def __init__(self):
        super().__init__()
        self.begun, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def exec(self, prep_res):
        self.begun.set()
        assert self.go.wait(20)
        self.ended.set()

    def post(self, shared, prep_res, exec_res):
        shared["posted"] = True


async def test_cancellation_waits_for_the_thread_and_does_not_run_post():
    node = Blocks()
    shared: dict[str, Any] = {}
    task = asyncio.create_task(AsyncFlow(start=node).run_async(shared))
    await asyncio.to_thread(node.begun.wait, 20)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    node.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert node.ended.is_set()
    assert shared == {}


async def test_a_second_cancellation_does_not_wait():
    node = Blocks()
    task = asyncio.create_task(AsyncFlow(start=node).run_async({}))
    await asyncio.to_thread(node.begun.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not node.ended.is_set()
    node.go.set()


async def test_a_call_still_in_the_queue_is_dropped_by_the_cancellation():
    from concurrent.futures import ThreadPoolExecutor

    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    first, second = Blocks(), Blocks()
    second.go.set()
    one = asyncio.create_task(AsyncFlow(start=first).run_async({}))
    await asyncio.sleep(0)
    two = asyncio.create_task(AsyncFlow(start=second).run_async({}))
    await asyncio.sleep(0)
    two.cancel()
    await asyncio.sleep(0)
    first.go.set()
    with pytest.raises(asyncio.CancelledError):
        await two
    await one
    assert not second.begun.is_set()


async def test_prep_and_post_never_overlap_so_that_counting_in_shared_is_exact():
    class Count(Node):
        def exec(self, prep_res):
            return 1

        def post(self, shared, prep_res, exec_res):
            before = shared["n"]
            for _ in range(50):
                pass
            shared["n"] = before + exec_res

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{}] * 100

    shared = {"n": 0}
    await Fan(start=Count()).run_async(shared)
    assert shared["n"] == 100


async def test_a_loop_in_the_thread_leaves_the_slots_of_this_one_alone():
    class Leaf(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return range(3)

        async def exec_async(self, item):
            async with step_aside():
                await asyncio.sleep(0)
            return fan.get_concurrent_task_count()

        async def post_async(self, shared, prep_res, exec_res):
            return exec_res

    class Starts(Node):
        def exec(self, prep_res):
            return asyncio.run(leaf.run_async({}))

        def post(self, shared, prep_res, exec_res):
            return exec_res

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{}]

    leaf = Leaf(concurrency_limit=1)
    fan = Fan(start=Starts(), concurrency_limit=1)
    await fan.run_async({})
    assert fan.last_results == [[1, 1, 1]]


async def test_a_node_without_exec_needs_no_thread():
    class Router(BaseNode):
        def post(self, shared, prep_res, exec_res):
            return threading.current_thread().name

    assert await AsyncFlow(start=Router()).run_async({}) == threading.current_thread().name
