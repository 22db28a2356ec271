"""Bodies and headers, letter by letter."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from llmflow.simulator import Engine, Reply, SimulatorSettings
from llmflow.simulator.openai.chat_wire import format_duration

HELLO = {"model": "gpt-x", "messages": [{"role": "user", "content": "hi"}]}
VISIT = "Visit https://platform.openai.com/account/rate-limits to learn more."


def engine(**settings: Any) -> Engine:
    return Engine(SimulatorSettings(organization="org-T", **settings), now=0.0, wall=1_795_000_000)


def chat(target: Engine, body: object = None, *, now: float = 0.0, key: str = "") -> Reply:
    raw = body if isinstance(body, bytes) else orjson.dumps(HELLO if body is None else body)
    auth = f"Bearer {key}" if key else ""
    return target.receive(
        "POST", "/v1/chat/completions", headers={"authorization": auth}, body=raw, now=now
    )


def error(reply: Reply) -> dict[str, Any]:
    data = orjson.loads(reply.body)
    assert list(data) == ["error"]
    assert list(data["error"]) == ["message", "type", "param", "code"]
    return dict(data["error"])


def headers(reply: Reply) -> dict[str, str]:
    assert reply.headers.endswith("\r\n")
    return dict(line.split(": ", 1) for line in reply.headers[:-2].split("\r\n"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.012, "12ms"),
        (0.057, "57ms"),
        (0.9999, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (83.4, "1m23.4s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (43_200.5, "12h0m0.5s"),
    ],
)
def test_durations_are_gos(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_headers_of_an_answer() -> None:
    target = engine(rpm=5000, tpm="1M", latency=0.312)
    assert headers(chat(target, {**HELLO, "max_tokens": 260})) == {
        "x-request-id": f"req_{1:032x}",
        "openai-organization": "org-T",
        "openai-processing-ms": "312",
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": "5000",
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-requests": "4999",
        "x-ratelimit-remaining-tokens": "999740",
        "x-ratelimit-reset-requests": "12ms",
        "x-ratelimit-reset-tokens": "16ms",
    }


def test_the_body_of_an_answer() -> None:
    reply = chat(engine())
    assert orjson.loads(reply.body) == {
        "id": f"chatcmpl-{1:032x}",
        "object": "chat.completion",
        "created": 1_795_000_000,
        "model": "gpt-x",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "hi",
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 1,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }


def test_over_the_requests() -> None:
    target = engine(rpm=3)
    replies = [chat(target) for _ in range(4)]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert error(replies[-1]) == {
        "message": "Rate limit reached for gpt-x in organization org-T on requests per min (RPM): "
        f"Limit 3, Used 3, Requested 1. Please try again in 20s. {VISIT}",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert headers(replies[-1])["retry-after"] == "20"
    assert headers(replies[-1])["x-ratelimit-remaining-requests"] == "0"
    assert headers(replies[-1])["x-ratelimit-reset-requests"] == "1m0s"


def test_over_the_tokens() -> None:
    target = engine(tpm=30_000)
    chat(target, {**HELLO, "max_tokens": 29_500})
    reply = chat(target, {**HELLO, "max_completion_tokens": 1200})
    assert error(reply)["message"] == (
        "Rate limit reached for gpt-x in organization org-T on tokens per min (TPM): "
        f"Limit 30000, Used 29500, Requested 1200. Please try again in 1.4s. {VISIT}"
    )
    assert error(reply)["type"] == "tokens"
    assert headers(reply)["retry-after"] == "2"


def test_over_the_day() -> None:
    target = engine(rpd=10_000)
    assert headers(chat(target))["x-ratelimit-reset-requests"] == "8.64s"
    target = engine(rpd=2)
    for _ in range(2):
        chat(target)
    assert "on requests per day (RPD): Limit 2, Used 2" in error(chat(target))["message"]


def test_too_large() -> None:
    reply = chat(engine(tpm=30_000), {**HELLO, "max_tokens": 34_307})
    assert error(reply)["message"] == (
        "Request too large for gpt-x in organization org-T on tokens per min (TPM): "
        "Limit 30000, Requested 34307. The input or output tokens must be reduced in order to "
        f"run successfully. {VISIT}"
    )
    assert "retry-after" not in headers(reply)


def test_out_of_credit() -> None:
    reply = chat(engine(credit_requests=0))
    assert (reply.status, error(reply)) == (
        429,
        {
            "message": "You exceeded your current quota, please check your plan and billing "
            "details.",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        },
    )


def test_a_blind_rejection_says_nothing() -> None:
    for quota in ({"rpm": 1}, {"tpm": 16}, {"tpm": 1}, {"ramp": 2, "ramp_floor": 1}):
        blind = engine(**quota, quota_headers="off", retry_after=False, retry_text=False)
        replies = [chat(blind) for _ in range(2)]
        refused = replies[-1]
        assert refused.status == 429
        for reply in replies:
            assert set(headers(reply)) == {
                "x-request-id",
                "openai-organization",
                "openai-processing-ms",
                "openai-version",
            }
        problem = error(refused)
        assert problem["type"] == "rate_limit_error"
        said = problem["message"].replace("org-T", "").replace("gpt-x", "").lower()
        assert not any(letter.isdigit() for letter in said)
        assert "try again" not in said
        assert "per min" not in said


def test_hints_can_be_switched_off_one_by_one() -> None:
    for off in ({"quota_headers": "off"}, {"retry_after": False}, {"retry_text": False}):
        target = engine(rpm=1, **off)
        chat(target)
        refused = chat(target)
        shown = "x-ratelimit-limit-requests" in headers(refused)
        message = error(refused)["message"]
        assert shown is ("quota_headers" not in off)
        assert ("retry-after" in headers(refused)) is ("retry_after" not in off)
        assert ("try again in 1m0s" in message) is ("retry_text" not in off)
        assert "Limit 1, Used 1" in message
    precise = engine(rpm=100, burst_seconds=0.6, retry_after_ms=True)
    chat(precise)
    assert headers(chat(precise))["retry-after-ms"] == "600"


def test_a_refund_gives_back_what_was_not_used() -> None:
    for refund, left in ((True, "991"), (False, "899")):
        target = engine(tpm=1000, refund=refund)
        target.end(chat(target, {**HELLO, "max_tokens": 100}), now=0.0)
        reply = chat(target, {**HELLO, "max_tokens": 1})
        assert headers(reply)["x-ratelimit-remaining-tokens"] == left


def test_input_and_output_limits_are_charged_on_arrival() -> None:
    target = engine(itpm=1000, otpm=100)
    body = {**HELLO, "max_tokens": 60}
    assert [chat(target, body).status for _ in range(2)] == [200, 429]
    message = error(chat(target, body))["message"]
    assert "on output tokens per min (OTPM): Limit 100, Used 60, Requested 60." in message
    too_much = error(chat(target, {**HELLO, "max_tokens": 101}))["message"]
    assert "Request too large for gpt-x" in too_much


def test_growth_too_sudden_is_told_to_slow_down() -> None:
    target = engine(ramp=2, ramp_window=10, ramp_floor=60, burst_seconds=1)
    assert chat(target).status == 200
    refused = chat(target)
    problem = error(refused)
    assert (refused.status, problem["type"], problem["code"]) == (
        429,
        "rate_limit_error",
        "slow_down",
    )
    assert headers(refused)["retry-after"] == "1"


def test_money_ends_in_three_ways() -> None:
    for kind, code in (
        ("quota", "insufficient_quota"),
        ("spend_limit", "organization_spend_limit_exceeded"),
        ("balance", "credit_balance_exhausted"),
    ):
        refused = chat(engine(credit_requests=0, credit_error=kind))
        assert (refused.status, error(refused)["code"]) == (429, code)
        assert error(refused)["type"] == "insufficient_quota"
        assert "retry-after" not in headers(refused)


def test_the_charge_is_the_larger_of_output_and_prompt_or_their_sum() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 401}], "max_tokens": 50}
    for rule, cost in (("max", 101), ("sum", 151)):
        target = engine(charge=rule)
        chat(target, body)
        assert target.stats().tokens_charged == cost


_MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("body", "param", "code", "fragment"),
    [
        (b"{", None, None, "could not parse the JSON body"),
        (b"[]", None, None, "could not parse the JSON body"),
        ({}, "model", "missing_required_parameter", "'model'"),
        ({"model": 1}, "model", "invalid_type", "expected a string, but got an integer"),
        ({"model": "m"}, "messages", "missing_required_parameter", "'messages'"),
        ({"model": "m", "messages": "hi"}, "messages", "invalid_type", "an array of objects"),
        ({"model": "m", "messages": []}, "messages", "empty_array", "minimum length 1"),
        ({"model": "m", "messages": [1]}, "messages[0]", "invalid_type", "an object"),
        (
            {"model": "m", "messages": [{"role": "boss", "content": ""}]},
            "messages[0].role",
            "invalid_value",
            (
                "Invalid value: 'boss'. Supported values are: 'system', 'assistant', 'user', "
                "'function', 'tool', and 'developer'."
            ),
        ),
        (
            {"model": "m", "messages": [{"content": ""}]},
            "messages[0].role",
            "missing_required_parameter",
            "role",
        ),
        (
            {"model": "m", "messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "invalid_type",
            "string or array",
        ),
        ({**HELLO, "max_tokens": 0}, "max_tokens", "integer_below_min_value", "got 0"),
        ({**HELLO, "max_tokens": True}, "max_tokens", "invalid_type", "a boolean"),
        ({**HELLO, "max_completion_tokens": "9"}, "max_completion_tokens", "invalid_type", ""),
        (
            {**HELLO, "max_tokens": 1, "max_completion_tokens": 1},
            "max_tokens",
            "invalid_parameter_combination",
            "at the same time",
        ),
        ({**HELLO, "temperature": 3}, "temperature", "decimal_above_max_value", "<= 2"),
        ({**HELLO, "stream": "yes"}, "stream", "invalid_type", "a boolean"),
    ],
)
def test_wrong_bodies_are_refused(
    body: object, param: str | None, code: str | None, fragment: str
) -> None:
    target = engine()
    reply = chat(target, body)
    problem = error(reply)
    assert reply.status == 400
    assert problem["type"] == "invalid_request_error"
    assert (problem["param"], problem["code"]) == (param, code)
    assert fragment in problem["message"]
    assert target.stats().refused == {"400": 1}
    assert target.stats().admitted == 0


def test_contexts_end() -> None:
    long = {"model": "m", "messages": [{"role": "user", "content": "x" * 4000}]}
    problem = error(chat(engine(context_tokens=1000), long))
    assert (problem["param"], problem["code"]) == ("messages", "context_length_exceeded")
    assert problem["message"].startswith(
        "This model's maximum context length is 1000 tokens. "
        "However, your messages resulted in 1006 tokens."
    )
    both = error(chat(engine(context_tokens=1000), {**HELLO, "max_tokens": 999}))
    assert "you requested 1006 tokens (7 in the messages, 999 in the completion)" in both["message"]


def test_keys_models_and_routes() -> None:
    locked = engine(api_key="sk-right", models=("gpt-x",))
    assert chat(locked, key="sk-right").status == 200
    assert error(chat(locked))["message"].startswith("You didn't provide an API key")
    wrong = chat(locked, key="sk-a-wrong-and-long-key")
    assert (wrong.status, error(wrong)["code"]) == (401, "invalid_api_key")
    assert "sk-a-wrong" not in error(wrong)["message"]
    missing = chat(locked, {**HELLO, "model": "gpt-y"}, key="sk-right")
    assert missing.status == 404
    assert error(missing) == {
        "message": "The model `gpt-y` does not exist or you do not have access to it.",
        "type": "invalid_request_error",
        "param": None,
        "code": "model_not_found",
    }
    nowhere = locked.receive("GET", "/v1/nowhere?a=1", headers={}, body=b"", now=0)
    assert (nowhere.status, error(nowhere)["message"]) == (404, "Invalid URL (GET /v1/nowhere)")
    method = locked.receive("GET", "/chat/completions", headers={}, body=b"", now=0)
    assert method.status == 405
    assert method.headers.startswith("x-request-id: req_")
    assert method.headers.endswith("\r\nallow: POST\r\n")
    models = locked.receive(
        "GET", "/models", headers={"authorization": "Bearer sk-right"}, body=b"", now=0
    )
    assert [m["id"] for m in orjson.loads(models.body)["data"]] == ["gpt-x"]


@pytest.mark.parametrize(("scope", "statuses"), [
    ("key+model", [200, 200, 200, 429]),
    ("key", [200, 200, 429, 429]),
    ("model", [200, 429, 200, 429]),
    ("all", [200, 429, 429, 429]),
])  # fmt: skip
def test_scopes(scope: str, statuses: list[int]) -> None:
    target = engine(rpm=1, scope=scope)
    seen = [
        chat(target, {**HELLO, "model": model}, key=key).status
        for key, model in (("a", "m"), ("b", "m"), ("a", "n"), ("a", "m"))
    ]
    assert seen == statuses


def test_answers_are_cut_at_max_tokens() -> None:
    text = "Summarize: " + "A very long sentence about whales that goes on and on " * 20 + "."
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 5}
    data = orjson.loads(chat(engine(), body).body)
    assert data["choices"][0]["finish_reason"] == "length"
    assert data["usage"]["completion_tokens"] == 5


def test_json_is_answered_where_json_is_asked_for() -> None:
    schema = {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "score": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "mood": {"enum": ["good", "bad"]},
        },
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    data = orjson.loads(chat(engine(), {**HELLO, "response_format": form}).body)
    assert orjson.loads(data["choices"][0]["message"]["content"]) == {
        "title": "hi",
        "score": 0,
        "tags": ["hi"],
        "mood": "good",
    }


def test_streams_are_server_sent_events() -> None:
    body = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    events = chat(engine(), body).events
    assert events is not None
    assert events[-1] == b"data: [DONE]\n\n"
    data = [orjson.loads(re.sub(rb"^data: ", b"", event)) for event in events[:-1]]
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in data if e["choices"])
    assert text == "hi"
    assert data[-1]["choices"] == []
    assert data[-1]["usage"]["total_tokens"] == 8
    assert data[-2]["choices"][0]["finish_reason"] == "stop"
