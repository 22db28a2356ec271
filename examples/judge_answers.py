"""Judge answers with a second model: a grade and a reason for each, as data.

    python examples/judge_answers.py

Runs on the built-in simulator, which makes up grades that fit. For real models, set their names
and the providers' keys. A judge of another family than the writer favours its own style less.

    LLMFLOW_MODEL=openai/gpt-6-luna LLMFLOW_JUDGE=anthropic/claude-sonnet-5 ...
"""

import asyncio
import os
from statistics import mean
from typing import Literal

from pydantic import BaseModel, Field

from llmflow import LLM

QUESTIONS = [
    "Why does the tide rise twice a day?",
    "How does a bee tell others where the flowers are?",
    "Why is the sky blue at noon and red at dusk?",
]


class Verdict(BaseModel):
    # The reason first: the grade that follows it is better founded.
    reason: str = Field(description="One sentence.")
    grade: int = Field(ge=1, le=5, description="5 is best.")
    fault: Literal["none", "wrong", "incomplete", "unclear"]


writer = LLM(os.environ.get("LLMFLOW_MODEL", "sim/writer"), max_tokens=200)
judge = LLM(os.environ.get("LLMFLOW_JUDGE", "sim/judge"), temperature=0, output_type=Verdict)


async def main() -> None:
    answers = await writer.map(QUESTIONS)
    pairs = [{"question": each.item, "answer": each.text} for each in answers]
    prompt = "Grade this answer.\n\nQuestion: {question}\n\nAnswer: {answer}"
    verdicts = [result.parsed for result in await judge.map(pairs, prompt=prompt)]
    for question, verdict in zip(QUESTIONS, verdicts, strict=True):
        print(f"{verdict.grade}  {verdict.fault:<10}  {question}")
    print(f"{mean(verdict.grade for verdict in verdicts):.1f}  on average")


if __name__ == "__main__":
    asyncio.run(main())
