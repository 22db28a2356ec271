"""async-batch-llm: token-aware admission, and a cool-down of 1 s instead of the default of 300."""

from __future__ import annotations

from typing import Any

from async_batch_llm import (
    CharacterTokenEstimator,
    OpenAIModel,
    OpenAIStrategy,
    ProcessorConfig,
    RateLimitConfig,
    RetryConfig,
    process_prompts,
)
from openai import AsyncOpenAI
from task import ATTEMPTS, CONCURRENCY, Answers, Task, run


async def ask_all(task: Task) -> Answers:
    limits: dict[str, Any] = {}
    if task.burst_seconds is not None:
        limits["quota_burst_seconds"] = task.burst_seconds
        limits["max_requests_per_minute"] = task.rpm
        if task.tpm:
            limits["max_tokens_per_minute"] = int(task.tpm)
            limits["token_estimator"] = CharacterTokenEstimator(expected_output_tokens=0)
    config = ProcessorConfig(
        concurrency=CONCURRENCY,
        retry=RetryConfig(max_attempts=ATTEMPTS),
        rate_limit=RateLimitConfig(
            cooldown_seconds=1.0, slow_start_initial_delay=0.1, slow_start_final_delay=0.01
        ),
        **limits,
    )
    client = AsyncOpenAI(base_url=task.url, max_retries=0)
    model = OpenAIModel("bench", client, api_surface="chat_completions")
    batch = await process_prompts(
        OpenAIStrategy(model), task.texts, config=config, preserve_order=True
    )
    return [each.output if each.success else None for each in batch.results]


run(ask_all)
