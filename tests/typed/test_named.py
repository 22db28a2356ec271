"""Output types in one line, and by name."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import pytest

from llmflow.errors import ConfigurationError
from llmflow.typed.named import from_name, kind_of
from llmflow.typed.one_line import from_one_line
from llmflow.typed.output_type import as_output_type


def test_fields_in_one_line_are_an_output_type() -> None:
    made = from_name("sentiment: positive|negative|neutral, topics: list[str], score: float?")
    assert made.parse('{"sentiment": "neutral", "topics": ["a"], "score": null}') == {
        "sentiment": "neutral",
        "topics": ["a"],
        "score": None,
    }


def test_every_type_is_there() -> None:
    made = as_output_type(
        from_one_line("a:str,b:int,c:float,d:bool,e:date,f:datetime,json:list[list[int]]")
    )
    text = (
        '{"a": "x", "b": 1, "c": 0.5, "d": true, "e": "2026-01-31", '
        '"f": "2026-01-31T12:00:00Z", "json": [[1]]}'
    )
    value = made.parse(text)
    assert (value["e"], value["f"].tzinfo) == (dt.date(2026, 1, 31), dt.UTC)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "column 1: there is no field"),
        ("score", "column 6: expected ':'"),
        ("score: flaot", "column 8: unknown type 'flaot'; did you mean 'float'?"),
        ("a: int, a: str", "column 9: the field 'a' is there twice"),
        ("a: int b: int", "column 8: expected ','"),
        ("a: list[int", "column 12: expected ']'"),
        ("a: yes|yes", "column 8: the word 'yes' is there twice"),
        ("a: yes|", "column 8: a word is missing"),
        ("a-b: int", "column 1: 'a-b' is no name of a field"),
        ("a:", "column 3: a type is missing"),
        ("a: float|null", "column 4: float|null are types, not words; float? may be null"),
        ("größe: int", "column 1: 'größe' is no name of a field"),
        ("a: int, , b: int", "column 9: ',' is no name of a field"),
        ("a: list[list[list[list[list[list[list[list[list[int]]]]]]]]]", "go no deeper"),
        ("a: 'good'|bad", "column 4: unknown type"),
    ],
)
def test_an_unreadable_line_is_refused_with_the_position(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_one_line(text)
    assert problem in str(caught.value)


def test_a_module_of_the_working_directory_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_types_of_a_test.py").write_text(
        "import dataclasses\n@dataclasses.dataclass\nclass Sale:\n    price: int\n"
    )
    monkeypatch.chdir(tmp_path)
    assert from_name("shop_types_of_a_test:Sale").name == "Sale"
    with pytest.raises(ConfigurationError, match="did you mean Sale"):
        from_name("shop_types_of_a_test:Sales")
    assert str(tmp_path) not in sys.path
    (tmp_path / "shop_types_of_a_test.py").write_text("PRICE = 5\n")
    sys.modules.pop("shop_types_of_a_test")
    with pytest.raises(ConfigurationError, match="schema shop_types_of_a_test:PRICE: output_type"):
        from_name("shop_types_of_a_test:PRICE")


@pytest.mark.parametrize("source", ["raise SystemExit(2)", "import no_such_thing", "def f(:"])
def test_a_module_that_fails_when_it_is_imported_is_told_in_a_line(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_types_of_a_test.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be imported: ") as caught:
        from_name("failing_types_of_a_test:Model")
    assert "\n" not in str(caught.value)


def test_a_file_of_a_schema_is_read(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        from_name(str(path))
    path.write_text('{"type": "object", "properties": {"a": {"type": "integer"}}}')
    assert [column.name for column in from_name(str(path)).columns] == ["a"]
    path.write_text('{"type": "text"}')
    with pytest.raises(ConfigurationError, match=r"schema\.json: "):
        from_name(str(path))


def test_a_file_of_a_schema_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object", "properties": {"a": {"type": "integer"}}}', "utf-8-sig")
    assert [column.name for column in from_name(str(path)).columns] == ["a"]


def test_what_a_module_prints_is_not_among_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "printing_types_of_a_test.py").write_text("print('loading')\nModel = int\n")
    monkeypatch.chdir(tmp_path)
    from_name("printing_types_of_a_test:Model")
    assert capsys.readouterr() == ("", "loading\n")


def test_a_key_in_the_error_of_an_import_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "raise KeyError('sk-proj-abcdef1234567890')"
    (tmp_path / "telling_types_of_a_test.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be imported: ") as caught:
        from_name("telling_types_of_a_test:Model")
    assert "abcdef" not in str(caught.value)


def test_what_a_name_names() -> None:
    assert kind_of("score:int") == "one_line"
    assert kind_of("shop:Review") == "module"
    assert kind_of("types/review.json") == "file"


def test_a_module_that_is_missing_is_said_so() -> None:
    with pytest.raises(ConfigurationError, match="module no_such_module_here cannot be imported"):
        from_name("no_such_module_here:Review")


@pytest.mark.parametrize("text", ["word " * 100, "a" * 5000])
def test_a_text_that_is_too_long_for_a_file_name_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(ConfigurationError, match="column"):
        from_name(text)


def test_a_schema_in_place_of_its_file_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match=r"write it into FILE\.json"):
        from_name('{"type": "object", "properties": {"a": {"type": "integer"}}}')
