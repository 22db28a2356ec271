"""The Anthropic dialect: bytes out, replies and errors in."""

from __future__ import annotations

from email.utils import formatdate
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from llmflow import errors
from llmflow.provider import WireProvider
from llmflow.provider_registry import provider_for
from llmflow.types import Charge, QuotaSignal, Request, Usage, WireReply
from llmflow_providers.anthropic import AnthropicProvider

NOW = 1_786_651_200.0  # 2026-08-13T20:00:00Z
KEY = "sk-ant-api03-secret-1234"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def provider(**options: Any) -> AnthropicProvider:
    return AnthropicProvider(**{"model": "claude-x", "api_key": KEY, **options})


def reply(body: object, status: int = 200, **headers: str) -> WireReply:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return WireReply(status, {k.replace("_", "-"): v for k, v in headers.items()}, content, NOW)


def failure(body: object, status: int, **headers: str) -> errors.ProviderError:
    with pytest.raises(errors.ProviderError) as caught:
        provider().decode(reply(body, status, **headers))
    return caught.value


def ask(*messages: dict[str, Any], **fields: Any) -> Request:
    return Request(
        model="claude-x", messages=messages or ({"role": "user", "content": "Hi there"},), **fields
    )


def body_of(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(provider().encode(request).body)
    return body


def message(*blocks: object, **rest: object) -> dict[str, object]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x-2026",
        "content": list(blocks),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 16, "output_tokens": 5},
        **rest,
    }


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


# Requests


def test_a_request_is_encoded_with_everything_that_was_set() -> None:
    wire = provider().encode(
        ask(system="Be brief.", max_tokens=9, temperature=0.5, options={"top_k": 3})
    )
    assert (wire.method, wire.url) == ("POST", "https://api.anthropic.com/v1/messages")
    assert wire.headers["x-api-key"] == KEY
    assert wire.headers["anthropic-version"] == "2023-06-01"
    assert orjson.loads(wire.body) == {
        "model": "claude-x",
        "max_tokens": 9,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi there"}],
        "temperature": 0.5,
        "top_k": 3,
    }
    assert "secret" not in repr(wire) + repr(provider()) + repr(provider().domain)


def test_a_request_without_a_bound_is_given_one_for_the_api_demands_it() -> None:
    assert body_of(ask())["max_tokens"] == 4096
    assert "system" not in body_of(ask())


def test_system_messages_move_to_the_top() -> None:
    user = {"role": "user", "content": "Hi"}
    body = body_of(
        ask({"role": "system", "content": "Be kind."}, user, system="Be brief."),
    )
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == [user]
    assert body_of(ask({"role": "developer", "content": "Short."}, user))["system"] == "Short."


def test_system_blocks_stay_blocks() -> None:
    cached = {"type": "text", "text": "Long.", "cache_control": {"type": "ephemeral"}}
    body = body_of(
        ask(
            {"role": "system", "content": [cached]},
            {"role": "user", "content": "Hi"},
            system="Be brief.",
        )
    )
    assert body["system"] == [said("Be brief."), cached]


def test_whatever_json_can_say_is_encoded() -> None:
    odd = MappingProxyType({"role": "user", "content": "a\ud800"})
    assert b"a\xef\xbf\xbd" in provider().encode(Request(model="x", messages=(odd,))).body


@pytest.mark.parametrize(
    "url", ["http://h", "http://h/", "http://h/v1", "http://h/v1/", " http://h\n"]
)
def test_a_base_url_may_end_with_the_version_or_not(url: str) -> None:
    assert provider(base_url=url).encode(ask()).url == "http://h/v1/messages"


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://h:1/v1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-environment")
    wire = AnthropicProvider("claude-x").encode(ask())
    assert (wire.url, wire.headers["x-api-key"]) == ("http://h:1/v1/messages", "sk-ant-environment")
    assert "x-api-key" not in AnthropicProvider("claude-x", api_key="").encode(ask()).headers


def test_a_missing_key_is_named_with_the_variable() -> None:
    with pytest.raises(errors.MissingKeyError, match="ANTHROPIC_API_KEY"):
        AnthropicProvider("claude-x").prepare()
    AnthropicProvider("claude-x", base_url="http://localhost:1").prepare()
    with pytest.raises(errors.ConfigurationError, match="cannot be sent") as caught:
        provider(api_key="sk-ant-123456\n").prepare()
    assert "123456" not in str(caught.value)


def test_the_models_string_finds_it() -> None:
    found = provider_for("anthropic/claude-x", api_key=KEY)
    assert isinstance(found, AnthropicProvider)
    assert isinstance(found, WireProvider)
    assert not found.reserves_output


def test_versions_of_one_class_share_a_domain_where_the_provider_counts_them_together() -> None:
    def domain(model: str) -> object:
        return provider(model=model).domain

    assert domain("claude-opus-4-1-20250805") == domain("claude-opus-4-20250514")
    assert domain("claude-haiku-4-5-20251001") == domain("claude-haiku-4-5")
    assert domain("claude-opus-5") != domain("claude-opus-4-1")
    assert domain("claude-sonnet-4-5") != domain("claude-opus-4-5")
    assert provider(api_key="other-key").domain != provider().domain


# Answers


def test_an_answer_is_decoded_with_usage_and_ids() -> None:
    usage = {
        "input_tokens": 16,
        "cache_creation_input_tokens": 100,
        "cache_creation": {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30},
        "cache_read_input_tokens": 1000,
        "output_tokens": 50,
        "output_tokens_details": {"thinking_tokens": 40},
        "service_tier": "standard",
    }
    blocks = (
        {"type": "thinking", "thinking": "Hm.", "signature": "x"},
        said("Hello, "),
        {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        said("world"),
    )
    response = provider().decode(reply(message(*blocks, usage=usage), request_id="req_1"))
    assert (response.text, response.finish_reason) == ("Hello, world", "stop")
    assert response.usage == Usage(
        input_tokens=1116,
        output_tokens=50,
        cached_tokens=1000,
        reasoning_tokens=40,
        cache_write_tokens=100,
        cache_write_1h_tokens=30,
    )
    assert (response.model, response.request_id) == ("claude-x-2026", "req_1")
    assert response.raw["stop_reason"] == "end_turn"
    assert provider().decode(reply(message(said("x")))).request_id == "msg_1"


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "pause_turn"),
        ("something_new", "something_new"),
        (None, None),
        (["x"], None),
    ],
)
def test_stop_reasons_are_told_in_the_words_of_the_other_providers(
    stop_reason: object, finish_reason: str | None
) -> None:
    response = provider().decode(reply(message(said("x"), stop_reason=stop_reason)))
    assert response.finish_reason == finish_reason
    assert response.raw["stop_reason"] == stop_reason


def test_an_answer_without_text_is_still_an_answer() -> None:
    assert provider().decode(reply(message(stop_reason="end_turn"))).text == ""


@pytest.mark.parametrize(
    "usage", ["x", [1], 5, None, {"input_tokens": "7", "output_tokens_details": [1]}]
)
def test_an_answer_is_not_lost_because_its_usage_is_odd(usage: object) -> None:
    response = provider().decode(reply(message(said("hi"), usage=usage, model=5)))
    assert (response.text, response.usage, response.model) == ("hi", Usage(), "claude-x")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>oops</html>",
        b'{"content": [',
        b"[]",
        b"null",
        b"5",
        {},
        message(said("x"), content="x"),
        message("x"),
        message({"type": "text"}),
    ],
)
def test_a_200_without_a_message_is_a_bad_reply_that_is_retried(body: object) -> None:
    error = failure(body, 200)
    assert type(error) is errors.BadReplyError
    assert error.transient


# What is charged


def test_input_is_estimated_and_output_reserved_at_most() -> None:
    text = {"role": "user", "content": "The tide came in slowly. " * 40}
    charge = provider().reserve(ask(text, max_tokens=500))
    assert charge.requests == 1
    assert 200 <= charge.input_tokens <= 300
    assert (charge.output_tokens, charge.tokens) == (500, charge.input_tokens + 500)
    assert provider().reserve(ask()).output_tokens == 4096
    parts = {"role": "user", "content": [said("x" * 400), {"type": "image", "source": {}}]}
    assert provider().reserve(ask(parts, system="y" * 400)).input_tokens >= 150


def test_scripts_with_a_token_a_character_are_estimated_as_such() -> None:
    text = {"role": "user", "content": "潮がゆっくり満ちてきた。" * 50}
    assert 400 <= provider().reserve(ask(text)).input_tokens <= 900


def test_what_was_produced_is_charged_and_reading_the_cache_is_free() -> None:
    one = provider()
    charge = one.reserve(ask(max_tokens=500))
    usage = Usage(input_tokens=1116, output_tokens=50, cached_tokens=1000, reasoning_tokens=40)
    assert one.settle(charge, usage) == Charge(1, 166, 116, 50)
    assert one.settle(charge, Usage()) == charge


# Headers

LIMITS = {
    "anthropic-ratelimit-requests-limit": "1000",
    "anthropic-ratelimit-requests-remaining": "999",
    "anthropic-ratelimit-requests-reset": "2026-08-13T20:00:01Z",
    "anthropic-ratelimit-input-tokens-limit": "50000",
    "anthropic-ratelimit-input-tokens-remaining": "40000",
    "anthropic-ratelimit-input-tokens-reset": "2026-08-13T20:00:12Z",
    "anthropic-ratelimit-output-tokens-limit": "8000",
    "anthropic-ratelimit-output-tokens-remaining": "8000",
    "anthropic-ratelimit-output-tokens-reset": "2026-08-13T20:00:00Z",
    "anthropic-ratelimit-tokens-limit": "58000",
    "anthropic-ratelimit-tokens-remaining": "48000",
    "anthropic-ratelimit-tokens-reset": "2026-08-13T20:00:12Z",
}


def test_the_limits_are_read_each_for_itself() -> None:
    assert provider().signals(WireReply(200, LIMITS, b"", NOW)) == [
        QuotaSignal("rpm", 1000, 999, 1.0),
        QuotaSignal("itpm", 50000, 40000, 12.0),
        QuotaSignal("otpm", 8000, 8000, 0.0),
    ]
    assert provider().signals(WireReply(200, {}, b"", NOW)) == []


def test_the_common_pair_of_tokens_counts_only_where_there_is_no_other() -> None:
    alone = {k: v for k, v in LIMITS.items() if "put-tokens" not in k}
    assert provider().signals(WireReply(200, alone, b"", NOW)) == [
        QuotaSignal("rpm", 1000, 999, 1.0),
        QuotaSignal("tpm", 58000, 48000, 12.0),
    ]


@pytest.mark.parametrize("skew", [-86_400.0 * 30, -3.0, 0.0, 0.8, 90.0, 86_400.0])
def test_resets_are_counted_on_the_servers_clock(skew: float) -> None:
    headers = {**LIMITS, "date": formatdate(NOW, usegmt=True)}
    signals = provider().signals(WireReply(200, headers, b"", NOW + skew))
    expected = 12.0 - (skew if 0.0 <= skew <= 1.0 else 0.0)
    assert signals[1].reset == pytest.approx(expected)


def test_a_limit_that_is_no_number_says_nothing() -> None:
    headers = {"anthropic-ratelimit-requests-limit": "many"}
    assert provider().signals(WireReply(200, headers, b"", NOW)) == [QuotaSignal("rpm")]


# Errors


def wrong(message: str, type_: str = "rate_limit_error", code: str | None = None) -> dict[str, Any]:
    details = {"details": {"error_code": code}} if code else {}
    return {
        "type": "error",
        "error": {"type": type_, "message": message, **details},
        "request_id": "req_1",
    }


OVER = (
    "This request would exceed your organization's rate limit of 50,000 input tokens per minute "
    "(org: …, model: claude-x). …"
)
RAMP = (
    "This request would exceed your organization's (…) maximum usage increase rate for input "
    "tokens per minute. …"
)
SPENT = "You have reached your API usage limits. You will regain access on 2026-09-01 at 00:00 UTC."
MY_LIMIT = (
    "You have reached your specified API usage limits. "
    "You will regain access on 2026-09-01 at 00:00 UTC."
)
INVALID = "invalid_request_error"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, wrong(OVER), errors.RateLimitError),
        (429, b"", errors.RateLimitError),
        (429, b"<html>too many</html>", errors.RateLimitError),
        (429, wrong(RAMP, code="ramp_limit_exceeded"), errors.RampLimitError),
        (429, wrong(RAMP), errors.RampLimitError),
        (429, wrong("You hit the acceleration limit."), errors.RampLimitError),
        (
            429,
            wrong("Number of concurrent connections has exceeded your rate limit."),
            errors.ConcurrencyLimitError,
        ),
        (
            429,
            wrong("Number of request tokens has exceeded your daily rate limit"),
            errors.QuotaExhaustedError,
        ),
        (429, wrong(SPENT, code="enforced_spend_limit_reached"), errors.BillingError),
        (429, wrong("Spent.", code="contract_spend_limit_reached"), errors.BillingError),
        (429, wrong(SPENT), errors.BillingError),
        (400, wrong(MY_LIMIT, INVALID), errors.BillingError),
        (
            400,
            wrong("You have reached your specified workspace API usage limits.", INVALID),
            errors.BillingError,
        ),
        (
            400,
            wrong("Your credit balance is too low to access the API.", INVALID),
            errors.BillingError,
        ),
        (402, wrong("Pay.", "billing_error"), errors.BillingError),
        (
            402,
            wrong("Pay.", "billing_error", "linked_organization_past_due"),
            errors.BillingError,
        ),
        (
            400,
            wrong("prompt is too long: 210000 tokens > 200000 maximum", INVALID),
            errors.ContextLengthError,
        ),
        (
            400,
            wrong(
                "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
                INVALID,
            ),
            errors.ContextLengthError,
        ),
        (400, wrong("messages: Field required", INVALID), errors.InvalidRequestError),
        (400, wrong("On hold.", INVALID, "organization_on_hold"), errors.AuthenticationError),
        (400, wrong("Key.", INVALID, "cmek_key_disabled"), errors.AuthenticationError),
        (400, wrong("Late.", INVALID, "request_body_timeout"), errors.RequestTimeoutError),
        (401, wrong("invalid x-api-key", "authentication_error"), errors.AuthenticationError),
        (403, wrong("no", "permission_error"), errors.AuthenticationError),
        (404, wrong("model: claude-y", "not_found_error"), errors.ModelNotFoundError),
        (404, b"<html>nginx</html>", errors.ModelNotFoundError),
        (409, wrong("again", "conflict_error"), errors.ConflictError),
        (413, wrong("32 MB", "request_too_large"), errors.InvalidRequestError),
        (413, b"<html>cloudflare</html>", errors.InvalidRequestError),
        (500, wrong("oops", "api_error"), errors.ServerError),
        (502, b"<html>bad gateway</html>", errors.ServerError),
        (520, b"", errors.ServerError),
        (503, wrong("Key.", "api_error", "cmek_key_unreachable"), errors.OverloadedError),
        (503, b"", errors.OverloadedError),
        (504, wrong("late", "timeout_error"), errors.RequestTimeoutError),
        (529, wrong("Overloaded", "overloaded_error"), errors.OverloadedError),
        (529, b"", errors.OverloadedError),
        (307, b"", errors.InvalidRequestError),
    ],
)
def test_every_error_is_of_the_class_that_says_what_to_do(
    status: int, body: object, kind: type[errors.ProviderError]
) -> None:
    error = failure(body, status)
    assert type(error) is kind
    assert error.status == status


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("overloaded_error", errors.OverloadedError),
        ("rate_limit_error", errors.RateLimitError),
        (INVALID, errors.InvalidRequestError),
    ],
)
def test_a_200_that_holds_an_error_is_that_error(
    type_: str, kind: type[errors.ProviderError]
) -> None:
    assert type(failure(wrong("Overloaded", type_), 200)) is kind


def test_a_rejection_says_which_limit_and_how_long() -> None:
    error = failure(wrong(OVER), 429, retry_after="12", request_id="req_9")
    assert (error.dimension, error.retry_after) == ("itpm", 12.0)
    assert (error.request_id, error.code) == ("req_9", "rate_limit_error")
    assert failure(wrong(RAMP), 429).dimension == "itpm"
    out = wrong("would exceed your rate limit of 8,000 output tokens per minute")
    assert failure(out, 429).dimension == "otpm"
    assert failure(wrong("rate limit of 50 requests per minute"), 429).dimension == "rpm"
    assert failure(wrong("no"), 429).dimension is None


def test_the_end_of_a_spend_limit_is_told_however_far_it_is() -> None:
    assert failure(wrong(SPENT), 429).retry_after == pytest.approx(18 * 86_400 + 4 * 3600)


def test_a_key_in_an_error_never_comes_out() -> None:
    error = failure(wrong(f"invalid x-api-key: {KEY} \x1b[31m", "authentication_error"), 401)
    assert "secret" not in str(error) + repr(error)
    assert "\x1b" not in str(error)
