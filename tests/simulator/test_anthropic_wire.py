"""Anthropic's bodies, headers and limits, letter by letter."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmflow.simulator import Engine, Faults, Latency, Reply, SimulatorSettings

START = 1_795_000_000  # 2026-11-18T11:06:40Z
HELLO: dict[str, Any] = {
    "model": "claude-x",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "hi"}],
}


def engine(**settings: Any) -> Engine:
    return Engine(
        SimulatorSettings(**{"organization": "org-T", "latency": 0, **settings}),
        now=0.0,
        wall=START,
    )


def ask(
    target: Engine, body: object = None, *, now: float = 0.0, key: str = "sk", **more: str
) -> Reply:
    raw = body if isinstance(body, bytes) else orjson.dumps(HELLO if body is None else body)
    headers = {"x-api-key": key, "anthropic-version": "2023-06-01", **more}
    return target.receive("POST", "/v1/messages", headers=headers, body=raw, now=now)


def answered(target: Engine, body: object = None, *, now: float = 0.0) -> dict[str, Any]:
    reply = ask(target, body, now=now)
    assert reply.status == 200, reply.body
    target.end(reply, now=now + reply.delay)
    return dict(orjson.loads(reply.body))


def error(reply: Reply) -> dict[str, Any]:
    data = orjson.loads(reply.body)
    assert list(data) == ["type", "error", "request_id"]
    assert data["type"] == "error"
    return dict(data["error"])


def lines(reply: Reply) -> dict[str, str]:
    assert reply.headers.endswith("\r\n")
    return dict(line.split(": ", 1) for line in reply.headers[:-2].split("\r\n"))


def words(count: int) -> dict[str, Any]:
    """Return a request of so many tokens by the estimate."""
    return {**HELLO, "messages": [{"role": "user", "content": "x" * 4 * count}]}


def test_the_body_of_an_answer() -> None:
    assert answered(engine()) == {
        "id": f"msg_{1:032x}",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": [{"type": "text", "text": "hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 1,
            "service_tier": "standard",
            "inference_geo": "not_available",
        },
    }


def test_max_tokens_cut_the_answer() -> None:
    message = answered(engine(), {**words(20), "max_tokens": 2})
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"]["output_tokens"] == 2
    empty = answered(engine(), {**HELLO, "max_tokens": 0})
    assert (empty["content"], empty["stop_reason"]) == ([], "max_tokens")


def test_system_and_blocks_count_as_input() -> None:
    blocks = [{"type": "text", "text": "abcdefgh"}, {"type": "image", "source": {}}]
    body = {**HELLO, "system": "Be brief.", "messages": [{"role": "user", "content": blocks}]}
    assert answered(engine(), body)["usage"]["input_tokens"] == 3 + 3 + 3 + 3 + 2 + 1600


def test_a_schema_is_obeyed() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "additionalProperties": False,
    }
    body = {**HELLO, "output_config": {"format": {"type": "json_schema", "schema": schema}}}
    assert answered(engine(), body)["content"] == [{"type": "text", "text": '{"a":"hi"}'}]


def test_the_headers_of_an_answer() -> None:
    target = engine(rpm=1000, itpm="2M", otpm="400k", burst_seconds=60)
    assert lines(ask(target, words(2600))) == {
        "request-id": f"req_{1:032x}",
        "anthropic-organization-id": "org-T",
        "anthropic-ratelimit-requests-limit": "1000",
        "anthropic-ratelimit-requests-remaining": "999",
        "anthropic-ratelimit-requests-reset": "2026-11-18T11:06:41Z",
        "anthropic-ratelimit-input-tokens-limit": "2000000",
        "anthropic-ratelimit-input-tokens-remaining": "1997000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-18T11:06:41Z",
        "anthropic-ratelimit-output-tokens-limit": "400000",
        "anthropic-ratelimit-output-tokens-remaining": "400000",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-18T11:06:40Z",
        "anthropic-ratelimit-tokens-limit": "2400000",
        "anthropic-ratelimit-tokens-remaining": "2397000",
        "anthropic-ratelimit-tokens-reset": "2026-11-18T11:06:41Z",
    }


def test_a_limit_on_all_tokens_is_shown_instead_of_the_sum() -> None:
    shown = lines(ask(engine(tpm=50_000, itpm=40_000), words(1000)))
    assert shown["anthropic-ratelimit-tokens-limit"] == "50000"
    assert shown["anthropic-ratelimit-tokens-remaining"] == "49000"


@pytest.mark.parametrize(
    ("settings", "unit", "wait"),
    [
        ({"rpm": 3, "burst_seconds": 20}, "3 requests per minute", "20"),
        ({"itpm": 1000}, "1,000 input tokens per minute", "31"),
        ({"tpm": 1000}, "1,000 tokens per minute", "31"),
    ],
)
def test_a_rejection_names_its_dimension(settings: dict[str, Any], unit: str, wait: str) -> None:
    target = engine(**settings, latency=1)
    assert ask(target, words(755)).status == 200
    reply = ask(target, words(755))
    assert reply.status == 429
    assert error(reply) == {
        "type": "rate_limit_error",
        "message": "This request would exceed your organization's rate limit of "
        f"{unit} (org: org-T, model: claude-x).",
    }
    assert lines(reply)["retry-after"] == wait
    assert orjson.loads(reply.body)["request_id"] == lines(reply)["request-id"]


def test_output_is_charged_while_it_is_produced_and_may_go_into_debt() -> None:
    # 20 tokens of answer in 2 seconds, against 60 a minute of which 10 fit at once.
    target = engine(otpm=60, burst_seconds=10, latency=2.0, answer="echo")
    first, second = ask(target, words(20)), ask(target, words(20), now=0.5)
    assert (first.status, second.status) == (200, 200)
    late = ask(target, words(20), now=2.0)
    assert late.status == 429
    assert "60 output tokens per minute" in error(late)["message"]
    target.end(first, now=2.0)
    target.end(second, now=2.5)
    # 10 + 2.5 - 40 tokens are left; one must be there.
    shown = lines(ask(target, words(20), now=2.5))
    assert shown["retry-after"] == "29"
    assert ask(target, words(20), now=2.5 + 28.4).status == 429
    assert ask(target, words(20), now=2.5 + 28.6).status == 200


def test_max_tokens_cost_nothing() -> None:
    target = engine(otpm=100, tpm=1000)
    assert all(ask(target, {**HELLO, "max_tokens": 90_000}).status == 200 for _ in range(20))


def test_a_client_that_leaves_pays_for_what_was_produced() -> None:
    target = engine(tpm=6000, otpm=6000, burst_seconds=1, latency=4.0, answer="echo")
    reply = ask(target, words(40))
    target.end(reply, now=1.0, left=True)
    assert target.stats().tokens_charged == pytest.approx(40 + 10)


def test_input_is_settled_to_what_it_was() -> None:
    target = engine(itpm=1000, burst_seconds=60)
    body = {**HELLO, "messages": [{"role": "user", "content": "四" * 400}]}
    reply = ask(target, body)
    assert target.stats().tokens_charged == 100
    target.end(reply, now=0.0)
    used = 300 + 6
    assert target.stats().tokens_charged == used + reply.tokens[1]
    assert ask(target, words(1000 - used + 1)).status == 429
    assert ask(target, words(1000 - used)).status == 200


def test_a_marked_beginning_that_comes_again_is_free() -> None:
    target = engine(itpm=1100, burst_seconds=60)
    mark = {"type": "ephemeral"}
    system = [{"type": "text", "text": "x" * 4000, "cache_control": mark}]
    body = {**HELLO, "system": system}
    usage = [answered(target, body)["usage"] for _ in range(20)]
    kinds = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert [usage[0][kind] for kind in kinds] == [4, 1006, 0]
    assert [usage[-1][kind] for kind in kinds] == [4, 0, 1006]
    other = {**body, "system": [{**system[0], "text": "y" * 4000}]}
    assert ask(target, other).status == 429
    assert answered(engine(), body)["usage"]["cache_read_input_tokens"] == 0


def test_the_cache_forgets_after_five_minutes() -> None:
    target = engine()
    body = {**HELLO, "cache_control": {"type": "ephemeral"}}
    read = [
        answered(target, body, now=now)["usage"]["cache_read_input_tokens"]
        for now in (0.0, 299.0, 597.0, 897.0)
    ]
    assert read == [0, 7, 7, 0]


def test_five_marks_are_too_many() -> None:
    blocks = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}] * 5
    reply = ask(engine(), {**HELLO, "messages": [{"role": "user", "content": blocks}]})
    assert "A maximum of 4 blocks with cache_control may be provided. Found 5." in str(
        error(reply)["message"]
    )


def test_money_ends_in_three_ways() -> None:
    regain = "You will regain access on 2026-12-01 at 00:00 UTC."
    reply = ask(engine(credit_requests=0))
    assert (reply.status, error(reply)) == (
        429,
        {
            "type": "rate_limit_error",
            "message": f"You have reached your API usage limits. {regain}",
            "details": {"error_code": "enforced_spend_limit_reached"},
        },
    )
    assert "retry-after" not in lines(reply)
    reply = ask(engine(credit_requests=0, credit_error="spend_limit"))
    assert (reply.status, error(reply)) == (
        400,
        {
            "type": "invalid_request_error",
            "message": f"You have reached your specified API usage limits. {regain}",
        },
    )
    reply = ask(engine(credit_requests=0, credit_error="balance"))
    assert (reply.status, error(reply)["type"]) == (402, "billing_error")


def test_access_comes_back_in_the_next_year() -> None:
    december = Engine(SimulatorSettings(credit_requests=0), now=0.0, wall=START + 30 * 86_400)
    assert "regain access on 2027-01-01 at" in error(ask(december))["message"]


def test_growth_too_sudden_is_refused() -> None:
    target = engine(ramp=2, ramp_window=10, ramp_floor=6000, burst_seconds=1)
    assert [ask(target, words(100)).status for _ in range(2)] == [200, 429]
    reply = ask(target, words(100))
    assert error(reply)["details"] == {"error_code": "ramp_limit_exceeded"}
    assert "(org-T) maximum usage increase rate for input tokens" in error(reply)["message"]
    assert lines(reply)["retry-after"] == "1"
    assert ask(target, words(100), now=1.0).status == 200
    assert target.stats().rejected == {"ramp": 2}


def test_a_blind_rejection_says_nothing() -> None:
    for quota in ({"rpm": 1}, {"itpm": 1}, {"ramp": 2, "ramp_floor": 1}):
        target = engine(**quota, quota_headers="off", retry_after=False, retry_text=False)
        ask(target, words(1))
        reply = ask(target, words(1))
        assert reply.status == 429
        assert set(lines(reply)) == {"request-id", "anthropic-organization-id"}
        message = error(reply)["message"].replace("org-T", "").replace("claude-x", "")
        assert not any(letter.isdigit() for letter in message)


def test_both_dialects_have_quotas_of_their_own() -> None:
    target = engine(rpm=1)
    chat = orjson.dumps({"model": "m", "messages": HELLO["messages"]})

    def other() -> int:
        return target.receive(
            "POST", "/v1/chat/completions", headers={"x-api-key": "sk"}, body=chat, now=0.0
        ).status

    assert [ask(target).status, other(), ask(target).status, other()] == [200, 200, 429, 429]


@pytest.mark.parametrize(
    ("kind", "status", "name", "message"),
    [
        ("server_error", 500, "api_error", "Internal server error"),
        ("overloaded", 529, "overloaded_error", "Overloaded"),
    ],
)
def test_faults_have_the_dialects_envelope(kind: str, status: int, name: str, message: str) -> None:
    reply = ask(engine(faults=Faults(**{kind: 1.0})))
    assert (reply.status, error(reply)) == (status, {"type": name, "message": message})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[]", "Input should be a valid dictionary"),
        ({**HELLO, "model": 1}, "model: Input should be a valid string"),
        ({"model": "m", "messages": HELLO["messages"]}, "max_tokens: Field required"),
        ({**HELLO, "max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
        ({**HELLO, "max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"model": "m", "max_tokens": 1}, "messages: Field required"),
        ({**HELLO, "messages": []}, "messages: at least one message is required"),
        ({**HELLO, "messages": "hi"}, "messages: Input should be a valid list"),
        ({**HELLO, "messages": [1]}, "messages.0: Input should be a valid dictionary"),
        ({**HELLO, "messages": [{"content": ""}]}, "messages.0.role: Field required"),
        ({**HELLO, "messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (
            {**HELLO, "messages": [{"role": "boss", "content": ""}]},
            "messages.0.role: Input should be 'user' or 'assistant'",
        ),
        (
            {**HELLO, "messages": [{"role": "system", "content": "x"}]},
            (
                'messages: Unexpected role "system". The Messages API accepts a top-level `system` '
                'parameter, not "system" as an input message role.'
            ),
        ),
        (
            {**HELLO, "messages": [{"role": "user", "content": ""}]},
            (
                "messages.0: all messages must have non-empty content "
                "except for the optional final assistant message"
            ),
        ),
        (
            {**HELLO, "messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
            "messages: text content blocks must be non-empty",
        ),
        ({**HELLO, "system": 5}, "system: Input should be a valid string or list"),
        ({**HELLO, "temperature": 2}, "temperature: Input should be less than or equal to 1"),
        ({**HELLO, "stream": "yes"}, "stream: Input should be a valid boolean"),
    ],
)
def test_wrong_bodies_are_refused(body: object, message: str) -> None:
    target = engine()
    reply = ask(target, body)
    assert reply.status == 400
    assert error(reply) == {"type": "invalid_request_error", "message": message}
    assert target.stats().refused == {"400": 1}


def test_what_is_no_json_is_refused() -> None:
    assert error(ask(engine(), b"{"))["message"].startswith("The request body is not valid JSON:")


def test_contexts_end() -> None:
    target = engine(context_tokens=1000)
    assert error(ask(target, words(1000)))["message"] == (
        "prompt is too long: 1006 tokens > 1000 maximum"
    )
    assert error(ask(target, {**HELLO, "max_tokens": 999}))["message"].startswith(
        "input length and `max_tokens` exceed context limit: 7 + 999 > 1000"
    )


def test_keys_versions_models_and_routes() -> None:
    locked = engine(api_key="sk-right", models=("claude-x",))
    assert ask(locked, key="sk-right").status == 200
    assert ask(locked, key="", authorization="Bearer sk-right").status == 200
    wrong = ask(locked, key="sk-wrong")
    assert (wrong.status, error(wrong)) == (
        401,
        {"type": "authentication_error", "message": "invalid x-api-key"},
    )
    assert error(ask(locked, key=""))["message"] == "x-api-key header is required"
    unknown = ask(locked, {**HELLO, "model": "claude-y"}, key="sk-right")
    assert (unknown.status, error(unknown)) == (
        404,
        {"type": "not_found_error", "message": "model: claude-y"},
    )
    bare = locked.receive(
        "POST", "/v1/messages", headers={"x-api-key": "sk-right"}, body=b"{}", now=0
    )
    assert error(bare)["message"] == "anthropic-version: header is required"
    speaker = {"x-api-key": "sk-right", "anthropic-version": "2023-06-01"}
    nowhere = locked.receive("GET", "/v1/nowhere", headers=speaker, body=b"", now=0)
    assert (nowhere.status, error(nowhere)["type"]) == (404, "not_found_error")
    method = locked.receive("GET", "/v1/messages", headers=speaker, body=b"", now=0)
    assert (method.status, error(method)["type"]) == (405, "invalid_request_error")
    models = locked.receive("GET", "/v1/models", headers=speaker, body=b"", now=0)
    assert orjson.loads(models.body) == {
        "data": [
            {
                "type": "model",
                "id": "claude-x",
                "display_name": "claude-x",
                "created_at": "2026-11-18T11:06:40Z",
                "lifecycle": "active",
                "max_input_tokens": None,
                "max_tokens": None,
            }
        ],
        "has_more": False,
        "first_id": "claude-x",
        "last_id": "claude-x",
    }


def test_a_stream_tells_its_input_first_and_its_output_last() -> None:
    target = engine(latency=Latency(seconds=0.1, per_output_token=0.1), answer="echo")
    body = {**HELLO, "stream": True, "messages": [{"role": "user", "content": "one two"}]}
    reply = ask(target, body)
    assert reply.events is not None
    named = [event.split(b"\n")[0].removeprefix(b"event: ").decode() for event in reply.events]
    data = [orjson.loads(event.split(b"\ndata: ")[1]) for event in reply.events]
    assert [each["type"] for each in data] == named
    assert named == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert data[0]["message"]["usage"]["input_tokens"] == 8
    assert data[0]["message"]["stop_reason"] is None
    assert [each["delta"]["text"] for each in data[3:5]] == ["one", " two"]
    assert data[6]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert data[6]["usage"]["output_tokens"] == 2
    assert reply.event_gap == pytest.approx(0.2 / 8)
