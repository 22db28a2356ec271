"""The contract that users of PocketFlow rely on."""

from __future__ import annotations

import asyncio
import copy
import pickle
import time
from typing import Any

import pytest

from llmflow.engine.graph import BaseNode
from llmflow.flows import AsyncBatchFlow, AsyncFlow, AsyncParallelBatchFlow, BatchFlow, Flow
from llmflow.nodes import AsyncNode, AsyncParallelBatchNode, BatchNode, Node


def names(kind):
    return [base.__name__ for base in kind.__mro__[:-1]]


def test_classes_inherit_in_the_known_order():
    assert names(AsyncParallelBatchNode) == [
        "AsyncParallelBatchNode",
        "AsyncNode",
        "BatchNode",
        "Node",
        "BaseNode",
    ]
    assert names(AsyncParallelBatchFlow) == [
        "AsyncParallelBatchFlow",
        "AsyncFlow",
        "BatchFlow",
        "Flow",
        "AsyncNode",
        "Node",
        "BaseNode",
    ]
    assert AsyncFlow().max_retries == 1


def test_constructor_arguments_have_their_known_order():
    node = AsyncParallelBatchNode(3, 0.5, True, 10, 7)
    assert (node.max_retries, node.wait, node.exponential_backoff, node.max_wait) == (
        3,
        0.5,
        True,
        10,
    )
    assert node.concurrency_limit == 7
    start = BaseNode()
    flow = AsyncParallelBatchFlow(start, 4)
    assert (flow.start_node, flow.concurrency_limit) == (start, 4)


class Log(BaseNode):
    def __init__(self, name: str, action: Any = None):
        super().__init__()
        self.name, self.action = name, action

    def prep(self, shared):
        shared["log"].append(self.name)

    def post(self, shared, prep_res, exec_res):
        return self.action


def test_nodes_chain_and_branch():
    a, b, c, d = Log("a"), Log("b", "left"), Log("c"), Log("d", "end")
    flow = Flow()
    assert flow.start(a) is a
    assert flow.start_node is a
    assert a.next(b) is b
    b - "left" >> c >> d
    b - "right" >> a
    shared: dict[str, Any] = {"log": []}
    assert flow.run(shared) == "end"
    assert shared["log"] == ["a", "b", "c", "d"]
    flow.start_node = d
    flow.run(shared)
    assert shared["log"][-1] == "d"
    flow.start_node = None
    assert flow.run(shared) is None


def test_an_action_must_be_a_string():
    with pytest.raises(TypeError, match="Action must be a string"):
        BaseNode() - 5


def test_the_three_warnings():
    node = Log("a")
    node - "x" >> Log("b")
    with pytest.warns(UserWarning, match=r"^Overwriting successor for action 'x'$"):
        node - "x" >> Log("c")
    with pytest.warns(UserWarning, match=r"^Node won't run successors\. Use Flow\.$"):
        node.run({"log": []})
    with pytest.warns(UserWarning, match=r"^Flow ends: 'None' not found in \['x'\]$"):
        Flow(start=node).run({"log": []})
    flow = AsyncFlow()
    flow >> Log("b")
    with pytest.warns(UserWarning, match=r"^Node won't run successors\. Use AsyncFlow\.$"):
        asyncio.run(flow.run_async({}))


class Fails(Node):
    """Fails as often as shared says; records the attempts."""

    def prep(self, shared):
        return shared

    def exec(self, shared):
        shared["seen"].append(self.cur_retry)
        if len(shared["seen"]) <= shared["failures"]:
            raise ValueError("no")
        return "ok"

    def post(self, shared, prep_res, exec_res):
        shared["out"] = exec_res


class FailsAsync(AsyncNode):
    async def prep_async(self, shared):
        return shared

    async def exec_async(self, shared):
        shared["seen"].append(self.cur_retry)
        if len(shared["seen"]) <= shared["failures"]:
            raise ValueError("no")
        return "ok"

    async def post_async(self, shared, prep_res, exec_res):
        shared["out"] = exec_res


def run(node, shared):
    if isinstance(node, AsyncNode):
        return asyncio.run(node.run_async(shared))
    return node.run(shared)


@pytest.fixture
def sleeps(monkeypatch):
    """Record every sleep, and make it take no time."""
    recorded: list[Any] = []

    async def sleep_async(*args: Any) -> None:
        recorded.append(args)

    monkeypatch.setattr(time, "sleep", lambda *args: recorded.append(args))
    monkeypatch.setattr(asyncio, "sleep", sleep_async)
    return recorded


@pytest.mark.parametrize("kind", [Fails, FailsAsync])
def test_max_retries_counts_attempts_and_cur_retry_stays_readable(kind):
    node = kind(max_retries=3)
    shared: dict[str, Any] = {"seen": [], "failures": 2}
    run(node, shared)
    assert shared["seen"] == [0, 1, 2]
    assert shared["out"] == "ok"
    assert node.cur_retry == 2


@pytest.mark.parametrize("kind", [Fails, FailsAsync])
def test_the_last_error_surfaces_with_its_own_type(kind):
    node = kind(max_retries=2)
    with pytest.raises(ValueError, match="no"):
        run(node, {"seen": [], "failures": 9})
    assert node.cur_retry == 1


@pytest.mark.parametrize("kind", [Fails, FailsAsync])
@pytest.mark.parametrize(
    ("settings", "waits"),
    [
        ({"wait": 0}, []),
        ({"wait": 0, "exponential_backoff": True}, []),
        ({"wait": 1.0}, [(1.0,), (1.0,), (1.0,)]),
        ({"wait": 0.5, "exponential_backoff": True}, [(0.5,), (1.0,), (2.0,)]),
        ({"wait": 1, "exponential_backoff": True, "max_wait": 3}, [(1,), (2,), (3,)]),
        ({"wait": 9, "max_wait": 2}, [(2,), (2,), (2,)]),
    ],
)
def test_waits_are_exact_and_go_through_sleep_with_one_argument(kind, settings, waits, sleeps):
    run(kind(max_retries=4, **settings), {"seen": [], "failures": 3})
    assert sleeps == waits


def test_the_wait_after_an_attempt_can_be_asked_for():
    node = Node(wait=1.0, exponential_backoff=True, max_wait=5.0)
    assert [node._get_wait_time(i) for i in (0, 1, 2, 3, 10_000)] == [1, 2, 4, 5, 5]
    assert Node(wait=2.0)._get_wait_time(7) == 2.0
    assert Node(exponential_backoff=True)._get_wait_time(5) == 0
    assert Node(wait=1e9, exponential_backoff=True)._get_wait_time(10_000) > 1e300


def test_max_retries_lowered_to_zero_later_still_means_one_attempt():
    node = Fails()
    node.max_retries = 0
    shared: dict[str, Any] = {"seen": [], "failures": 0}
    node.run(shared)
    assert shared["out"] == "ok"


def test_the_fallbacks_value_becomes_the_result_and_may_raise_bare():
    class Falls(Fails):
        def exec_fallback(self, shared, exc):
            if shared["failures"] == 8:
                raise  # noqa: PLE0704 (called while the error is being handled)
            return f"fallback after {exc}"

    shared: dict[str, Any] = {"seen": [], "failures": 9}
    Falls(max_retries=2).run(shared)
    assert shared["out"] == "fallback after no"
    with pytest.raises(ValueError, match="no"):
        Falls().run({"seen": [], "failures": 8})


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_is_neither_retried_nor_given_to_the_fallback(error):
    calls = []

    class Interrupted(Node):
        def exec(self, prep_res):
            calls.append("exec")
            raise error

        def exec_fallback(self, prep_res, exc):
            calls.append("fallback")

    with pytest.raises(error):
        Interrupted(max_retries=3).run({})
    assert calls == ["exec"]


def test_cur_retry_may_be_assigned_without_effect_on_the_attempts():
    class Assigns(Fails):
        def exec(self, shared):
            self.cur_retry = 99
            return super().exec(shared)

    shared: dict[str, Any] = {"seen": [], "failures": 2}
    Assigns(max_retries=3).run(shared)
    assert shared["seen"] == [0, 1, 2]


def test_a_batch_is_sequential_and_each_item_has_its_own_attempts_and_fallback():
    calls = []

    class Batch(BatchNode):
        def prep(self, shared):
            return (n for n in range(3))

        def exec(self, item):
            calls.append((item, self.cur_retry))
            if item == 1:
                raise ValueError
            return item

        def exec_fallback(self, item, exc):
            return f"fallback {item}"

        def post(self, shared, prep_res, exec_res):
            return exec_res

    assert Batch(max_retries=2).run({}) == [0, "fallback 1", 2]
    assert calls == [(0, 0), (1, 0), (1, 1), (2, 0)]


def test_post_replaced_on_an_instance_is_honoured():
    node = Node()
    node.post = lambda shared, prep_res, exec_res: "mine"
    assert Flow(start=node).run({}) == "mine"
    flow = AsyncFlow(start=node)

    async def post(shared, prep_res, exec_res):
        return exec_res + "!"

    flow.post_async = post
    assert asyncio.run(flow.run_async({})) == "mine!"


def test_attributes_written_in_a_visit_do_not_reach_the_next():
    class Counter(Node):
        count = 0

        def post(self, shared, prep_res, exec_res):
            self.count += 1
            shared["counts"].append(self.count)
            return "again" if len(shared["counts"]) < 3 else "done"

    node = Counter()
    node - "again" >> node
    node - "done" >> None
    shared: dict[str, Any] = {"counts": []}
    Flow(start=node).run(shared)
    assert shared["counts"] == [1, 1, 1]


class SeesParams(Node):
    def post(self, shared, prep_res, exec_res):
        shared.append(dict(self.params))


def test_flow_params_replace_the_nodes_own():
    node = SeesParams()
    node.set_params({"mine": 1})
    flow = Flow(start=node)
    flow.set_params({"flow": 2})
    seen: list[Any] = []
    flow.run(seen)
    node.run(seen)
    assert seen == [{"flow": 2}, {"mine": 1}]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("sync_inside", [False, True])
def test_params_of_nested_batch_flows_merge(parallel, sync_inside):
    async_kind = AsyncParallelBatchFlow if parallel else AsyncBatchFlow

    class Outer(async_kind):
        async def prep_async(self, shared):
            return [{"dir": d} for d in "xy"]

    class Inner(BatchFlow):
        def prep(self, shared):
            return [{"file": f"{self.params['dir']}{n}"} for n in range(2)]

    class InnerAsync(AsyncBatchFlow):
        async def prep_async(self, shared):
            return [{"file": f"{self.params['dir']}{n}"} for n in range(2)]

    flow = Outer(start=(Inner if sync_inside else InnerAsync)(start=SeesParams()))
    flow.set_params({"own": 1})
    seen: list[Any] = []
    asyncio.run(flow.run_async(seen))
    assert sorted(seen, key=lambda p: p["file"]) == [
        {"own": 1, "dir": "x", "file": "x0"},
        {"own": 1, "dir": "x", "file": "x1"},
        {"own": 1, "dir": "y", "file": "y0"},
        {"own": 1, "dir": "y", "file": "y1"},
    ]


def test_every_node_and_branch_sees_the_same_shared_object():
    class Sees(AsyncNode):
        async def post_async(self, shared, prep_res, exec_res):
            shared["ids"].add(id(shared))

    class Fan(AsyncParallelBatchFlow):
        async def prep_async(self, shared):
            return [{}] * 3

    shared: dict[str, Any] = {"ids": set()}
    asyncio.run(Fan(start=AsyncFlow(start=Sees())).run_async(shared))
    assert shared["ids"] == {id(shared)}


@pytest.mark.parametrize("kind", [BatchFlow, AsyncBatchFlow, AsyncParallelBatchFlow])
def test_a_batch_flow_posts_none(kind):
    posted = []

    class Sync(BatchFlow):
        def prep(self, shared):
            return [{}]

        def post(self, shared, prep_res, exec_res):
            posted.append((prep_res, exec_res))
            return "done"

    if kind is BatchFlow:
        assert Sync(start=Log("a", "x")).run({"log": []}) == "done"
    else:

        class Async(kind):
            async def prep_async(self, shared):
                return [{}]

            async def post_async(self, shared, prep_res, exec_res):
                posted.append((prep_res, exec_res))
                return "done"

        assert asyncio.run(Async(start=Log("a", "x")).run_async({"log": []})) == "done"
    assert posted == [([{}], None)]


@pytest.mark.virtual_time
async def test_context_variables_of_the_caller_are_visible_in_exec():
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable")

    class Reads(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return range(3)

        async def exec_async(self, item):
            return variable.get()

        async def post_async(self, shared, prep_res, exec_res):
            return exec_res

    variable.set("from the caller")
    assert await Reads(concurrency_limit=2).run_async({}) == ["from the caller"] * 3
    assert await AsyncFlow(start=Reads()).run_async({}) == ["from the caller"] * 3


def test_copies_share_the_limit_but_deep_and_pickled_copies_do_not():
    node = AsyncParallelBatchNode(concurrency_limit=3)
    assert copy.copy(node)._slots is node._slots
    for other in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert other._slots is not node._slots
        assert other.concurrency_limit == 3


def test_the_limit_can_be_set_later_and_is_checked_then_too():
    node = AsyncParallelBatchNode()
    node.concurrency_limit = 3
    assert node.concurrency_limit == 3
    with pytest.raises(ValueError, match="concurrency_limit must be at least 1"):
        node.concurrency_limit = 0


def test_attributes_that_users_choose_do_not_collide_with_settings():
    class Mine(AsyncParallelBatchNode):
        def __init__(self):
            super().__init__()
            self.timeout, self.on_error, self.results = 1e-9, "x", "y"

        async def prep_async(self, shared):
            return [1]

        async def exec_async(self, item):
            await asyncio.sleep(0.001)
            return item

        async def post_async(self, shared, prep_res, exec_res):
            return exec_res

    assert asyncio.run(Mine().run_async({})) == [1]
