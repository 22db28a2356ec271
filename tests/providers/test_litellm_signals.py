"""What litellm's answers and errors say of the quota, and what its vendors charge."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmflow import errors
from llmflow.limits.registry import forget_limiters
from llmflow.types import Charge, QuotaSignal, Usage
from llmflow_providers.litellm import LiteLLMProvider
from tests.providers.test_litellm import KEY, Server, ask, provider, serving

OPENAI = {
    "x-ratelimit-limit-requests": "5000",
    "x-ratelimit-remaining-requests": "4999",
    "x-ratelimit-reset-requests": "12ms",
    "x-ratelimit-limit-tokens": "30000",
}
ANTHROPIC = {
    "anthropic-ratelimit-input-tokens-limit": "50000",
    "anthropic-ratelimit-input-tokens-remaining": "49000",
    "anthropic-ratelimit-output-tokens-limit": "8000",
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3, "output_tokens": 1},
}


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    forget_limiters()
    yield
    forget_limiters()


def headed(server: Server, headers: dict[str, str]) -> None:
    server.headers = {"content-type": "application/json", **headers}


async def refused(server: Server, model: str) -> errors.ProviderError:
    with pytest.raises(errors.ProviderError) as caught:
        await provider(server, model).complete(ask(), timeout=60)
    return caught.value


async def test_an_answer_says_what_its_headers_say_of_the_quota() -> None:
    async with serving() as server:
        headed(server, OPENAI)
        response = await provider(server).complete(ask(), timeout=60)
    assert list(response.signals) == [
        QuotaSignal("rpm", 5000, 4999, 0.012),
        QuotaSignal("tpm", 30000),
    ]


async def test_headers_mean_what_the_vendor_means() -> None:
    async with serving() as server:
        headed(server, {"x-ratelimit-limit-req-minute": "188"})
        response = await provider(server, "mistral/mistral-small").complete(ask(), timeout=60)
    assert [each[:2] for each in response.signals] == [("rpm", 188)]


async def test_anthropics_headers_are_read_wherever_litellm_has_put_them() -> None:
    async with serving() as server:
        headed(server, ANTHROPIC)
        server.body = MESSAGE
        response = await provider(server, "anthropic/claude-x").complete(ask(), timeout=60)
    assert response.text == "Hello."
    assert list(response.signals) == [QuotaSignal("itpm", 50000, 49000), QuotaSignal("otpm", 8000)]


async def test_an_answer_without_such_headers_says_nothing() -> None:
    async with serving() as server:
        assert list((await provider(server).complete(ask(), timeout=60)).signals) == []


async def test_a_rejection_says_which_limit_and_what_is_left() -> None:
    message = "Rate limit reached on tokens per min (TPM): Limit 3. Please try again in 1.4s."
    async with serving() as server:
        headed(server, {**OPENAI, "retry-after": "2"})
        server.status = 429
        server.body = {"error": {"message": message, "type": "tokens", "code": "x"}}
        error = await refused(server, "openai/gpt-4o-mini")
    assert type(error) is errors.RateLimitError
    assert (error.dimension, error.retry_after) == ("tpm", 1.4)
    assert QuotaSignal("rpm", 5000, 4999, 0.012) in error.signals


async def test_anthropics_errors_are_read_as_its_own_provider_reads_them() -> None:
    async with serving() as server:
        headed(server, ANTHROPIC)
        server.status = 429
        message = "This would exceed your rate limit of 50,000 input tokens per minute"
        server.body = {"type": "error", "error": {"type": "rate_limit_error", "message": message}}
        error = await refused(server, "anthropic/claude-x")
        assert (type(error), error.dimension) == (errors.RateLimitError, "itpm")
        assert [each.dimension for each in error.signals] == ["itpm", "otpm"]
        details = {"error_code": "enforced_spend_limit_reached"}
        server.body["error"] = {"type": "rate_limit_error", "message": "x", "details": details}
        assert type(await refused(server, "anthropic/claude-x")) is errors.BillingError
        assert KEY not in repr(vars(error))


async def test_a_rejection_at_deepseek_is_about_what_is_in_flight() -> None:
    async with serving() as server:
        server.status = 429
        server.body = {"error": {"message": "Too many", "type": "unknown_error"}}
        error = await refused(server, "deepseek/deepseek-chat")
    assert type(error) is errors.ConcurrencyLimitError


@pytest.mark.parametrize(
    ("model", "reserves", "settled"),
    [
        ("openai/gpt-4o", True, Charge(1, 110, 90, 20)),
        ("cohere_chat/command-r", True, Charge(1, 110, 90, 20)),
        ("groq/llama-3.1-8b-instant", True, Charge(1, 80, 60, 20)),
        ("anthropic/claude-x", False, Charge(1, 80, 60, 20)),
        ("mistral/mistral-small", False, Charge(1, 110, 90, 20)),
    ],
)
def test_what_counts_is_the_vendors_rule(model: str, reserves: bool, settled: Charge) -> None:
    one = LiteLLMProvider(model)
    assert one.reserves_output is reserves
    charge = one.reserve(ask(max_tokens=500))
    assert (charge.output_tokens, charge.tokens) == (500, charge.input_tokens + 500)
    usage = Usage(input_tokens=90, output_tokens=20, cached_tokens=30)
    assert one.settle(charge, usage) == settled
