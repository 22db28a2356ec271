"""llmflow, as its README has it."""

from __future__ import annotations

import asyncio

import aiohttp  # noqa: F401 - the others' transport is loaded by now, too
from task import Answers, Task, run

from llmflow import LLM, Quota
from llmflow.errors import LLMFlowError


async def ask_all(task: Task) -> Answers:
    quota = None
    if task.burst_seconds is not None:
        quota = Quota(rpm=task.rpm, tpm=task.tpm, burst_seconds=task.burst_seconds)
    llm = LLM("openai/bench", base_url=task.url, quota=quota)

    async def ask(text: str) -> str | None:
        try:
            return await llm(text)
        except LLMFlowError:
            return None

    return await asyncio.gather(*map(ask, task.texts))


run(ask_all)
