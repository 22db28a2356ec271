"""What users write must pass mypy strict and pyright; this file is checked, not run."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, assert_type

from llmflow.engine.results import Failure, NotRun, partial_results
from llmflow.flows import AsyncBatchFlow, AsyncFlow, AsyncParallelBatchFlow, BatchFlow, Flow
from llmflow.nodes import (
    AsyncBatchNode,
    AsyncNode,
    AsyncParallelBatchNode,
    BatchNode,
    Node,
)


async def call_llm_async(prompt: str) -> str:
    return prompt


class ParallelSummaries(AsyncParallelBatchNode):
    async def prep_async(self, shared):
        return shared["texts"]

    async def exec_async(self, text):
        return await call_llm_async(f"Summarize: {text}")

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["summary"] = "\n\n".join(exec_res_list)
        return "default"


class SummarizeMultipleFiles(AsyncParallelBatchFlow):
    async def prep_async(self, shared):
        return [{"filename": f} for f in shared["files"]]


class TypedSummaries(AsyncParallelBatchNode):
    async def prep_async(self, shared: dict[str, Any]) -> AsyncIterator[str]:
        async def texts() -> AsyncIterator[str]:
            for text in shared["texts"]:
                yield text

        return texts()

    async def exec_async(self, text: str) -> str:
        return await call_llm_async(text)

    async def exec_fallback_async(self, text: str, exc: Exception) -> str:
        return f"{text}: {exc}"

    async def post_async(
        self, shared: dict[str, Any], prep_res: AsyncIterator[str], exec_res_list: list[str]
    ) -> str:
        shared["summary"] = "\n\n".join(exec_res_list)
        return "default"


class Load(Node):
    def prep(self, shared: dict[str, Any]) -> str:
        return str(self.params["filename"])

    def exec(self, filename: str) -> bytes:
        return filename.encode()

    def exec_fallback(self, filename: str, exc: Exception) -> bytes:
        return b""

    def post(self, shared: dict[str, Any], filename: str, content: bytes) -> str | None:
        shared[filename] = content
        return None


class Lengths(BatchNode):
    def prep(self, shared: dict[str, Any]) -> list[str]:
        return list(shared["texts"])

    def exec(self, text: str) -> int:
        return len(text)

    def post(self, shared: dict[str, Any], prep_res: list[str], exec_res: list[int]) -> None:
        shared["lengths"] = exec_res


class EachFile(BatchFlow):
    def prep(self, shared: dict[str, Any]) -> list[dict[str, str]]:
        return [{"filename": name} for name in shared["files"]]

    def post(self, shared: dict[str, Any], prep_res: list[dict[str, str]], exec_res: None) -> str:
        shared["actions"] = self.last_results
        return "done"


class EachFileAsync(AsyncBatchFlow):
    async def prep_async(self, shared: dict[str, Any]) -> list[dict[str, str]]:
        return [{"filename": name} for name in shared["files"]]


node = ParallelSummaries(concurrency_limit=5)
typed = TypedSummaries(3, 0.5, True, 10.0, 50, timeout=30.0, on_error="collect")
AsyncBatchNode(max_retries=2, wait=1, timeout=1.5, on_error="collect")
AsyncNode(timeout=3)

load, lengths = Load(), Lengths()
assert_type(load >> lengths, Lengths)
assert_type(load.next(lengths, "again"), Lengths)
assert_type(load - "again" >> lengths, Lengths)
load - "stop" >> None
load >> lengths >> node

flow = Flow(start=load, max_steps=100)
assert_type(flow.start(lengths), Lengths)
EachFile(start=flow, on_error="collect", max_steps=None)
EachFileAsync(start=AsyncFlow(start=node))
parallel = SummarizeMultipleFiles(start=AsyncFlow(start=node), concurrency_limit=3)
assert_type(parallel.concurrency_limit, int | None)
assert_type(node.get_concurrent_task_count(), int)
assert_type(node.cur_retry, int)


async def main() -> None:
    try:
        await parallel.run_async({"files": ["a"]})
    except OSError as error:
        for result in partial_results(error) or ():
            if isinstance(result, Failure):
                assert_type(result.index, int)
                assert_type(result.error, BaseException)
            elif result is not NotRun:
                print(result)
