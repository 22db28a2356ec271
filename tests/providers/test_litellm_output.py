"""Output schemas through litellm: what reaches the vendor, and how its answers are read."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import pytest

from llmflow import errors
from llmflow.parts import OutputSchema
from llmflow.typed.methods import OutputMethod
from llmflow.types import Request
from llmflow_providers.litellm import LiteLLMProvider
from llmflow_providers.litellm.client import loader
from llmflow_providers.litellm.litellm_output import LiteLLMOutput, litellm_ways
from llmflow_providers.litellm.replies import translate
from tests.providers.test_litellm import ANSWER, KEY, serving

pytestmark = pytest.mark.http  # litellm's import takes seconds
if find_spec("litellm") is None:
    pytest.skip("needs the extra litellm", allow_module_level=True)

REVIEW = OutputSchema(
    name="Review",
    schema={
        "type": "object",
        "properties": {"title": {"type": "string"}, "score": {"type": "integer", "minimum": 1}},
        "required": ["title", "score"],
    },
)


def ask(**fields: Any) -> Request:
    messages = ({"role": "user", "content": "How was it?"},)
    return Request(**{"model": "", "messages": messages, "wanted": (REVIEW,), **fields})


def answered(**message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    return {**ANSWER, "choices": [choice]}


def called(name: str, arguments: str, finish_reason: str = "tool_calls") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    body = answered(content=None, tool_calls=[call])
    body["choices"][0]["finish_reason"] = finish_reason
    return body


@pytest.mark.parametrize(
    ("model", "methods"),
    [
        ("openai/gpt-6-luna", "json_schema json_schema tool prompt"),
        ("gpt-4-turbo", "tool prompt"),
        ("anthropic/claude-3-opus", "json_schema tool prompt"),
        ("bedrock/anthropic.claude-sonnet-4-5", "json_schema tool prompt"),
        ("deepseek/deepseek-flash", "json_object prompt"),
        ("cohere_chat/command-r", "json_schema tool prompt"),
        ("compatible/x", "json_schema tool prompt"),
        ("acme/x", "json_schema tool prompt"),
    ],
)
def test_the_methods_of_a_vendor(model: str, methods: str) -> None:
    assert [method for method, _ in litellm_ways(model)] == methods.split()


def test_a_vendor_that_is_not_known_is_shown_the_schema_as_well() -> None:
    output = LiteLLMOutput("acme/x", who="litellm/acme/x")
    sent = output.sent(ask())
    assert sent is not None
    assert "response_format" in sent.fields
    assert "JSON schema" in sent.instructions


async def test_a_schema_reaches_the_vendor_as_it_was_made() -> None:
    async with serving() as server:
        server.body = answered(content='{"title": "Good", "score": 3}')
        provider = LiteLLMProvider("openai/gpt-6-luna", base_url=server.url, api_key=KEY)
        for _ in range(2):
            response = await provider.complete(ask(), timeout=10)
        assert response.text == '{"title": "Good", "score": 3}'
        first, second = server.bodies
        assert first == second
        form = first["response_format"]["json_schema"]
        assert form["strict"] is True
        assert form["schema"]["properties"]["score"] == {"type": "integer", "minimum": 1}
        assert form["schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("finish_reason", "ending"), [("tool_calls", "stop"), ("length", "length")]
)
async def test_a_call_of_the_answer_tool_is_the_answer(finish_reason: str, ending: str) -> None:
    async with serving() as server:
        server.body = called("return_answer", '{"title": "Goo', finish_reason)
        provider = LiteLLMProvider("openai/gpt-4-turbo", base_url=server.url, api_key=KEY)
        response = await provider.complete(ask(), timeout=10)
        assert (response.text, response.finish_reason) == ('{"title": "Goo', ending)
        (body,) = server.bodies
        assert body["tool_choice"]["function"]["name"] == "return_answer"
        assert body["tools"][0]["function"]["parameters"]["properties"]["score"]["minimum"] == 1


async def test_calls_of_other_tools_stay_what_they_were() -> None:
    async with serving() as server:
        server.body = called("search", "{}")
        provider = LiteLLMProvider("openai/gpt-6-luna", base_url=server.url, api_key=KEY)
        response = await provider.complete(ask(), timeout=10)
        assert (response.text, response.finish_reason) == ("", "tool_calls")


async def test_a_refusal_is_an_error_of_its_own() -> None:
    async with serving() as server:
        server.body = answered(content=None, refusal="I must decline.")
        provider = LiteLLMProvider("openai/gpt-6-luna", base_url=server.url, api_key=KEY)
        with pytest.raises(errors.RefusalError) as caught:
            await provider.complete(ask(), timeout=10)
        assert caught.value.partial_text == "I must decline."


async def test_a_server_that_does_not_know_the_format_is_asked_in_another_way() -> None:
    async with serving() as server:
        server.status = 400
        server.body = {
            "error": {
                "message": "Invalid parameter: 'response_format' of type 'json_schema' is not "
                "supported with this model.",
                "type": "invalid_request_error",
            }
        }
        provider = LiteLLMProvider("openai/gpt-6-luna", base_url=server.url, api_key=KEY)
        chosen = provider.outputs.chosen(REVIEW)
        with pytest.raises(errors.InvalidRequestError) as caught:
            await provider.complete(ask(), timeout=10)
        assert provider.refuses_output(caught.value, ask())
        assert provider.outputs.refuse(REVIEW, chosen.method)
        server.status, server.body = 200, called("return_answer", "{}")
        assert (await provider.complete(ask(), timeout=10)).text == "{}"


def test_what_litellm_cannot_send_is_a_refusal() -> None:
    loader.load()
    raised = sys.modules["litellm"].UnsupportedParamsError(
        message="acme does not support parameters: ['response_format'], for model=acme-1. To drop "
        "these, set `litellm.drop_params=True`",
        llm_provider="acme",
        model="acme-1",
    )
    error = translate(raised, outer=None, secret=None, model="acme/acme-1")
    assert isinstance(error, errors.ProviderError)
    assert LiteLLMProvider("acme/acme-1").refuses_output(error, ask())


@pytest.mark.parametrize(
    ("known", "method"),
    [
        (["response_format", "tools", "tool_choice"], "json_schema"),
        (["tools", "tool_choice"], "tool"),
        (["tools"], "prompt"),
        ([], "prompt"),
    ],
)
def test_methods_that_litellm_cannot_send_are_left_out(known: list[str], method: str) -> None:
    output = LiteLLMOutput("acme/x", who="litellm/acme/x")
    output.keep(known)
    assert output.methods.chosen(REVIEW).method == method


@pytest.mark.parametrize("method", ["tool", "json_schema"])
def test_a_method_that_was_asked_for_stays(method: OutputMethod) -> None:
    output = LiteLLMOutput("acme/x", who="litellm/acme/x")
    output.methods = output.methods.forced_to(method)
    output.keep([])
    assert output.methods.chosen(REVIEW).method == method


def test_litellm_knows_what_it_can_send() -> None:
    known = loader.load().known_fields("openai/gpt-4o")
    assert known is not None
    assert {"response_format", "tools", "tool_choice"} <= set(known)


def test_the_schemas_tokens_are_reserved_and_learned_from() -> None:
    provider = LiteLLMProvider("acme/x")
    plain, typed = provider.reserve(ask(wanted=())), provider.reserve(ask())
    more = provider.outputs.chosen(REVIEW).tokens
    assert typed.input_tokens == plain.input_tokens + more
    assert typed.input_tokens.base == plain.input_tokens.base + more  # type: ignore[attr-defined]
