"""Schemas beside those that the official SDKs make of the same models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from llmflow.simulator.anthropic.message_wire import AnthropicError
from llmflow.simulator.anthropic.output_schema import check_schemas
from llmflow.simulator.openai.chat_wire import OpenAIError
from llmflow.simulator.openai.strict_schema import check_format
from llmflow.typed.output_type import as_output_type
from llmflow.typed.rules import RULES_ANTHROPIC, RULES_OPENAI_STRICT, SchemaRules
from llmflow.typed.subset import Inexpressible, fitted
from tests.typed.fourteen import FOURTEEN

transform_schema: Any = pytest.importorskip("anthropic").transform_schema
to_strict_json_schema: Any = pytest.importorskip("openai.lib._pydantic").to_strict_json_schema


def taken_by_openai(schema: dict[str, Any]) -> bool:
    outer = {"name": "answer", "strict": True, "schema": schema}
    try:
        check_format({"type": "json_schema", "json_schema": outer}, "gpt-5.1")
    except OpenAIError:
        return False
    return True


def taken_by_anthropic(schema: dict[str, Any]) -> bool:
    form = {"type": "json_schema", "schema": schema}
    try:
        check_schemas({"model": "claude-opus-5", "output_config": {"format": form}})
    except AnthropicError:
        return False
    return True


SIDES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], bool], SchemaRules]] = {
    "openai": (to_strict_json_schema, taken_by_openai, RULES_OPENAI_STRICT),
    "anthropic": (transform_schema, taken_by_anthropic, RULES_ANTHROPIC),
}


def of_sdk(side: str, model: type[BaseModel]) -> dict[str, Any] | None:
    """Return the SDK's schema, or None where it has none that the service takes."""
    make, is_taken, _ = SIDES[side]
    try:
        schema: dict[str, Any] = make(model)
    except (ValueError, TypeError):
        return None
    return schema if is_taken(schema) else None


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", FOURTEEN)
def test_where_the_sdk_s_schema_is_taken_so_is_ours(name: str, side: str) -> None:
    model = FOURTEEN[name]
    _, is_taken, rules = SIDES[side]
    try:
        ours = fitted(as_output_type(model).schema, rules)
    except Inexpressible:
        assert name == "dict of models" or (name == "recursive" and side == "anthropic")
        # The Anthropic SDK sends a dict as an object without properties.
        assert of_sdk(side, model) is None or name == "dict of models"
    else:
        assert is_taken(ours)


def shape(schema: Any, root: dict[str, Any]) -> Any:
    """Return names, types and values of a schema: what both must have alike."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return [shape(option, root) for option in schema["anyOf"]]
    if "properties" in schema:
        return {name: shape(part, root) for name, part in schema["properties"].items()}
    if "items" in schema:
        return [schema["type"], shape(schema["items"], root)]
    kept = ("minimum", "maximum", "exclusiveMinimum", "multipleOf", "format", "minItems")
    return [schema.get(key) for key in ("type", "enum", "const", *kept)]


@pytest.mark.parametrize("name", ["flat", "nested", "lists of models", "discriminated union"])
def test_plain_models_have_the_shape_of_openai_s_sdk(name: str) -> None:
    theirs = to_strict_json_schema(FOURTEEN[name])
    ours = fitted(as_output_type(FOURTEEN[name]).schema, RULES_OPENAI_STRICT)
    for part in theirs.get("$defs", {}).values():
        for inner in part["properties"].values():
            inner.pop("title", None)
    if name == "discriminated union":
        theirs["properties"]["pet"]["anyOf"] = theirs["properties"]["pet"].pop("oneOf")
    assert shape(ours, ours) == shape(theirs, theirs)


@pytest.mark.parametrize("name", ["flat", "nested", "constraints", "unions", "lists of models"])
def test_descriptions_of_bounds_are_those_of_anthropic_s_sdk(name: str) -> None:
    theirs = transform_schema(FOURTEEN[name])
    ours = fitted(as_output_type(FOURTEEN[name]).schema, RULES_ANTHROPIC)
    for key, part in ours["properties"].items():
        said, by_them = part.get("description"), theirs["properties"][key].get("description")
        assert bounds(said) == bounds(by_them)


def bounds(description: str | None) -> list[str]:
    return sorted((description or "").strip("{}").split(", "))
