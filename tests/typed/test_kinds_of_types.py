"""Types of all kinds: their schemas, names, columns, values and rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import ipaddress
import uuid
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, NotRequired, TypeVar

import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    RootModel,
    computed_field,
    model_serializer,
)
from typing_extensions import TypeAliasType, TypedDict

from llmflow.errors import ConfigurationError
from llmflow.typed.columns import JSON, Column, ListOf, Scalar, Struct
from llmflow.typed.output_type import AnswerMismatch, as_output_type

ItemT = TypeVar("ItemT")


class Box(BaseModel, Generic[ItemT]):
    item: ItemT


class Movie(TypedDict):
    name: str
    year: NotRequired[int]


class Point(NamedTuple):
    x: int
    label: str = "here"


class WrittenAsText(BaseModel):
    size: int

    @model_serializer
    def _written(self) -> str:
        return str(self.size)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Team:
    """A team."""

    name: str
    members: list[str] = dataclasses.field(default_factory=list)


class Renamed(BaseModel):
    full_name: str = Field(alias="fullName", description="First and last.")
    size: int = Field(validation_alias=AliasChoices("size_in_cm", "size"), serialization_alias="cm")

    @computed_field
    def doubled(self) -> int:
        return 2 * self.size


class Numbers(RootModel[list[int]]):
    pass


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow", title="Fancy")
    a: int = Field(title="The first letter")
    any_value: JsonValue = None


class Plain(BaseModel):
    id: uuid.UUID
    address: ipaddress.IPv4Address
    took: dt.timedelta
    words: set[str]
    team: Team
    places: list[Point] = []


PLAIN = (
    '{"id": "123e4567-e89b-42d3-a456-426614174000", "address": "192.0.2.1", "took": "P1D", '
    '"words": ["a"], "team": {"name": "b"}, "places": [[1, "x"]]}'
)
UserId = NewType("UserId", int)
Words = TypeAliasType("Words", list[str])


@pytest.mark.parametrize(
    ("given", "name", "text", "row"),
    [
        (Box[int], "Box_int", '{"item": 5}', {"item": 5}),
        (Box[list[str]], "Box_list_str", '{"item": ["a"]}', {"item": ["a"]}),
        (Movie, "Movie", '{"name": "Jaws"}', {"name": "Jaws", "year": None}),
        (Point, "Point", '{"x": 1}', {"x": 1, "label": "here"}),
        (Point, "Point", '[1, "there"]', {"x": 1, "label": "there"}),
        (Level, "Level", '{"response": 2}', {"response": 2}),
        (Team, "Team", '{"name": "a"}', {"name": "a", "members": []}),
        (
            Renamed,
            "Renamed",
            '{"fullName": "A B", "size_in_cm": 3}',
            {"fullName": "A B", "size_in_cm": 3},
        ),
        (Numbers, "Numbers", "[1, 2]", {"response": [1, 2]}),
        (Loose, "Loose", '{"a": 1, "z": 2}', {"a": 1, "any_value": None}),
        (UserId, "answer", "7", {"response": 7}),
        (Words, "answer", '["a"]', {"response": ["a"]}),
        (
            dict[str, Team],
            "answer",
            '{"b": {"name": "a"}}',
            {"response": {"b": {"name": "a", "members": []}}},
        ),
        (tuple[int, ...], "answer", "[1, 2]", {"response": [1, 2]}),
        (Annotated[int, Field(ge=3)], "answer", "3", {"response": 3}),
        (Decimal, "answer", '"12345678901234567890.10"', {"response": "12345678901234567890.10"}),
        (
            Plain,
            "Plain",
            PLAIN,
            {
                "id": "123e4567-e89b-42d3-a456-426614174000",
                "address": "192.0.2.1",
                "took": "P1D",
                "words": ["a"],
                "team": {"name": "b", "members": []},
                "places": [[1, "x"]],
            },
        ),
    ],
)
def test_values_and_rows(given: Any, name: str, text: str, row: dict[str, Any]) -> None:
    made = as_output_type(given)
    assert made.name == name
    value = made.parse(text)
    assert made.row(value) == row
    assert [column.name for column in made.columns] == list(row)


def test_a_named_tuple_is_an_object_with_its_names() -> None:
    made = as_output_type(Point)
    assert not made.wraps
    assert made.parse('{"x": 1, "label": "there"}') == Point(1, "there")
    assert made.columns == (Column("x", Scalar("integer")), Column("label", Scalar("string")))


def test_the_values_of_a_set_are_in_the_same_order_in_every_process() -> None:
    words = [f"word {number}" for number in range(20)]
    for given, value, row in (
        (set[str], set(words), sorted(words)),
        (frozenset[str] | None, frozenset(words), sorted(words)),
        (dict[str, set[str]], {"a": set(words)}, {"a": sorted(words)}),
    ):
        assert as_output_type(given).row(value) == {"response": row}


def test_the_numbers_of_a_set_are_in_the_order_of_numbers() -> None:
    assert as_output_type(set[int]).row({10, 9, -1, 100}) == {"response": [-1, 9, 10, 100]}
    mixed = as_output_type(set[int | str]).row({1, "a"})
    assert sorted(mixed["response"], key=str) == [1, "a"]


def test_a_serializer_that_gives_no_object_is_told_in_a_line() -> None:
    with pytest.raises(AnswerMismatch, match="own serializer gives str, not an object"):
        as_output_type(WrittenAsText).row(WrittenAsText(size=1))


def test_titles_that_the_user_gave_stay() -> None:
    schema = as_output_type(Loose).schema
    assert schema["title"] == "Fancy"
    assert schema["properties"]["a"]["title"] == "The first letter"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (
            Team,
            Struct((Column("name", Scalar("string")), Column("members", ListOf(Scalar("string"))))),
        ),
        (Level, Scalar("integer")),
        (Literal[1, 2.5], Scalar("number")),
        (Literal["a", 1], JSON),
        (int | None, Scalar("integer")),
        (int | str, JSON),
        (list[dt.date], ListOf(Scalar("date"))),
        (dt.datetime, Scalar("datetime")),
        (dt.time, Scalar("time")),
        (Annotated[Decimal, Field(ge=0)], Scalar("decimal")),
        (dict[str, int], JSON),
        (tuple[int, int], ListOf(Scalar("integer"))),
        (tuple[int, str], JSON),
        (list[Any], JSON),
        (bool, Scalar("boolean")),
    ],
)
def test_kinds_of_columns(given: Any, kind: Any) -> None:
    holder = as_output_type(list[given])
    assert holder.columns == (Column("response", JSON if kind == JSON else ListOf(kind)),)


@pytest.mark.parametrize("given", [TypeVar("ItemT"), type[int]])
def test_a_type_of_any_value_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="accepts any answer"):
        as_output_type(given)


def test_a_class_that_is_not_complete_is_refused_with_the_name() -> None:
    class Broken(BaseModel):
        other: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigurationError, match=r"'Missing' is not defined.*in a module"):
        as_output_type(Broken)


# JSON schemas


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "integer"}}}, "5", 5),
        ({"enum": ["a", "b"]}, "b", "b"),
        ({"type": ["integer", "null"]}, '{"response": null}', None),
        ({"type": "array", "items": {"$ref": "#"}}, "[[[]]]", [[[]]]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, '{"a": 1}', {"a": 1}),
        ({"properties": {"a": True}, "required": ["a"]}, '{"a": [1]}', {"a": [1]}),
        (
            {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}}]},
            '{"a": "x"}',
            {"a": "x"},
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "definitions": {
                    "A": {"type": "array", "items": [{"type": "integer"}, {"const": 1}]}
                },
                "$ref": "#/definitions/A",
            },
            "[5, 1]",
            [5, 1],
        ),
    ],
)
def test_schemas_of_any_root(schema: dict[str, Any], text: str, value: Any) -> None:
    made = as_output_type(schema)
    assert made.schema["type"] == "object"
    assert made.parse(text) == value
    assert list(made.row(value)) == [column.name for column in made.columns]


TREE_IN_DEFINITIONS = {
    "anyOf": [{"type": "integer"}, {"$ref": "#/$defs/Pair"}],
    "$defs": {"Pair": {"type": "array", "items": {"$ref": "#"}, "minItems": 2}},
}


def test_definitions_that_refer_to_the_root_still_do_where_it_is_wrapped() -> None:
    tree = as_output_type(TREE_IN_DEFINITIONS)
    assert tree.parse('{"response": [1, [2, 3]]}') == [1, [2, 3]]
    with pytest.raises(AnswerMismatch):
        tree.parse('{"response": [1, {"response": 2}]}')
    again = type(tree).restored(name=tree.name, schema=tree.schema, wraps=True)
    assert again.schema == tree.schema
    assert again.parse("[1, [2, 3]]") == [1, [2, 3]]


def test_a_reference_to_a_part_of_the_root_is_kept_where_it_is_wrapped() -> None:
    pairs = {
        "type": "array",
        "prefixItems": [{"type": "integer"}, {"$ref": "#/prefixItems/0"}],
        "items": False,
    }
    kind = as_output_type(pairs)
    assert kind.parse('{"response": [1, 2]}') == [1, 2]
    with pytest.raises(AnswerMismatch):
        kind.parse('{"response": [1, "2"]}')


def test_a_definition_named_as_the_moved_root_stays() -> None:
    given = {
        "type": "array",
        "items": {"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/Response"}]},
        "$defs": {"Response": {"type": "string"}},
    }
    assert as_output_type(given).parse('{"response": ["a", ["b"]]}') == ["a", ["b"]]


def test_a_wrapped_schema_with_an_id_finds_its_definitions() -> None:
    given = {
        "$id": "https://example.com/tags",
        "type": "array",
        "items": {"$ref": "#/$defs/Tag"},
        "$defs": {"Tag": {"type": "string"}},
    }
    assert as_output_type(given).parse('["a"]') == ["a"]


@pytest.mark.parametrize("levels", [60, 120, 300, 5000])
def test_a_schema_of_very_many_levels_is_refused_in_a_line(levels: int) -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    with pytest.raises(ConfigurationError, match="no JSON schema"):
        as_output_type(schema)


@pytest.mark.parametrize("reference", ["http://example.com/a", "other.json#/a", "#a", "#/$defs/a"])
def test_a_reference_to_nothing_is_refused_in_a_line(reference: str) -> None:
    for schema in (
        {"type": "object", "properties": {"a": {"$ref": reference}}},
        {"type": "array", "items": {"$ref": reference}},
    ):
        with pytest.raises(ConfigurationError, match="no JSON schema"):
            as_output_type(schema)


def test_a_schema_s_rules_are_checked() -> None:
    made = as_output_type(
        {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 3}, "more": {"type": "string"}},
            "required": ["n"],
            "additionalProperties": False,
        }
    )
    with pytest.raises(AnswerMismatch, match=r"^n: 1 is less than the minimum of 3$"):
        made.parse('{"n": 1}')
    with pytest.raises(AnswerMismatch, match="Additional properties are not allowed"):
        made.parse('{"n": 3, "other": 1}')
    assert made.parse('{"n": 3, "more": null}') == {"n": 3}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            "it is a response_format; give the schema that is in it",
        ),
        ({"type": "object", "properties": {"a": int}}, "Type is not JSON serializable: type"),
        ({"type": "object", "properties": {"a": "int"}}, 'properties.a: "int" is not'),
        ({"$ref": "#anchor"}, "Anchor 'anchor' does not exist"),
        ({"$ref": "other.json"}, "other.json"),
    ],
)
def test_what_is_no_schema_is_told_in_a_line(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        as_output_type(schema)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
