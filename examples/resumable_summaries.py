"""Summarise many texts within a run: stop it at any moment, and run it again to go on.

    python examples/resumable_summaries.py

The second time, nothing is asked: every answer comes from the run's journal. Change the
prompt or a text, and exactly that is asked. `llmflow runs` lists what is kept, and
`llmflow runs rm resumable-summaries` removes it.

Runs on the built-in simulator. For a real model, set its name and the provider's key:

    LLMFLOW_MODEL=openai/gpt-6-luna OPENAI_API_KEY=... python examples/resumable_summaries.py
"""

import asyncio
import os
from pathlib import Path

from llmflow import LLM, AsyncFlow, AsyncNode, AsyncParallelBatchNode, Budget, Run

TEXTS = Path(__file__).parent / "texts"

llm = LLM(os.environ.get("LLMFLOW_MODEL", "sim/demo"), max_tokens=200)


class Summaries(AsyncParallelBatchNode):
    async def prep_async(self, shared):
        return shared["texts"]

    async def exec_async(self, text):
        return await llm(f"Summarize: {text}")

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["summaries"] = exec_res_list


class Overview(AsyncNode):
    async def prep_async(self, shared):
        return "\n".join(shared["summaries"])

    async def exec_async(self, summaries):
        return await llm(f"Summarize in one sentence: {summaries}")

    async def post_async(self, shared, prep_res, exec_res):
        shared["overview"] = exec_res


async def main() -> None:
    summaries = Summaries(concurrency_limit=5)
    _ = summaries >> Overview()
    shared = {"texts": [path.read_text("utf-8") for path in sorted(TEXTS.glob("*.txt"))]}
    async with Run("resumable-summaries", budget=Budget(usd=1)) as run:
        await AsyncFlow(start=summaries).run_async(shared)
        print(shared["overview"])
    print(run.report())


if __name__ == "__main__":
    asyncio.run(main())
