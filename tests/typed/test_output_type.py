"""Output types: schemas of Python types, and values of answers."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import enum
import pickle
import time
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, Field, PlainSerializer

from llmflow.errors import ConfigurationError
from llmflow.typed.columns import Column, ListOf, Scalar
from llmflow.typed.levels import levels
from llmflow.typed.output_type import AnswerMismatch, OutputType, as_output_type


class Review(BaseModel):
    """A review of a shop."""

    title: str
    score: int = Field(ge=1, le=5)
    day: dt.date
    tags: list[str] = []
    price: Decimal | None = None


class Mood(enum.Enum):
    """A mood."""

    GOOD = "good"
    BAD = "bad"


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


@dataclasses.dataclass
class Point:
    x: int
    y: float


REVIEW = '{"title": "Nice", "score": 4, "day": "2026-01-31", "tags": ["a"], "price": "1.50"}'


def test_a_model_s_answer_becomes_the_model() -> None:
    value = as_output_type(Review).parse(REVIEW)
    assert value == Review(
        title="Nice", score=4, day=dt.date(2026, 1, 31), tags=["a"], price=Decimal("1.50")
    )


def test_a_row_is_plain_json_data_by_column() -> None:
    reviews = as_output_type(Review)
    assert reviews.row(reviews.parse(REVIEW)) == {
        "title": "Nice",
        "score": 4,
        "day": "2026-01-31",
        "tags": ["a"],
        "price": "1.50",
    }


def test_columns_come_from_the_schema() -> None:
    assert as_output_type(Review).columns == (
        Column("title", Scalar("string")),
        Column("score", Scalar("integer")),
        Column("day", Scalar("date")),
        Column("tags", ListOf(Scalar("string"))),
        Column("price", Scalar("decimal")),
    )


def test_automatic_titles_are_dropped_and_a_property_named_title_stays() -> None:
    schema = as_output_type(Review).schema
    assert "title" not in schema
    assert schema["properties"]["title"] == {"type": "string"}


@pytest.mark.parametrize(
    ("given", "text", "value"),
    [
        (int, '{"response": 5}', 5),
        (int, "5", 5),
        (Literal["yes", "no"], '"yes"', "yes"),
        (Literal["yes", "no"], "yes", "yes"),
        (Mood, '{"response": "good"}', Mood.GOOD),
        (Mood, "bad\n", Mood.BAD),
        (list[int], "[1, 2]", [1, 2]),
        (list[int], 'as [1] says, {"response": [2]}', [2]),
        (dict[str, Point], '{"a": {"x": 1, "y": 2}}', {"a": Point(1, 2)}),
        (int | None, '{"response": null}', None),
    ],
)
def test_what_is_no_object_is_wrapped_and_taken_bare(given: Any, text: str, value: Any) -> None:
    made = as_output_type(given)
    assert made.wraps
    assert [column.name for column in made.columns] == ["response"]
    assert made.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{REVIEW}\n```",
        f"Here it is:\n```\n{REVIEW}\n```\nAnything else?",
        f"The answer {{as wanted}} is {REVIEW}. {REVIEW}",
        f"<think>{{}} perhaps</think>\n{REVIEW}",
    ],
)
def test_json_is_found_among_other_text(text: str) -> None:
    reviews = as_output_type(Review)
    assert reviews.parse(text) == reviews.parse(REVIEW)


def test_of_json_that_is_cut_off_nothing_is_taken() -> None:
    cut = '{"name": "a", "children": [{"name": "b"}'
    with pytest.raises(AnswerMismatch, match="EOF"):
        as_output_type(Tree).parse(cut)


def test_null_for_what_is_optional_means_left_out() -> None:
    text = '{"title": "Nice", "score": 4, "day": "2026-01-31", "tags": null, "price": null}'
    value = as_output_type(Review).parse(text)
    assert (value.tags, value.price) == ([], None)


def test_what_is_wrong_is_said_in_one_short_line() -> None:
    with pytest.raises(AnswerMismatch) as caught:
        as_output_type(Review).parse('{"title": 5, "score": 9, "day": "2026-01-31"}')
    assert str(caught.value) == (
        "title: Input should be a valid string (got 5); "
        "score: Input should be less than or equal to 5 (got 9)"
    )


def test_a_recursive_model_has_an_object_at_its_root() -> None:
    schema = as_output_type(Tree).schema
    assert (schema["type"], "$ref" in schema) == ("object", False)
    assert as_output_type(Tree).parse('{"name": "a", "children": [{"name": "b"}]}') == Tree(
        name="a", children=[Tree(name="b")]
    )


def test_equal_types_have_one_output_type() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert as_output_type(Review) is as_output_type(Review)
    assert as_output_type(list[int]) is as_output_type(list[int])
    assert as_output_type(schema) is as_output_type(dict(schema))
    assert as_output_type(as_output_type(schema)) is as_output_type(schema)


def test_a_schema_that_was_changed_is_another_one() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    before = as_output_type(schema)
    schema["properties"] = {"b": {"type": "string"}}
    assert [column.name for column in as_output_type(schema).columns] == ["b"]
    assert [column.name for column in before.columns] == ["a"]


def test_answers_of_a_json_schema_are_checked_with_formats() -> None:
    made = as_output_type(
        {"type": "object", "properties": {"day": {"type": "string", "format": "date"}}}
    )
    assert made.parse('{"day": "2026-01-31"}') == {"day": "2026-01-31"}
    with pytest.raises(AnswerMismatch, match=r"^day: "):
        made.parse('{"day": "soon"}')


def test_a_stored_type_gives_the_same_schema_and_columns() -> None:
    for given in (Review, Tree, int, list[Review], Annotated[int, Field(ge=1)]):
        made = as_output_type(given)
        restored = OutputType.restored(name=made.name, schema=dict(made.schema))
        assert (restored.name, restored.columns) == (made.name, made.columns)
        assert restored.output == made.output


def test_a_stored_type_that_wraps_takes_bare_words() -> None:
    made = as_output_type(Mood)
    restored = OutputType.restored(name=made.name, schema=made.schema, wraps=True)
    assert restored.output == made.output
    assert (restored.parse("good"), restored.row("good")) == ("good", {"response": "good"})


@pytest.mark.parametrize("given", [Review, {"title": "Level", "type": "integer"}, Mood])
def test_an_output_type_can_be_sent_to_another_process(given: Any) -> None:
    made = as_output_type(given)
    copy = pickle.loads(pickle.dumps(made))
    assert (copy.name, copy.schema, copy.wraps) == (made.name, made.schema, made.wraps)


class Left(BaseModel):
    left: Left | Right | None = None


class Right(BaseModel):
    left: Left | Right | None = None


def test_an_answer_of_many_recursive_alternatives_is_read_quickly() -> None:
    made = as_output_type(Left)
    stored = OutputType.restored(name=made.name, schema=made.schema)
    for each in (made, stored):
        with pytest.raises(AnswerMismatch, match="at most 14 levels"):
            each.parse('{"left":' * 30 + "5" + "}" * 30)
        with pytest.raises(AnswerMismatch, match=r"^left"):
            each.parse('{"left":' * 8 + "5" + "}" * 8)
        each.parse('{"left":' * 13 + "null" + "}" * 13)


def test_an_odd_quote_before_the_answer_hides_none_of_its_levels() -> None:
    deep = '{"left":' * 30 + "5" + "}" * 30
    for text in (f'It is 5" wide: {deep}', f'"\n```json\n{deep}\n```'):
        with pytest.raises(AnswerMismatch, match="at most 14 levels"):
            as_output_type(Left).parse(text)


def test_the_levels_of_a_text_that_never_ends_are_counted_in_one_pass() -> None:
    began = time.process_time()
    assert levels('{["' + '\\"' * 200_000) == 2
    assert levels('{"a": "[\\') == 1
    assert time.process_time() - began < 2


def test_a_path_has_keys_and_places_only() -> None:
    with pytest.raises(AnswerMismatch) as caught:
        as_output_type(Left).parse('{"left": {"left": 5}}')
    assert str(caught.value) == "left.left: Input should be an object (got 5)"
    with pytest.raises(AnswerMismatch, match=r"^response\[1\]: Input should be a valid integer"):
        as_output_type(list[int | None]).parse('{"response": [1, "x"]}')


@pytest.mark.parametrize("error", [KeyError("x"), asyncio.CancelledError(), SystemExit(1)])
def test_a_check_of_the_type_that_fails_is_a_mismatch(error: BaseException) -> None:
    def check(value: int) -> int:
        raise error

    with pytest.raises(
        AnswerMismatch, match=f"the check of the type raised {type(error).__name__}"
    ):
        as_output_type(Annotated[int, AfterValidator(check)]).parse("5")


def test_a_value_that_cannot_be_written_is_a_mismatch() -> None:
    def write(value: int) -> int:
        raise ValueError("no")

    made = as_output_type(Annotated[int, PlainSerializer(write)])
    with pytest.raises(AnswerMismatch, match="cannot be written as JSON"):
        made.row(made.parse("5"))


def _function() -> None: ...


class _Plain:
    pass


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (Any, "accepts any answer"),
        (object, "accepts any answer"),
        (None, "not a type"),
        ("score: int", "must be a type"),
        (5, "must be a type"),
        (_function, "validate="),
        (Point(1, 2), "give the class Point"),
        (_Plain, "use a pydantic model"),
        ({}, "accepts any answer"),
        ({"typ": "object"}, "found typ"),
        ({"type": "text"}, "no JSON schema: type"),
        ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}, r"/\$defs/b"),
        (
            {"type": "object", "properties": {"a": {"$ref": "http://a.test/b"}}},
            r"not in the schema",
        ),
        ({"type": object()}, "not JSON serializable"),
    ],
)
def test_what_has_no_schema_is_refused_with_the_remedy(given: Any, remedy: str) -> None:
    with pytest.raises(ConfigurationError, match=remedy) as caught:
        as_output_type(given)
    assert "\n" not in str(caught.value)


def test_an_empty_object_is_no_bare_dictionary() -> None:
    """What a model answers that left out the field would have been taken."""
    with pytest.raises(AnswerMismatch, match="response"):
        as_output_type(dict[str, int]).parse("{}")
    assert as_output_type(dict[str, int]).parse('{"a": 1}') == {"a": 1}
    assert as_output_type(dict[str, int]).parse('{"response": {}}') == {}
