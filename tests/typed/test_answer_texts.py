"""Answers of any text: a value, or a mismatch that can be told to the model."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmflow.typed.output_type import AnswerMismatch, as_output_type
from tests.typed.fourteen import BARE, FOURTEEN

TYPES: dict[str, Any] = {**FOURTEEN, **{f"bare {name}": each for name, each in BARE.items()}}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^(a+)+$"},
        "rest": {"$ref": "#"},
        "day": {"type": "string", "format": "date"},
    },
    "required": ["name"],
}
MADE = [as_output_type(each) for each in (*TYPES.values(), SCHEMA)]
PIECES = st.sampled_from(
    [
        *('{"', '"}', '":', '":"', "{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "\\ud800"),
        *("```", "```json\n", "\n", "NaN", "-Infinity", "1e999", "-0", "null", "true", "5"),
        *("response", "name", "title", "children", "day", "2026-01-31", "</think>", "\ud800"),
        *("9" * 5000, '{"name":' * 300, "[" * 2000, "a" * 3000 + "b", "\x00", "\ufeff"),
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["response", "name", "title", "children", "day", "kind"]), inner
        ),
    ),
    max_leaves=10,
).map(json.dumps)


@given(st.one_of(TEXTS, JSON), st.sampled_from(MADE))
@example('{"name": "\ud800"}', as_output_type(SCHEMA))
@example('{"name": "' + "a" * 40 + 'b"}', as_output_type(SCHEMA))
@example('{"name": "a", "rest":' * 150 + "5" + "}" * 150, as_output_type(SCHEMA))
@example('{"response": ' + "9" * 5000 + "}", as_output_type(int))
@example("9" * 5000, as_output_type(int))
@example("```json\n" * 100, as_output_type(int))
def test_any_text_is_a_value_or_a_short_mismatch(text: str, made: Any) -> None:
    try:
        value = made.parse(text)
    except AnswerMismatch as error:
        told = str(error)
        assert told
        assert len(told) <= 1000
        assert "\n" not in told
        assert "pydantic.dev" not in told
        told.encode()
    else:
        row = made.row(value)
        assert list(row) == [column.name for column in made.columns]
        json.dumps(row)


def test_a_mismatch_can_be_sent_to_another_process() -> None:
    assert str(pickle.loads(pickle.dumps(AnswerMismatch("score: too high")))) == "score: too high"


MISSING = "title: Field required; sentiment: Field required"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the answer is empty; JSON is wanted"),
        ("I cannot say.", "not valid JSON: expected value at line 1 column 1"),
        ('{"title": "Sea"', "not valid JSON: EOF while parsing an object at line 1 column 15"),
        ("[]", "Input should be an object (got [])"),
        ('{"pages": 1, "recommended": true, "score": 2}', MISSING),
    ],
)
def test_what_the_model_is_told(text: str, told: str) -> None:
    with pytest.raises(AnswerMismatch) as caught:
        as_output_type(FOURTEEN["flat"]).parse(text)
    assert str(caught.value) == told


def test_a_long_value_and_many_problems_are_shortened() -> None:
    with pytest.raises(AnswerMismatch) as caught:
        as_output_type(list[int]).parse(json.dumps({"response": ["x" * 500] * 50}))
    told = str(caught.value)
    assert told.startswith("response[0]: Input should be a valid integer, unable to parse")
    assert len(told) <= 1000
    with pytest.raises(AnswerMismatch, match=r"response\[9\].* and more$"):
        as_output_type(list[int]).parse(json.dumps({"response": ["x"] * 50}))


def test_the_last_of_equal_keys_counts() -> None:
    assert as_output_type(int).parse('{"response": 1, "response": 2}') == 2


def test_numbers_of_any_size_are_kept_whole() -> None:
    assert as_output_type(int).parse("12345678901234567890123") == 12345678901234567890123
    schema = as_output_type({"type": "integer"})
    assert schema.parse("12345678901234567890123") == 12345678901234567890123
