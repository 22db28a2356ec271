"""Summarize a folder of texts into one page: each text first, then groups of summaries.

    python examples/map_reduce_summaries.py [FOLDER]

Within a run: stop it at any moment, and run it again to go on. `llmflow runs rm map-reduce`
removes what is kept.

Runs on the built-in simulator. For a real model, set its name and the provider's key:

    LLMFLOW_MODEL=openai/gpt-6-luna OPENAI_API_KEY=... python examples/map_reduce_summaries.py
"""

import asyncio
import os
import sys
from pathlib import Path

from pydantic import BaseModel, Field

from llmflow import LLM, Budget, Run

TEXTS = Path(__file__).parent / "texts"
GROUP = 6  # summaries that become one in a step


class Summary(BaseModel):
    title: str
    points: list[str] = Field(min_length=1, max_length=5, description="One sentence each.")

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"- {point}" for point in self.points)])


llm = LLM(os.environ.get("LLMFLOW_MODEL", "sim/demo"), output_type=Summary)


async def summarize(texts: list[str], prompt: str) -> list[str]:
    results = await llm.map(texts, prompt=prompt, on_error="raise")
    return [str(result.parsed) for result in results]


async def main(folder: Path = TEXTS) -> None:
    texts = [path.read_text("utf-8") for path in sorted(folder.glob("*.txt"))]
    async with Run("map-reduce", budget=Budget(usd=1)) as run:
        summaries = await summarize(texts, "Summarize this text.\n\n{text}")
        while len(summaries) > 1:
            starts = range(0, len(summaries), GROUP)
            groups = ["\n\n".join(summaries[start : start + GROUP]) for start in starts]
            print(f"{len(summaries)} summaries -> {len(groups)}")
            summaries = await summarize(groups, "Make one summary of these.\n\n{text}")
    print(summaries[0])
    print(run.report())


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:2])))
