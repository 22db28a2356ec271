"""The OpenAI dialect: bytes out, replies and errors in."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from llmflow import errors
from llmflow.types import Charge, QuotaSignal, Request, Usage, WireReply
from llmflow_providers.openai import OpenAIProvider

NOW = 1_788_220_760.0


def provider(**options: str) -> OpenAIProvider:
    return OpenAIProvider(**{"model": "gpt-x", "api_key": "sk-secret-1234", **options})  # type: ignore[arg-type]


def reply(body: object, status: int = 200, **headers: str) -> WireReply:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return WireReply(status, {k.replace("_", "-"): v for k, v in headers.items()}, content, NOW)


def failure(body: object, status: int, **headers: str) -> errors.ProviderError:
    with pytest.raises(errors.ProviderError) as caught:
        provider().decode(reply(body, status, **headers))
    return caught.value


def ask(**fields: object) -> Request:
    messages = ({"role": "user", "content": "Hi there"},)
    return Request(**{"model": "gpt-x", "messages": messages, **fields})  # type: ignore[arg-type]


def test_a_request_is_encoded_with_everything_that_was_set() -> None:
    wire = provider().encode(
        ask(system="Be brief.", max_tokens=9, temperature=0.5, options={"seed": 1})
    )
    assert (wire.method, wire.url) == ("POST", "https://api.openai.com/v1/chat/completions")
    assert wire.headers["Authorization"] == "Bearer sk-secret-1234"
    assert orjson.loads(wire.body) == {
        "model": "gpt-x",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi there"},
        ],
        "max_completion_tokens": 9,
        "temperature": 0.5,
        "seed": 1,
    }
    assert "secret" not in repr(wire)


def test_other_servers_are_sent_the_name_for_max_tokens_that_all_know() -> None:
    wire = provider(base_url="http://localhost:8000/v1/").encode(ask(max_tokens=9))
    assert wire.url == "http://localhost:8000/v1/chat/completions"
    assert orjson.loads(wire.body)["max_tokens"] == 9


def test_a_lone_surrogate_does_not_break_the_request() -> None:
    messages = ({"role": "user", "content": "a\udcffb"},)
    good = ({"role": "user", "content": "a\ufffdb"},)
    wire = provider().encode(ask(messages=messages))
    assert orjson.loads(wire.body)["messages"][-1]["content"] == "a\ufffdb"
    # The same bytes, so that the journal takes both for one question.
    assert wire.body == provider().encode(ask(messages=good)).body


def test_an_answer_is_decoded_with_usage_and_ids() -> None:
    response = provider().decode(
        reply(
            {
                "id": "chatcmpl-1",
                "model": "gpt-x-2026",
                "choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": 120,
                    "completion_tokens": 40,
                    "prompt_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 32},
                    "completion_tokens_details": {"reasoning_tokens": 16},
                    "cost": 0.25,
                },
            },
            x_request_id="req_1",
        )
    )
    assert (response.text, response.finish_reason) == ("Hello", "stop")
    assert response.usage == Usage(
        input_tokens=120,
        output_tokens=40,
        cached_tokens=64,
        reasoning_tokens=16,
        cache_write_tokens=32,
    )
    assert (response.model, response.request_id, response.cost) == ("gpt-x-2026", "req_1", 0.25)


@pytest.mark.parametrize(
    ("usage", "cached", "cost"),
    [
        ({"prompt_cache_hit_tokens": 7}, 7, None),
        ({"cached_tokens": 7}, 7, None),
        ({"cost_in_usd_ticks": 12_340_000}, 0, 0.001234),
        ({"cost": "dear", "cost_in_usd_ticks": None}, 0, None),
    ],
)
def test_other_servers_words_for_the_cache_and_the_bill_are_understood(
    usage: dict[str, Any], cached: int, cost: float | None
) -> None:
    body = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 10, **usage}}
    response = provider().decode(reply(body))
    assert (response.usage.cached_tokens, response.cost) == (cached, cost)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "tool_calls": []}, ""),
        ({"content": "Sure.", "refusal": "I cannot."}, "Sure."),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({}, ""),
    ],
)
def test_answers_without_plain_text_are_still_answers(message: dict, text: str) -> None:  # type: ignore[type-arg]
    assert provider().decode(reply({"choices": [{"message": message}]})).text == text


def test_blank_lines_before_the_answer_are_no_garbage() -> None:
    body = b"\n\n\n" + orjson.dumps({"choices": [{"message": {"content": "late"}}]})
    assert provider().decode(reply(body)).text == "late"


@pytest.mark.parametrize(
    "body", [b"", b"<html>oops</html>", b'{"choices": [', b"[]", b"null", b"5", {"choices": []}]
)
def test_a_200_without_an_answer_is_a_bad_reply_that_is_retried(body: object) -> None:
    error = failure(body, 200)
    assert type(error) is errors.BadReplyError
    assert error.transient


def test_a_200_that_holds_an_error_is_that_error() -> None:
    error = failure({"error": {"message": "Provider returned error", "code": 502}}, 200)
    assert type(error) is errors.ServerError
    answer = {"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}
    assert type(failure(answer, 200)) is errors.ServerError
    answer["choices"][0]["finish_reason"] = "insufficient_system_resource"
    assert type(failure(answer, 200)) is errors.OverloadedError


def nested(message: str, type_: str | None = None, code: object = None) -> dict[str, object]:
    return {"error": {"message": message, "type": type_, "param": None, "code": code}}


RATE = (
    "Rate limit reached for gpt-x in organization org-T on tokens per min (TPM): "
    "Limit 30000, Used 29500, Requested 1200. Please try again in 1.4s."
)
TOO_LARGE = (
    "Request too large for gpt-x in organization org-T on tokens per min (TPM): "
    "Limit 30000, Requested 34307."
)
CONTEXT = (
    "This model's maximum context length is 128000 tokens. "
    "However, your messages resulted in 130010 tokens."
)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, nested(RATE, "tokens", "rate_limit_exceeded"), errors.RateLimitError),
        (429, nested(RATE, "rate_limit_error", None), errors.RateLimitError),
        (
            429,
            {"error": {"code": "429", "message": "Please retry after 22 seconds."}},
            errors.RateLimitError,
        ),
        (429, b"", errors.RateLimitError),
        (429, b"<html>too many</html>", errors.RateLimitError),
        (429, nested("too fast", "rate_limit_error", "slow_down"), errors.RampLimitError),
        (503, nested("too fast", "x", "slow_down"), errors.RampLimitError),
        (429, nested("wait", "x", "queue_exceeded"), errors.ConcurrencyLimitError),
        (429, nested("wait", None, 1302), errors.ConcurrencyLimitError),
        (
            429,
            nested("You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
            errors.BillingError,
        ),
        (429, nested("no", "insufficient_quota", "credit_balance_exhausted"), errors.BillingError),
        (429, nested("no", None, "billing_hard_limit_reached"), errors.BillingError),
        (429, nested("no", None, "project_spend_limit_exceeded"), errors.BillingError),
        (
            402,
            nested("Insufficient Balance", "unknown_error", "invalid_request_error"),
            errors.BillingError,
        ),
        (429, nested(TOO_LARGE, "tokens", "rate_limit_exceeded"), errors.TooLargeForLimitError),
        (
            413,
            nested("Request too large", "tokens", "rate_limit_exceeded"),
            errors.TooLargeForLimitError,
        ),
        (
            429,
            nested(
                "Rate limit reached on requests per day (RPD): Limit 100",
                "requests",
                "rate_limit_exceeded",
            ),
            errors.QuotaExhaustedError,
        ),
        (
            400,
            nested(CONTEXT, "invalid_request_error", "context_length_exceeded"),
            errors.ContextLengthError,
        ),
        (
            400,
            {"object": "error", "message": CONTEXT, "type": "BadRequestError", "code": 400},
            errors.ContextLengthError,
        ),
        (
            429,
            nested(
                "Too many tokens; maximum context length is not it", "tokens", "rate_limit_exceeded"
            ),
            errors.RateLimitError,
        ),
        (400, nested("filtered", None, "content_filter"), errors.ContentFilterError),
        (
            401,
            nested("Incorrect API key provided", "invalid_request_error", "invalid_api_key"),
            errors.AuthenticationError,
        ),
        (403, nested("no", None, "unsupported_country"), errors.AuthenticationError),
        (
            400,
            {
                "code": "Client specified an invalid argument",
                "error": "Incorrect API key provided: xa***",
            },
            errors.AuthenticationError,
        ),
        (
            404,
            nested("no such model", "invalid_request_error", "model_not_found"),
            errors.ModelNotFoundError,
        ),
        (
            404,
            {"error": {"code": "DeploymentNotFound", "message": "none"}},
            errors.ModelNotFoundError,
        ),
        (404, b"<html>nginx</html>", errors.ModelNotFoundError),
        (400, nested("bad", "invalid_request_error"), errors.InvalidRequestError),
        (422, {"detail": "max_tokens must be positive"}, errors.InvalidRequestError),
        (405, b"", errors.InvalidRequestError),
        (307, b"", errors.InvalidRequestError),
        (408, b"", errors.RequestTimeoutError),
        (504, b"<html>", errors.RequestTimeoutError),
        (409, b"", errors.ConflictError),
        (500, nested("oops", "server_error"), errors.ServerError),
        (502, b"<html>bad gateway</html>", errors.ServerError),
        (520, b"", errors.ServerError),
        (
            503,
            nested("busy", "service_unavailable_error", "server_is_overloaded"),
            errors.OverloadedError,
        ),
        (503, b"<html>", errors.OverloadedError),
        (529, b"", errors.OverloadedError),
        (498, b"", errors.RateLimitError),
    ],
)
def test_every_error_is_of_the_class_that_says_what_to_do(
    status: int, body: object, kind: type[errors.ProviderError]
) -> None:
    error = failure(body, status)
    assert type(error) is kind
    assert error.status == status


def test_a_budget_of_what_is_in_flight_is_no_bill() -> None:
    assert (
        type(failure({"error": {"message": "wait"}}, 402, retry_after="3")) is errors.RateLimitError
    )


@pytest.mark.parametrize(
    "body",
    [
        nested("no", "insufficient_quota", "credit_balance_exhausted"),
        nested("Your prepayment credits are depleted."),
    ],
)
def test_a_bill_stays_a_bill_whatever_delay_comes_with_it(body: object) -> None:
    error = failure(body, 402, retry_after="3")
    assert (type(error), error.retry_after) == (errors.BillingError, 3.0)


def test_the_servers_delay_and_ids_are_kept() -> None:
    error = failure(
        nested(RATE, "tokens", "rate_limit_exceeded"), 429, retry_after="2", x_request_id="req_9"
    )
    assert (error.retry_after, error.request_id, error.code) == (
        1.4,
        "req_9",
        "rate_limit_exceeded",
    )
    assert failure(nested(RATE), 429).retry_after == pytest.approx(1.4)


def test_a_key_in_an_error_never_comes_out() -> None:
    error = failure(nested("Incorrect API key provided: sk-secret-1234. \x1b[31m"), 401)
    assert "secret" not in str(error)
    assert "\x1b" not in str(error)


def test_the_rate_limit_headers_are_read() -> None:
    headers = {
        "x-ratelimit-limit-requests": "5000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-limit-tokens": "1000000",
    }
    assert provider().signals(WireReply(200, headers, b"", 0.0)) == [
        QuotaSignal(dimension="rpm", limit=5000, remaining=4999, reset=0.012),
        QuotaSignal(dimension="tpm", limit=1000000),
    ]
    assert provider().signals(WireReply(200, {}, b"", 0.0)) == []


def test_tokens_are_reserved_by_max_tokens_or_by_characters() -> None:
    text = ({"role": "user", "content": "x" * 400},)
    assert provider().reserve(ask(messages=text)) == Charge(1, 100, 100, 0)
    assert provider().reserve(ask(messages=text, max_tokens=500)) == Charge(1, 500, 100, 500)
    parts = ({"role": "user", "content": [{"type": "text", "text": "x" * 41}]},)
    assert provider().reserve(ask(messages=parts, system="y" * 3)) == Charge(1, 11, 11, 0)


def test_equal_settings_share_a_domain_and_others_do_not() -> None:
    assert provider().domain == provider().domain
    others = [
        provider(api_key="sk-other-1234"),
        provider(model="y"),
        provider(base_url="http://h/v1"),
    ]
    assert len({each.domain for each in [provider(), *others]}) == 4
    assert "secret" not in str(provider().domain)


@pytest.mark.parametrize(
    "usage", ["x", [1], 5, True, {"prompt_tokens": "7", "prompt_tokens_details": [1]}]
)
def test_an_answer_is_not_lost_because_its_usage_is_odd(usage: object) -> None:
    body = {"choices": [{"message": {"content": "hi"}, "finish_reason": ["x"]}], "usage": usage}
    response = provider().decode(reply(body))
    assert (response.text, response.usage) == ("hi", Usage())


def test_whatever_json_can_say_is_encoded() -> None:
    message = MappingProxyType({"role": "user", "content": "\ud800"})
    wire = provider().encode(ask(messages=(message,), options={"bias": {5: -1}, "seed": 2**80}))
    body = json.loads(wire.body)
    assert body["messages"] == [{"role": "user", "content": "\ufffd"}]
    assert (body["bias"], body["seed"]) == ({"5": -1}, 2**80)


def test_what_json_cannot_say_is_a_configuration_error() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in ({1}, b"x", deep, [2**80, float("nan")]):
        with pytest.raises(errors.ConfigurationError, match="cannot be written as JSON"):
            provider().encode(ask(options={"x": value}))


def test_an_answers_bound_among_the_options_is_reserved_as_well() -> None:
    assert provider().reserve(ask(options={"max_completion_tokens": 90})).tokens == 90


@pytest.mark.parametrize("url", ["http://h/v1/", " http://h/v1", "http://h/v1\n", "http://h/v1//"])
def test_slashes_and_blanks_around_a_base_url_do_not_matter(url: str) -> None:
    assert provider(base_url=url).encode(ask()).url == "http://h/v1/chat/completions"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://user:hunter2@host",
        "http://user:hunter2@host:port/v1",
        "user:hunter2@host/v1",
        "http://user:hunter2@host/v1",
        "http://host/v1?key=hunter2",
        "http://host/v1?",
        "http://host/v1#hunter2",
    ],
)
def test_a_base_url_that_is_refused_shows_no_password(url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="base_url") as caught:
        provider(base_url=url)
    assert "hunter2" not in str(caught.value)
