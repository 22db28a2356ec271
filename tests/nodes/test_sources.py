"""What prep may return, and how lazily it is read."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from llmflow.engine.results import NotRun, partial_results
from llmflow.flows import AsyncBatchFlow, AsyncParallelBatchFlow
from llmflow.nodes import AsyncBatchNode, AsyncNode, AsyncParallelBatchNode, BatchNode


class Source:
    """An async iterator that is no generator, and so has no aclose."""

    def __init__(self, count: int):
        self.left = list(range(count))

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)


class Closing:
    """An async generator's items, and whether it was closed."""

    def __init__(self, count: int, pause: float = 0.0):
        self.count, self.pause, self.closed = count, pause, 0

    async def __aiter__(self):
        try:
            for number in range(self.count):
                await asyncio.sleep(self.pause)
                yield number
        finally:
            await asyncio.sleep(0)
            self.closed += 1


def make(kind, **kwargs):
    class Double(kind):
        async def prep_async(self, shared):
            return shared["items"]

        async def exec_async(self, item):
            if item == self.params.get("bad"):
                raise ValueError(item)
            await asyncio.sleep(self.params.get("work", 0))
            return item * 2

        async def post_async(self, shared, prep_res, exec_res):
            return exec_res

    return Double(**kwargs)


KINDS = pytest.mark.parametrize("kind", [AsyncBatchNode, AsyncParallelBatchNode])


@KINDS
@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "items",
    [
        lambda: [0, 1, 2],
        lambda: (0, 1, 2),
        lambda: range(3),
        lambda: (n for n in range(3)),
        lambda: dict.fromkeys(range(3)),
        lambda: Source(3),
        lambda: Closing(3),
    ],
)
async def test_anything_to_iterate_over_will_do(kind, items):
    assert await make(kind).run_async({"items": items()}) == [0, 2, 4]


@KINDS
@pytest.mark.virtual_time
async def test_what_cannot_be_iterated_over_is_named(kind):
    with pytest.raises(TypeError, match=r"prep of Double must return .* it returned 5"):
        await make(kind).run_async({"items": 5})


def test_a_sync_node_refuses_an_async_iterable():
    class Lines(BatchNode):
        def prep(self, shared):
            return Source(1)

    with pytest.raises(TypeError, match="Lines is sync and cannot read the async iterable"):
        Lines().run({})


@pytest.mark.virtual_time
async def test_a_blocked_source_does_not_stop_running_items_from_finishing():
    finished = []

    async def items():
        yield 1
        yield 2
        await asyncio.sleep(100)
        yield 3

    class Node_(AsyncParallelBatchNode):
        async def prep_async(self, shared):
            return items()

        async def exec_async(self, item):
            await asyncio.sleep(1)
            finished.append((item, asyncio.get_running_loop().time()))

    await Node_(concurrency_limit=2).run_async({})
    assert finished == [(1, 1), (2, 1), (3, 101)]


@pytest.mark.virtual_time
async def test_an_endless_source_is_read_only_as_far_as_there_is_room():
    async def endless():
        number = 0
        while True:
            read.append(number)
            yield number
            number += 1

    read: list[int] = []
    node = make(AsyncParallelBatchNode, concurrency_limit=3)
    node.set_params({"work": 1})
    task = asyncio.create_task(node.run_async({"items": endless()}))
    await asyncio.sleep(10.5)
    assert len(read) <= 33 + 3 + 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    results = partial_results(caught.value)
    assert results is not None
    assert results[:30] == [n * 2 for n in range(30)]
    assert results[-1] is NotRun


@KINDS
@pytest.mark.virtual_time
async def test_a_generator_is_closed_after_a_failure(kind):
    source = Closing(1000, pause=0.1)
    node = make(kind)
    node.set_params({"bad": 3})
    with pytest.raises(ValueError, match="3"):
        await node.run_async({"items": source})
    assert source.closed == 1


@KINDS
@pytest.mark.virtual_time
async def test_a_generator_is_closed_after_a_cancellation(kind):
    source = Closing(1000, pause=0.1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5.05):
            await make(kind).run_async({"items": source})
    assert source.closed == 1


@pytest.mark.virtual_time
async def test_a_generator_that_ignores_the_cancellation_is_stopped_all_the_same():
    async def stubborn():
        for number in range(1000):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
            yield number

    node = make(AsyncParallelBatchNode, concurrency_limit=2)
    node.set_params({"bad": 3})
    with pytest.raises(ValueError, match="3"):
        await node.run_async({"items": stubborn()})


@pytest.mark.virtual_time
@pytest.mark.parametrize("on_error", ["raise", "collect"])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_of_the_source_ends_the_run_and_keeps_the_results(on_error, stream):
    """Items at work are cancelled only where failures are not collected."""

    def broken():
        yield 1
        yield 2
        raise OSError("disk")

    async def broken_stream():
        for item in (1, 2):
            yield item
            await asyncio.sleep(1)
        raise OSError("disk")

    node = make(AsyncParallelBatchNode, on_error=on_error)
    node.set_params({"work": 1.5})
    with pytest.raises(OSError, match="disk") as caught:
        await node.run_async({"items": broken_stream() if stream else broken()})
    finished = [2, 4] if on_error == "collect" else [2 if stream else NotRun, NotRun]
    assert partial_results(caught.value) == finished


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
async def test_an_error_of_the_source_of_a_batch_in_turn_keeps_the_results(error):
    def broken():
        yield 1
        yield 2
        raise error

    class InTurn(BatchNode):
        def prep(self, shared):
            return broken()

        def exec(self, item):
            return item * 2

    with pytest.raises(type(error)) as caught:
        await make(AsyncBatchNode).run_async({"items": broken()})
    assert partial_results(caught.value) == [2, 4]
    with pytest.raises(type(error)) as caught:
        InTurn().run({})
    assert partial_results(caught.value) == [2, 4]


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", [AsyncBatchFlow, AsyncParallelBatchFlow])
async def test_flows_read_async_generators_too(kind):
    class Last(AsyncNode):
        async def post_async(self, shared, prep_res, exec_res):
            return self.params["n"]

    class Runs(kind):
        async def prep_async(self, shared):
            return self.parameters()

        async def parameters(self):
            for n in range(3):
                await asyncio.sleep(1)
                yield {"n": n}

    flow = Runs(start=Last())
    shared: dict[str, Any] = {}
    await flow.run_async(shared)
    assert flow.last_results == [0, 1, 2]
