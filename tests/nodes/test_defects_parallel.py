"""Defects 1 to 11 of the ancestors, about running at once: a test or more for each."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from llmflow.engine.results import Failure, NotRun, partial_results
from llmflow.flows import AsyncFlow, AsyncParallelBatchFlow
from llmflow.nodes import AsyncNode, Node
from tests.nodes.helpers import Each, now

# --- 1: the retry counter -------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_defect_01_retry_counter_race_every_item_gets_all_its_attempts():
    attempts = dict.fromkeys(range(200), 0)

    class Failing(Each):
        async def exec_async(self, item):
            attempts[item] += 1
            await asyncio.sleep(0.001 * (item % 7))
            raise ValueError(item)

        async def exec_fallback_async(self, item, exc):
            return f"fallback {item}"

    shared = {"items": list(range(200))}
    await Failing(max_retries=3).run_async(shared)
    assert set(attempts.values()) == {3}
    assert shared["out"] == [f"fallback {i}" for i in range(200)]


@pytest.mark.virtual_time
async def test_defect_01_cur_retry_is_each_items_own():
    seen: dict[int, list[int]] = {0: [], 1: [], 2: []}

    class Node_(Each):
        async def exec_async(self, item):
            await asyncio.sleep(item)
            seen[item].append(self.cur_retry)
            if item == 0 and self.cur_retry < 2:
                raise ValueError
            await asyncio.sleep(10)
            seen[item].append(self.cur_retry)

    node = Node_(max_retries=3, wait=0.5)
    await node.run_async({"items": [0, 1, 2]})
    assert seen == {0: [0, 1, 2, 2], 1: [0, 0], 2: [0, 0]}


# --- 2 and 3: one failure -------------------------------------------------------------------


class OneBad(Each):
    """Item n takes n seconds; the item named in shared fails after one second."""

    started: list[int]
    stopped: list[int]

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.started, self.stopped = [], []

    async def exec_async(self, item):
        self.started.append(item)
        try:
            if item == 3:
                await asyncio.sleep(1)
                raise KeyError("item 3")
            await asyncio.sleep(item)
        except asyncio.CancelledError:
            await asyncio.sleep(0.25)
            self.stopped.append(item)
            raise
        return item * 10


@pytest.mark.virtual_time
async def test_defect_02_results_before_the_failure_stay_reachable():
    with pytest.raises(KeyError) as caught:
        await OneBad().run_async({"items": [0, 0.5, 2, 3, 4]})
    results = partial_results(caught.value)
    assert results is not None
    assert results[:3] == [0, 5, NotRun]
    assert results[3] == Failure(index=3, item=3, error=caught.value, attempts=1)
    assert results[4] is NotRun


@pytest.mark.virtual_time
async def test_defect_02_collect_keeps_every_result():
    shared = {"items": [0, 3, 2, 3]}
    node = OneBad(on_error="collect")
    await node.run_async(shared)
    out: list[Any] = shared["out"]
    assert [out[0], out[2]] == [0, 20]
    assert [(f.index, f.item, type(f.error), f.attempts) for f in (out[1], out[3])] == [
        (1, 3, KeyError, 1),
        (3, 3, KeyError, 1),
    ]
    assert node.stopped == []


@pytest.mark.virtual_time
async def test_defect_03_siblings_are_cancelled_and_awaited_before_the_error_surfaces():
    node = OneBad()
    with pytest.raises(KeyError):
        await node.run_async({"items": [3, 5, 6]})
    assert node.stopped == [5, 6]
    assert now() == 1.25
    assert node.get_concurrent_task_count() == 0


@pytest.mark.virtual_time
async def test_defect_03_nothing_starts_after_the_failure():
    node = OneBad(concurrency_limit=2)
    with pytest.raises(KeyError):
        await node.run_async({"items": [0, 3, *range(10, 60)]})
    assert node.started == [0, 3, 10]


@pytest.mark.virtual_time
async def test_defect_03_branches_of_a_flow_stop_too():
    started = []

    class Branch(AsyncNode):
        async def exec_async(self, prep_res):
            started.append(self.params["n"])
            await asyncio.sleep(1)
            if self.params["n"] == 1:
                raise KeyError

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{"n": n} for n in range(50)]

    with pytest.raises(KeyError):
        await Fan(start=Branch(), concurrency_limit=2).run_async({})
    assert len(started) <= 4  # 0 made room for 2 in the moment when 1 failed


# --- 4: slots and retry waits ---------------------------------------------------------------


@pytest.mark.virtual_time
async def test_defect_04_no_slot_is_held_while_an_item_waits_to_retry():
    starts = []

    class Node_(Each):
        async def exec_async(self, item):
            starts.append((item, now()))
            if item == "bad":
                raise ValueError

        async def exec_fallback_async(self, item, exc):
            return None

    await Node_(max_retries=2, wait=100, concurrency_limit=1).run_async({"items": ["bad", "good"]})
    assert starts == [("bad", 0), ("good", 0), ("bad", 100)]


# --- 5: event loops -------------------------------------------------------------------------


class Contended(Each):
    async def exec_async(self, item):
        await asyncio.sleep(0)
        return item


def test_defect_05_a_node_works_in_one_loop_after_another():
    node = Contended(concurrency_limit=1)
    for _ in range(3):
        shared = {"items": [1, 2, 3]}
        asyncio.run(node.run_async(shared))
        assert shared["out"] == [1, 2, 3]


def test_defect_05_a_node_works_in_several_threads_at_once():
    node = Contended(concurrency_limit=2)
    barrier = threading.Barrier(4)
    outs = []

    def work():
        shared = {"items": list(range(300))}
        barrier.wait()
        asyncio.run(node.run_async(shared))
        outs.append(shared["out"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outs == [list(range(300))] * 4
    assert node.get_concurrent_task_count() == 0


def test_defect_05_closed_loops_are_not_kept():
    node = Contended(concurrency_limit=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(node.run_async({"items": [1, 2, 3]}))
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None


# --- 7: results apart from the shared store ---------------------------------------------------


@pytest.mark.virtual_time
async def test_defect_07_results_of_branches_need_no_shared_key():
    class Summarize(AsyncNode):
        async def prep_async(self, shared):
            return self.params["file"]

        async def exec_async(self, name):
            await asyncio.sleep(10 - len(name))
            return f"summary of {name}"

        async def post_async(self, shared, prep_res, exec_res):
            return exec_res

    class Files(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{"file": "a" * n} for n in (1, 2, 3)]

        async def post_async(self, shared, prep_res, exec_res):
            assert exec_res is None
            shared["summaries"] = self.last_results

    shared: dict[str, Any] = {}
    await Files(start=AsyncFlow(start=Summarize())).run_async(shared)
    assert shared["summaries"] == ["summary of a", "summary of aa", "summary of aaa"]


@pytest.mark.virtual_time
async def test_defect_07_params_are_a_private_channel_of_each_branch():
    class Load(AsyncNode):
        async def exec_async(self, prep_res):
            await asyncio.sleep(1)
            self.params["text"] = f"text {self.params['n']}"

    class Use(AsyncNode):
        async def post_async(self, shared, prep_res, exec_res):
            await asyncio.sleep(1)
            return self.params["text"]

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{"n": n} for n in range(3)]

    load = Load()
    load >> Use()
    fan = Fan(start=load)
    await fan.run_async({})
    assert fan.last_results == ["text 0", "text 1", "text 2"]


# --- 8: memory ------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_defect_08_tasks_are_bounded_by_the_limit_and_items_pulled_as_needed():
    pulled = 0
    most_tasks = 0

    def items():
        nonlocal pulled
        for number in range(2000):
            pulled += 1
            yield number

    class Node_(Each):
        async def exec_async(self, item):
            nonlocal most_tasks
            most_tasks = max(most_tasks, len(asyncio.all_tasks()))
            assert pulled <= item + 11
            await asyncio.sleep(1)

    shared = {"items": items()}
    await Node_(concurrency_limit=10).run_async(shared)
    assert len(shared["out"]) == 2000
    assert most_tasks <= 10 + 1 + 1


@pytest.mark.virtual_time
async def test_defect_08_async_generators_are_welcome():
    async def items():
        for number in range(5):
            await asyncio.sleep(1)
            yield number

    class Node_(Each):
        async def exec_async(self, item):
            return item * 2

    shared = {"items": items()}
    await Node_().run_async(shared)
    assert shared["out"] == [0, 2, 4, 6, 8]


# --- 9: counting on copies --------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_defect_09_the_original_counts_what_its_copies_do():
    counts = []

    class Node_(Each):
        async def exec_async(self, item):
            await asyncio.sleep(1)
            counts.append(node.get_concurrent_task_count())
            await asyncio.sleep(1)

    node = Node_(concurrency_limit=3)
    await AsyncFlow(start=node).run_async({"items": range(3)})
    assert counts == [3, 3, 3]
    assert node.get_concurrent_task_count() == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("limit", [None, 2])
async def test_defect_09_a_flow_counts_its_branches(limit):
    counts = []

    class Leaf(AsyncNode):
        async def exec_async(self, prep_res):
            await asyncio.sleep(1)
            counts.append(fan.get_concurrent_task_count())
            await asyncio.sleep(1)

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{}] * 4

    fan = Fan(start=Leaf(), concurrency_limit=limit)
    await AsyncFlow(start=fan).run_async({})
    assert counts == [limit or 4] * 4


# --- 10: sync nodes ---------------------------------------------------------------------------


def test_defect_10_sync_nodes_do_not_block_their_siblings():
    together = threading.Barrier(4, timeout=20)

    class Blocking(Node):
        def exec(self, prep_res):
            together.wait()  # passes only when all four are in exec at once

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{}] * 4

    asyncio.run(Fan(start=Blocking()).run_async({}))


# --- 11: deadlines and cancellation -----------------------------------------------------------


@pytest.mark.virtual_time
async def test_defect_11_an_attempt_has_its_own_timeout():
    class Slow(Each):
        async def exec_async(self, item):
            await asyncio.sleep(0 if self.cur_retry else item)
            return self.cur_retry

    shared = {"items": [1, 5]}
    await Slow(max_retries=2, timeout=2).run_async(shared)
    assert shared["out"] == [0, 1]
    assert now() == 2


@pytest.mark.virtual_time
async def test_defect_11_a_deadline_around_the_run_stops_everything_and_keeps_the_results():
    node = OneBad()
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(1.5):
            await node.run_async({"items": [1, 2, 4]})
    assert node.stopped == [2, 4]
    assert partial_results(caught.value) == [10, NotRun, NotRun]
