"""Any JSON schema is taken or refused in a line: nothing else is raised."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from llmflow.errors import ConfigurationError
from llmflow.parts import OutputSchema
from llmflow.typed.methods import OutputMethods
from llmflow.typed.output_type import AnswerMismatch, as_output_type
from llmflow.typed.rules import (
    RULES_ANTHROPIC,
    RULES_COHERE,
    RULES_GEMINI,
    RULES_LOOSE,
    RULES_OPENAI_STRICT,
)

NAMES = st.sampled_from(["a", "b", "$ref", "properties", "response", ""])
REFERENCES = st.sampled_from(["#", "#/$defs/a", "#/$defs/b", "#/$defs/none"])
TYPES = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
NUMBERS = st.integers(0, 3)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.text(max_size=2))
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=2), st.dictionaries(NAMES, PLAIN, max_size=2))


def schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    several = st.lists(inner, min_size=1, max_size=3)
    named = st.dictionaries(NAMES, inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.one_of(TYPES, st.lists(TYPES, min_size=1, max_size=3, unique=True)),
            "properties": named,
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": inner,
            "patternProperties": st.dictionaries(st.just("^x"), inner),
            "items": inner,
            "prefixItems": several,
            "minItems": NUMBERS,
            "anyOf": several,
            "oneOf": several,
            "allOf": several,
            "not": inner,
            "if": inner,
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "default": VALUES,
            "minimum": NUMBERS,
            "maxLength": NUMBERS,
            "pattern": st.sampled_from(["^a+$", "(?=a)b", "a{2}"]),
            "format": st.sampled_from(["date", "decimal", "other", "uuid"]),
            "description": st.sampled_from(["Of it.", "{minimum: 3}", ""]),
            "title": st.just("Title"),
            "$ref": REFERENCES,
        },
    )


ANY = st.recursive(st.one_of(st.booleans(), schemas(st.booleans())), schemas, max_leaves=6)
ROOTS = st.tuples(schemas(ANY), ANY, ANY).map(
    lambda each: {**each[0], "$defs": {"a": each[1], "b": each[2]}}
)
METHODS = [
    ("json_schema", RULES_OPENAI_STRICT),
    ("json_schema", RULES_ANTHROPIC),
    ("json_schema", RULES_GEMINI),
    ("json_schema", RULES_COHERE),
    ("tool", RULES_LOOSE),
    ("prompt", None),
]
TEXTS = st.one_of(VALUES, st.dictionaries(NAMES, VALUES)).map(
    lambda each: orjson.dumps(each).decode()
)


@given(ROOTS, TEXTS)
@settings(max_examples=60)
def test_any_schema_is_taken_or_refused(schema: dict[str, Any], text: str) -> None:
    try:
        made = as_output_type(schema)
    except ConfigurationError as error:
        told = str(error)
        assert "\n" not in told
        return
    for method in METHODS:
        try:
            OutputMethods(method).chosen(made.output)  # type: ignore[arg-type]
        except ConfigurationError as error:
            told = str(error)
            assert "\n" not in told
    try:
        row = made.row(made.parse(text))
    except AnswerMismatch:
        return
    assert list(row) == [column.name for column in made.columns]


@given(ROOTS)
@settings(max_examples=40)
def test_a_schema_that_nobody_checked_is_written_or_refused(schema: dict[str, Any]) -> None:
    output = OutputSchema(schema=schema)
    for method in METHODS:
        try:
            chosen = OutputMethods(method).chosen(output)  # type: ignore[arg-type]
        except ConfigurationError:
            continue
        assert chosen.tokens > 0
