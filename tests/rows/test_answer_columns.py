"""Fields of answers as columns: their names, their order, their types in a Parquet file."""

from __future__ import annotations

import csv
import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow.errors import ConfigurationError, InvalidAnswerError
from llmflow.rows import RowLayout, open_output
from llmflow.typed.output_type import OutputType, as_output_type
from llmflow.types import Response, Usage

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "n": {"type": "integer"},
        "x": {"type": "number"},
        "ok": {"type": "boolean"},
        "word": {"enum": ["yes", "no"]},
        "day": {"type": "string", "format": "date"},
        "at": {"type": "string", "format": "date-time"},
        "opens": {"type": "string", "format": "time"},
        "cost": {"type": "number", "format": "decimal"},
        "list": {"type": "array", "items": {"type": "string", "format": "date"}},
        "part": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "any": {"type": ["integer", "string"]}},
        },
        "any": {"type": ["integer", "string"]},
    },
}
VALUES: dict[str, Any] = {
    "n": 7,
    "x": 1,
    "ok": True,
    "word": "yes",
    "day": "2026-03-01",
    "at": "2026-03-01T12:30:00+01:00",
    "opens": "09:30:00",
    "cost": "12.50",
    "list": ["2026-03-01", None],
    "part": {"a": 1, "any": "x"},
    "any": "5",
}


def layout(**options: Any) -> RowLayout:
    return RowLayout(as_output_type(SCHEMA), **options)


def answer(text: str) -> Response:
    usage = Usage(input_tokens=3, output_tokens=2)
    return Response(text=text, usage=usage, finish_reason="stop", model="m", provider="p")


def written(path: Path, *values: dict[str, Any], **options: Any) -> None:
    """Write one row for each of some answers."""
    shape = layout()
    with open_output(path, columns=shape.columns, **options) as out:
        for index, each in enumerate(values):
            out.write(shape.answer({"text": "a"}, each, index))


class TestNames:
    def test_fields_come_after_the_rows_own(self) -> None:
        shape = layout()
        assert shape.fields(["text", "n"]) == ["index", "text", "input_n", *SCHEMA["properties"]]
        row = shape.answer({"text": "a", "n": 1}, {"n": 2}, 0)
        assert row == {"index": 0, "text": "a", "input_n": 1, "n": 2}

    @pytest.mark.parametrize(
        ("fields", "details", "row", "kept"),
        [
            (("text", "input_text"), False, {"text": "a"}, {"input_input_text": "a"}),
            (("tokens",), True, {"tokens": "a"}, {"input_input_tokens": "a"}),
            (
                ("x", "input_x"),
                False,
                {"x": "a", "input_x": "b"},
                {"input_input_x": "a", "input_input_input_x": "b"},
            ),
        ],
    )
    def test_a_field_that_is_called_otherwise_takes_the_name_of_no_other_column(
        self, fields: tuple[str, ...], details: bool, row: dict[str, str], kept: dict[str, str]
    ) -> None:
        properties = {name: {"type": "string"} for name in fields}
        output = as_output_type({"type": "object", "properties": properties})
        shape = RowLayout(output, details=details)
        names = shape.fields(list(row))
        assert len(names) == len(set(names))
        made = shape.answer(row, dict.fromkeys(fields, "answer"), 0)
        assert {name: made[name] for name in kept} == kept
        assert {made[name] for name in fields} == {"answer"}
        assert set(made) <= set(names)

    def test_a_response_of_the_row_is_no_column_of_ours(self) -> None:
        assert layout().answer({"response": "r"}, {"n": 2}, 0)["response"] == "r"

    @pytest.mark.parametrize(("name", "details"), [("index", False), ("cost", True)])
    def test_a_field_with_a_name_of_ours_is_refused(self, name: str, details: bool) -> None:
        output = as_output_type({"type": "object", "properties": {name: {"type": "integer"}}})
        with pytest.raises(ConfigurationError, match=f"the field '{name}' has the name of"):
            RowLayout(output, details=details)

    def test_a_failed_row_keeps_its_own_names_and_the_raw_text(self) -> None:
        error = InvalidAnswerError("n: not a number", response=answer('{"n": "x"}'))
        row = layout().failure({"n": 1, "error": "own"}, error, 3)
        assert (row["index"], row["n"], row["input_error"]) == (3, 1, "own")
        assert row["error"]["text"] == '{"n": "x"}'
        assert "n: not a number" in row["error"]["message"]

    def test_details_of_an_answer_that_is_not_accepted(self) -> None:
        output = as_output_type({"type": "object", "properties": {"n": {"type": "integer"}}})
        error = InvalidAnswerError("no", response=answer("?"))
        row = RowLayout(output, details=True).failure({}, error, 0)
        assert (row["output_tokens"], row["finish_reason"], row["model"]) == (2, "stop", "m")


class TestReading:
    def test_a_text_becomes_columns_and_a_wrong_one_does_not(self) -> None:
        shape = RowLayout(
            as_output_type({"properties": {"n": {"type": "integer"}}, "required": ["n"]})
        )
        assert shape.columns_of_text('{"n": 4}') == {"n": 4}
        assert shape.columns_of_text('{"n": "four"}') is None
        assert shape.columns_of_text("") is None
        assert RowLayout().columns_of_text("free") == {"response": "free"}

    def test_a_restored_type_has_the_same_columns(self) -> None:
        for given in (SCHEMA, list[int], dt.date, dict[str, Decimal], int | None):
            output = as_output_type(given)
            again = OutputType.restored(
                name=output.name, schema=orjson.loads(orjson.dumps(output.schema))
            )
            assert again.columns == output.columns
            assert again.output == output.output


class TestFormats:
    def test_json_lines_have_them_as_they_are(self, tmp_path: Path) -> None:
        written(tmp_path / "a.jsonl", VALUES)
        row = orjson.loads((tmp_path / "a.jsonl").read_bytes())
        assert row == {"index": 0, "text": "a", **VALUES}

    def test_a_csv_has_nested_ones_as_json(self, tmp_path: Path) -> None:
        written(tmp_path / "a.csv", VALUES)
        with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        assert orjson.loads(row["part"]) == VALUES["part"]
        assert orjson.loads(row["list"]) == VALUES["list"]
        assert (row["n"], row["ok"], row["day"], row["word"]) == ("7", "true", "2026-03-01", "yes")
        assert row["any"] == '"5"', "a text, and no number"

    def test_parquet_has_their_types(self, tmp_path: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        written(tmp_path / "a.parquet", VALUES, dict.fromkeys(VALUES))
        table = pq.read_table(tmp_path / "a.parquet")
        assert {field.name: field.type for field in table.schema} == {
            "index": pa.int64(),
            "text": pa.string(),
            "n": pa.int64(),
            "x": pa.float64(),
            "ok": pa.bool_(),
            "word": pa.string(),
            "day": pa.date32(),
            "at": pa.timestamp("us", "UTC"),
            "opens": pa.time64("us"),
            "cost": pa.decimal128(38, 18),
            "list": pa.list_(pa.date32()),
            "part": pa.struct([("a", pa.int64()), ("any", pa.string())]),
            "any": pa.string(),
        }
        first, second = table.to_pylist()
        day = dt.date(2026, 3, 1)
        assert first == {
            "index": 0,
            "text": "a",
            "n": 7,
            "x": 1.0,
            "ok": True,
            "word": "yes",
            "day": day,
            "at": dt.datetime(2026, 3, 1, 11, 30, tzinfo=dt.UTC),
            "opens": dt.time(9, 30),
            "cost": Decimal("12.5"),
            "list": [day, None],
            "part": {"a": 1, "any": '"x"'},
            "any": '"5"',
        }
        assert set(list(second.values())[2:]) == {None}

    def test_parquet_of_no_rows_has_the_columns(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        written(tmp_path / "a.parquet")
        table = pq.read_table(tmp_path / "a.parquet")
        assert (table.num_rows, table.column_names) == (0, list(SCHEMA["properties"]))

    @pytest.mark.parametrize(
        ("name", "value"), [("n", 2**70), ("day", "soon"), ("cost", "1e30"), ("part", {"a": "x"})]
    )
    def test_a_value_that_does_not_fit_makes_a_column_of_text(
        self, tmp_path: Path, name: str, value: Any
    ) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        written(tmp_path / "a.parquet", VALUES, VALUES | {name: value})
        table = pq.read_table(tmp_path / "a.parquet")
        assert table.schema.field(name).type == pa.string()
        found = table.column(name).to_pylist()[1]
        assert (orjson.loads(found) if isinstance(value, dict) else found) == (
            value if isinstance(value, dict) else str(value)
        )
        assert table.schema.field("x").type == pa.float64()
