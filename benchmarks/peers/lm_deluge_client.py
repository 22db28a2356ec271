"""lm-deluge: its client with the quota, and its defaults of 1,000 RPM and 500k TPM without."""

from __future__ import annotations

from lm_deluge import LLMClient
from lm_deluge.models import register_model
from task import ATTEMPTS, CONCURRENCY, Answers, Task, run

UNLIMITED = 1_000_000_000


async def ask_all(task: Task) -> Answers:
    register_model(id="bench", name="bench", api_base=task.url, api_key_env_var="OPENAI_API_KEY")
    limits = {}
    if task.burst_seconds is not None:
        limits = {
            "max_requests_per_minute": int(task.rpm or UNLIMITED),
            "max_tokens_per_minute": int(task.tpm or UNLIMITED),
        }
    client = LLMClient(
        "bench",
        max_concurrent_requests=CONCURRENCY,
        max_attempts=ATTEMPTS,
        max_new_tokens=16,  # it is always sent, and charged where the prompt is shorter
        **limits,
    )
    found = await client.process_prompts_async(task.texts, show_progress=False)
    return [None if each is None or each.is_error else each.completion for each in found]


run(ask_all)
