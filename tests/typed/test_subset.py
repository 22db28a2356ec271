"""Schemas rewritten for what a server takes."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from llmflow.typed.output_type import as_output_type
from llmflow.typed.rules import RULES_ANTHROPIC, RULES_COMMON, RULES_LOOSE, RULES_OPENAI_STRICT
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
