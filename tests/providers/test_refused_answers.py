"""Refusals, filtered answers and rejected generations are errors of their own."""

from __future__ import annotations

import asyncio
import pickle
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from llmflow import errors
from llmflow.journal.protocol import RecordedFailure
from llmflow.types import Request, Usage, WireReply
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.litellm import LiteLLMProvider
from llmflow_providers.openai import OpenAIProvider

NOW = 1_788_220_760.0
USED = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}


def openai() -> OpenAIProvider:
    return OpenAIProvider("gpt-x", api_key="sk-secret-1234")


def anthropic() -> AnthropicProvider:
    return AnthropicProvider("claude-sonnet-5-5", api_key="sk-secret-1234")


def reply(body: object, status: int = 200) -> WireReply:
    return WireReply(status, {"x-request-id": "req-7"}, orjson.dumps(body), NOW)


def completion(finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {"id": "c-1", "model": "gpt-x", "choices": [choice], "usage": {**USED, "cost": 0.25}}


def message(stop_reason: str, *texts: str, **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": text} for text in texts]
    usage = {"input_tokens": 12, "output_tokens": 3}
    return {"content": content, "stop_reason": stop_reason, "usage": usage, **fields}


def failure(provider: OpenAIProvider | AnthropicProvider, wire: WireReply) -> errors.ProviderError:
    with pytest.raises(errors.ProviderError) as caught:
        provider.decode(wire)
    return caught.value


@pytest.mark.parametrize("finish_reason", ["stop", "content_filter", "eos"])
@pytest.mark.parametrize("content", [None, "", []])
def test_a_refusal_in_an_answers_place_is_no_answer(content: Any, finish_reason: str) -> None:
    body = completion(finish_reason, content=content, refusal="I can't help with that.")
    error = failure(openai(), reply(body))
    assert type(error) is errors.RefusalError
    assert (error.partial_text, error.cost) == ("I can't help with that.", 0.25)
    assert error.usage == Usage(input_tokens=12, output_tokens=3)
    assert (error.code, error.status, error.request_id) == ("refusal", 200, "req-7")
    assert not error.transient
    assert not error.fatal


def test_a_refusal_may_come_in_parts() -> None:
    parts = [{"type": "refusal", "text": "I "}, {"type": "refusal", "text": "cannot."}]
    error = failure(openai(), reply(completion(content=None, refusal=parts)))
    assert isinstance(error, errors.RefusalError)
    assert error.partial_text == "I cannot."


def test_claudes_refusal_says_of_what_kind_it_is() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Declined as unsafe."}
    body = message("refusal", "I won't", stop_details=details)
    error = failure(anthropic(), reply(body))
    assert type(error) is errors.RefusalError
    assert "Declined as unsafe." in str(error)
    assert (error.partial_text, error.code) == ("I won't", "refusal")
    assert error.usage == Usage(input_tokens=12, output_tokens=3)


@pytest.mark.parametrize(
    "ending",
    [
        *("content_filter", "SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"),
        *("IMAGE_SAFETY", "MODEL_ARMOR", "RECITATION", "guardrail_intervened", "content_filtered"),
        *("ERROR_TOXIC", "sensitive"),
    ],
)
def test_what_a_filter_stopped_is_no_refusal_of_the_model(ending: str) -> None:
    error = failure(openai(), reply(completion(ending, content="Half an")))
    assert type(error) is errors.ContentFilterError
    assert error.partial_text == "Half an"


def test_a_refused_row_of_a_batch_job_is_known_by_its_error() -> None:
    line = {
        "custom_id": "r-1",
        "response": {"status_code": 200, "body": completion(content=None, refusal="No.")},
    }
    batch = openai().batch
    assert batch is not None
    row = batch.read(orjson.dumps(line))
    assert isinstance(row.error, errors.RefusalError)
    assert row.error.partial_text == "No."
    assert not row.error.may_be_billed
    line = {"custom_id": "r-2", "result": {"type": "succeeded", "message": message("refusal")}}
    row = anthropic().batch.read(orjson.dumps(line))
    assert isinstance(row.error, errors.RefusalError)


def test_litellm_tells_a_refusal_too() -> None:
    provider = LiteLLMProvider("openai/gpt-x")
    answer: Any = SimpleNamespace(
        choices=[
            SimpleNamespace(
                message=SimpleNamespace(content=None, refusal="I must decline.", tool_calls=None),
                finish_reason="stop",
            )
        ],
        usage=SimpleNamespace(**USED),
        model="gpt-x",
        id="c-1",
        model_dump=lambda **_: {},
    )

    class Client:
        async def acompletion(self, *_: Any) -> Any:
            return answer

    provider._client = Client()  # type: ignore[assignment]
    request = Request(model="gpt-x", messages=({"role": "user", "content": "Hi"},))
    with pytest.raises(errors.RefusalError) as caught:
        asyncio.run(provider.complete(request, timeout=5.0))
    assert caught.value.partial_text == "I must decline."


def test_refusals_and_rejected_generations_keep_what_was_written_when_pickled() -> None:
    refused = errors.RefusalError("no", partial_text="I cannot.", usage=Usage(input_tokens=1))
    bad = errors.BadGenerationError("bad", partial_text='{"a": ', code="json_validate_failed")
    for error in (refused, bad):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert copy.partial_text == error.partial_text
        assert copy.code == error.code


def test_a_journal_gives_a_refusal_back_as_one() -> None:
    recorded = RecordedFailure(kind="RefusalError", message="no", partial_text="I cannot.", at=1.0)
    error = recorded.error()
    assert isinstance(error, errors.RefusalError)
    assert error.partial_text == "I cannot."


@pytest.mark.parametrize("code", ["json_validate_failed", "tool_use_failed"])
def test_a_rejected_generation_keeps_what_the_model_wrote(code: str) -> None:
    said = "Failed to generate JSON. Please adjust your prompt. See 'failed_generation'."
    body = {
        "error": {
            "message": said,
            "type": "invalid_request_error",
            "code": code,
            "failed_generation": '{"sentiment": "good"',
        }
    }
    groq = OpenAIProvider("m", base_url="https://api.groq.com/openai/v1", api_key="k")
    error = failure(groq, reply(body, 400))
    assert type(error) is errors.BadGenerationError
    assert error.partial_text == '{"sentiment": "good"'
    assert "sentiment" not in str(error)
    line = {"custom_id": "r", "response": {"status_code": 400, "body": body}}
    batch = groq.batch
    assert batch is not None
    row = batch.read(orjson.dumps(line))
    assert isinstance(row.error, errors.BadGenerationError)
    assert row.error.partial_text == '{"sentiment": "good"'


def test_a_rejected_generation_may_be_json_or_missing() -> None:
    def generated(value: Any) -> str:
        body = {"error": {"message": "no", "code": "tool_use_failed", "failed_generation": value}}
        error = failure(openai(), reply(body, 400))
        assert isinstance(error, errors.BadGenerationError)
        return error.partial_text

    assert generated({"a": 1}) == '{"a":1}'
    assert generated(None) == ""
