"""Schemas rewritten for what a server takes."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model

from llmflow.typed.output_type import as_output_type
from llmflow.typed.rules import (
    RULES_ANTHROPIC,
    RULES_COHERE,
    RULES_COMMON,
    RULES_GEMINI,
    RULES_LOOSE,
    RULES_OPENAI_STRICT,
)
from llmflow.typed.subset import Inexpressible, fitted


class Item(BaseModel):
    kind: Literal["item"] = "item"
    size: int = Field(ge=3, description="Of shoes.")
    note: str | None = None


class Order(BaseModel):
    items: list[Item]
    by_name: dict[str, Item] = {}


def object_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def test_bounds_that_a_server_lacks_go_to_the_description() -> None:
    size = fitted(as_output_type(Item).schema, RULES_ANTHROPIC)["properties"]["size"]
    assert size == {"type": "integer", "description": "Of shoes.\n\n{minimum: 3}"}


def test_optional_properties_become_nullable_where_all_are_required() -> None:
    schema = object_of(a={"type": "string"}, b={"type": "integer"}) | {"required": ["a"]}
    assert fitted(schema, RULES_OPENAI_STRICT) == {
        "type": "object",
        "properties": {
            "a": {"type": "string"},
            "b": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        },
        "required": ["a", "b"],
        "additionalProperties": False,
    }


def test_a_dict_cannot_be_said_where_objects_are_closed() -> None:
    with pytest.raises(Inexpressible, match=r"^by_name: "):
        fitted(as_output_type(Order).schema, RULES_OPENAI_STRICT)
    assert fitted(as_output_type(Order).schema, RULES_LOOSE)["properties"]["by_name"] == {
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/Item"},
        "default": {},
    }


def test_references_are_inlined_where_there_are_none() -> None:
    schema = object_of(a={"$ref": "#/$defs/A"}) | {"$defs": {"A": object_of(b={"const": 1})}}
    assert fitted(schema, RULES_COMMON) == {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"b": {"type": "integer", "enum": [1]}},
                "required": ["b"],
                "additionalProperties": False,
            }
        },
        "required": ["a"],
        "additionalProperties": False,
    }


def fields(count: int, kind: Any, default: Any) -> Any:
    named: dict[str, Any] = {f"f{n}": (kind, default) for n in range(count)}
    return create_model("Many", **named)


def unions(schema: dict[str, Any]) -> int:
    return sum("anyOf" in part for part in schema["properties"].values())


def test_many_nullable_optional_fields_are_only_optional() -> None:
    few = fitted(as_output_type(fields(16, str | None, None)).schema, RULES_ANTHROPIC)
    assert (unions(few), few.get("required", [])) == (16, [])
    more = fitted(as_output_type(fields(24, str | None, None)).schema, RULES_ANTHROPIC)
    assert (unions(more), more.get("required", [])) == (0, [])


def test_beyond_the_optional_fields_that_a_server_takes_they_are_null_instead() -> None:
    many = fitted(as_output_type(fields(40, str, "")).schema, RULES_ANTHROPIC)
    assert (unions(many), len(many["required"])) == (16, 16)
    with pytest.raises(Inexpressible, match="17 unions, of at most 16"):
        fitted(as_output_type(fields(41, str, "")).schema, RULES_ANTHROPIC)


def test_fields_that_were_made_null_are_left_out_again() -> None:
    made = as_output_type(fields(40, str, "none"))
    value = made.parse(json.dumps({f"f{n}": None if n % 2 else "x" for n in range(40)}))
    assert (value.f0, value.f1) == ("x", "none")


def test_references_that_multiply_when_they_are_written_out_are_refused() -> None:
    defs: dict[str, Any] = {
        f"d{n}": object_of(a={"$ref": f"#/$defs/d{n + 1}"}, b={"$ref": f"#/$defs/d{n + 1}"})
        for n in range(40)
    }
    schema = object_of(a={"$ref": "#/$defs/d0"}) | {"$defs": {**defs, "d40": {"type": "null"}}}
    with pytest.raises(Inexpressible, match="20,000 parts"):
        fitted(schema, RULES_COMMON)
    assert len(fitted(schema, RULES_ANTHROPIC)["$defs"]) == 41


def test_the_names_of_definitions_count_among_the_characters_of_a_schema() -> None:
    names = [f"{number:03}{'x' * 1_300}" for number in range(100)]
    schema = object_of(**{f"p{at}": {"$ref": f"#/$defs/{name}"} for at, name in enumerate(names)})
    schema["$defs"] = {name: {"type": "string"} for name in names}
    with pytest.raises(Inexpressible, match="characters of names and values, of at most 120,000"):
        fitted(schema, RULES_OPENAI_STRICT)


def test_an_enum_that_is_too_long_is_refused() -> None:
    values = [f"{n:>080}" for n in range(251)]
    with pytest.raises(Inexpressible, match="a: an enum of 20,080 characters, of at most 15,000"):
        fitted(object_of(a={"enum": values}), RULES_OPENAI_STRICT)


@pytest.mark.parametrize(
    ("part", "written"),
    [
        ({"const": 5}, {"type": "integer", "const": 5}),
        (
            {"enum": ["a", 1, None]},
            {
                "anyOf": [
                    {"type": "string", "enum": ["a"]},
                    {"type": "integer", "enum": [1]},
                    {"type": "null"},
                ]
            },
        ),
        ({"type": ["string", "null"], "minLength": 3}, {"type": ["string", "null"]}),
        (
            {"allOf": [{"type": "integer", "minimum": 3}, {"minimum": 5, "maximum": 9}]},
            {"type": "integer", "minimum": 5, "maximum": 9},
        ),
        (
            {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]},
            {
                "type": "array",
                "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
                "description": "{prefixItems: [{'type': 'integer'}, {'type': 'string'}]}",
            },
        ),
        (
            {"oneOf": [object_of(x={"type": "integer"}), object_of(y={"type": "string"})]},
            {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"x": {"type": "integer"}},
                        "required": ["x"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {"y": {"type": "string"}},
                        "required": ["y"],
                        "additionalProperties": False,
                    },
                ]
            },
        ),
        (
            {
                "type": "object",
                "properties": {"x": {"type": "integer"}},
                "anyOf": [{"required": ["x"]}, {"properties": {"y": {"type": "string"}}}],
            },
            {
                "anyOf": [
                    {
                        "type": "object",
                        "properties": {"x": {"type": "integer"}},
                        "required": ["x"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {
                            "y": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                            "x": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                        },
                        "required": ["y", "x"],
                        "additionalProperties": False,
                    },
                ]
            },
        ),
        ({"type": "string", "pattern": "^(?=a).*$"}, {"type": "string"}),
        ({"type": "string", "format": "uri"}, {"type": "string"}),
    ],
)
def test_parts_in_the_strict_subset(part: dict[str, Any], written: dict[str, Any]) -> None:
    found = fitted(object_of(a=part), RULES_OPENAI_STRICT)["properties"]["a"]
    if "description" not in written:
        found.pop("description", None)
    assert found == written


@pytest.mark.parametrize(
    ("part", "why"),
    [
        ({}, "any value is allowed there"),
        (True, "any value is allowed there"),
        (False, None),
        ({"type": "array"}, "any value is allowed there"),
        ({"type": "object"}, "an object with names of its own"),
        ({"enum": [{"a": 1}]}, "an enum of objects or lists"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "no value is allowed there"),
        ({"$ref": "#/$defs/none"}, "points to nothing"),
    ],
)
def test_parts_that_strict_mode_cannot_express(part: Any, why: str | None) -> None:
    schema = object_of(a=part)
    if why is None:
        assert fitted(schema, RULES_OPENAI_STRICT)["properties"] == {}
        return
    with pytest.raises(Inexpressible, match=why) as caught:
        fitted(schema, RULES_OPENAI_STRICT)
    assert caught.value.path.startswith("a")


def test_a_property_that_contains_its_object_is_optional_for_gemini() -> None:
    node = object_of(name={"type": "string"}, next={"$ref": "#/$defs/Node"})
    schema = {"$ref": "#/$defs/Node", "$defs": {"Node": node}}
    written = fitted(schema, RULES_GEMINI)
    assert written["required"] == ["name"] == written["$defs"]["Node"]["required"]


def test_where_there_is_no_null_nullable_properties_are_optional_and_read_as_null() -> None:
    made = as_output_type(Item)
    written = fitted(
        object_of(size={"type": "integer"}, note={"anyOf": [{"type": "string"}, {"type": "null"}]}),
        RULES_COHERE,
    )
    assert (written["required"], written["properties"]["note"]) == (["size"], {"type": "string"})
    both = as_output_type(create_model("Both", size=(int, ...), note=(str | None, ...)))
    assert both.parse('{"size": 3}').note is None
    assert made.parse('{"size": 3}').note is None
