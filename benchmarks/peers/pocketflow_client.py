"""PocketFlow: a parallel batch node with its retries, and the OpenAI SDK with its own."""

from __future__ import annotations

import asyncio
from typing import Any

from openai import AsyncOpenAI
from pocketflow import AsyncFlow, AsyncParallelBatchNode
from task import CONCURRENCY, Answers, Task, run


async def ask_all(task: Task) -> Answers:
    client = AsyncOpenAI(base_url=task.url)
    at_once = asyncio.Semaphore(CONCURRENCY)

    class Ask(AsyncParallelBatchNode):
        async def prep_async(self, shared: dict[str, Any]) -> list[str]:
            return shared["texts"]

        async def exec_async(self, text: str) -> str | None:
            async with at_once:
                reply = await client.chat.completions.create(
                    model="bench", messages=[{"role": "user", "content": text}]
                )
            return reply.choices[0].message.content

        async def exec_fallback_async(self, _text: str, _error: Exception) -> None:
            return None

        async def post_async(self, shared: dict[str, Any], _texts: Any, answers: Answers) -> None:
            shared["answers"] = answers

    shared: dict[str, Any] = {"texts": task.texts}
    await AsyncFlow(start=Ask(max_retries=5, wait=2)).run_async(shared)
    answers: Answers = shared["answers"]
    return answers


run(ask_all)
