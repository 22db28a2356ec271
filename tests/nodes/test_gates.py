"""A gate of the user's own before each attempt of a node."""

from __future__ import annotations

import asyncio
from typing import Any

import aiolimiter
import pytest

from llmflow import AsyncBatchNode, AsyncFlow, AsyncNode, AsyncParallelBatchNode
from llmflow.errors import ConfigurationError, UsageError


class CountingGate:
    """Lets one through every second of virtual time."""

    def __init__(self) -> None:
        self.passed = 0

    async def acquire(self) -> None:
        self.passed += 1
        await asyncio.sleep(1)


class Flaky:
    failures = 2

    async def prep_async(self, shared: Any) -> Any:
        return shared["items"]

    async def exec_async(self, item: Any) -> Any:
        if self.failures:
            Flaky.failures -= 1
            raise OSError("try again")
        return item

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        shared["out"] = exec_res


class One(Flaky, AsyncNode):
    pass


class Many(Flaky, AsyncBatchNode):
    pass


class Parallel(Flaky, AsyncParallelBatchNode):
    pass


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", [One, Many, Parallel])
async def test_the_gate_is_passed_before_each_attempt(kind: type[AsyncNode]) -> None:
    Flaky.failures = 2
    gate = CountingGate()
    shared = {"items": ["a", "b", "c"]}
    await AsyncFlow(start=kind(max_retries=3, gate=gate)).run_async(shared)
    assert shared["out"] == ["a", "b", "c"]
    assert gate.passed == (3 if kind is One else 5)


async def test_an_aiolimiter_paces_the_items_of_a_parallel_node() -> None:
    Flaky.failures = 0
    shared: dict[str, Any] = {"items": range(10)}
    started = asyncio.get_running_loop().time()
    await Parallel(gate=aiolimiter.AsyncLimiter(5, 0.25)).run_async(shared)
    assert asyncio.get_running_loop().time() - started >= 0.25 * 0.98
    assert shared["out"] == list(range(10))


def test_what_cannot_be_acquired_is_no_gate() -> None:
    with pytest.raises(ConfigurationError, match="acquire"):
        Parallel(gate=5)  # type: ignore[arg-type]


def test_a_limit_in_the_class_body_is_refused_with_the_right_line() -> None:
    with pytest.raises(UsageError, match=r"Wrong\(concurrency_limit=5\)"):

        class Wrong(AsyncParallelBatchNode):
            concurrency_limit = 5
