"""Slots that are given back for a while: who gets them, and who gets them again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.items.slots import HeldSlot, Slots, step_aside
from llmflow.nodes import AsyncNode, AsyncParallelBatchNode
from llmflow.testing import run_virtual
from tests.examples import examples

pytestmark = pytest.mark.virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


async def wait_aside(seconds: float) -> None:
    async with step_aside():
        await asyncio.sleep(seconds)


class Each(AsyncParallelBatchNode):
    async def prep_async(self, shared):
        return shared["items"]

    async def post_async(self, shared, prep_res, exec_res):
        return exec_res

    def running(self):
        return self.get_concurrent_task_count()


async def test_an_item_that_steps_aside_lets_the_others_start():
    reply = asyncio.get_running_loop().create_future()
    waiting = 0

    class Batched(Each):
        async def exec_async(self, item):
            nonlocal waiting
            async with step_aside():
                waiting += 1
                if waiting == 40:
                    reply.set_result("reply")
                answer = await asyncio.shield(reply)
            assert self.running() <= 2
            return answer

    node = Batched(concurrency_limit=2)
    assert await node.run_async({"items": range(40)}) == ["reply"] * 40
    assert node.running() == 0


async def test_two_parts_of_one_item_may_step_aside_at_once():
    most_tasks = 0

    class Two(Each):
        async def exec_async(self, item):
            nonlocal most_tasks
            await asyncio.gather(wait_aside(1), wait_aside(2))
            assert self.running() == 1
            await asyncio.sleep(1)
            most_tasks = max(most_tasks, len(asyncio.all_tasks()))
            return item

    node = Two(concurrency_limit=1)
    assert await node.run_async({"items": range(2000)}) == list(range(2000))
    assert node.running() == 0
    assert most_tasks <= 3 * 1002 + 2


async def test_the_slot_stays_lent_until_the_last_part_is_back():
    starts = {}

    class Parts(Each):
        async def exec_async(self, item):
            starts[item] = now()
            if item == "parts":
                await asyncio.gather(wait_aside(1), wait_aside(3))
            else:
                await asyncio.sleep(2)

    await Parts(concurrency_limit=1).run_async({"items": ["parts", "second", "third"]})
    assert starts == {"parts": 0, "second": 0, "third": 2}


async def test_a_task_that_outlives_its_item_has_no_claim_to_the_next_ones_slot():
    left_over = []

    class Leaves(Each):
        async def exec_async(self, item):
            left_over.append(asyncio.create_task(wait_aside(3.5)))
            await asyncio.sleep(1)
            return item

    node = Leaves(concurrency_limit=1)
    assert await node.run_async({"items": range(60)}) == list(range(60))
    await asyncio.gather(*left_over)
    assert node.running() == 0


async def test_later_items_get_their_slot_again_whatever_an_earlier_one_left_running():
    left_over = []

    class Leaves(Each):
        async def exec_async(self, item):
            if item == 0:
                left_over.append(asyncio.create_task(wait_aside(5)))
                await asyncio.sleep(1)
                return
            await asyncio.sleep(5)
            await wait_aside(1)
            assert self.running() == 1

    node = Leaves(concurrency_limit=1)
    await node.run_async({"items": range(4)})
    assert node.running() == 0


async def test_a_task_that_steps_aside_after_the_run_takes_no_slot():
    left_over = []

    async def late():
        await asyncio.sleep(10)
        await wait_aside(1)

    class Leaves(Each):
        async def exec_async(self, item):
            left_over.append(asyncio.create_task(late()))

    node = Leaves(concurrency_limit=1)
    await node.run_async({"items": range(2)})
    await asyncio.gather(*left_over)
    assert node.running() == 0


async def test_a_slot_that_comes_back_too_late_is_passed_on():
    left_over = []

    class Leaves(Each):
        async def exec_async(self, item):
            if item == 0:
                left_over.append(asyncio.create_task(wait_aside(1)))
                await asyncio.sleep(2)
            else:
                await asyncio.sleep(3)

    node = Leaves(concurrency_limit=1)
    await node.run_async({"items": range(3)})
    await asyncio.gather(*left_over)
    assert node.running() == 0


async def test_an_item_that_goes_on_after_a_failure_inside_has_its_slot_again():
    class Recovers(Each):
        async def exec_async(self, item):
            with contextlib.suppress(KeyError):
                async with step_aside():
                    await asyncio.sleep(1)
                    raise KeyError
            assert self.running() == 1

    await Recovers(concurrency_limit=1).run_async({"items": range(3)})


async def test_an_item_that_goes_on_after_a_timeout_inside_counts_and_the_others_wait():
    log = []

    class TimesOut(Each):
        async def exec_async(self, item):
            log.append((now(), self.running()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await wait_aside(10)
            log.append((now(), self.running()))
            await asyncio.sleep(10)

    node = TimesOut(concurrency_limit=1)
    await node.run_async({"items": range(3)})
    # All three stepped aside and came back; nobody had to wait, everybody counts.
    assert log == [(0, 1), (0, 1), (0, 1), (1, 1), (1, 2), (1, 3)]
    assert node.running() == 0


async def test_slots_beyond_the_limit_are_not_handed_on():
    slots = Slots(1).here()
    await slots.take()
    slots.take_at_once()
    waiter = asyncio.create_task(slots.take())
    await asyncio.sleep(0)
    slots.give_back()
    await asyncio.sleep(0)
    assert (waiter.done(), slots.in_use) == (False, 1)
    slots.give_back()
    await waiter
    assert slots.in_use == 1


async def test_a_cancelled_wait_for_the_slot_leaves_every_count_right():
    class Outer(Each):
        async def exec_async(self, item):
            if item == "blocks":
                await asyncio.sleep(100)
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await wait_aside(1)  # and then for the slot, which "blocks" has

    node = Outer(concurrency_limit=1)
    await node.run_async({"items": ["waits", "blocks", "waits"]})
    assert node.running() == 0


class CountingCrew:
    aside = 0
    idle = 0

    def step_aside(self):
        self.aside += 1

    def step_back(self):
        self.aside -= 1

    def count(self, number):
        self.idle -= number


async def test_a_hold_counts_as_aside_once_and_never_after_its_item():
    slots, crew = Slots(1).here(), CountingCrew()
    hold = HeldSlot(slots, crew)
    await hold.take()
    first, second = hold.lend(aside=True), hold.lend(aside=True)
    assert (crew.aside, slots.in_use, hold.taken) == (1, 0, False)
    await hold.end_loan(first, True, None)
    assert (crew.aside, slots.in_use, hold.taken) == (1, 0, False)
    await hold.end_loan(second, True, None)
    assert (crew.aside, slots.in_use, hold.taken) == (0, 1, True)
    late = hold.lend(aside=True)
    hold.end_item()
    assert (crew.aside, slots.in_use, hold.taken) == (0, 0, False)
    assert hold.lend(aside=True) is None
    await hold.take()
    await hold.end_loan(late, True, None)
    assert (crew.aside, slots.in_use, hold.taken) == (0, 1, True)
    again = hold.lend(aside=True)
    await hold.end_loan(again, True, None)
    assert (crew.aside, slots.in_use, hold.taken) == (0, 1, True)


async def test_an_item_is_not_counted_twice_that_waits_while_others_run_inside_it():
    crew = CountingCrew()
    hold = HeldSlot(Slots(1).here(), crew)
    await hold.take()
    first, second = hold.enter_run(), hold.enter_run()
    loan = hold.lend(aside=True)
    assert crew.idle == 1
    hold.leave_run(first)
    await hold.end_loan(loan, True, None)
    assert crew.idle == 1, "another run goes on"
    hold.end_item()
    hold.leave_run(second)
    assert crew.idle == 0


async def test_a_task_left_by_an_item_that_waits_for_its_slot_has_no_claim_to_it():
    slots = Slots(1).here()
    hold = HeldSlot(slots, CountingCrew())
    await hold.take()
    item = hold.lend(aside=False)
    await slots.take()
    waits = asyncio.create_task(hold.end_loan(item, False, None))
    await asyncio.sleep(0)
    hold.end_item()
    assert hold.lend(aside=False) is None
    slots.give_back()
    await waits
    assert (slots.in_use, hold.taken) == (0, False)


async def test_an_outer_nodes_attempt_is_visible_inside_an_inner_one():
    class Inner(AsyncNode):
        async def exec_async(self, prep_res):
            await asyncio.sleep(1)
            seen.append((outer.cur_retry, self.cur_retry))
            raise ValueError("inner")

    class Outer(Each):
        async def exec_async(self, item):
            await asyncio.sleep(item)
            await Inner(max_retries=2).run_async({})

    seen: list[Any] = []
    outer = Outer(max_retries=2, on_error="collect")
    await outer.run_async({"items": [0, 2.5]})
    assert seen == [(0, 0), (0, 1), (1, 0), (0, 0), (1, 1), (0, 1), (1, 0), (1, 1)]


class Busy(Each):
    """Each item is a list of things to do with its slot."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.log: dict[str, Any] = {"working": 0, "peak": 0, "left over": []}

    async def work(self):
        self.log["working"] += 1
        self.log["peak"] = max(self.log["peak"], self.log["working"])
        try:
            await asyncio.sleep(1)
        finally:
            self.log["working"] -= 1

    async def aside(self):
        await wait_aside(1)

    async def both(self):
        await asyncio.gather(wait_aside(1), wait_aside(2))

    async def again(self):
        await self.run_async({"items": [["work"], ["work", "aside"]]})

    async def again_twice(self):
        inside = ([["work"]], [["aside"]])
        await asyncio.gather(*(self.run_async({"items": items}) for items in inside))

    async def leave(self):
        self.log["left over"].append(asyncio.create_task(wait_aside(2.5)))

    async def exec_async(self, plan):
        for step in plan:
            await getattr(self, step)()


STEPS = st.sampled_from(["work", "aside", "both", "again", "again_twice", "leave"])


@examples(200)
@given(
    plans=st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=1, max_size=6),
    limit=st.integers(1, 3),
    cancel=st.one_of(st.none(), st.sampled_from([0.5, 1.5, 3.5, 7.5])),
)
def test_whatever_items_do_with_their_slots_none_is_lost_and_the_limit_holds(plans, limit, cancel):
    async def scenario():
        node = Busy(concurrency_limit=limit)
        task = asyncio.create_task(node.run_async({"items": plans}))
        await asyncio.wait([task], timeout=cancel or 10_000)
        if cancel:
            task.cancel()
            await asyncio.wait([task])
        assert task.done()
        left_over = node.log["left over"]
        await asyncio.gather(*left_over)
        assert node.running() == node.log["working"] == 0
        if not left_over:  # else an item works on while a part of it has lent its slot
            assert node.log["peak"] <= limit

    run_virtual(scenario())
