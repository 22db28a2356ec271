"""What the official SDKs send is taken where the real servers take it, and only there."""

from __future__ import annotations

from typing import Annotated, Any

import pytest

from llmflow.simulator import SimulatorSettings, serve_in_thread
from llmflow.simulator.anthropic.message_request import read_messages
from llmflow.simulator.anthropic.message_wire import AnthropicError
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.simulator.openai.chat_wire import OpenAIError

USER: list[Any] = [{"role": "user", "content": "Whales sing."}]
SETTINGS = SimulatorSettings(latency=0)
TEXT = {"type": "string"}


def strict(part: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": part},
        "required": ["a"],
        "additionalProperties": False,
    }


def test_a_conversation_goes_on_with_the_message_that_openai_sent() -> None:
    openai: Any = pytest.importorskip("openai")
    tool = {"type": "function", "function": {"name": "look", "parameters": strict(TEXT)}}
    with (
        serve_in_thread(SETTINGS) as sim,
        openai.OpenAI(base_url=sim.url, api_key="k", max_retries=0) as sdk,
    ):
        ask = sdk.chat.completions.create
        called = ask(model="m", messages=USER, tools=[tool], tool_choice="required")
        call = called.choices[0].message
        result = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "42"}
        for message in (call, call.model_dump()):
            answer = ask(model="m", messages=[*USER, message, result, *USER], tools=[tool])
            assert answer.choices[0].message.content


def test_a_conversation_goes_on_with_a_message_that_openais_sdk_parsed() -> None:
    openai: Any = pytest.importorskip("openai")
    pydantic: Any = pytest.importorskip("pydantic")
    kind = pydantic.create_model("Kind", a=(str, ...))
    with (
        serve_in_thread(SETTINGS) as sim,
        openai.OpenAI(base_url=sim.url, api_key="k", max_retries=0) as sdk,
    ):
        parsed = sdk.chat.completions.parse(model="m", messages=USER, response_format=kind)
        message = parsed.choices[0].message.to_dict(warnings=False)
        answer = sdk.chat.completions.create(model="m", messages=[*USER, message, *USER])
        assert answer.choices[0].message.content


def test_the_result_of_a_function_may_be_null() -> None:
    nothing = {"role": "function", "name": "look", "content": None}
    read_chat({"model": "m", "messages": [*USER, nothing]}, SETTINGS)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({**TEXT, "default": "x"}, "'default' is not permitted"),
        ({**TEXT, "examples": ["x"]}, "'examples' is not permitted"),
        ({"type": "array", "items": TEXT, "uniqueItems": True}, "'uniqueItems' is not permitted"),
    ],
)
def test_a_strict_schema_with_words_that_openai_does_not_know_is_refused(
    part: dict[str, Any], named: str
) -> None:
    schema = {"name": "n", "strict": True, "schema": strict(part)}
    wanted = {"type": "json_schema", "json_schema": schema}
    with pytest.raises(OpenAIError, match=named):
        read_chat({"model": "m", "messages": USER, "response_format": wanted}, SETTINGS)


def test_a_strict_tool_is_refused_as_a_strict_answer_is() -> None:
    schema: Any = {"type": "object", "properties": {"a": TEXT}}
    function = {"name": "look", "strict": True, "parameters": schema}
    body = {"model": "m", "messages": USER, "tools": [{"type": "function", "function": function}]}
    with pytest.raises(OpenAIError, match=r"schema for function 'look'.*additionalProperties"):
        read_chat(body, SETTINGS)
    schema.update(strict(TEXT))
    read_chat(body, SETTINGS)


@pytest.mark.parametrize("name", [{}, [], 5])
def test_a_choice_of_a_tool_by_something_else_than_a_name_is_refused(name: Any) -> None:
    tool = {"type": "function", "function": {"name": "look"}}
    choice = {"type": "function", "function": {"name": name}}
    with pytest.raises(OpenAIError) as caught:
        read_chat(
            {"model": "m", "messages": USER, "tools": [tool], "tool_choice": choice}, SETTINGS
        )
    assert caught.value.status == 400


def message(**fields: Any) -> None:
    body = {"model": "m", "max_tokens": 9, "messages": USER, **fields}
    read_messages(body, SETTINGS, caching=False)


NUMBER = {"type": "integer"}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "object", "properties": {"a": TEXT}}, "'additionalProperties' must be"),
        (strict({**NUMBER, "minimum": 1}), "For 'integer' type, property 'minimum' is not"),
        (strict({**NUMBER, "minimum": 1, "maximum": 3}), "properties minimum, maximum are not"),
        (strict({**TEXT, "maxLength": 3}), "property 'maxLength' is not supported"),
        (strict({"type": "array", "items": TEXT, "minItems": 2}), "'minItems' values other than"),
        (
            {**strict({"$ref": "#/$defs/n"}), "$defs": {"n": strict({"$ref": "#/$defs/n"})}},
            "Circular reference detected in schema definitions: n -> n",
        ),
    ],
)
def test_a_schema_that_anthropic_does_not_take_is_refused(schema: Any, named: str) -> None:
    tool = {"name": "look", "input_schema": schema}
    for fields in (
        {"output_config": {"format": {"type": "json_schema", "schema": schema}}},
        {"tools": [{**tool, "strict": True}]},
    ):
        with pytest.raises(AnthropicError, match=named):
            message(**fields)
    message(tools=[tool])


def test_anthropics_sdk_parses_an_answer_within_bounds() -> None:
    anthropic: Any = pytest.importorskip("anthropic")
    pydantic: Any = pytest.importorskip("pydantic")
    field: Any = pydantic.Field
    kind = pydantic.create_model(
        "Kind",
        size=(Annotated[int, field(ge=3, le=9, description="How large")], ...),
        code=(Annotated[str, field(pattern=r"^[A-Z]{2}, \d: x$")], ...),
        names=(Annotated[list[str], field(min_length=2)], ...),
        share=(Annotated[float, field(gt=1, multiple_of=0.25)], ...),
        short=(Annotated[str, field(max_length=5)], ...),
    )
    with (
        serve_in_thread(SETTINGS) as sim,
        anthropic.Anthropic(base_url=sim.root_url, api_key="k", max_retries=0) as sdk,
    ):
        answer = sdk.messages.parse(
            model="claude-opus-5", max_tokens=900, messages=USER, output_format=kind
        )
        assert answer.parsed_output.size == 3


def test_anthropic_takes_instructions_in_the_middle_of_a_conversation() -> None:
    system = {"role": "system", "content": "Be brief."}
    message(messages=[*USER, {"role": "assistant", "content": "Yes."}, *USER, system])
    with pytest.raises(AnthropicError, match="system"):
        message(messages=[system, *USER])


def test_anthropic_takes_what_its_newer_tools_have_left_in_a_conversation() -> None:
    block = {"type": "tool_search_tool_result", "tool_use_id": "t", "content": {}}
    message(messages=[*USER, {"role": "assistant", "content": [block]}, *USER])
    sets = [{"type": "mcp_toolset", "mcp_server_name": name} for name in "ab"]
    message(tools=sets)


@pytest.mark.parametrize("name", [{}, [], 5])
def test_a_server_tool_with_something_else_than_a_name_is_refused(name: Any) -> None:
    with pytest.raises(AnthropicError) as caught:
        message(tools=[{"type": "web_search_20250305", "name": name}])
    assert caught.value.status == 400
