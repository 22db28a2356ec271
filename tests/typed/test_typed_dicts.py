"""TypedDicts of `typing`, on every version of Python."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any, NotRequired, Required, TypedDict

import pytest
from pydantic import Field

from llmflow.errors import ConfigurationError
from llmflow.typed.output_type import as_output_type


class Movie(TypedDict):
    """A film."""

    name: str
    year: NotRequired[int]
    makers: NotRequired[list[Maker]]


class Maker(TypedDict, total=False):
    name: Required[str]
    movies: list[Movie]


@dataclasses.dataclass
class Shelf:
    movies: list[Movie]


class Sequel(Movie, total=False):
    number: Annotated[int, Field(ge=2)]


JAWS = {"name": "Jaws", "makers": [{"name": "Spielberg", "movies": [{"name": "E.T."}]}]}


def test_fields_are_required_as_they_were_written() -> None:
    made = as_output_type(Sequel)
    assert (made.name, made.schema["required"]) == ("Sequel", ["name"])
    assert list(made.schema["properties"]) == ["name", "year", "makers", "number"]
    assert as_output_type(Movie).schema["description"] == "A film."


def test_they_may_contain_each_other() -> None:
    text = str(JAWS).replace("'", '"')
    assert as_output_type(Movie).parse(text) == JAWS


@pytest.mark.parametrize(
    ("given", "text", "value"),
    [
        (list[Movie], '[{"name": "Jaws"}]', [{"name": "Jaws"}]),
        (Movie | None, '{"response": null}', None),
        (int | Movie, '{"name": "Jaws"}', {"name": "Jaws"}),
        (Annotated[Movie, Field(description="One.")], '{"name": "Jaws"}', {"name": "Jaws"}),
        (dict[str, list[Movie]], '{"a": [{"name": "Jaws"}]}', {"a": [{"name": "Jaws"}]}),
        (tuple[int, Movie], '[1, {"name": "Jaws"}]', (1, {"name": "Jaws"})),
    ],
)
def test_they_are_found_in_other_types(given: Any, text: str, value: Any) -> None:
    assert as_output_type(given).parse(text) == value


def test_a_name_that_is_not_defined_is_told() -> None:
    broken: Any = TypedDict("broken", {"a": "Nowhere"})  # type: ignore[name-defined]  # noqa: F821
    with pytest.raises(ConfigurationError, match=r"output_type broken cannot be used: .*Nowhere"):
        as_output_type(broken)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="pydantic takes them then")
@pytest.mark.parametrize("given", [Shelf, list[Shelf]])
def test_one_in_a_dataclass_is_refused_with_the_one_line_to_change(given: Any) -> None:
    with pytest.raises(
        ConfigurationError, match=r"Shelf.*from typing_extensions import TypedDict\)$"
    ):
        as_output_type(given)
