"""OpenAI's official SDK must not notice that it talks to a simulator."""

from __future__ import annotations

from typing import Any

import pytest

from llmflow.simulator import Faults, Simulator, SimulatorSettings, serve_in_thread

pytestmark = pytest.mark.http

openai: Any = pytest.importorskip("openai")

TEXT = "Summarize: Whales are big. Whales sing. Cats sleep."
ASK: dict[str, Any] = {
    "model": "gpt-x",
    "messages": [{"role": "user", "content": TEXT}],
}
ANSWER = "Whales are big. Whales sing."


def settings(**changed: Any) -> SimulatorSettings:
    plain = {"latency": 0, "api_key": "sk-right", "models": ("gpt-x",)}
    return SimulatorSettings(**{**plain, **changed})


def client(sim: Simulator, *, key: str = "sk-right", retries: int = 0) -> Any:
    return openai.AsyncOpenAI(base_url=sim.url, api_key=key, max_retries=retries)


async def test_calls_succeed_until_the_quota_ends() -> None:
    async with Simulator(settings(rpm=3, tpm=10_000)) as sim, client(sim) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["gpt-x"]
        answer = await sdk.chat.completions.create(**ASK)
        assert answer.choices[0].message.content == ANSWER
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.total_tokens == sim.stats().input_tokens + sim.stats().output_tokens
        raw = await sdk.chat.completions.with_raw_response.create(**ASK)
        assert raw.headers["x-ratelimit-limit-requests"] == "3"
        stream = await sdk.chat.completions.create(
            **ASK, stream=True, stream_options={"include_usage": True}
        )
        pieces = [chunk async for chunk in stream]
        text = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
        assert text == ANSWER
        assert pieces[-1].usage.completion_tokens == answer.usage.completion_tokens
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(**ASK)
        assert caught.value.code == "rate_limit_exceeded"
        assert caught.value.type == "requests"
        assert caught.value.request_id.startswith("req_")


def test_the_synchronous_client_succeeds() -> None:
    with (
        serve_in_thread(settings()) as sim,
        openai.OpenAI(base_url=sim.url, api_key="sk-right", max_retries=0) as sdk,
    ):
        assert sdk.chat.completions.create(**ASK).choices[0].message.content == ANSWER
        with sdk.chat.completions.create(**ASK, stream=True) as stream:
            text = "".join(piece.choices[0].delta.content or "" for piece in stream)
        assert text == ANSWER
        with pytest.raises(openai.NotFoundError):
            sdk.chat.completions.create(**{**ASK, "model": "gpt-y"})


@pytest.mark.parametrize(
    ("changed", "ask", "status", "name", "code"),
    [
        ({}, {"messages": []}, 400, "BadRequestError", "empty_array"),
        ({"context_tokens": 9}, {}, 400, "BadRequestError", "context_length_exceeded"),
        ({}, {"key": "sk-wrong"}, 401, "AuthenticationError", "invalid_api_key"),
        ({}, {"model": "gpt-y"}, 404, "NotFoundError", "model_not_found"),
        ({"max_body_bytes": 50}, {}, 413, "APIStatusError", None),
        ({"tpm": 1}, {}, 429, "RateLimitError", "rate_limit_exceeded"),
        ({"credit_requests": 0}, {}, 429, "RateLimitError", "insufficient_quota"),
        ({"faults": Faults(server_error=1)}, {}, 500, "InternalServerError", None),
        (
            {"faults": Faults(overloaded=1)},
            {},
            503,
            "InternalServerError",
            "server_is_overloaded",
        ),
    ],
)
async def test_refusals_come_out_as_the_sdks_errors(
    changed: dict[str, Any], ask: dict[str, Any], status: int, name: str, code: str | None
) -> None:
    key = ask.get("key", "sk-right")
    call = {**ASK, **{part: value for part, value in ask.items() if part != "key"}}
    async with Simulator(settings(**changed)) as sim, client(sim, key=key) as sdk:
        with pytest.raises(openai.APIStatusError) as caught:
            await sdk.chat.completions.create(**call)
    assert (caught.value.status_code, type(caught.value).__name__) == (status, name)
    assert caught.value.code == code


async def test_a_ramp_comes_out_as_slow_down() -> None:
    steep = settings(ramp=2, ramp_floor=1, burst_seconds=1)
    async with Simulator(steep) as sim, client(sim) as sdk:
        await sdk.chat.completions.create(**ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await sdk.chat.completions.create(**ASK)
        assert caught.value.code == "slow_down"


async def test_the_sdk_comes_again_when_it_is_told() -> None:
    """Its own first pause is half a second, which would be rejected once more."""
    async with (
        Simulator(settings(rpm=60, burst_seconds=1)) as sim,
        client(sim, retries=2) as sdk,
    ):
        for _ in range(2):
            answer = await sdk.chat.completions.create(**ASK)
            assert answer.choices[0].message.content == ANSWER
        assert sim.stats().rejected == {"rpm": 1}
