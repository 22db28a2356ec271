"""Run a small flow for every file, at most three files at a time.

    python examples/summarize_files.py [FILE ...]

Runs on the built-in simulator. For a real model, set its name and the provider's key:

    LLMFLOW_MODEL=openai/gpt-6-luna OPENAI_API_KEY=... python examples/summarize_files.py
"""

import asyncio
import os
import sys
from pathlib import Path

from llmflow import LLM, AsyncFlow, AsyncNode, AsyncParallelBatchFlow

TEXTS = Path(__file__).parent / "texts"

llm = LLM(os.environ.get("LLMFLOW_MODEL", "sim/demo"))


class LoadAndSummarizeFile(AsyncNode):
    async def prep_async(self, shared):
        # Each run of the flow has its own params; `shared` is one for all.
        return Path(self.params["filename"]).read_text("utf-8")

    async def exec_async(self, text):
        return await llm(f"Summarize: {text}")

    async def post_async(self, shared, prep_res, exec_res):
        # A key of its own for every run: runs at the same time do not overwrite each other.
        shared["summaries"][self.params["filename"]] = exec_res
        return "default"


class SummarizeMultipleFiles(AsyncParallelBatchFlow):
    async def prep_async(self, shared):
        return [{"filename": f} for f in shared["files"]]


async def main(files: list[str]) -> None:
    shared = {"files": files, "summaries": {}}
    sub_flow = AsyncFlow(start=LoadAndSummarizeFile())
    parallel_flow = SummarizeMultipleFiles(start=sub_flow, concurrency_limit=3)
    await parallel_flow.run_async(shared)
    for name in files:
        print(f"{Path(name).stem}: {shared['summaries'][name]}\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or [str(path) for path in sorted(TEXTS.glob("*.txt"))[:9]]))
