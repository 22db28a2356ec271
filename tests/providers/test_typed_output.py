"""Output schemas: what is sent for them in each dialect, and how typed answers are read."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, get_args

import orjson
import pytest
from pydantic import TypeAdapter

from llmflow import LLM
from llmflow.errors import ConfigurationError
from llmflow.parts import OutputSchema
from llmflow.typed.methods import ANSWER_TOOL, OutputMethod
from llmflow.typed.output_type import as_output_type
from llmflow.types import Request, WireReply
from llmflow_providers.anthropic import AnthropicProvider
from llmflow_providers.openai import OpenAIProvider
from llmflow_providers.openai.chat_output import ways_of
from llmflow_providers.openai.dialects import DIALECT_NAMES
from llmflow_providers.sim import SimProvider
from tests.typed.fourteen import BARE, FOURTEEN

NOW = 1_788_220_760.0
ALL_TYPES = {**FOURTEEN, **{f"bare {name}": each for name, each in BARE.items()}}
METHODS: tuple[OutputMethod, ...] = get_args(OutputMethod)
HOSTS = {
    "openai": "https://api.openai.com/v1",
    "azure": "https://me.openai.azure.com/openai/v1",
    "groq": "https://api.groq.com/openai/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "fireworks_ai": "https://api.fireworks.ai/inference/v1",
    "gemini": "https://generativelanguage.googleapis.com/v1beta/openai",
    "deepseek": "https://api.deepseek.com",
    "compatible": "http://localhost:8000/v1",
}
REVIEW = OutputSchema(
    name="Review",
    schema={
        "type": "object",
        "properties": {"title": {"type": "string"}, "score": {"type": "integer", "minimum": 1}},
        "required": ["title", "score"],
    },
)
OPEN = OutputSchema(
    name="Sizes", schema={"type": "object", "additionalProperties": {"type": "integer"}}
)
NODE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
    "required": ["next"],
}
RECURSIVE = OutputSchema(name="Node", schema={"$ref": "#/$defs/Node", "$defs": {"Node": NODE}})


def openai(dialect: str = "openai", model: str = "gpt-6-luna") -> OpenAIProvider:
    return OpenAIProvider(model, base_url=HOSTS[dialect], api_key="sk-secret-1234")


def claude(model: str = "claude-sonnet-5-5", base_url: str | None = None) -> AnthropicProvider:
    return AnthropicProvider(model, base_url=base_url, api_key="sk-secret-1234")


def ask(output: OutputSchema = REVIEW, **fields: Any) -> Request:
    messages = ({"role": "user", "content": "How was it?"},)
    return Request(**{"model": "m", "messages": messages, "wanted": (output,), **fields})


def sent(provider: OpenAIProvider | AnthropicProvider, request: Request) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(provider.encode(request).body)
    return body


def reply(body: object) -> WireReply:
    return WireReply(200, {}, orjson.dumps(body), NOW)


# --- what is sent fits the request types of the official SDKs -------------------------------------

_STRICT: dict[str, Any] = (
    {"extra": "forbid"}
    if "extra" in inspect.signature(TypeAdapter.validate_python).parameters
    else {}
)


@cache
def chat_type() -> TypeAdapter[Any]:
    """Return the type of a request in OpenAI's SDK, where that is installed."""
    sdk: Any = pytest.importorskip("openai.types.chat.completion_create_params")
    return TypeAdapter(sdk.CompletionCreateParamsNonStreaming)


@cache
def message_type() -> TypeAdapter[Any]:
    """Return the type of a request in Anthropic's SDK, where that is installed."""
    sdk: Any = pytest.importorskip("anthropic.types.message_create_params")
    return TypeAdapter(sdk.MessageCreateParamsNonStreaming)


def check(adapter: TypeAdapter[Any], body: Mapping[str, Any]) -> None:
    """Check a body against an SDK's request type, with no unknown field at any depth."""
    read(adapter.validate_python(body, **_STRICT))


def read(value: Any) -> None:
    """Read what was validated: lists of the SDKs' types are looked at only then."""
    if isinstance(value, Mapping):
        for each in value.values():
            read(each)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for each in value:
            read(each)


def test_the_check_finds_unknown_fields_and_wrong_types() -> None:
    with pytest.raises(ValueError, match="response_format"):
        check(chat_type(), {**sent(openai(), ask()), "response_format": {"type": "json_schema"}})
    if _STRICT:
        with pytest.raises(ValueError, match="unheard_of"):
            check(message_type(), {**sent(claude(), ask()), "unheard_of": 1})


@pytest.mark.parametrize("name", ALL_TYPES)
@pytest.mark.parametrize("dialect", sorted(DIALECT_NAMES))
def test_what_is_sent_is_a_request_of_openais_sdk(dialect: str, name: str) -> None:
    output = as_output_type(ALL_TYPES[name]).output
    provider = openai(dialect)
    check(chat_type(), sent(provider, ask(output, max_tokens=50)))
    for method in ("tool", "json_object", "prompt"):
        provider.outputs = provider.outputs.forced_to(method)
        check(chat_type(), sent(provider, ask(output)))


@pytest.mark.parametrize("name", ALL_TYPES)
@pytest.mark.parametrize("model", ["claude-sonnet-5-5", "claude-3-7-sonnet-20250219"])
def test_what_is_sent_is_a_request_of_anthropics_sdk(model: str, name: str) -> None:
    output = as_output_type(ALL_TYPES[name]).output
    provider = claude(model)
    check(message_type(), sent(provider, ask(output, max_tokens=50)))
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    check(message_type(), sent(provider, ask(output, options=thinking, max_tokens=4000)))
    for method in ("tool", "prompt"):
        provider.outputs = provider.outputs.forced_to(method)
        check(message_type(), sent(provider, ask(output)))


@pytest.mark.parametrize("name", FOURTEEN)
def test_the_line_of_a_batch_job_holds_the_same_body(name: str) -> None:
    request = ask(as_output_type(FOURTEEN[name]).output)
    for provider, field in ((openai(), "body"), (claude(), "params")):
        batch = provider.batch
        assert batch is not None
        line = batch.line("r-1", provider.encode(request))
        assert b"\n" not in line
        assert orjson.loads(line)[field] == sent(provider, request)  # type: ignore[arg-type]


# --- where the schema goes ------------------------------------------------------------------------


def test_openai_is_sent_a_strict_schema() -> None:
    assert sent(openai(), ask())["response_format"] == {
        "type": "json_schema",
        "json_schema": {
            "name": "Review",
            "strict": True,
            "schema": {
                "type": "object",
                "properties": {
                    "title": {"type": "string"},
                    "score": {"type": "integer", "minimum": 1},
                },
                "required": ["title", "score"],
                "additionalProperties": False,
            },
        },
    }


def test_what_strict_mode_cannot_say_is_sent_loosely() -> None:
    form = sent(openai(), ask(OPEN))["response_format"]["json_schema"]
    assert form == {"name": "Sizes", "strict": False, "schema": OPEN.schema}
    assert sent(openai(), ask(RECURSIVE))["response_format"]["json_schema"]["strict"]


@pytest.mark.parametrize(
    ("dialect", "model", "methods"),
    [
        ("openai", "gpt-6-luna", "json_schema json_schema tool prompt"),
        ("openai", "gpt-4.1-mini", "json_schema json_schema tool prompt"),
        ("openai", "gpt-4o", "json_schema json_schema tool prompt"),
        ("openai", "gpt-4o-2024-05-13", "tool prompt"),
        ("openai", "gpt-4", "tool prompt"),
        ("openai", "gpt-4o-mini-audio-preview-2024-12-17", "tool prompt"),
        ("openai", "gpt-audio-1.5", "tool prompt"),
        ("openai", "gpt-5.1", "json_schema json_schema tool prompt"),
        ("openai", "gpt-4-turbo-2024-04-09", "tool prompt"),
        ("openai", "gpt-4-1106-preview", "tool prompt"),
        ("openai", "gpt-3.5-turbo", "tool prompt"),
        ("openai", "ft:gpt-3.5-turbo-0125:me::1", "tool prompt"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:me::1", "json_schema json_schema tool prompt"),
        ("openai", "o1-mini-2024-09-12", "prompt"),
        ("openai", "o1-2024-12-17", "json_schema json_schema tool prompt"),
        ("openai", "chatgpt-4o-latest", "prompt"),
        ("azure", "gpt-35-turbo", "tool prompt"),
        ("azure", "my-deployment", "json_schema json_schema tool prompt"),
        ("compatible", "openai/gpt-4-turbo", "tool prompt"),
        ("compatible", "Qwen/Qwen3-8B", "json_schema json_schema tool prompt"),
        ("groq", "openai/gpt-oss-120b", "json_schema json_schema tool json_object prompt"),
        ("groq", "llama-3.3-70b-versatile", "json_schema tool json_object prompt"),
        ("cerebras", "gpt-oss-120b", "json_schema json_schema tool json_object prompt"),
        ("mistral", "mistral-large-latest", "json_schema json_schema tool json_object prompt"),
        ("gemini", "gemini-3-flash", "json_schema tool prompt"),
        ("deepseek", "deepseek-v4-pro", "json_object prompt"),
    ],
)
def test_the_methods_of_a_server_and_model(dialect: str, model: str, methods: str) -> None:
    assert [method for method, _ in ways_of(dialect, model)] == methods.split()


def test_routers_without_a_dialect_are_known_by_their_host() -> None:
    router = OpenAIProvider("x/y", base_url="https://openrouter.ai/api/v1", api_key="k")
    body = sent(router, ask(options={"provider": {"sort": "price"}}))
    assert body["provider"] == {"sort": "price", "require_parameters": True}
    assert body["response_format"]["json_schema"]["strict"] is True
    router.outputs = router.outputs.forced_to("prompt")
    assert "provider" not in sent(router, ask())
    grok = OpenAIProvider("grok-5", base_url="https://api.x.ai/v1", api_key="k")
    body = sent(grok, ask())
    assert [each["role"] for each in body["messages"]] == ["user"]
    assert "provider" not in body


@pytest.mark.parametrize("dialect", ["compatible", "fireworks_ai"])
def test_a_server_that_only_masks_tokens_is_shown_the_schema_as_well(dialect: str) -> None:
    body = sent(openai(dialect, "Qwen/Qwen3-8B"), ask(system="Be brief."))
    form = body["response_format"]["json_schema"]
    assert form["schema"]["properties"]["score"] == {"type": "integer", "minimum": 1}
    system = body["messages"][0]["content"]
    assert system.startswith("Be brief.\n\n")
    assert orjson.dumps(form["schema"]).decode() in system
    assert "JSON" in system


def test_deepseek_has_json_mode_and_is_told_the_schema_in_words() -> None:
    body = sent(openai("deepseek", "deepseek-flash"), ask())
    assert body["response_format"] == {"type": "json_object"}
    system = body["messages"][0]
    assert system["role"] == "system"
    assert "JSON" in system["content"]
    assert '"score":{"type":"integer","minimum":1}' in system["content"]
    assert "tools" not in body


def test_a_model_without_schemas_must_call_a_tool() -> None:
    body = sent(openai(model="gpt-4-turbo"), ask())
    assert "response_format" not in body
    (tool,) = body["tools"]
    assert tool["function"]["name"] == ANSWER_TOOL
    assert tool["function"]["parameters"]["properties"]["score"]["minimum"] == 1
    assert body["tool_choice"] == {"type": "function", "function": {"name": ANSWER_TOOL}}


def test_instructions_go_into_the_system_message_that_is_there() -> None:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"})
    body = sent(openai("deepseek", "deepseek-flash"), ask(messages=messages))
    assert [each["role"] for each in body["messages"]] == ["system", "user"]
    assert body["messages"][0]["content"].startswith("Be brief.\n\nAnswer with")


def test_the_simulator_is_asked_as_openai_is() -> None:
    body = sent(SimProvider("any"), ask())
    assert body == {**sent(openai(), ask())}


def test_claude_is_sent_its_output_format() -> None:
    body = sent(claude(), ask())
    assert body["output_config"] == {
        "format": {
            "type": "json_schema",
            "schema": {
                "type": "object",
                "properties": {
                    "title": {"type": "string"},
                    "score": {"type": "integer", "description": "{minimum: 1}"},
                },
                "required": ["title", "score"],
                "additionalProperties": False,
            },
        }
    }
    assert {"tools", "tool_choice", "system"}.isdisjoint(body)


def test_an_effort_stays_beside_the_output_format() -> None:
    config = sent(claude(), ask(options={"output_config": {"effort": "high"}}))["output_config"]
    assert config["effort"] == "high"
    assert config["format"]["type"] == "json_schema"


@pytest.mark.parametrize("output", [OPEN, RECURSIVE], ids=["open", "recursive"])
def test_what_the_output_format_cannot_say_goes_as_a_tool(output: OutputSchema) -> None:
    body = sent(claude("claude-opus-4-8"), ask(output))
    assert "output_config" not in body
    (tool,) = body["tools"]
    assert tool["name"] == ANSWER_TOOL
    assert tool["input_schema"]["type"] == "object"
    assert body["tool_choice"] == {
        "type": "tool",
        "name": ANSWER_TOOL,
        "disable_parallel_tool_use": True,
    }


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("claude-sonnet-5-5", "json_schema"),
        ("claude-opus-4-8", "json_schema"),
        ("claude-sonnet-4-5", "json_schema"),
        ("claude-sonnet-4-5-20250929", "json_schema"),
        ("claude-haiku-4-5-20251001", "json_schema"),
        ("claude-fable-5", "json_schema"),
        ("claude-of-tomorrow", "json_schema"),
        ("claude-opus-4-1-20250805", "tool"),
        ("claude-opus-4-1", "tool"),
        ("claude-sonnet-4-20250514", "tool"),
        ("claude-sonnet-4-0", "tool"),
        ("claude-opus-4", "tool"),
        ("claude-3-7-sonnet-latest", "tool"),
        ("claude-3-haiku-20240307", "tool"),
        ("claude-2.1", "tool"),
        ("claude-instant-1.2", "tool"),
    ],
)
def test_claude_before_4_5_has_no_output_format(model: str, method: str) -> None:
    assert claude(model).outputs.chosen(REVIEW).method == method


@pytest.mark.parametrize(
    ("model", "method"),
    [
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "tool"),
        ("anthropic/claude-opus-4.1", "tool"),
        ("anthropic/claude-opus-5", "json_schema"),
        ("deepseek-v4-pro", "tool"),
    ],
)
def test_elsewhere_only_models_named_claude_are_claude(model: str, method: str) -> None:
    gateway = claude(model, base_url="https://gateway.test")
    assert gateway.outputs.chosen(REVIEW).method == method


@pytest.mark.parametrize("kind", ["enabled", "adaptive", "between_tools"])
def test_a_model_that_thinks_is_asked_to_call_the_tool_and_not_forced(kind: str) -> None:
    options = {"thinking": {"type": kind}}
    body = sent(claude("claude-3-7-sonnet-20250219"), ask(options=options, system="Be brief."))
    assert body["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    assert body["system"].startswith("Be brief.\n\n")
    assert ANSWER_TOOL in body["system"]
    off = ask(options={"thinking": {"type": "disabled"}})
    body = sent(claude("claude-3-7-sonnet-20250219"), off)
    assert body["tool_choice"]["type"] == "tool"
    assert "system" not in body


@pytest.mark.parametrize(
    ("model", "forced"),
    [
        ("claude-opus-4-8", True),
        ("claude-sonnet-4-5-20250929", True),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", True),
        ("claude-3-opus-20240229", True),
        ("claude-opus-5", False),
        ("claude-sonnet-5-5", False),
        ("claude-fable-5-1", False),
        ("claude-of-tomorrow", False),
    ],
)
def test_claude_since_5_thinks_by_itself_and_is_asked_to_call_the_tool(
    model: str, forced: bool
) -> None:
    body = sent(claude(model), ask(OPEN, system="Be brief."))
    assert body["tool_choice"]["type"] == ("tool" if forced else "auto")
    assert (ANSWER_TOOL in body["system"]) is not forced
    assert body["system"].startswith("Be brief.")


def test_another_method_can_be_asked_for() -> None:
    provider = openai()
    provider.outputs = provider.outputs.forced_to("tool")
    assert "tools" in sent(provider, ask())
    provider.outputs = provider.outputs.forced_to("prompt")
    body = sent(provider, ask())
    assert {"tools", "response_format"}.isdisjoint(body)
    assert "schema" in body["messages"][0]["content"]
    with pytest.raises(ConfigurationError, match="output_method must be one of"):
        provider.outputs.forced_to("magic")  # type: ignore[arg-type]


@pytest.mark.parametrize("dialect", sorted(DIALECT_NAMES))
@pytest.mark.parametrize("method", METHODS)
def test_every_method_can_be_asked_for_by_name(dialect: str, method: OutputMethod) -> None:
    provider = openai(dialect)
    provider.outputs = provider.outputs.forced_to(method)
    assert provider.outputs.chosen(REVIEW).method == method


# --- conflicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "options", "told"),
    [
        (openai(), {"response_format": {"type": "json_object"}}, "response_format in options"),
        (claude(), {"output_config": {"format": {}}}, "output_config.format in options"),
        (claude(), {"output_format": {"type": "json_schema"}}, "output_format in options"),
        (openai(model="gpt-4"), {"tools": [{}]}, "openai/gpt-4 as a tool .* tools in options"),
        (openai(model="gpt-4"), {"tools": [], "tool_choice": "auto"}, "tools and tool_choice"),
        (claude("claude-3-opus-latest"), {"tool_choice": {"type": "any"}}, "tool_choice in opt"),
    ],
    ids=str,
)
def test_options_that_speak_of_the_answers_form_are_refused(
    provider: OpenAIProvider | AnthropicProvider, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        provider.encode(ask(options=options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("provider", [openai(), claude()], ids=lambda each: each.name)
def test_an_output_method_of_one_llm_changes_no_other_llm_of_the_same_provider(
    provider: OpenAIProvider | AnthropicProvider,
) -> None:
    before = sent(provider, ask())
    twin: Any = LLM(provider, output_method="tool").provider
    assert "tools" in sent(twin, ask())
    assert sent(provider, ask()) == before
    assert "tools" not in before


@pytest.mark.parametrize("copied", [lambda each: pickle.loads(pickle.dumps(each)), copy.deepcopy])
@pytest.mark.parametrize("provider", [openai(), claude()], ids=lambda each: each.name)
def test_a_provider_that_was_asked_for_a_schema_can_still_be_copied(
    provider: OpenAIProvider | AnthropicProvider, copied: Any
) -> None:
    sent(provider, ask())
    assert sent(copied(provider), ask()) == sent(provider, ask())
    twin: Any = LLM(provider, output_method="tool").provider
    assert sent(copied(twin), ask()) == sent(twin, ask())


def test_the_callers_own_tools_stay_beside_a_schema_of_the_servers() -> None:
    tools = [{"type": "function", "function": {"name": "search", "parameters": {}}}]
    body = sent(openai(), ask(options={"tools": tools}))
    assert body["tools"] == tools
    assert body["response_format"]["type"] == "json_schema"


# --- the cost of a schema -------------------------------------------------------------------------


def test_a_schema_is_written_once_and_is_the_same_bytes_each_time() -> None:
    for provider in (openai(), claude()):
        fields = [provider.typed.sent(ask()).fields for _ in range(3)]  # type: ignore[union-attr]
        assert fields[0] is fields[1] is fields[2]
        bodies = {provider.encode(ask()).body for _ in range(3)}
        assert len(bodies) == 1


def test_many_schemas_do_not_pile_up() -> None:
    provider = openai()
    for number in range(300):
        provider.encode(ask(OutputSchema(schema=REVIEW.schema, name=f"n{number}")))
    assert len(provider.typed._kept) <= 64
    assert sent(provider, ask())["response_format"]["json_schema"]["name"] == "Review"


@pytest.mark.parametrize("provider", [openai(), claude(), openai("groq")], ids=str)
def test_the_schemas_tokens_are_reserved(provider: OpenAIProvider | AnthropicProvider) -> None:
    plain = provider.reserve(ask(wanted=(), max_tokens=10))
    typed = provider.reserve(ask(max_tokens=10))
    more = provider.outputs.chosen(REVIEW).tokens
    assert more > 10
    assert typed.input_tokens == plain.input_tokens + more


def test_a_request_without_a_schema_makes_nothing_for_one() -> None:
    for provider in (openai(), claude()):
        provider.encode(ask(wanted=()))
        provider.reserve(ask(wanted=()))
        assert "typed" not in vars(provider)


def test_a_description_with_half_a_character_is_sent() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "description": "\ud83d"}}}
    output = OutputSchema(schema=schema)
    for provider in (openai(), claude(), openai("deepseek", "deepseek-flash")):
        assert b"\xef\xbf\xbd" in provider.encode(ask(output)).body
    messages = ({"role": "user", "content": "cut \ud83d"},)  # which is written another way
    body = sent(openai(), ask(messages=messages))
    assert body["response_format"]["json_schema"]["name"] == "Review"
    body = sent(openai(), ask(options={"logit_bias": {5: 2**70}}))
    assert body["response_format"]["json_schema"]["name"] == "Review"


# --- answers --------------------------------------------------------------------------------------


def completion(finish_reason: str, arguments: Any, **message: Any) -> WireReply:
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": ANSWER_TOOL, "arguments": arguments},
    }
    message = {"role": "assistant", "content": None, "tool_calls": [call], **message}
    return reply({"choices": [{"message": message, "finish_reason": finish_reason}]})


@pytest.mark.parametrize(
    ("finish_reason", "ending"),
    [("tool_calls", "stop"), ("stop", "stop"), ("length", "length"), ("function_call", "stop")],
)
def test_the_call_of_the_answer_tool_is_the_answer(finish_reason: str, ending: str) -> None:
    response = openai().decode(completion(finish_reason, '{"title": "Good'))
    assert (response.text, response.finish_reason) == ('{"title": "Good', ending)
    assert response.tool_calls == ()


@pytest.mark.parametrize(
    ("arguments", "text"), [({"a": [1]}, '{"a":[1]}'), ("", ""), (None, ""), ("{}", "{}")]
)
def test_arguments_come_as_text_or_parsed(arguments: Any, text: str) -> None:
    assert openai().decode(completion("tool_calls", arguments)).text == text


def test_words_beside_the_answer_tool_are_not_the_answer() -> None:
    wire = completion("tool_calls", '{"a": 1}', content="Let me answer.")
    assert openai().decode(wire).text == '{"a": 1}'


def test_calls_of_other_tools_stay_what_they_were() -> None:
    call = {"type": "function", "function": {"name": "search", "arguments": "{}"}}
    message = {"content": "Wait.", "tool_calls": [call, None, 5]}
    wire = reply({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    response = openai().decode(wire)
    assert (response.text, response.finish_reason) == ("Wait.", "tool_calls")


def message(stop_reason: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    usage = {"input_tokens": 10, "output_tokens": 5}
    return {"content": list(blocks), "stop_reason": stop_reason, "usage": usage}


USE = {"type": "tool_use", "id": "t", "name": ANSWER_TOOL, "input": {"title": "Good", "score": 3}}


@pytest.mark.parametrize(
    ("stop_reason", "ending"),
    [("tool_use", "stop"), ("end_turn", "stop"), ("max_tokens", "length")],
)
def test_claudes_call_of_the_answer_tool_is_the_answer(stop_reason: str, ending: str) -> None:
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "s"}
    words = {"type": "text", "text": "Here it is."}
    response = claude().decode(reply(message(stop_reason, thought, words, USE)))
    assert response.text == '{"title":"Good","score":3}'
    assert response.finish_reason == ending
    alone = claude().decode(reply(message(stop_reason, USE)))
    assert (alone.text, alone.finish_reason) == (response.text, ending)


def test_claudes_calls_of_other_tools_stay_what_they_were() -> None:
    words = {"type": "text", "text": "Wait."}
    body = message("tool_use", words, {**USE, "name": "search"})
    response = claude().decode(reply(body))
    assert (response.text, response.finish_reason) == ("Wait.", "tool_calls")


def test_rows_of_batch_jobs_are_read_by_the_same_rule() -> None:
    call = {"type": "function", "function": {"name": ANSWER_TOOL, "arguments": '{"a": 1}'}}
    choice = {"message": {"tool_calls": [call]}, "finish_reason": "tool_calls"}
    row = {"custom_id": "r", "response": {"status_code": 200, "body": {"choices": [choice]}}}
    batch = openai().batch
    assert batch is not None
    answered = batch.read(orjson.dumps(row)).response
    assert answered is not None
    assert (answered.text, answered.finish_reason) == ('{"a": 1}', "stop")
    row = {
        "custom_id": "r",
        "result": {"type": "succeeded", "message": message("tool_use", USE)},
    }
    answered = claude().batch.read(orjson.dumps(row)).response
    assert answered is not None
    assert (answered.text, answered.finish_reason) == ('{"title":"Good","score":3}', "stop")
