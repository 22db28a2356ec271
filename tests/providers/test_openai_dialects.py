"""What compatible servers do in their own way: charges, headers and rejections, by host."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmflow import errors
from llmflow.types import Charge, QuotaSignal, Request, Usage, WireReply
from llmflow_providers.openai import OpenAIProvider
from llmflow_providers.openai.dialects import dialect_at

NOW = 1_788_220_760.0  # 2026-08-31T23:59:20Z

GROQ = "https://api.groq.com/openai/v1"
AZURE = "https://mine.openai.azure.com/openai/v1"
CEREBRAS = "https://api.cerebras.ai/v1"
MISTRAL = "https://api.mistral.ai/v1"
FIREWORKS = "https://api.fireworks.ai/inference/v1"
GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai"
DEEPSEEK = "https://api.deepseek.com"
UNKNOWN = "https://llm.example.com/v1"


def at(base_url: str, **options: Any) -> OpenAIProvider:
    return OpenAIProvider("m", base_url=base_url, api_key="key-1234", **options)


def ask(text: str = "x" * 400, **fields: Any) -> Request:
    return Request(model="m", messages=({"role": "user", "content": text},), **fields)


def failure(base_url: str, status: int, body: object, **headers: str) -> errors.ProviderError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with pytest.raises(errors.ProviderError) as caught:
        at(base_url).decode(WireReply(status, named, orjson.dumps(body), NOW))
    return caught.value


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        (GROQ, "groq"),
        (AZURE, "azure"),
        ("https://mine.services.ai.azure.com/openai/v1", "azure"),
        (CEREBRAS, "cerebras"),
        (MISTRAL, "mistral"),
        (FIREWORKS, "fireworks_ai"),
        (GEMINI, "gemini"),
        (DEEPSEEK, "deepseek"),
        (UNKNOWN, "compatible"),
        ("http://localhost:8000/v1", "compatible"),
        ("http://[::1]:8000/v1", "compatible"),
        ("https://api.groq.com.example.com/v1", "compatible"),
        ("https://openai.azure.com/v1", "compatible"),
    ],
)
def test_the_host_decides_the_dialect(url: str, name: str) -> None:
    assert dialect_at(url).name == name


def test_a_gateway_can_be_given_the_dialect_of_what_is_behind_it() -> None:
    assert at(UNKNOWN, dialect="groq").dialect is at(GROQ).dialect
    with pytest.raises(errors.ConfigurationError, match="groq"):
        at(UNKNOWN, dialect="grok")


@pytest.mark.parametrize(
    ("url", "reserved", "settled"),
    [
        # A prompt of 100 tokens by its characters, 90 in fact, 30 of them cached; an answer
        # of 20, and 500 at most.
        ("https://api.openai.com/v1", Charge(1, 500, 100, 500), Charge(1, 500, 100, 500)),
        (UNKNOWN, Charge(1, 500, 100, 500), Charge(1, 500, 100, 500)),
        (AZURE, Charge(1, 600, 100, 500), Charge(1, 600, 100, 500)),
        (CEREBRAS, Charge(1, 600, 100, 500), Charge(1, 600, 100, 500)),
        (GROQ, Charge(1, 600, 100, 500), Charge(1, 80, 60, 20)),
        (MISTRAL, Charge(1, 600, 100, 500), Charge(1, 110, 90, 20)),
        (FIREWORKS, Charge(1, 600, 100, 500), Charge(1, 110, 90, 20)),
        (GEMINI, Charge(1, 100, 100, 0), Charge(1, 90, 90, 0)),
    ],
)
def test_each_server_charges_by_its_own_rule(url: str, reserved: Charge, settled: Charge) -> None:
    provider = at(url)
    charge = provider.reserve(ask(max_tokens=500))
    assert charge == reserved
    usage = Usage(input_tokens=90, output_tokens=20, cached_tokens=30)
    assert provider.settle(charge, usage) == settled
    assert provider.settle(charge, Usage()) == charge


def test_output_is_reserved_only_where_the_server_does() -> None:
    reserves = {url: at(url).reserves_output for url in (UNKNOWN, AZURE, GROQ, CEREBRAS)}
    assert all(reserves.values())
    assert not any(at(url).reserves_output for url in (MISTRAL, FIREWORKS, GEMINI))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        (GROQ, "max_completion_tokens"),
        (CEREBRAS, "max_completion_tokens"),
        (MISTRAL, "max_tokens"),
        (UNKNOWN, "max_tokens"),
    ],
)
def test_the_bound_of_an_answer_has_the_servers_name(url: str, name: str) -> None:
    assert orjson.loads(at(url).encode(ask(max_tokens=9)).body)[name] == 9


@pytest.mark.parametrize(
    ("url", "model", "name"),
    [
        (UNKNOWN, "gpt-5.4-nano", "max_completion_tokens"),
        (UNKNOWN, "openai/o3-2025-04-16", "max_completion_tokens"),
        (UNKNOWN, "gpt-6-sol", "max_completion_tokens"),
        (UNKNOWN, "gpt-4.1-mini", "max_tokens"),
        (UNKNOWN, "gpt-oss:20b", "max_tokens"),
        (UNKNOWN, "openai-compatible", "max_tokens"),
        (AZURE, "my-deployment", "max_completion_tokens"),
        (AZURE, "Ministral-3B", "max_tokens"),
        (AZURE, "Codestral-2501", "max_tokens"),
    ],
)
def test_behind_a_gateway_the_bound_of_an_answer_has_the_models_name(
    url: str, model: str, name: str
) -> None:
    provider = OpenAIProvider(model, base_url=url, api_key="key-1234")
    request = Request(model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=9)
    assert orjson.loads(provider.encode(request).body)[name] == 9


@pytest.mark.parametrize(
    ("url", "headers", "signals"),
    [
        (
            GROQ,
            {
                "limit-requests": "14400",
                "remaining-requests": "14370",
                "reset-requests": "2m59.56s",
                "limit-tokens": "18000",
                "remaining-tokens": "17997",
                "reset-tokens": "7.66s",
            },
            [QuotaSignal("rpd", 14400, 14370, 179.56), QuotaSignal("tpm", 18000, 17997, 7.66)],
        ),
        (
            AZURE,
            {
                "limit-requests": "600",
                "remaining-requests": "599",
                "reset-requests": "10",
                "limit-tokens": "100000",
                "remaining-tokens": "99800",
                "reset-tokens": "60",
            },
            [QuotaSignal("rpm", 600, 599, 10.0), QuotaSignal("tpm", 100000, 99800, 60.0)],
        ),
        (
            MISTRAL,
            {
                "limit-req-minute": "188",
                "remaining-req-minute": "187",
                "limit-tokens-minute": "625000",
                "remaining-tokens-minute": "624982",
            },
            # The clock's minute is over in 40 s, and with it everything comes back.
            [QuotaSignal("rpm", 188, 187, 40.0), QuotaSignal("tpm", 625000, 624982, 40.0)],
        ),
        (
            FIREWORKS,
            {
                "limit-tokens-prompt": "11250000",
                "remaining-tokens-prompt": "11249979",
                "limit-tokens-cache-adjusted-prompt": "5400000",
                "limit-tokens-generated": "216000",
                "over-limit": "no",
            },
            [QuotaSignal("itpm", 11250000, 11249979), QuotaSignal("otpm", 216000)],
        ),
        (
            CEREBRAS,
            {
                "limit-requests-day": "14400",
                "remaining-requests-day": "14399",
                "reset-requests-day": "33011.382",
                "limit-tokens-minute": "60000",
                "reset-tokens-minute": "11.5",
            },
            [QuotaSignal("tpm", 60000, None, 11.5), QuotaSignal("rpd", 14400, 14399, 33011.382)],
        ),
        (
            UNKNOWN,
            {"limit-requests": "500", "limit-tokens": "9000", "limit-project-tokens": "6000"},
            [QuotaSignal("rpm", 500), QuotaSignal("tpm", 6000)],
        ),
        (
            UNKNOWN,
            {"limit-tokens": "9000", "limit-project-tokens": "60000"},
            [QuotaSignal("tpm", 9000)],
        ),
        (
            UNKNOWN,
            {"limit-requests-day": "100", "limit-req-minute": "5"},
            [QuotaSignal("rpm", 5), QuotaSignal("rpd", 100)],
        ),
        (DEEPSEEK, {"limit-requests": "5"}, []),
        (UNKNOWN, {}, []),
    ],
)
def test_headers_of_the_same_name_mean_what_the_server_means(
    url: str, headers: dict[str, str], signals: list[QuotaSignal]
) -> None:
    named = {f"x-ratelimit-{name}": value for name, value in headers.items()}
    found = at(url).signals(WireReply(200, named, b"", NOW))
    assert [each[:3] for each in found] == [each[:3] for each in signals]
    assert [each.reset for each in found] == pytest.approx([each.reset for each in signals])


def test_a_rejection_at_deepseek_is_about_what_is_in_flight() -> None:
    body = {"error": {"message": "Too many requests", "type": "unknown_error", "code": None}}
    assert type(failure(DEEPSEEK, 429, body)) is errors.ConcurrencyLimitError
    assert type(failure(UNKNOWN, 429, body)) is errors.RateLimitError
    assert type(failure(DEEPSEEK, 503, body)) is errors.OverloadedError


def test_a_rejection_at_mistral_ends_with_the_clocks_minute() -> None:
    body = {
        "object": "error",
        "message": "Rate limit exceeded",
        "type": "rate_limited",
        "param": None,
        "code": "1300",
        "raw_status_code": 429,
    }
    error = failure(MISTRAL, 429, body, x_ratelimit_limit_req_minute="188")
    assert (type(error), error.retry_after) == (errors.RateLimitError, 40.0)
    assert failure(MISTRAL, 429, body, retry_after="3").retry_after == 3.0
    assert failure(UNKNOWN, 429, body).retry_after is None
    capacity = {**body, "message": "Service tier capacity exceeded for this model.", "code": "3505"}
    error = failure(MISTRAL, 429, capacity)
    assert (type(error), error.retry_after) == (errors.OverloadedError, None)


def test_an_account_that_fireworks_has_suspended_must_pay() -> None:
    body = {"error": {"object": "error", "type": "x", "message": "account suspended"}}
    assert type(failure(FIREWORKS, 412, body)) is errors.BillingError
    assert type(failure(UNKNOWN, 412, body)) is errors.InvalidRequestError


def test_reasoning_that_stands_beside_the_completion_is_output_too() -> None:
    def usage(**counts: int) -> Usage:
        details = {"reasoning_tokens": counts.pop("reasoning")}
        body = {
            "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
            "usage": {**counts, "completion_tokens_details": details},
        }
        return at(UNKNOWN).decode(WireReply(200, {}, orjson.dumps(body), NOW)).usage

    xai = usage(prompt_tokens=20, completion_tokens=5, total_tokens=60, reasoning=35)
    assert (xai.output_tokens, xai.reasoning_tokens, xai.total_tokens) == (40, 35, 60)
    others = usage(prompt_tokens=20, completion_tokens=40, total_tokens=60, reasoning=35)
    assert (others.output_tokens, others.total_tokens) == (40, 60)
