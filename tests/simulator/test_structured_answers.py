"""Structured answers must be what nested models of the official SDKs accept."""

from __future__ import annotations

import datetime as dt
import enum
import re
import uuid
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from llmflow.simulator import SimulatorSettings, serve_in_thread
from llmflow.simulator.schema_value import fill_schema, matching


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    size: Annotated[int, Field(ge=3, le=9)]
    share: Annotated[float, Field(gt=0.2, lt=0.4)]
    short: Annotated[str, Field(max_length=5)]
    code: Annotated[str, Field(pattern="^[A-Z]{2}-[0-9]+$")]
    colour: Colour
    kind: Literal["leaf"]


class Tree(BaseModel):
    leaves: Annotated[list[Leaf], Field(min_length=2)]
    child: Tree | None
    day: dt.date
    at: dt.datetime
    ident: uuid.UUID
    either: int | str
    by_name: dict[str, Leaf]


class Plain(BaseModel):
    """What the strict subset of both services holds."""

    leaf: Inner
    more: list[Inner]
    day: dt.date


class Inner(BaseModel):
    colour: Colour
    size: int
    note: str | None


def test_a_nested_recursive_model_accepts_the_value() -> None:
    tree = Tree.model_validate(fill_schema(Tree.model_json_schema(), "Whales sing."))
    assert len(tree.leaves) == 2


@pytest.mark.parametrize(
    "kind",
    [
        Annotated[int, Field(multiple_of=7, ge=10)],
        Annotated[int, Field(lt=-3)],
        Annotated[str, Field(min_length=30)],
        tuple[int, str],
        set[Colour],
        dt.timedelta,
    ],
)
def test_a_plain_type_accepts_the_value(kind: Any) -> None:
    adapter = TypeAdapter(kind)
    adapter.validate_json(TypeAdapter(Any).dump_json(fill_schema(adapter.json_schema(), "Text")))


def test_all_parts_of_all_of_hold() -> None:
    schema = {
        "allOf": [
            {"$ref": "#/$defs/a"},
            {"type": "object", "properties": {"n": {"minimum": 7}}, "required": ["n"]},
        ],
        "$defs": {"a": {"type": "object", "properties": {"n": {"type": "integer"}, "s": {}}}},
    }
    assert fill_schema(schema, "t")["n"] == 7


def test_an_endless_schema_ends() -> None:
    schema = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]}
    assert fill_schema(schema, "t") == {}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "integer", "minimum": "three"},
        {"type": "integer", "multipleOf": 1e-320, "minimum": 1e300},
        {"type": "string", "format": []},
        {"type": "object", "required": [None, {}]},
    ],
)
def test_a_schema_that_is_none_is_no_failure_of_the_simulator(part: Any) -> None:
    schema = {"type": "object", "properties": {"a": part}}
    assert isinstance(fill_schema(schema, "t"), dict)


def test_openai_parses_a_nested_model() -> None:
    openai: Any = pytest.importorskip("openai")
    with (
        serve_in_thread(SimulatorSettings(latency=0)) as sim,
        openai.OpenAI(base_url=sim.url, api_key="k", max_retries=0) as sdk,
    ):
        answer = sdk.chat.completions.parse(
            model="gpt-5.1",
            messages=[{"role": "user", "content": "Whales sing."}],
            response_format=Plain,
        )
        assert isinstance(answer.choices[0].message.parsed, Plain)
        assert sdk.models.retrieve("gpt-5.1").id == "gpt-5.1"


def test_anthropic_parses_a_nested_model() -> None:
    anthropic: Any = pytest.importorskip("anthropic")
    with (
        serve_in_thread(SimulatorSettings(latency=0)) as sim,
        anthropic.Anthropic(base_url=sim.root_url, api_key="k", max_retries=0) as sdk,
    ):
        answer = sdk.messages.parse(
            model="claude-opus-5",
            max_tokens=900,
            messages=[{"role": "user", "content": "Whales sing."}],
            output_format=Plain,
        )
        assert isinstance(answer.parsed_output, Plain)
        assert sdk.models.retrieve("claude-opus-5").id == "claude-opus-5"


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Z]{2}-[0-9]+$",
        r"^\d{3}-\w+\s$",
        "^(a|b){2,3}$",
        "[^abc]x?",
        "^(?:foo)+?bar$",
        r"^\S+@\S+\.\w+$",
        r"^(?P<year>\d{4})-(?P=year)$",
        "^(?>ab)c++$",
        "(?i:ab)c",
        r"^[^\W\d]\D\W$",
        r"^[\w.]+$",
        "^.{5}$",
        "^a{0,}b$",
    ],
)
def test_a_text_matches_its_pattern(pattern: str) -> None:
    assert re.search(pattern, matching(pattern, "The sea!"))
    assert re.search(pattern, matching(pattern, ""))


def test_what_is_no_pattern_here_leaves_the_text() -> None:
    assert matching(r"^\p{L}+$", "1") == "1"
