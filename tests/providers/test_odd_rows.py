"""Rows of batch results that a strict reader refuses, but that hold an answer."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmflow import errors
from llmflow.provider import BatchAPI, BatchRow
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.openai import OpenAIProvider
from tests.providers.batching import Script, reply

KEY = "sk-secret-key-123456"
MARK = "MARK"
DIALECTS = ("openai", "anthropic")


def api_of(dialect: str) -> BatchAPI:
    if dialect == "anthropic":
        return AnthropicProvider("m", api_key=KEY).batch
    api = OpenAIProvider("m", api_key=KEY).batch
    assert api is not None
    return api


def message(dialect: str, text: str) -> dict[str, Any]:
    """Return an answer with a field beside it that is of no use."""
    if dialect == "anthropic":
        usage = {"input_tokens": 8, "output_tokens": 2}
        content = [{"type": "text", "text": text}]
        return {"id": "m", "content": content, "stop_reason": "end_turn", "usage": usage, "x": 0.5}
    usage = {"prompt_tokens": 8, "completion_tokens": 2}
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return {"id": "c", "choices": [choice], "usage": usage, "x": 0.5}


def line_of(dialect: str, name: str, text: str, status: object = 200) -> bytes:
    body = message(dialect, text)
    if dialect == "anthropic":
        result = {"type": "succeeded", "message": body}
        return orjson.dumps({"custom_id": name, "result": result})
    response = {"status_code": status, "request_id": "req", "body": body}
    return orjson.dumps({"id": "b", "custom_id": name, "response": response, "error": None})


ODD = [
    pytest.param(rb"a\ud83db", "a\ufffdb", id="lone surrogate"),
    pytest.param(rb"a\udc00", "a\ufffd", id="lone low surrogate"),
    pytest.param(b"a\x01\x1f\tb", "a\x01\x1f\tb", id="raw control characters"),
    pytest.param(b"a\xff\xfeb", "a\ufffd\ufffdb", id="not UTF-8"),
    pytest.param(b"caf\xe9", "caf\ufffd", id="latin-1"),
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("raw", "text"), ODD)
def test_an_answer_in_json_that_is_not_strict_is_used(dialect: str, raw: bytes, text: str) -> None:
    line = line_of(dialect, "r-0", MARK).replace(MARK.encode(), raw)
    with pytest.raises(ValueError, match=r"."):
        orjson.loads(line)
    check(api_of(dialect).read(line), text)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_number_that_is_none_is_null(dialect: str, number: bytes) -> None:
    row = api_of(dialect).read(line_of(dialect, "r-0", "text").replace(b"0.5", number))
    check(row, "text")
    assert row.response is not None
    assert row.response.raw["x"] is None


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("before", [b"\xef\xbb\xbf", b"\r", b" \t\r", b"\xef\xbb\xbf \xef\xbb\xbf"])
def test_what_stands_before_a_row_is_left_out(dialect: str, before: bytes) -> None:
    check(api_of(dialect).read(before + line_of(dialect, "r-0", "text") + b"\r\n"), "text")


def test_a_text_within_a_row_that_is_json_is_read_as_leniently() -> None:
    line = line_of("openai", "r-0", "text")
    row = orjson.loads(line)
    inner = orjson.dumps(row["response"]["body"]).replace(b"0.5", b"NaN").decode()
    row["response"]["body"] = inner
    check(api_of("openai").read(orjson.dumps(row)), "text")


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299, "200", "202", None])
def test_any_status_of_success_with_a_completion_is_an_answer(status: object) -> None:
    check(api_of("openai").read(line_of("openai", "r-0", "text", status)), "text")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.InvalidRequestError),
        ("429", errors.RateLimitError),
        (302, errors.ProviderError),
        (500, errors.ServerError),
        ("soon", errors.ServerError),
    ],
)
def test_another_status_is_none(status: object, kind: type[Exception]) -> None:
    line = orjson.dumps(
        {"custom_id": "r", "response": {"status_code": status, "body": {"message": "no"}}}
    )
    row = api_of("openai").read(line)
    assert isinstance(row.error, kind)


def test_a_success_without_a_completion_is_an_error_that_passes() -> None:
    line = orjson.dumps({"custom_id": "r", "response": {"status_code": 202, "body": {"id": "x"}}})
    row = api_of("openai").read(line)
    assert isinstance(row.error, errors.BadReplyError)
    assert row.error.transient


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_jobs_status_that_is_not_strict_json_is_read(dialect: str) -> None:
    state = {"status": "completed"} if dialect == "openai" else {"processing_status": "ended"}
    body = orjson.dumps({"id": "b", "x": 0.5, **state}).replace(b"0.5", b"NaN")
    api = api_of(dialect)
    status = await api.status("b", Script(reply(b"\xef\xbb\xbf\r\n\r\n" + body)))
    assert status.has_ended


def check(row: BatchRow, text: str) -> None:
    assert row.error is None
    assert row.response is not None
    assert (row.custom_id, row.response.text) == ("r-0", text)
    assert row.response.usage.total_tokens == 10
    assert row.response.text.encode("utf-8") is not None
    orjson.dumps(row.response.raw)
