"""Typed columns of three libraries: their types come from the kind, and values stay exact."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.mapping.arrow_frames import ArrowTable
from llmflow.mapping.frame_table import Table, built_or_text
from llmflow.mapping.pandas_frames import PandasTable
from llmflow.mapping.polars_frames import PolarsTable
from llmflow.rows.column_values import value_reader
from llmflow.typed.columns import AnyJson, Column, ColumnKind, ListOf, Scalar, ScalarName, Struct
from tests.examples import examples
from tests.mapping.column_examples import KINDS, PLAIN, values_of

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

NESTED = Struct((Column("day", Scalar("date")), Column("prices", ListOf(Scalar("decimal")))))


def tables(rows: int) -> list[Table]:
    numbers = list(range(rows))
    return [
        PandasTable(pandas.DataFrame({"n": numbers}), single=False),
        PolarsTable(polars.DataFrame({"n": numbers})),
        ArrowTable(pyarrow.table({"n": numbers})),
    ]


def column(table: Table, kind: ColumnKind, plain: list[Any]) -> tuple[list[Any], list[Any], Any]:
    """Return the values that were put into a column, those that it holds, and its type."""
    read = value_reader(kind, json_as_text=table.json_as_text)
    values = [read(each) for each in plain]
    made = table.joined({"x": list(values)}, {"x": kind})["x"]
    if isinstance(table, PandasTable):
        held = [_plain(each) for each in made]
        return values, held, made.dtype
    if isinstance(table, PolarsTable):
        return values, made.to_list(), made.dtype
    return values, made.to_pylist(), made.type


def _plain(value: Any) -> Any:
    if value is pandas.NA or value is pandas.NaT:
        return None
    return value.to_pydatetime() if isinstance(value, pandas.Timestamp) else value


def same(left: Any, right: Any) -> bool:
    """Compare values; pandas has a date as the time at which it begins."""
    if left == right:
        return True
    return hasattr(right, "date") and not hasattr(left, "hour") and right.date() == left


@examples(200)
@given(data=st.data(), kind=KINDS)
def test_values_come_back_as_they_were_in_every_library(
    data: st.DataObject, kind: ColumnKind
) -> None:
    plain = data.draw(st.lists(values_of(kind), max_size=4))
    for table in tables(len(plain)):
        put, held, _ = column(table, kind, plain)
        assert len(held) == len(put)
        assert all(same(*each) for each in zip(put, held, strict=True)), (put, held)


@examples(60)
@given(data=st.data(), kind=KINDS)
def test_a_column_has_one_type_whatever_its_values(data: st.DataObject, kind: ColumnKind) -> None:
    some = data.draw(st.lists(values_of(kind), min_size=1, max_size=4))
    kinds_of_all = [
        [column(table, kind, plain)[2] for table in tables(len(plain))]
        for plain in (some, [], [None], [None] * 3)
    ]
    assert all(each == kinds_of_all[0] for each in kinds_of_all)


@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("string", ("string", "String", "string")),
        ("integer", ("Int64", "Int64", "int64")),
        ("number", ("Float64", "Float64", "double")),
        ("boolean", ("boolean", "Boolean", "bool")),
        ("date", ("datetime64[us]", "Date", "date32[day]")),
        (
            "datetime",
            (
                "datetime64[us, UTC]",
                "Datetime(time_unit='us', time_zone='UTC')",
                "timestamp[us, tz=UTC]",
            ),
        ),
        ("time", ("object", "Time", "time64[us]")),
        ("decimal", ("object", "Decimal(precision=38, scale=18)", "decimal128(38, 18)")),
    ],
)
def test_the_types_are_those_of_each_library(name: ScalarName, types: tuple[str, ...]) -> None:
    for values in ([], [None]):
        found = [str(column(table, Scalar(name), values)[2]) for table in tables(len(values))]
        assert tuple(found) == types


def test_every_scalar_has_a_type() -> None:
    assert set(PLAIN) == set(ScalarName.__args__)  # type: ignore[attr-defined]


def test_nested_values_are_structs_and_lists_and_in_pandas_objects() -> None:
    plain = [{"day": "2026-01-02", "prices": ["1.50", None]}, None]
    of_pandas, of_polars, of_arrow = (column(table, NESTED, plain) for table in tables(2))
    assert str(of_pandas[2]) == "object"
    assert of_polars[2] == polars.Struct(
        {"day": polars.Date, "prices": polars.List(polars.Decimal(38, 18))}
    )
    assert str(of_arrow[2]) == "struct<day: date32[day], prices: list<item: decimal128(38, 18)>>"


def test_values_of_several_types_are_objects_in_pandas_and_json_text_elsewhere() -> None:
    plain = [{"a": [1]}, "text", 2**70, None]
    for table in tables(4):
        _, held, _ = column(table, AnyJson(), plain)
        if table.json_as_text:
            held = [None if each is None else json.loads(each) for each in held]
        assert held == plain


def test_a_hundred_columns_come_to_a_pandas_frame_at_once() -> None:
    table = PandasTable(pandas.DataFrame({"n": [1, 2]}, index=[7, 7]), single=False)
    table._frame.attrs["source"] = "here"
    names = [f"f{number}" for number in range(100)]
    out = table.joined(
        {name: [1, None] for name in names}, {name: Scalar("integer") for name in names}
    )
    assert list(out.columns) == ["n", *names]
    assert list(out.index) == [7, 7]
    assert out.attrs == {"source": "here"}
    assert str(out["f99"].dtype) == "Int64"


def test_what_a_library_refuses_is_kept_as_json_text(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(values: list[Any]) -> list[Any]:
        raise TypeError(f"no {len(values)} such values")

    with caplog.at_level(logging.WARNING, "llmflow"):
        made: list[Any] = built_or_text(refuse, list, "score", [{"a": 1}, None])
    assert made == ['{"a":1}', None]
    assert "column 'score' has its values as JSON text: TypeError: no 2" in caplog.text
