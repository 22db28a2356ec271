"""What people write from habit is refused with what to write instead."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from llmflow import (
    LLM,
    AsyncFlow,
    AsyncNode,
    AsyncParallelBatchNode,
    Batch,
    BatchInferenceNode,
    Budget,
    Flow,
    Node,
    Price,
    Quota,
    Retry,
    Run,
    UsageError,
)
from llmflow.errors import InputError
from llmflow.testing import ScriptedProvider
from llmflow.types import Request


def llm(**options: Any) -> LLM:
    return LLM(ScriptedProvider(), **options)


class Frame:
    """What a frame of another library looks like."""

    columns = ("text",)


WRITTEN: list[tuple[str, Callable[[], Any], str]] = [
    ("Budget(5)", lambda: Budget(5), "write Budget(usd=5)"),  # type: ignore[misc]
    ("Budget(dollars)", lambda: Budget(dollars=5), "did you mean 'usd'?"),  # type: ignore[call-arg]
    ("Retry(3)", lambda: Retry(3), "write Retry(attempts=3)"),  # type: ignore[misc]
    ("Retry(max_retries)", lambda: Retry(max_retries=3), "'attempts'?"),  # type: ignore[call-arg]
    ("Quota(500)", lambda: Quota(500), "write Quota(rpm=500)"),  # type: ignore[misc]
    ("Quota(requests)", lambda: Quota(requests=5), "'rpm'?"),  # type: ignore[call-arg]
    ("Quota(concurrency)", lambda: Quota(concurrency=5), "'max_concurrent'?"),  # type: ignore[call-arg]
    ("Batch(100)", lambda: Batch(100), "write Batch(requests=100)"),  # type: ignore[misc]
    ("Batch(rows)", lambda: Batch(rows=100), "'requests'?"),  # type: ignore[call-arg]
    ("Price(1, 2)", lambda: Price(1, 2), "write Price(input=1, output=2)"),  # type: ignore[misc]
    ("LLM text", lambda: LLM("sim/demo", "Hi"), "llm.run(prompt), or await llm(prompt)"),  # type: ignore[misc]
    ("LLM retry", lambda: llm(retry=3), "such as Retry(attempts=3)"),
    ("LLM price", lambda: llm(price=1), "such as Price(input=1, output=2)"),
    ("LLM quota", lambda: llm(quota=500), "such as Quota(rpm=500)"),
    ("LLM rpm", lambda: llm(rpm=500), "write quota=Quota(rpm=...)"),
    ("Run budget", lambda: Run(budget=5), "such as Budget(usd=5)"),  # type: ignore[arg-type]
    ("Run(a, 5)", lambda: Run("a", 5), "write Run(name, budget=5)"),  # type: ignore[misc]
    ("Run total", lambda: Run(total=["a"]), "such as len(items)"),  # type: ignore[arg-type]
    ("Run total below 0", lambda: Run(total=-1), "such as len(items)"),
    ("Run progress", lambda: Run(progress="yes"), "True or False"),  # type: ignore[arg-type]
    ("map progress", lambda: llm().map(["a"], progress=1), "True or False"),  # type: ignore[call-overload]
    ("map text", lambda: llm().map_sync(["a"], "{it}"), 'prompt="Summarize: {text}"'),  # type: ignore[call-overload]
    ("for in map", lambda: list(llm().map(["a"])), "async for result in llm.map"),  # type: ignore[call-overload]
    ("map texts", lambda: llm().map(["a"]).texts(), "(await llm.map(...))"),  # type: ignore[attr-defined]
    ("many texts", lambda: llm().run(["a", "b"]), "llm.map_sync(items"),  # type: ignore[list-item]
    ("a frame", lambda: llm().run(Frame()), "llm.map_sync(items"),  # type: ignore[arg-type]
    ("one message", lambda: llm().run({"role": "user", "content": "Hi"}), "[message]"),  # type: ignore[arg-type]
    ("inference", lambda: BatchInferenceNode("sim/demo"), "BatchInferenceNode(llm=...)"),  # type: ignore[arg-type]
    ("inference LLM", lambda: BatchInferenceNode(llm()), "BatchInferenceNode(llm=...)"),  # type: ignore[arg-type]
    ("node", lambda: AsyncParallelBatchNode(concurrency=5), "'concurrency_limit'?"),  # type: ignore[call-arg]
    ("a class", lambda: Flow(start=Node), "write Node()"),  # type: ignore[arg-type]
    ("a class after", lambda: Node() >> AsyncNode, "write AsyncNode()"),  # type: ignore[operator]
]


@pytest.mark.parametrize(
    ("write", "said"), [each[1:] for each in WRITTEN], ids=[each[0] for each in WRITTEN]
)
def test_the_error_says_what_to_write(write: Callable[[], Any], said: str) -> None:
    with pytest.raises((UsageError, TypeError, AttributeError), match=re.escape(said)):
        write()


def test_a_prompt_function_that_asks_is_told_so() -> None:
    provider = ScriptedProvider()
    model = LLM(provider)
    failed = model.map_sync(["a", "b"], prompt=lambda item: model(item))  # type: ignore[arg-type, return-value]
    assert [type(each.error) for each in failed] == [InputError] * 2
    assert "it returns what to ask, and does not ask" in str(failed[1].error)
    assert provider.requests == []


def test_a_map_that_is_not_begun_says_so_and_has_no_other_attributes() -> None:
    answers = llm().map(["a"])
    assert repr(answers) == "<llm.map: not begun>"
    assert not hasattr(answers, "texts")
    assert not hasattr(answers, "__len__")

    async def main() -> list[str]:
        return (await answers).texts()

    assert asyncio.run(main()) == ["ok"]
    assert repr(answers) == "<llm.map: of 1 item, 1 was answered, 0 failed, 0 have neither>"


@pytest.mark.parametrize("hook", ["prep", "exec", "post"])
def test_an_async_method_of_a_plain_node_that_is_never_called_is_warned_of(hook: str) -> None:
    async def method(self: Any, *arguments: Any) -> None: ...

    for kind in (Node, Flow):
        with pytest.warns(UserWarning, match=f"Mine.{hook}_async is never called") as caught:
            mine = type("Mine", (kind,), {f"{hook}_async": method})
        assert caught[0].filename == __file__
        assert mine
    for asynchronous in (AsyncNode, AsyncFlow, AsyncParallelBatchNode):
        assert type("Mine", (asynchronous,), {f"{hook}_async": method})


def test_other_names_are_as_they_were() -> None:
    asked: list[Request] = []
    LLM(ScriptedProvider(default=lambda request: asked.append(request) or "ok")).run("Hi")
    assert len(asked) == 1
    assert Run(total=0, progress=False).name is None
