"""Checked by mypy and pyright only: what users see of the LLM's types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_type

from aiolimiter import AsyncLimiter

from llmflow import LLM, Limiter, LimiterStatistics, Quota, Response, Retry, Timeout, Usage
from llmflow.provider import ClientProvider, Provider, WireProvider
from llmflow.simulator import SimulatorSettings, SimulatorStats, serve_in_thread
from llmflow.testing import ScriptedProvider, run_virtual
from llmflow_providers.litellm import LiteLLMProvider
from llmflow_providers.openai import OpenAIProvider
from llmflow_providers.sim import SimProvider


async def calls() -> None:
    llm = LLM(
        "openai/gpt-4.1-mini",
        quota=Quota(rpm=500, tpm="200k"),
        retry=Retry(attempts=3),
        timeout=Timeout(total=60.0),
        gate=AsyncLimiter(10, 1),
    )
    assert_type(await llm("text"), str)
    assert_type(await llm([{"role": "user", "content": "text"}], max_tokens=5, top_p=0.9), str)
    response = await llm.complete("text", system="Be brief.", temperature=0.0)
    assert_type(response, Response)
    assert_type(response.text, str)
    assert_type(response.usage, Usage)
    assert_type(response.cost, float | None)
    assert_type(llm.run("text"), str)
    assert_type(llm.complete_sync("text"), Response)
    assert_type(llm.limiter, Limiter)
    assert_type(llm.limiter.statistics(), LimiterStatistics)
    assert_type(llm.limiter.statistics().limits, Mapping[str, float])


def providers() -> list[Provider]:
    wire: list[WireProvider] = [OpenAIProvider("x"), SimProvider("x")]
    client: list[ClientProvider] = [LiteLLMProvider("x"), ScriptedProvider()]
    return [*wire, *client]


def simulator() -> None:
    with serve_in_thread(SimulatorSettings(rpm=600, tpm="100k")) as sim:
        assert_type(sim.url, str)
        assert_type(sim.stats(), SimulatorStats)
    assert_type(run_virtual(LLM(ScriptedProvider(["a"]))("Hi")), str)
