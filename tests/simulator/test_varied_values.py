"""Values that a schema leaves open are chosen by each text, if that is wanted."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.simulator.schema_value import fill_schema
from llmflow.simulator.varied_value import VariedFiller
from tests.typed.fourteen import FOURTEEN

REVIEW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["good", "bad", "mixed"]},
        "stars": {"type": "integer", "minimum": 1, "maximum": 5},
        "sure": {"type": "boolean"},
        "share": {"type": "number"},
        "topics": {"type": "array", "items": {"type": "string"}},
        "note": {"type": "string"},
    },
}


def filled(text: str, schema: Any = REVIEW) -> Any:
    return fill_schema(schema, text, VariedFiller)


def test_what_the_text_names_is_chosen() -> None:
    assert filled("A bad, bad day with a good end.")["mood"] == "bad"
    assert filled("Whales sing, and whales dive.")["topics"][0] == "whales"
    assert filled("Whales sing.")["note"] == "Whales sing."


def test_all_values_occur_and_the_same_for_the_same_text() -> None:
    values = [filled(f"Item {number} is here.") for number in range(200)]
    assert values == [filled(f"Item {number} is here.") for number in range(200)]
    assert {each["mood"] for each in values} == {"good", "bad", "mixed"}
    assert {each["stars"] for each in values} == {1, 2, 3, 4, 5}
    assert {each["sure"] for each in values} == {True, False}
    assert {len(each["topics"]) for each in values} == {1, 2, 3}
    assert len({each["share"] for each in values}) > 30


@pytest.mark.parametrize("name", FOURTEEN)
def test_every_type_accepts_them(name: str) -> None:
    for number in range(20):
        schema = FOURTEEN[name].model_json_schema()
        FOURTEEN[name].model_validate(filled(f"Item {number} is here.", schema))


NUMBERS = st.integers(-60, 60) | st.floats(-60, 60, allow_nan=False)


@given(
    kind=st.sampled_from(["integer", "number"]),
    low=st.none() | NUMBERS,
    high=st.none() | NUMBERS,
    open_ends=st.tuples(st.booleans(), st.booleans()),
    text=st.text(max_size=5),
)
def test_numbers_stay_in_range(
    kind: str, low: Any, high: Any, open_ends: tuple[bool, bool], text: str
) -> None:
    if low is not None and high is not None and high - low < 1.5:
        high = low + 1.5  # else there may be none
    schema: dict[str, Any] = {"type": kind}
    if low is not None:
        schema["exclusiveMinimum" if open_ends[0] else "minimum"] = low
    if high is not None:
        schema["exclusiveMaximum" if open_ends[1] else "maximum"] = high
    if kind == "integer" and jsonschema_rs.is_valid(schema, fill_schema(schema, text)) is False:
        return  # no whole number lies between
    assert jsonschema_rs.is_valid(schema, filled(text, schema))


@given(factor=st.integers(1, 9), low=st.integers(-50, 50), text=st.text(max_size=5))
def test_multiples_stay_multiples(factor: int, low: int, text: str) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": low + 2 * factor, "multipleOf": factor}
    assert jsonschema_rs.is_valid(schema, filled(text, schema))


def test_a_list_of_many_items_has_them() -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 30}
    assert len(fill_schema(schema, "")) == len(filled("", schema)) == 30
