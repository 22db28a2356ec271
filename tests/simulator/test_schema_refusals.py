"""JSON schemas that the real services refuse are refused, in their words."""

from __future__ import annotations

from typing import Any

import pytest

from llmflow.simulator import SimulatorSettings
from llmflow.simulator.anthropic.message_request import read_messages
from llmflow.simulator.anthropic.message_wire import AnthropicError
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.simulator.openai.chat_wire import OpenAIError

USER = [{"role": "user", "content": "Whales sing. JSON."}]
SETTINGS = SimulatorSettings(latency=0)
TEXT = {"type": "string"}


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    fields = {"properties": properties, "required": list(properties)}
    return {"type": "object", **fields, "additionalProperties": False, **more}


def strict(schema: Any, *, model: str = "m", **more: Any) -> None:
    wanted = {"name": "n", "strict": True, "schema": schema, **more}
    form = {"type": "json_schema", "json_schema": wanted}
    read_chat({"model": model, "messages": USER, "response_format": form}, SETTINGS)


def output(schema: Any, **more: Any) -> None:
    form = {"format": {"type": "json_schema", "schema": schema}}
    body = {"model": "m", "max_tokens": 9, "messages": USER, "output_config": form, **more}
    read_messages(body, SETTINGS, caching=False)


def deep(levels: int) -> dict[str, Any]:
    return closed({"a": deep(levels - 1) if levels > 1 else TEXT})


def test_openai_takes_recursion_and_ten_levels() -> None:
    leaf = closed({"next": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}})
    strict(closed({"leaf": {"$ref": "#/$defs/leaf"}}, **{"$defs": {"leaf": leaf}}))
    strict(closed({"self": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}))
    strict(deep(10))


def test_a_schema_is_refused_as_often_as_it_is_sent() -> None:
    for name in ("one", "two"):
        with pytest.raises(OpenAIError, match=f"'{name}': .*'uniqueItems' is not permitted"):
            strict(closed({"a": {"type": "array", "items": TEXT, "uniqueItems": True}}), name=name)
        strict(closed({"a": {"type": "array", "items": TEXT}}), name=name)


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (
            {"type": "array", "items": TEXT},
            "schema must be a JSON Schema of 'type: \"object\"', got",
        ),
        ({**closed({}), "anyOf": [closed({})]}, "schema must be a JSON Schema of"),
        (closed({"a": {}}), r"In context=\('properties', 'a'\), schema must have a 'type' key"),
        (closed({"a": {"const": "x"}}), "schema must have a 'type' key"),
        (closed({"a": {"type": "array"}}), "array schema missing items"),
        (closed({"a": {**TEXT, "format": "uri"}}), "'uri' is not a valid format"),
        (
            closed({"a": {**TEXT, "pattern": "^(?!x)a$"}}),
            r"regex lookaround is not supported. Found at \$.properties.a.pattern.",
        ),
        (closed({"a": {"oneOf": [TEXT]}}), "'oneOf' is not permitted"),
        (closed({"a": {"$ref": "#", "description": "x"}}), r"\$ref cannot have keywords"),
        (deep(11), "schema for response_format 'n': 11 levels of nesting exceeds limit of 10"),
        (closed({str(n): TEXT for n in range(5001)}), "5001 parameters exceeds limit of 5000"),
        (
            closed({"a": {**TEXT, "enum": [str(n) for n in range(1001)]}}),
            "1001 enum values exceeds limit of 1000",
        ),
        (
            closed({"a": {**TEXT, "enum": ["x" * 60 + str(n) for n in range(251)]}}),
            "characters exceeds limit of 15000",
        ),
        (closed({"a" * 120_001: TEXT}), "characters of names and values exceeds limit of 120000"),
    ],
)
def test_openai_refuses_a_strict_schema_outside_its_subset(schema: Any, named: str) -> None:
    with pytest.raises(OpenAIError, match=named):
        strict(schema)
    strict(schema, strict=False)


def test_a_pattern_that_only_looks_like_a_lookaround_is_taken() -> None:
    strict(closed({"a": {**TEXT, "pattern": r"^\(?=(?:a|b)$"}}))


@pytest.mark.parametrize("name", ["", "has space", "x" * 65])
def test_openai_refuses_a_schemas_name_that_is_none(name: str) -> None:
    with pytest.raises(OpenAIError, match=r"response_format\.json_schema\.name"):
        strict(closed({}), name=name)


@pytest.mark.parametrize(
    "model",
    ["gpt-3.5-turbo", "gpt-4", "gpt-4-0613", "gpt-4-turbo-2024-04-09", "gpt-4o-2024-05-13"],
)
def test_openai_refuses_a_schema_to_a_model_from_before_them(model: str) -> None:
    with pytest.raises(OpenAIError) as caught:
        strict(closed({"a": TEXT}), model=model)
    assert str(caught.value) == (
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this "
        "model. Learn more about supported models at the Structured Outputs guide: "
        "https://platform.openai.com/docs/guides/structured-outputs"
    )
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, None, None)


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "gpt-4o-mini-2024-07-18", "gpt-5.1"])
def test_openai_takes_a_schema_for_a_newer_model(model: str) -> None:
    strict(closed({"a": TEXT}), model=model)


def test_json_mode_is_older_than_schemas() -> None:
    body = {"messages": USER, "response_format": {"type": "json_object"}}
    read_chat({"model": "gpt-3.5-turbo", **body}, SETTINGS)
    with pytest.raises(OpenAIError, match="'json_object' is not supported with this model"):
        read_chat({"model": "gpt-4", **body}, SETTINGS)


def test_openai_refuses_a_tool_whose_schema_is_no_object() -> None:
    function = {"name": "look", "parameters": {"type": "array", "items": TEXT}}
    body = {"model": "m", "messages": USER, "tools": [{"type": "function", "function": function}]}
    with pytest.raises(OpenAIError, match=r"function 'look': schema must be a JSON Schema of"):
        read_chat(body, SETTINGS)


NULLABLE = {"anyOf": [TEXT, {"type": "null"}]}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (closed({"a": {}}), "Schema type is missing for schema: {}"),
        (
            closed({"a": {"type": ["string", "null"], "enum": ["x", None]}}),
            r"Enum value 'x' does not match declared type '\['string', 'null'\]'",
        ),
        (closed({"a": {**TEXT, "enum": [1]}}), "Enum value '1' does not match declared type"),
        (closed({"a": {"enum": [{"b": 1}]}}), "Enum values must be scalars"),
        (closed({"a": {"oneOf": [TEXT]}}), "'oneOf' is not supported"),
        (closed({"a": {**TEXT, "format": "color"}}), "'color' is not supported"),
        (
            {**closed({str(n): TEXT for n in range(25)}), "required": []},
            r"too many optional parameters \(25\), .* \(limit: 24\)",
        ),
        (
            closed({str(n): NULLABLE for n in range(17)}),
            r"union types \(17 parameters with type arrays or anyOf\).*\(limit: 16 parameters",
        ),
    ],
)
def test_anthropic_refuses_a_schema_that_it_cannot_enforce(schema: Any, named: str) -> None:
    with pytest.raises(AnthropicError, match=named):
        output(schema)
    tool = {"name": "look", "input_schema": schema}
    body = {"model": "m", "max_tokens": 9, "messages": USER}
    read_messages({**body, "tools": [tool]}, SETTINGS, caching=False)
    with pytest.raises(AnthropicError, match=named):
        read_messages({**body, "tools": [{**tool, "strict": True}]}, SETTINGS, caching=False)


def test_anthropic_counts_optional_parameters_over_the_whole_request() -> None:
    half = {**closed({str(n): TEXT for n in range(13)}), "required": []}
    output(half)
    with pytest.raises(AnthropicError, match=r"optional parameters \(26\)"):
        output(half, tools=[{"name": "look", "input_schema": half, "strict": True}])


def test_anthropic_takes_an_enum_or_constant_without_a_type() -> None:
    output(closed({"a": {"enum": ["x", None, 2]}, "b": {"const": "y"}}))
    output(closed({str(n): NULLABLE for n in range(16)}))


@pytest.mark.parametrize(
    ("model", "takes"),
    [
        ("claude-3-haiku-20240307", False),
        ("claude-3-5-sonnet-latest", False),
        ("claude-sonnet-4-20250514", False),
        ("claude-opus-4-0", False),
        ("claude-haiku-4-5", True),
        ("claude-sonnet-4-6", True),
        ("claude-opus-5", True),
        ("claude-fable-5", True),
    ],
)
def test_anthropic_takes_a_schema_for_the_models_that_have_them(model: str, takes: bool) -> None:
    tool = {"name": "look", "input_schema": closed({"a": TEXT}), "strict": True}
    body = {"model": model, "max_tokens": 9, "messages": USER, "tools": [tool]}
    if takes:
        output(closed({"a": TEXT}), model=model)
        read_messages(body, SETTINGS, caching=False)
        return
    with pytest.raises(AnthropicError) as caught:
        output(closed({"a": TEXT}), model=model)
    assert str(caught.value) == f"'{model}' does not support output format."
    with pytest.raises(AnthropicError, match="does not support strict tools"):
        read_messages(body, SETTINGS, caching=False)
    tool["strict"] = False
    read_messages(body, SETTINGS, caching=False)
