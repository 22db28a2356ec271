"""Anthropic's official SDK must not notice that it talks to a simulator."""

from __future__ import annotations

from typing import Any

import pytest

from llmflow.simulator import Faults, Simulator, SimulatorSettings, serve_in_thread

pytestmark = pytest.mark.http

anthropic: Any = pytest.importorskip("anthropic")

TEXT = "Summarize: Whales are big. Whales sing. Cats sleep."
ASK: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": TEXT}],
}
ANSWER = "Whales are big. Whales sing."


def settings(**changed: Any) -> SimulatorSettings:
    plain = {"latency": 0, "api_key": "sk-right", "models": ("claude-x",)}
    return SimulatorSettings(**{**plain, **changed})


def client(sim: Simulator, *, key: str = "sk-right", retries: int = 0) -> Any:
    return anthropic.AsyncAnthropic(base_url=sim.root_url, api_key=key, max_retries=retries)


async def refusal(changed: dict[str, Any], **ask: Any) -> Any:
    """Return the SDK's error from a simulator that is set so."""
    key = ask.pop("key", "sk-right")
    async with Simulator(settings(**changed)) as sim, client(sim, key=key) as sdk:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await sdk.messages.create(**{**ASK, **ask})
    return caught.value


async def test_calls_succeed() -> None:
    async with Simulator(settings(rpm=60, itpm="40k", otpm="8k")) as sim, client(sim) as sdk:
        assert [model.id async for model in sdk.models.list()] == ["claude-x"]
        raw = await sdk.messages.with_raw_response.create(**ASK, system="Be brief.")
        answer = await raw.parse()
        assert (answer.content[0].text, answer.stop_reason) == (ANSWER, "end_turn")
        assert answer.usage.input_tokens == sim.stats().input_tokens
        assert answer.usage.output_tokens == sim.stats().output_tokens
        assert raw.headers["anthropic-ratelimit-requests-remaining"] == "59"
        assert answer._request_id.startswith("req_")
        cut = await sdk.messages.create(**{**ASK, "max_tokens": 2})
        assert cut.stop_reason == "max_tokens"


async def test_streams_succeed() -> None:
    async with Simulator(settings()) as sim, client(sim) as sdk:
        async with sdk.messages.stream(**ASK) as stream:
            assert "".join([text async for text in stream.text_stream]) == ANSWER
            final = await stream.get_final_message()
        assert final.stop_reason == "end_turn"
        assert final.usage.output_tokens == sim.stats().output_tokens
        events = await sdk.messages.create(**ASK, stream=True)
        kinds = [event.type async for event in events]
        assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_the_synchronous_client_succeeds() -> None:
    with (
        serve_in_thread(settings()) as sim,
        anthropic.Anthropic(base_url=sim.root_url, api_key="sk-right", max_retries=0) as sdk,
    ):
        assert sdk.messages.create(**ASK).content[0].text == ANSWER
        with sdk.messages.stream(**ASK) as stream:
            assert "".join(stream.text_stream) == ANSWER
        with pytest.raises(anthropic.NotFoundError):
            sdk.messages.create(**{**ASK, "model": "claude-y"})


@pytest.mark.parametrize(
    ("changed", "ask", "status", "name", "kind"),
    [
        ({}, {"messages": []}, 400, "BadRequestError", "invalid_request_error"),
        ({"context_tokens": 9}, {}, 400, "BadRequestError", "invalid_request_error"),
        ({}, {"key": "sk-wrong"}, 401, "AuthenticationError", "authentication_error"),
        (
            {"credit_requests": 0, "credit_error": "balance"},
            {},
            402,
            "PaymentRequiredError",
            "billing_error",
        ),
        ({}, {"model": "claude-y"}, 404, "NotFoundError", "not_found_error"),
        ({"max_body_bytes": 50}, {}, 413, "ContentTooLargeError", "request_too_large"),
        ({"itpm": 1}, {}, 429, "RateLimitError", "rate_limit_error"),
        (
            {"credit_requests": 0},
            {},
            429,
            "EnforcedSpendLimitReachedError",
            "rate_limit_error",
        ),
        ({"faults": Faults(server_error=1)}, {}, 500, "InternalServerError", "api_error"),
        ({"faults": Faults(overloaded=1)}, {}, 529, "OverloadedError", "overloaded_error"),
    ],
)
async def test_refusals_come_out_as_the_sdks_errors(
    changed: dict[str, Any], ask: dict[str, Any], status: int, name: str, kind: str
) -> None:
    error = await refusal(changed, **ask)
    assert (error.status_code, type(error).__name__) == (status, name)
    assert error.body["error"]["type"] == kind


async def test_a_ramp_comes_out_as_the_sdks_error() -> None:
    steep = settings(ramp=2, ramp_floor=1, burst_seconds=1)
    async with Simulator(steep) as sim, client(sim) as sdk:
        await sdk.messages.create(**ASK)
        with pytest.raises(anthropic.RampLimitExceededError):
            await sdk.messages.create(**ASK)


async def test_the_sdk_comes_again_when_it_is_told() -> None:
    """Its own first pause is half a second, which would be rejected once more."""
    async with (
        Simulator(settings(rpm=60, burst_seconds=1)) as sim,
        client(sim, retries=2) as sdk,
    ):
        for _ in range(2):
            assert (await sdk.messages.create(**ASK)).content[0].text == ANSWER
        assert sim.stats().rejected == {"rpm": 1}
