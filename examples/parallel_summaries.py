"""Summarise many texts at once, at most five at a time.

    python examples/parallel_summaries.py

Runs on the built-in simulator. For a real model, set its name and the provider's key:

    LLMFLOW_MODEL=openai/gpt-6-luna OPENAI_API_KEY=... python examples/parallel_summaries.py
"""

import asyncio
import os
from pathlib import Path

from llmflow import LLM, AsyncFlow, AsyncParallelBatchNode

TEXTS = Path(__file__).parent / "texts"

call_llm_async = LLM(os.environ.get("LLMFLOW_MODEL", "sim/demo"))


class ParallelSummaries(AsyncParallelBatchNode):
    async def prep_async(self, shared):
        # e.g., multiple texts
        return shared["texts"]

    async def exec_async(self, text):
        prompt = f"Summarize: {text}"
        return await call_llm_async(prompt)

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["summary"] = "\n\n".join(exec_res_list)
        return "default"


async def main() -> None:
    node = ParallelSummaries(concurrency_limit=5)
    flow = AsyncFlow(start=node)
    shared = {"texts": [path.read_text("utf-8") for path in sorted(TEXTS.glob("*.txt"))]}
    await flow.run_async(shared)
    print(shared["summary"])


if __name__ == "__main__":
    asyncio.run(main())
