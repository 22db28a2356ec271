"""Replies that are odd but honest, in both dialects, live and as rows of a batch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from llmflow import errors
from llmflow.types import Response, Usage, WireReply
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.openai import OpenAIProvider

NOW = 1_788_220_760.0
OPENAI = OpenAIProvider("m", base_url="http://h/v1", api_key="sk-secret-1234")
ANTHROPIC = AnthropicProvider("m", base_url="http://h", api_key="sk-secret-1234")

Outcome = Response | errors.ProviderError
Reader = Callable[[Any, int], Outcome]


def live(provider: OpenAIProvider | AnthropicProvider, body: Any, status: int = 200) -> Outcome:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    try:
        return provider.decode(WireReply(status, {}, content, NOW))
    except errors.ProviderError as error:
        return error


def openai_live(body: Any, status: int = 200) -> Outcome:
    return live(OPENAI, body, status)


def openai_row(body: Any, status: int = 200) -> Outcome:
    row = {"custom_id": "r", "response": {"status_code": status, "body": body}, "error": None}
    batch = OPENAI.batch
    assert batch is not None
    _, response, error = batch.read(orjson.dumps(row))
    return response or error or pytest.fail("neither an answer nor an error")


def anthropic_live(body: Any, status: int = 200) -> Outcome:
    return live(ANTHROPIC, body, status)


def anthropic_row(body: Any, status: int = 200) -> Outcome:
    assert status == 200, "rows of Anthropic's have no status"
    row = {"custom_id": "r", "result": {"type": "succeeded", "message": body}}
    _, response, error = ANTHROPIC.batch.read(orjson.dumps(row))
    return response or error or pytest.fail("neither an answer nor an error")


def completion(text: Any = "Yes.", ending: Any = "stop", **rest: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
    return {
        "id": "c-1",
        "model": "m",
        "choices": [{**choice, "finish_reason": ending}],
        "usage": usage,
        **rest,
    }


def message(text: str | None = "Yes.", ending: Any = "end_turn", **rest: Any) -> dict[str, Any]:
    blocks = [] if text is None else [{"type": "text", "text": text}]
    usage = {"input_tokens": 9, "output_tokens": 4}
    return {
        "id": "m-1",
        "type": "message",
        "model": "m",
        "content": blocks,
        "stop_reason": ending,
        "usage": usage,
        **rest,
    }


openai_both = pytest.mark.parametrize("read", [openai_live, openai_row])
anthropic_both = pytest.mark.parametrize("read", [anthropic_live, anthropic_row])
all_four = pytest.mark.parametrize(
    ("read", "make"),
    [
        (openai_live, completion),
        (openai_row, completion),
        (anthropic_live, message),
        (anthropic_row, message),
    ],
)


# --- an error beside an empty answer ------------------------------------------------------------

ERRORS = [
    ({"code": 429, "message": "slow"}, errors.RateLimitError),
    ({"code": "429", "message": "slow"}, errors.RateLimitError),
    ({"status": 429, "message": "slow"}, errors.RateLimitError),
    ({"type": "rate_limit_error", "message": "slow"}, errors.RateLimitError),
    ({"code": "rate_limit_exceeded", "message": "slow"}, errors.RateLimitError),
    ({"status": "RESOURCE_EXHAUSTED", "message": "slow"}, errors.RateLimitError),
    ({"message": "Rate limit exceeded"}, errors.RateLimitError),
    ({"code": 502, "message": "upstream"}, errors.ServerError),
    ({"code": "503", "message": "full"}, errors.OverloadedError),
    ({"message": "odd"}, errors.BadReplyError),
    ("Too many requests", errors.RateLimitError),
]


@openai_both
@pytest.mark.parametrize("text", ["", None])
@pytest.mark.parametrize(("error", "kind"), ERRORS)
def test_an_error_beside_an_empty_choice_is_that_error(
    read: Reader, text: Any, error: Any, kind: type[errors.ProviderError]
) -> None:
    assert type(read(completion(text, "stop", error=error), 200)) is kind
    inside = completion(text, None)
    inside["choices"][0]["error"] = error
    assert type(read(inside, 200)) is kind
    assert type(read({"choices": [], "error": error}, 200)) is kind
    assert type(read({"choices": None, "error": error}, 200)) is kind


@anthropic_both
@pytest.mark.parametrize(("error", "kind"), ERRORS)
def test_an_error_beside_an_empty_message_is_that_error(
    read: Reader, error: Any, kind: type[errors.ProviderError]
) -> None:
    assert type(read(message(None, None, error=error), 200)) is kind
    assert type(read(message("", None, error=error), 200)) is kind
    assert type(read({"type": "error", "error": error}, 200)) is kind


@openai_both
def test_an_answer_beside_which_an_error_is_null_or_a_warning_is_an_answer(read: Reader) -> None:
    for error in (None, {}, "", False):
        answer = read(completion("", error=error), 200)
        assert isinstance(answer, Response), error
    answer = read(completion("Yes.", error={"code": 429, "message": "slow"}), 200)
    assert isinstance(answer, Response)
    assert answer.text == "Yes."
    calls = completion(None, "tool_calls", error={"code": 429})
    calls["choices"][0]["message"]["tool_calls"] = [{"id": "t"}]
    assert isinstance(read(calls, 200), Response)


# --- endings that are failures ------------------------------------------------------------------


@all_four
@pytest.mark.parametrize(
    "ending",
    [
        "network_error",
        "abort",
        "aborted",
        "ERROR",
        "error",
        "Error",
        "insufficient_system_resource",
        "INSUFFICIENT_SYSTEM_RESOURCE",
        "server_error",
        "timeout",
    ],
)
def test_an_ending_that_means_failure_is_asked_again(
    read: Reader, make: Callable[..., Any], ending: str
) -> None:
    error = read(make("Half an ans", ending), 200)
    assert isinstance(error, errors.ProviderError)
    assert error.transient
    assert not isinstance(error, errors.RateLimitError)


@all_four
@pytest.mark.parametrize("ending", ["length", "max_tokens", "stop", "STOP", "new_word", None])
def test_other_endings_empty_and_cut_answers_are_answers(
    read: Reader, make: Callable[..., Any], ending: str | None
) -> None:
    for text in ("Half", ""):
        answer = read(make(text, ending), 200)
        assert isinstance(answer, Response)
        assert answer.text == text


@all_four
@pytest.mark.parametrize(
    "ending", ["content_filter", "CONTENT_FILTER", "refusal", "SAFETY", "sensitive", "recitation"]
)
def test_a_filtered_answer_is_a_failure_with_its_partial_text(
    read: Reader, make: Callable[..., Any], ending: str
) -> None:
    error = read(make("Half an ans", ending), 200)
    assert isinstance(error, errors.ContentFilterError)
    assert (error.partial_text, error.transient) == ("Half an ans", False)
    assert error.usage == Usage(input_tokens=9, output_tokens=4)
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (twin.partial_text, twin.usage, twin.code) == (
            error.partial_text,
            error.usage,
            error.code,
        )


# --- statuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 203, 206, 299])
@pytest.mark.parametrize(
    ("read", "make"),
    [(openai_live, completion), (openai_row, completion), (anthropic_live, message)],
)
def test_any_2xx_with_a_completion_is_an_answer(
    read: Reader, make: Callable[..., Any], status: int
) -> None:
    answer = read(make(), status)
    assert isinstance(answer, Response)
    assert answer.text == "Yes."
    assert isinstance(read({}, status), errors.BadReplyError)


STATUS_READERS = pytest.mark.parametrize("read", [openai_live, openai_row, anthropic_live])


@STATUS_READERS
@pytest.mark.parametrize("status", [408, 409, 421, 425, 499])
@pytest.mark.parametrize("body", [{}, {"error": {"message": "no", "code": "odd"}}])
def test_a_4xx_that_passes_is_asked_again(read: Reader, status: int, body: Any) -> None:
    error = read(body, status)
    assert isinstance(error, errors.ProviderError)
    assert error.transient


@STATUS_READERS
@pytest.mark.parametrize("status", [400, 405, 406, 410, 411, 414, 415, 422, 424, 426, 451])
def test_other_4xx_are_not(read: Reader, status: int) -> None:
    error = read({"error": {"message": "no", "code": "odd"}}, status)
    assert isinstance(error, errors.ProviderError)
    assert not error.transient


@STATUS_READERS
@pytest.mark.parametrize("code", ["upstream_timeout", "model_overloaded", "dependency_unavailable"])
def test_a_424_whose_code_names_a_passing_cause_is_asked_again(read: Reader, code: str) -> None:
    for error in ({"message": "no", "code": code}, {"message": "no", "type": code}):
        found = read({"error": error}, 424)
        assert isinstance(found, errors.ProviderError)
        assert found.transient


# --- content ------------------------------------------------------------------------------------

CONTENT = [
    {"message": "Input", "code": 403, "metadata": {"reasons": ["violence"], "flagged_input": "x"}},
    {"message": "Input", "metadata": {"flagged_input": ""}},
    {"message": "no", "code": "moderation_blocked"},
    {"message": "no", "code": "content_filter", "innererror": {"code": "x"}},
    {"message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
    {"message": "no", "code": "DataInspectionFailed"},
    {"message": "no", "type": "content_moderation_error"},
    {"message": "Output blocked by content filtering policy", "type": "invalid_request_error"},
    {"message": "Invalid prompt: flagged as ...", "code": "invalid_prompt"},
    {"message": "Content Exists Risk", "type": "invalid_request_error"},
    {"message": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"},
]


@STATUS_READERS
@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("error", CONTENT)
def test_a_refusal_that_names_content_is_of_one_row(
    read: Reader, status: int, error: dict[str, Any]
) -> None:
    found = read({"error": error}, status)
    assert type(found) is errors.ContentFilterError
    assert (found.fatal, found.transient, found.partial_text) == (False, False, "")


@STATUS_READERS
@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (401, {"message": "flagged", "code": "moderation"}, errors.AuthenticationError),
        (403, {"message": "Your organization was not verified"}, errors.AuthenticationError),
        (403, {"message": "no", "code": "country_not_supported"}, errors.AuthenticationError),
        (400, {"message": "Invalid content type", "code": "bad"}, errors.InvalidRequestError),
        (400, {"message": "content must not be empty"}, errors.InvalidRequestError),
    ],
)
def test_other_refusals_are_what_they_were(
    read: Reader, status: int, error: dict[str, Any], kind: type[errors.ProviderError]
) -> None:
    assert type(read({"error": error}, status)) is kind


# --- a model that does not exist ----------------------------------------------------------------


@STATUS_READERS
@pytest.mark.parametrize(
    "error",
    [
        {"message": "/chat: Invalid model name passed in model=gpt-9. Call `/v1/models`"},
        {"message": "Invalid model name"},
        {"message": "Invalid model: gpt-9"},
        {"message": "model not found"},
        {"message": "Model 'a/b-9' not found"},
        {"message": "The model `gpt-9` does not exist or you do not have access to it."},
        {"message": "The model gpt-9 was not found."},
        {"message": "Model Not Exist"},
        {"message": "a/gpt-9 is not a valid model ID"},
        {"message": "No endpoints found for a/gpt-9."},
        {"message": "There are no healthy deployments for this model"},
        {"message": "no", "code": "model_not_found"},
        {"message": "no", "code": "unknown_model"},
        {"message": "Unknown model: gpt-9"},
        {"message": "LLM Provider NOT provided. Pass in the LLM provider"},
    ],
)
def test_a_400_about_a_model_that_is_not_there_is_every_calls_matter(
    read: Reader, error: dict[str, Any]
) -> None:
    found = read({"error": error}, 400)
    assert type(found) is errors.ModelNotFoundError
    assert found.fatal


@STATUS_READERS
@pytest.mark.parametrize(
    "text",
    [
        "This model does not support images",
        "model output must be valid",
        "The tool 'x' does not exist",
        "messages[0]: image not found",
        "Invalid model output schema for response_format",
        "temperature is not supported with this model",
        "No endpoints found that support tool use",
    ],
)
def test_a_400_about_something_else_of_a_model_is_not(read: Reader, text: str) -> None:
    assert type(read({"error": {"message": text}}, 400)) is errors.InvalidRequestError


# --- JSON that a strict reader refuses ----------------------------------------------------------


@pytest.mark.parametrize(("read", "make"), [(openai_live, completion), (anthropic_live, message)])
@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (rb'"a\ud800b"', "a\ufffdb"),
        (b'"a\xffb"', "a\ufffdb"),
        (b'"a\x01b"', "a\x01b"),
        (b'"a\nb"', "a\nb"),
    ],
)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"\n \n\r\n"])
def test_an_answer_in_json_that_is_not_strict_is_used(
    read: Reader, make: Callable[..., Any], sent: bytes, text: str, before: bytes
) -> None:
    body = orjson.dumps(make("HERE", score=0.5)).replace(b'"HERE"', sent).replace(b"0.5", b"NaN")
    answer = read(before + body, 200)
    assert isinstance(answer, Response)
    assert answer.text == text
    assert answer.raw["score"] is None


# --- usage that nobody can have used ------------------------------------------------------------

BAD = [-5, "12", "many", True, 1e30, 10**18, [1], {"a": 1}]


@openai_both
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_a_usage_that_cannot_be_is_not_said_at_openai(read: Reader, name: str, value: Any) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, name: value}
    answer = read(completion(usage=usage), 200)
    assert isinstance(answer, Response)
    assert answer.usage == Usage()


@anthropic_both
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("name", ["input_tokens", "output_tokens", "cache_read_input_tokens"])
def test_a_usage_that_cannot_be_is_not_said_at_anthropic(
    read: Reader, name: str, value: Any
) -> None:
    usage = {"input_tokens": 9, "output_tokens": 4, name: value}
    answer = read(message(usage=usage), 200)
    assert isinstance(answer, Response)
    assert answer.usage == Usage()


@openai_both
@pytest.mark.parametrize("value", [-50, "7", 10**6])
def test_the_parts_of_a_usage_are_no_larger_than_the_whole(read: Reader, value: Any) -> None:
    details = {"cached_tokens": value, "cache_write_tokens": value}
    usage = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": value},
    }
    answer = read(completion(usage=usage), 200)
    assert isinstance(answer, Response)
    assert 0 <= answer.usage.cached_tokens + answer.usage.cache_write_tokens <= 9
    assert 0 <= answer.usage.reasoning_tokens <= 4


@openai_both
@pytest.mark.parametrize("cost", [-1.0, "0.5", True, [1]])
def test_a_cost_that_cannot_be_is_not_said(read: Reader, cost: Any) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "cost": cost}
    answer = read(completion(usage=usage), 200)
    assert isinstance(answer, Response)
    assert answer.cost is None


# --- LiteLLM's proxy ----------------------------------------------------------------------------


@STATUS_READERS
@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "no_db_connection", errors.AuthenticationError),  # a key it does not know
        (400, "budget_exceeded", errors.BillingError),
        (429, "budget_exceeded", errors.BillingError),
    ],
)
def test_what_litellms_proxy_refuses_for_all_calls_is_no_rows_matter(
    read: Reader, status: int, kind: str, expected: type[errors.ProviderError]
) -> None:
    found = read({"error": {"message": "no", "type": kind, "param": None, "code": "400"}}, status)
    assert type(found) is expected
    assert found.fatal


@STATUS_READERS
def test_a_proxy_whose_servers_all_rest_is_busy(read: Reader) -> None:
    text = "No deployments available for selected model, Try again in 5 seconds. Passed model=m."
    error = {"message": text, "type": "rate_limit_error", "param": None, "code": "429"}
    found = read({"error": error}, 429)
    assert type(found) is errors.RateLimitError
    assert found.retry_after == 5.0


@pytest.mark.parametrize("name", [{"a": 1}, ["x"], 7, True, None, ""])
def test_an_answer_whose_id_is_no_text_has_none(name: Any) -> None:
    for outcome in (openai_live(completion(id=name)), anthropic_live(message(id=name))):
        assert isinstance(outcome, Response)
        assert (outcome.text, outcome.request_id) == ("Yes.", None)


@pytest.mark.parametrize("before", range(160, 201, 5))
@pytest.mark.parametrize("dialect", [OpenAIProvider, AnthropicProvider])
def test_no_part_of_a_key_is_left_where_a_message_is_cut(
    dialect: type[OpenAIProvider | AnthropicProvider], before: int
) -> None:
    key = "0123456789abcdef" * 2  # as Azure's: nothing tells that it is one
    provider = dialect("m", base_url="http://h/v1", api_key=key)
    said = f"{'-' * before}{key}"
    for body in (f"{said} is wrong".encode(), {"said": said}):
        error = live(provider, body, 401)
        assert isinstance(error, errors.AuthenticationError)
        assert "0123" not in f"{error}{error!r}"


def test_an_error_that_is_a_bare_text_is_looked_through() -> None:
    error = openai_live("Over 50 requests per day. Please try again in 90 minutes.", 429)
    assert type(error) is errors.QuotaExhaustedError
    assert (error.dimension, error.retry_after) == ("rpd", 5400.0)


@pytest.mark.parametrize("dialect", [OpenAIProvider, AnthropicProvider])
def test_a_key_that_is_no_text_is_refused_and_not_shown(
    dialect: type[OpenAIProvider | AnthropicProvider],
) -> None:
    with pytest.raises(errors.ConfigurationError, match="cannot be sent in a header") as caught:
        dialect("m", api_key="sk-hidden-\udcff").prepare()
    assert "hidden" not in repr(caught.value)
