"""litellm: its Router with the limits of the deployment and retries."""

from __future__ import annotations

import asyncio
from typing import Any

import litellm
from litellm import Router
from task import ATTEMPTS, CONCURRENCY, Answers, Task, run

litellm.suppress_debug_info = True


async def ask_all(task: Task) -> Answers:
    parameters: dict[str, Any] = {"model": "openai/bench", "api_base": task.url}
    checks: dict[str, Any] = {}
    if task.burst_seconds is not None:
        known = {"rpm": task.rpm, "tpm": task.tpm}
        parameters |= {name: int(value) for name, value in known.items() if value}
        checks = {"optional_pre_call_checks": ["enforce_model_rate_limits"]}
    router = Router(
        model_list=[{"model_name": "bench", "litellm_params": parameters}],
        num_retries=ATTEMPTS,
        disable_cooldowns=True,  # there is no other deployment to go to
        **checks,
    )
    at_once = asyncio.Semaphore(CONCURRENCY)

    async def ask(text: str) -> str | None:
        async with at_once:
            try:
                reply = await router.acompletion("bench", [{"role": "user", "content": text}])
            except Exception:  # noqa: BLE001 - whatever it was, the item is lost
                return None
        return reply.choices[0].message.content

    return await asyncio.gather(*map(ask, task.texts))


run(ask_all)
