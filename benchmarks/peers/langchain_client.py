"""LangChain: abatch of ChatOpenAI with its limiter of requests; it has none of tokens."""

from __future__ import annotations

from typing import Any

from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import ChatOpenAI
from task import ATTEMPTS, CONCURRENCY, Answers, Task, run


async def ask_all(task: Task) -> Answers:
    limits: dict[str, Any] = {}
    per_minute = task.rpm
    if task.burst_seconds is not None and task.tpm:
        # What a user can do who knows the prompts: the mean size makes a rate of requests.
        mean = sum(len(text) / 4 for text in task.texts) / len(task.texts)
        per_minute = task.tpm / mean
    if task.burst_seconds is not None and per_minute:
        limits["rate_limiter"] = InMemoryRateLimiter(
            requests_per_second=per_minute / 60,
            check_every_n_seconds=0.01,
            max_bucket_size=max(1.0, per_minute / 60 * task.burst_seconds),
        )
    model = ChatOpenAI(model="bench", base_url=task.url, max_retries=ATTEMPTS, **limits)
    # What the SDK does not retry, such as a body that is no JSON.
    chain = model.with_retry(stop_after_attempt=3)
    found = await chain.abatch(
        task.texts, config={"max_concurrency": CONCURRENCY}, return_exceptions=True
    )
    return [None if isinstance(each, Exception) else str(each.content) for each in found]


run(ask_all)
