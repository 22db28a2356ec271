"""A type's stored schema reads answers as the type does."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import create_model

from llmflow.simulator.schema_value import fill_schema
from llmflow.typed.output_type import AnswerMismatch, OutputType, as_output_type
from llmflow.typed.stored_check import StoredCheck, read_as
from tests.typed.fourteen import FOURTEEN

Scalars = create_model(
    "Scalars", n=(int, ...), x=(float, ...), ok=(bool, ...), d=(Decimal, Decimal(5))
)
SCALARS = as_output_type(Scalars)


def stored(output: OutputType) -> OutputType:
    """Return what a run has of a type: its schema, through a file of JSON."""
    schema = orjson.loads(orjson.dumps(output.schema))
    return OutputType(schema, output.name, StoredCheck(schema, wrapped=output.wraps))


def row(output: OutputType, text: str) -> Any:
    try:
        return output.row(output.parse(text))
    except AnswerMismatch:
        return None


@pytest.mark.parametrize("name", FOURTEEN)
def test_the_question_stays_the_same(name: str) -> None:
    output = as_output_type(FOURTEEN[name])
    again = stored(output)
    assert orjson.dumps(again.schema) == orjson.dumps(output.schema)
    assert (again.name, again.columns, again.wraps) == (output.name, output.columns, output.wraps)


@pytest.mark.parametrize("name", FOURTEEN)
def test_rows_are_the_same_with_defaults_and_without(name: str) -> None:
    output = as_output_type(FOURTEEN[name])
    value = fill_schema(output.schema, "some text")
    needed = set(output.schema.get("required", ()))
    for each in (value, {key: item for key, item in value.items() if key in needed}):
        text = orjson.dumps(each).decode()
        assert row(output, text) == row(stored(output), text) is not None


@pytest.mark.parametrize(
    "text", ["a", '"a"', '{"response": "a"}', '```json\n{"response":"a"}\n```']
)
def test_the_bare_value_of_a_wrapped_type_is_taken(text: str) -> None:
    output = as_output_type(Literal["a", "b"])
    assert row(stored(output), text) == row(output, text) == {"response": "a"}


JSON_SCALARS = (
    st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.integers().map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.sampled_from(["true", "No", "ON", "y", "5", "5.0", " 7 ", "", "x", "-", "1e3"])
)


@given(JSON_SCALARS, JSON_SCALARS, JSON_SCALARS)
@example("5", "4.5", "yes")
@example(5.0, 5, 1)
@example(2**70, 2**70, 0)
def test_what_pydantic_takes_is_taken(n: Any, x: Any, ok: Any) -> None:
    text = orjson.dumps({"n": n, "x": x, "ok": ok}, default=str).decode() if _fits(n, x, ok) else ""
    expected = row(SCALARS, text)
    if expected is not None:
        assert row(stored(SCALARS), text) == expected


def _fits(*values: Any) -> bool:
    return all(not isinstance(each, int) or abs(each) < 1 << 53 for each in values)


def test_alternatives_are_left_as_they_are() -> None:
    schema = {"properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}}
    assert read_as({"a": "5"}, schema, schema) == {"a": "5"}


def test_references_in_a_circle_end() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    assert read_as({"b": 1}, schema, schema) == {"b": 1}
