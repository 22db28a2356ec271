"""Extract records: a nested model, and as many of them as a text holds.

    python examples/extract_records.py

Runs on the built-in simulator, which makes up values that fit. For a real model, set its name
and the provider's key:

    LLMFLOW_MODEL=openai/gpt-6-luna OPENAI_API_KEY=... python examples/extract_records.py
"""

import asyncio
import os
from datetime import date

from pydantic import BaseModel, Field

from llmflow import LLM

MAILS = [
    "Please send 3 kettles and 12 cups to Ms Okafor in Lagos, by 4 March if you can.",
    "Two orders today. For Lindqvist: one desk lamp. For Baker & Sons: 40 chairs, 10 tables.",
    "Thank you for the quick delivery! All is well, we need nothing this month.",
]


class Line(BaseModel):
    article: str
    quantity: int = Field(ge=1, description="How many pieces are ordered.")


class Order(BaseModel):
    customer: str
    deliver_by: date | None = Field(description="null if the text names no date.")
    lines: list[Line]


llm = LLM(os.environ.get("LLMFLOW_MODEL", "sim/demo"), temperature=0)


async def main() -> None:
    prompt = "List the orders in this mail.\n\n{text}"
    async for result in llm.map(MAILS, prompt=prompt, output_type=list[Order], ordered=True):
        print(result.item)
        for order in result.parsed:  # each an Order, checked
            articles = ", ".join(f"{line.quantity} x {line.article}" for line in order.lines)
            print(f"  {order.customer}, by {order.deliver_by}: {articles}")


if __name__ == "__main__":
    asyncio.run(main())
