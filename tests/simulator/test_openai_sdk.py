"""The official SDK must not notice that it talks to a simulator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmflow.simulator import Simulator, SimulatorSettings

openai: Any = pytest.importorskip("openai")

MESSAGES = [{"role": "user", "content": "Summarize: Whales are big. Whales sing. Cats sleep."}]


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(
        rpm=3, tpm=10_000, latency=0, api_key="sk-right", models=("gpt-x",)
    )
    async with Simulator(settings) as simulator:
        yield simulator


async def test_calls_succeed_until_the_quota_ends(sim: Simulator) -> None:
    async with openai.AsyncOpenAI(base_url=sim.url, api_key="sk-right", max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["gpt-x"]
        answer = await client.chat.completions.create(model="gpt-x", messages=MESSAGES)
        assert answer.choices[0].message.content == "Whales are big. Whales sing."
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.total_tokens == sim.stats().input_tokens + sim.stats().output_tokens
        raw = await client.chat.completions.with_raw_response.create(
            model="gpt-x", messages=MESSAGES
        )
        assert raw.headers["x-ratelimit-limit-requests"] == "3"
        stream = await client.chat.completions.create(
            model="gpt-x", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        pieces = [chunk async for chunk in stream]
        text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
        assert text == "Whales are big. Whales sing."
        assert pieces[-1].usage.completion_tokens == answer.usage.completion_tokens
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="gpt-x", messages=MESSAGES)
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.type == "requests"
        assert caught.value.request_id.startswith("req_")


async def test_mistakes_come_out_as_the_sdks_errors(sim: Simulator) -> None:
    async with openai.AsyncOpenAI(base_url=sim.url, api_key="sk-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="gpt-x", messages=MESSAGES)
    async with openai.AsyncOpenAI(base_url=sim.url, api_key="sk-right", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="gpt-y", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="gpt-x", messages=[])
