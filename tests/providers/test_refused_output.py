"""Servers that do not know how a schema was sent, in their own words."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from llmflow import LLM, errors
from llmflow.parts import OutputSchema
from llmflow.types import Request, WireReply
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.openai import OpenAIProvider
from tests.odd_server import DIALECTS, Asked, Odd, answer, odd_server

NOW = 1_788_220_760.0
OUTPUT = OutputSchema(schema={"type": "object", "properties": {"a": {"type": "string"}}})
REQUEST = Request(
    model="m", messages=({"role": "user", "content": "Hi"},), options={}, wanted=(OUTPUT,)
)


def nested(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", **more}}


def chat_error(body: object, status: int = 400) -> errors.ProviderError:
    return error_of(OpenAIProvider("m", base_url="http://localhost/v1", api_key="k"), body, status)


def error_of(
    provider: OpenAIProvider | AnthropicProvider, body: object, status: int
) -> errors.ProviderError:
    with pytest.raises(errors.ProviderError) as caught:
        provider.decode(WireReply(status, {}, orjson.dumps(body), NOW))
    return caught.value


def refused(error: errors.ProviderError, request: Request = REQUEST) -> bool:
    return OpenAIProvider("m", api_key="k").refuses_output(error, request)


# Words of servers, as their users reported them.
CHAT = {
    "OpenAI, an old model": nested(
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this "
        "model. Learn more about supported models at the Structured Outputs guide: "
        "https://platform.openai.com/docs/guides/structured-outputs"
    ),
    "OpenAI, a schema": nested(
        "Invalid schema for response_format 'Review': In context=(), 'allOf' is not permitted.",
        param="response_format",
        code="invalid_json_schema",
    ),
    "Azure": nested(
        "Invalid parameter: 'response_format' of type 'json_object' is not supported with this "
        "model.",
        param="response_format",
    ),
    "an older API version of Azure": nested(
        "response_format value as json_schema is enabled only for api versions 2024-08-01-preview "
        "and later"
    ),
    "DeepSeek": nested(
        "This response_format type is unavailable now", code="invalid_request_error"
    ),
    "Groq": nested(
        "This model does not support response format `json_schema`. See supported models at "
        "https://console.groq.com/docs/structured-outputs#supported-models"
    ),
    "Groq, a schema": nested(
        "invalid schema for response format: response_format/json_schema/next_step: "
        "minItems is not supported"
    ),
    "Groq, earlier": nested(
        "'response_format' : one of the following must be satisfied[('response_format.type' : "
        "value is not one of the allowed values ['text']) OR ('response_format.type' : value is "
        "not one of the allowed values ['json_object'])]"
    ),
    "Volcengine": nested(
        "The parameter `response_format.type` specified in the request are not valid: invalid "
        "value: `json_schema`, supported values are: `json_object` and `text`."
    ),
    "LM Studio": {"error": "'response_format.type' must be 'json_schema' or 'text'"},
    "a proxy": nested("Unrecognized request argument supplied: response_format"),
    "vLLM": {
        "error": {
            "message": "The provided JSON schema contains features not supported by xgrammar.",
            "type": "BadRequestError",
            "code": 400,
        }
    },
    "vLLM, flat": {
        "object": "error",
        "message": '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser '
        "to be set",
        "type": "BadRequestError",
        "code": 400,
    },
    "DeepSeek, thinking": nested("Thinking mode does not support this tool_choice"),
    "DeepSeek's reasoner": nested("deepseek-reasoner does not support this tool_choice"),
    "Ollama": nested("registry.ollama.ai/library/gemma3:4b does not support tools"),
    "a model without functions": nested("Function calling is not enabled for this model"),
    "OpenAI, JSON mode": nested(
        "'messages' must contain the word 'json' in some form, to use 'response_format' of type "
        "'json_object'."
    ),
    "llama.cpp": nested("Failed to parse grammar", code=400),
    "Gemini": {
        "error": {
            "code": 400,
            "message": "Json mode is not enabled for models/gemini-pro",
            "status": "INVALID_ARGUMENT",
        }
    },
}


@pytest.mark.parametrize("server", CHAT)
def test_a_server_that_does_not_know_the_method_is_recognised(server: str) -> None:
    error = chat_error(CHAT[server])
    assert isinstance(error, errors.InvalidRequestError)
    assert refused(error)


@pytest.mark.parametrize(
    "body",
    [
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "response_format"], "msg": "x"}]},
        nested(
            "Failed to deserialize the JSON body into the target type: response_format.type: "
            "invalid type: map, expected variant identifier at line 1 column 132"
        ),
        {"object": "error", "message": {"detail": [{"loc": ["body", "response_format"]}]}},
    ],
)
def test_a_body_that_is_not_understood_is_recognised(body: object) -> None:
    assert refused(chat_error(body, 422))


@pytest.mark.parametrize(
    "message",
    [
        "No endpoints found that support tool use. To learn more about provider routing, visit: x",
        "No endpoints found that support the provided 'tool_choice' value.",
        "No endpoints found that can handle the requested parameters.",
    ],
)
def test_a_router_without_a_server_for_the_fields_is_recognised(message: str) -> None:
    body = {"error": {"message": message, "code": 404}}
    assert refused(chat_error(body, 404))


CLAUDE = [
    "output_config: Extra inputs are not permitted",
    "output_config.format: Extra inputs are not permitted",
    "output_format: This field is deprecated. Use 'output_config.format' instead.",
    "'claude-sonnet-4-20250514' does not support output format.",
    "output_config.format.schema: Invalid schema: The compiled grammar is too large, which would",
    "Schema is too complex for compilation.",
    "Schemas contains too many optional parameters (31), which would make grammar compilation ...",
    "Thinking may not be enabled when tool_choice forces tool use.",
    "tools: Extra inputs are not permitted",
]


@pytest.mark.parametrize("message", CLAUDE)
def test_anthropics_words_are_recognised(message: str) -> None:
    provider = AnthropicProvider("claude-sonnet-5-5", api_key="k")
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    assert provider.refuses_output(error_of(provider, body, 400), REQUEST)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (nested("max_tokens must be at least 1"), 400),
        (nested("messages.0: value does not match any schema of a content block"), 400),
        (nested("Unsupported value: 'temperature' does not support 0.5 with this model."), 400),
        (nested("Invalid 'messages[0].content': string too long."), 400),
        (nested("This model's maximum context length is 8192 tokens, with tools and schema"), 400),
        (nested("Your request was flagged: structured output", code="content_filter"), 400),
        (nested("Rate limit reached for response_format", code="rate_limit_exceeded"), 429),
        (nested("Incorrect API key provided for json_schema"), 401),
        (nested("The model `json_schema` does not exist", code="model_not_found"), 404),
        (nested("The server had an error with the JSON schema"), 500),
        (nested("Failed to validate JSON", code="json_validate_failed"), 400),
        (nested("x" * 600 + " response_format"), 400),
    ],
)
def test_other_errors_are_no_refusal_of_the_method(body: object, status: int) -> None:
    assert not refused(chat_error(body, status))


def test_a_refusal_of_tools_may_be_of_the_callers_own() -> None:
    error = chat_error(CHAT["Ollama"])
    assert refused(error)
    own = Request(
        model="m", messages=REQUEST.messages, options={"tools": [{}]}, wanted=REQUEST.wanted
    )
    assert not refused(error, own)


def test_a_refused_method_is_followed_by_the_next_until_none_is_left() -> None:
    provider = OpenAIProvider("m", base_url="http://localhost:1/v1", api_key="k")
    used = []
    for _ in range(10):
        chosen = provider.outputs.chosen(OUTPUT)
        used.append(chosen.method)
        if not provider.outputs.refuse(OUTPUT, chosen.method):
            break
    assert used == ["json_schema", "tool", "prompt", "json_object"]


@pytest.mark.http
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_error_of_the_first_prompt_changes_the_method_only_until_the_first_answer(
    dialect: str,
) -> None:
    def rule(asked: Asked) -> Odd:
        if asked.prompt == "bad":
            return Odd(nested("Invalid schema in the text of messages[0]"), 400)
        return Odd(answer(dialect, '{"response": 7}'))

    with odd_server(rule) as server:
        llm = LLM(
            f"{dialect}/claude-m",
            base_url=server.url(dialect),
            api_key="sk-odd-123456",
            max_tokens=9,
        )
        results = llm.map_sync(["bad", *map(str, range(4))], output_type=int)
        assert [each.parsed for each in results[1:]] == [7] * 4
        assert isinstance(results[0].error, errors.InvalidRequestError)
        first, count = server.asked[0].body, len(server.asked)
        llm.map_sync(["later", "bad"], output_type=int)
        later = [{**each.body, "messages": None} for each in server.asked[count:]]
    assert len(later) == 2, "the method has given an answer: nothing else is tried"
    assert later == [{**first, "messages": None}] * 2
