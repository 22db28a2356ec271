"""Property tests of rewritten schemas, by an independent check of JSON schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmflow.typed import rules as all_rules
from llmflow.typed.output_type import as_output_type
from llmflow.typed.rules import SchemaRules
from llmflow.typed.subset import Inexpressible, fitted

RULES: dict[str, SchemaRules] = {
    name: value for name, value in vars(all_rules).items() if isinstance(value, SchemaRules)
}
ENFORCED = ["RULES_OPENAI_STRICT", "RULES_ANTHROPIC", "RULES_GEMINI", "RULES_COHERE", "RULES_LOOSE"]
FEW = settings(max_examples=40)
NAMES = st.sampled_from(["a", "b", "title", "type", "enum", "items", "$ref", "description"])
Pair = tuple[dict[str, Any], Any]
"""A schema, and a value of it."""


@st.composite
def plain(draw: st.DrawFn) -> Pair:
    number = draw(st.integers(-5, 5))
    pairs: st.SearchStrategy[Pair] = st.sampled_from(
        [
            ({"type": "integer", "minimum": number, "maximum": number + 3}, number + 1),
            ({"type": "number", "exclusiveMinimum": number}, number + 0.5),
            ({"type": "string", "minLength": 1, "pattern": "^[a-z]+$"}, "abc"),
            ({"type": "string", "format": "date", "description": "A day."}, "2026-01-31"),
            ({"type": "string", "format": "uri"}, "https://example.com/"),
            ({"type": "boolean", "title": "Whether"}, True),
            ({"type": "null"}, None),
            ({"const": "one"}, "one"),
            ({"enum": ["one", 2, None]}, 2),
            ({"type": "string", "enum": ["one", "two"], "default": "one"}, "two"),
            ({"type": ["integer", "string"], "minLength": 2, "minimum": 0}, "text"),
            ({"allOf": [{"type": "integer"}, {"minimum": number}]}, number),
            ({"$ref": "#/$defs/Word"}, "word"),
            ({"$ref": "#/$defs/Word", "description": "Another word."}, "word"),
        ]
    )
    return draw(pairs)


@st.composite
def an_object(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    found = draw(st.dictionaries(NAMES, st.tuples(inner, st.booleans(), st.booleans())))
    schema = {
        "type": "object",
        "properties": {name: part for name, ((part, _), _, _) in found.items()},
        "required": [name for name, (_, required, _) in found.items() if required],
    }
    value = {
        name: each for name, ((_, each), required, given_) in found.items() if required or given_
    }
    return schema, value


def inner_of(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
    return st.one_of(
        an_object(inner),
        inner.map(lambda one: ({"type": "array", "items": one[0], "maxItems": 3}, [one[1]] * 2)),
        st.tuples(inner, inner).map(
            lambda two: ({"anyOf": [two[0][0], two[1][0]], "description": "Either."}, two[1][1])
        ),
        st.tuples(inner, inner).map(
            lambda two: (
                {"type": "array", "prefixItems": [two[0][0], two[1][0]], "minItems": 2},
                [two[0][1], two[1][1]],
            )
        ),
    )


RECURSIVE: Pair = ({"$ref": "#/$defs/List"}, {"rest": {"rest": None}})
CLOSED = st.recursive(plain(), inner_of, max_leaves=8)
OPEN = st.recursive(
    st.one_of(plain(), st.just(RECURSIVE)),
    lambda inner: st.one_of(
        inner_of(inner),
        inner.map(
            lambda one: (
                {"type": "object", "additionalProperties": one[0]},
                {"x": one[1], "y": one[1]},
            )
        ),
    ),
    max_leaves=8,
)
DEFS = {
    "Word": {"type": "string", "maxLength": 20},
    "List": {
        "type": "object",
        "properties": {"rest": {"anyOf": [{"$ref": "#/$defs/List"}, {"type": "null"}]}},
        "required": ["rest"],
    },
}


def rooted(pair: Pair) -> Pair:
    return {**pair[0], "$defs": DEFS}, pair[1]


def roots(name: str) -> st.SearchStrategy[Pair]:
    """Return schemas that some rules can mostly express, with values."""
    return an_object(OPEN if RULES[name].open_dicts else CLOSED).map(rooted)


def as_sent(value: Any, schema: Any, root: dict[str, Any]) -> Any:
    """Return a value with null for what is left out of it, where that is required."""
    while isinstance(schema, dict) and "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if isinstance(schema, dict) and "anyOf" in schema:
        for option in schema["anyOf"]:
            made = as_sent(value, option, root)
            if jsonschema_rs.is_valid({**option, "$defs": root.get("$defs", {})}, made):
                return made
        return value
    if isinstance(value, dict) and isinstance(schema, dict) and "properties" in schema:
        known = schema["properties"]
        made = {name: as_sent(each, known.get(name), root) for name, each in value.items()}
        # Where null cannot be said, what is null is left out.
        made = {
            name: each
            for name, each in made.items()
            if each is not None or name in schema.get("required", ()) or nulls(known.get(name))
        }
        return made | {name: None for name in schema.get("required", ()) if name not in made}
    if isinstance(value, dict) and isinstance(schema, dict):
        more = schema.get("additionalProperties")
        return {name: as_sent(each, more, root) for name, each in value.items()}
    if isinstance(value, list) and isinstance(schema, dict):
        parts = schema.get("prefixItems") or [schema.get("items")] * len(value)
        return [as_sent(each, part, root) for each, part in zip(value, parts, strict=False)]
    return value


def nulls(schema: Any) -> bool:
    return not isinstance(schema, dict) or "null" in json.dumps(schema)


@pytest.mark.parametrize("name", ENFORCED)
@FEW
@given(st.data())
def test_values_of_a_schema_are_values_of_the_rewritten_one(name: str, data: st.DataObject) -> None:
    pair = data.draw(roots(name))
    schema, value = pair
    assert jsonschema_rs.is_valid(schema, value)
    try:
        written = fitted(schema, RULES[name])
    except Inexpressible:
        return
    if RULES[name].any_of:
        sent = as_sent(value, written, written)
        assert list(jsonschema_rs.iter_errors(written, sent)) == []


@pytest.mark.parametrize("name", ENFORCED)
@FEW
@given(st.data())
def test_to_rewrite_a_schema_again_changes_nothing(name: str, data: st.DataObject) -> None:
    pair = data.draw(roots(name))
    try:
        written = fitted(pair[0], RULES[name])
    except Inexpressible:
        return
    jsonschema_rs.meta.validate(written)
    assert fitted(written, RULES[name]) == written


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for key in ("properties", "$defs"):
            for part in schema.get(key, {}).values():
                yield from parts(part)
        for key in ("anyOf", "prefixItems"):
            for part in schema.get(key, ()):
                yield from parts(part)
        for key in ("items", "additionalProperties"):
            yield from parts(schema.get(key))


@pytest.mark.parametrize("name", ["RULES_OPENAI_STRICT", "RULES_ANTHROPIC", "RULES_COMMON"])
@FEW
@given(st.data())
def test_closed_objects_forbid_further_properties(name: str, data: st.DataObject) -> None:
    pair = data.draw(roots(name))
    try:
        written = fitted(pair[0], RULES[name])
    except Inexpressible:
        return
    for part in parts(written):
        assert part.keys() & {"type", "anyOf", "$ref"}
        assert "$ref" not in part or part.keys() == {"$ref"}
        assert not part.keys() & {"oneOf", "allOf", "default", "prefixItems"}
        if part.get("type") == "object":
            assert part["additionalProperties"] is False
            if RULES[name].all_required:
                assert sorted(part["required"]) == sorted(part["properties"])


@pytest.mark.parametrize("name", ENFORCED)
@FEW
@given(st.data())
def test_what_is_sent_is_read_as_the_value(name: str, data: st.DataObject) -> None:
    pair = data.draw(roots(name))
    schema, value = pair
    rules = RULES[name]
    try:
        written = fitted(schema, rules)
    except Inexpressible:
        return
    if not rules.any_of:
        return
    made = as_output_type(schema)
    sent = as_sent(value, written, written)
    assert jsonschema_rs.is_valid(schema, made.parse(json.dumps(sent)))
