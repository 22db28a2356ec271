"""Summarise every text of a folder, and print each summary as soon as it is there.

    python examples/map_texts.py [FOLDER]

Runs on the built-in simulator. For a real model, set its name and the provider's key:

    LLMFLOW_MODEL=openai/gpt-6-luna OPENAI_API_KEY=... python examples/map_texts.py
"""

import asyncio
import os
import sys
from pathlib import Path

from llmflow import LLM

TEXTS = Path(__file__).parent / "texts"

llm = LLM(os.environ.get("LLMFLOW_MODEL", "sim/demo"))


def rows(folder: Path):
    # A generator: texts are read as answers are taken, however many there are.
    for path in sorted(folder.glob("*.txt")):
        yield {"name": path.stem, "text": path.read_text("utf-8")}


async def main(folder: Path = TEXTS) -> None:
    failed = 0
    async for result in llm.map(rows(folder), prompt="Summarize: {text}"):
        if result.error is None:
            print(f"{result.item['name']}: {result.text}\n")
        else:
            failed += 1
            print(f"{result.item['name']} failed: {result.error}\n", file=sys.stderr)
    if failed:
        sys.exit(f"{failed} texts failed")


if __name__ == "__main__":
    asyncio.run(main(*map(Path, sys.argv[1:2])))
