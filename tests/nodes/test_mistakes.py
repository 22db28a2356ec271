"""Likely mistakes in nodes are named with the line to write."""

from __future__ import annotations

from typing import Any

import pytest

from llmflow import LLM, AsyncNode, AsyncParallelBatchNode, BatchNode
from llmflow.errors import UsageError
from llmflow.testing import ScriptedProvider


class Forgetful(AsyncParallelBatchNode):
    async def prep_async(self, shared: Any) -> Any:
        return shared

    async def exec_async(self, item: Any) -> Any:
        return LLM(ScriptedProvider())(item)  # no await


async def test_a_forgotten_await_is_named() -> None:
    with pytest.raises(
        UsageError, match=r"Forgetful\.exec_async returned the coroutine LLM.*await"
    ):
        await Forgetful().run_async(["text"])


class OneText(AsyncParallelBatchNode):
    async def prep_async(self, shared: Any) -> Any:
        return shared


async def test_one_text_is_not_taken_for_a_list_of_characters() -> None:
    with pytest.raises(TypeError, match=r"return a list: \[text\]"):
        await OneText().run_async("200 kilobytes of text")


def test_one_text_is_not_taken_for_a_list_in_a_sync_batch_either() -> None:
    class Sync(BatchNode):
        def prep(self, shared: Any) -> Any:
            return shared

    with pytest.raises(TypeError, match=r"return a list: \[text\]"):
        Sync().run(b"bytes")


async def test_a_single_node_may_work_on_one_text() -> None:
    class Single(AsyncNode):
        async def prep_async(self, shared: Any) -> Any:
            return "text"

        async def exec_async(self, text: Any) -> Any:
            return len(text)

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            return exec_res

    assert await Single().run_async({}) == 4
