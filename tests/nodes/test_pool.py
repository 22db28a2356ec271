"""The engine of parallel nodes: order, bounds, isolation, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.engine.results import Failure
from llmflow.items.slots import Slots
from llmflow.nodes import AsyncParallelBatchNode
from llmflow.testing import run_virtual
from tests.examples import examples

LIMITS = st.one_of(st.none(), st.integers(1, 6))
WORK = st.lists(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=0, max_size=3), max_size=25
)


class Probe(AsyncParallelBatchNode):
    """Each item is a list of sleeps; an attempt that begins with 2.0 fails."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.log: dict[str, Any] = {"running": 0, "peak": 0, "calls": []}

    async def prep_async(self, shared):
        return shared["items"]

    async def exec_async(self, item):
        number, sleeps = item
        log = self.log
        log["running"] += 1
        log["peak"] = max(log["peak"], log["running"])
        log["calls"].append(number)
        try:
            for seconds in sleeps:
                await asyncio.sleep(seconds)
            if sleeps and sleeps[0] == 2.0 and self.cur_retry == 0:
                raise ValueError(number)
        finally:
            log["running"] -= 1
        return number

    async def post_async(self, shared, prep_res, exec_res):
        return exec_res


def numbered(work, stream):
    items = list(enumerate(work))
    if not stream:
        return items

    async def generate():
        for item in items:
            await asyncio.sleep(item[0] % 3 / 4)
            yield item

    return generate()


@examples(150)
@given(work=WORK, limit=LIMITS, stream=st.booleans(), wait=st.sampled_from([0, 0.5]))
def test_order_is_kept_each_item_is_done_once_and_the_limit_holds(work, limit, stream, wait):
    node = Probe(concurrency_limit=limit, max_retries=2, wait=wait)
    out = run_virtual(node.run_async({"items": numbered(work, stream)}))
    assert out == list(range(len(work)))
    failing = [n for n, sleeps in enumerate(work) if sleeps and sleeps[0] == 2.0]
    assert sorted(node.log["calls"]) == sorted([*range(len(work)), *failing])
    assert node.log["peak"] <= (limit or len(work))
    assert node.get_concurrent_task_count() == 0


@examples(150)
@given(
    work=WORK,
    limit=LIMITS,
    stream=st.booleans(),
    after=st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.5, 4.0]),
)
def test_cancellation_at_any_point_leaks_no_slot_and_no_task(work, limit, stream, after):
    node = Probe(concurrency_limit=limit, max_retries=2, wait=1)

    async def scenario():
        task = asyncio.create_task(node.run_async({"items": numbered(work, stream)}))
        await asyncio.sleep(after)
        task.cancel()
        await asyncio.wait([task])
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert node.get_concurrent_task_count() == node.log["running"] == 0
        # Every slot is there for the next run.
        return await node.run_async({"items": [(n, [1.0]) for n in range(12)]})

    assert run_virtual(scenario()) == list(range(12))


@examples(100)
@given(work=WORK, limit=LIMITS, stream=st.booleans())
def test_collecting_gives_a_failure_or_a_result_for_every_item(work, limit, stream):
    node = Probe(concurrency_limit=limit, on_error="collect")
    out = run_virtual(node.run_async({"items": numbered(work, stream)}))
    assert len(out) == len(work)
    for number, (sleeps, result) in enumerate(zip(work, out, strict=True)):
        if sleeps and sleeps[0] == 2.0:
            assert isinstance(result, Failure)
            assert (result.index, result.item, result.attempts) == (number, (number, sleeps), 1)
        else:
            assert result == number


@examples(60)
@given(
    limit=st.integers(1, 4),
    runs=st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=1, max_size=6),
)
def test_runs_at_once_share_one_limit_whatever_becomes_of_each(limit, runs):
    node = Probe(concurrency_limit=limit, max_retries=2, wait=0.5)

    async def scenario():
        tasks = [
            asyncio.create_task(node.run_async({"items": [(n, [2.0]) for n in range(count)]}))
            for count, _ in runs
        ]
        await asyncio.sleep(2.25)
        for task, (_, cancel) in zip(tasks, runs, strict=True):
            if cancel:
                task.cancel()
        await asyncio.wait(tasks)
        for task, (count, cancel) in zip(tasks, runs, strict=True):
            assert (cancel and task.cancelled()) or task.result() == list(range(count))

    run_virtual(scenario())
    assert node.log["peak"] <= limit
    assert node.get_concurrent_task_count() == 0


@pytest.mark.virtual_time
async def test_all_items_are_at_work_at_once_without_a_limit():
    node = Probe()
    await node.run_async({"items": [(n, [1.0]) for n in range(500)]})
    assert node.log["peak"] == 500
    assert asyncio.get_running_loop().time() == 1


@pytest.mark.virtual_time
async def test_items_that_never_wait_do_not_starve_the_loop():
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await Probe(concurrency_limit=3).run_async({"items": [(n, []) for n in range(3000)]})
    task.cancel()
    assert turns > 20


@pytest.mark.virtual_time
async def test_a_mocked_sleep_is_never_used_to_yield(monkeypatch):
    async def no_sleep(seconds):
        raise AssertionError

    monkeypatch.setattr(asyncio, "sleep", no_sleep)
    await Probe(concurrency_limit=3).run_async({"items": [(n, []) for n in range(300)]})


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Uncomparable:
    def __eq__(self, other):
        raise ValueError

    __hash__ = None


@pytest.mark.virtual_time
@pytest.mark.parametrize("value", ["set", Uncomparable()])
@pytest.mark.parametrize("limit", [1, 2, None])
async def test_no_item_sees_the_context_of_another_but_each_sees_the_callers(value, limit):
    seen = []

    class Node_(Probe):
        async def exec_async(self, item):
            seen.append(variable.get())
            variable.set(value)

    variable.set("callers")
    await Node_(concurrency_limit=limit).run_async({"items": range(50)})
    assert seen == ["callers"] * 50
    assert variable.get() == "callers"


@pytest.mark.virtual_time
async def test_an_eager_task_factory_does_not_stack_workers():
    loop = asyncio.get_running_loop()
    factory = getattr(asyncio, "eager_task_factory", None)
    loop.set_task_factory(factory)
    assert await Probe().run_async({"items": [(n, [1.0]) for n in range(3000)]}) == list(
        range(3000)
    )
    loop.set_task_factory(None)


@pytest.mark.virtual_time
async def test_waiting_items_do_not_stop_new_ones_up_to_a_bound():
    started = 0

    class Node_(Probe):
        async def exec_async(self, item):
            nonlocal started
            started += 1
            if self.cur_retry == 0:
                raise ValueError

    task = asyncio.create_task(
        Node_(concurrency_limit=5, max_retries=2, wait=100).run_async({"items": range(3000)})
    )
    await asyncio.sleep(99)
    assert 1000 <= started <= 1005
    await task
    assert started == 6000
    assert asyncio.get_running_loop().time() == 300


@pytest.mark.virtual_time
async def test_slots_are_handed_out_first_come_first_served():
    slots = Slots(1).here()
    order = []

    async def use(name):
        await slots.take()
        order.append(name)
        await asyncio.sleep(1)
        slots.give_back()

    tasks = [asyncio.create_task(use(name)) for name in range(5)]
    await asyncio.sleep(0.5)
    tasks[2].cancel()
    await asyncio.sleep(0.5)
    late = asyncio.create_task(use("late"))
    await asyncio.wait([*tasks, late])
    assert order == [0, 1, 3, 4, "late"]
    assert slots.in_use == 0


@pytest.mark.virtual_time
async def test_a_cancelled_waiter_is_forgotten_at_once():
    slots = Slots(1).here()
    await slots.take()
    waiter = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    assert slots.has_waiters()
    waiter.cancel()
    await asyncio.wait([waiter])
    assert not slots.has_waiters()


@pytest.mark.virtual_time
async def test_two_runs_of_one_node_take_turns():
    order = []

    class Node_(Probe):
        async def exec_async(self, item):
            order.append(item)
            await asyncio.sleep(1)

    node = Node_(concurrency_limit=1)
    await asyncio.gather(node.run_async({"items": ["a"] * 5}), node.run_async({"items": ["b"] * 5}))
    assert order == ["a", "b"] * 5


@pytest.mark.virtual_time
async def test_items_that_come_back_from_waiting_do_not_pull_more_than_there_is_room_for():
    pulled = 0

    def items():
        nonlocal pulled
        for number in range(2000):
            pulled += 1
            yield number

    class Node_(Probe):
        async def exec_async(self, item):
            if item < 500 and self.cur_retry == 0:
                raise ValueError
            await asyncio.sleep(1000)

    node = Node_(concurrency_limit=5, max_retries=2, wait=100)
    task = asyncio.create_task(node.run_async({"items": items()}))
    await asyncio.sleep(50_000)
    assert pulled <= 500 + 10
    task.cancel()
    await asyncio.wait([task])


@pytest.mark.virtual_time
async def test_a_slot_that_arrives_with_the_cancellation_is_passed_on():
    slots = Slots(1).here()
    await slots.take()
    first = asyncio.create_task(slots.take())
    second = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    slots.give_back()
    first.cancel()
    await second
    assert first.cancelled()
    assert slots.in_use == 1
