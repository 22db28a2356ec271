"""Label many texts by the provider's batch API: half the price, and hours instead of minutes.

    python examples/overnight_labels.py

Stop it at any moment, and run it again: its job is found, and nothing is sent twice. With
``mode="parallel"`` the same node asks at once. `llmflow runs rm overnight-labels` removes
what is kept.

Runs on the built-in simulator, whose jobs take seconds. For a real model, set its name and
the provider's key:

    LLMFLOW_MODEL=openai/gpt-6-luna OPENAI_API_KEY=... python examples/overnight_labels.py
"""

import asyncio
import os
from pathlib import Path

from llmflow import LLM, BatchInferenceNode, Budget, Run

TEXTS = Path(__file__).parent / "texts"


class Labels(BatchInferenceNode):
    async def prep_async(self, shared):
        return shared["texts"]

    def request(self, text):
        return {"prompt": f"Name the subject of this text: {text}", "max_tokens": 20}

    def result(self, text, response):
        return response.text.strip()

    async def post_async(self, shared, prep_res, exec_res_list):
        shared["labels"] = exec_res_list


async def main() -> None:
    llm = LLM(os.environ.get("LLMFLOW_MODEL", "sim/demo"))
    shared = {"texts": [path.read_text("utf-8") for path in sorted(TEXTS.glob("*.txt"))]}
    async with Run("overnight-labels", budget=Budget(usd=1)) as run:
        await Labels(llm=llm, deadline="12h", fallback="parallel").run_async(shared)
    for label in shared["labels"]:
        print(label)
    print(run.report())


if __name__ == "__main__":
    asyncio.run(main())
