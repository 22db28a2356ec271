"""Parquet in, Parquet out: the columns keep their types."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llmflow.errors import InputError
from llmflow.rows import RowLayout, open_output, open_rows

pa = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402 - only where it is installed

DAY = dt.datetime(2026, 3, 1, 12, 30, 15, 120_000)  # noqa: DTZ001 - of no zone, as in tables
BERLIN = dt.timezone(dt.timedelta(hours=1))
COLUMNS: dict[str, tuple[Any, list[Any]]] = {
    "s": (pa.timestamp("s"), [DAY.replace(microsecond=0), None]),
    "ms": (pa.timestamp("ms"), [DAY, None]),
    "us": (pa.timestamp("us"), [DAY.replace(microsecond=123_456), DAY]),
    "ns": (pa.timestamp("ns"), [DAY, None]),
    "zone": (pa.timestamp("us", "Europe/Berlin"), [DAY.replace(tzinfo=BERLIN), None]),
    "utc": (pa.timestamp("ms", "UTC"), [DAY.replace(tzinfo=dt.UTC), None]),
    "date": (pa.date32(), [DAY.date(), None]),
    "date64": (pa.date64(), [DAY.date(), None]),
    "time": (pa.time64("us"), [DAY.time(), None]),
    "time_ms": (pa.time32("ms"), [DAY.time(), None]),
    "wait": (pa.duration("us"), [dt.timedelta(days=-2, microseconds=3), None]),
    "money": (pa.decimal128(12, 2), [Decimal("12.50"), Decimal("-0.01")]),
    "large": (pa.decimal256(60, 0), [Decimal(10**50), None]),
    "raw": (pa.binary(), [b"abcd", b"\xff\x00"]),
    "fixed": (pa.binary(2), [b"ab", None]),
    "i8": (pa.int8(), [-5, None]),
    "u64": (pa.uint64(), [2**64 - 1, 0]),
    "f32": (pa.float32(), [1.5, None]),
    "flag": (pa.bool_(), [True, None]),
    "wide": (pa.large_string(), ["x", None]),
    "kind": (pa.dictionary(pa.int32(), pa.string()), ["red", "blue"]),
    "nothing": (pa.null(), [None, None]),
    "list": (pa.list_(pa.int32()), [[1, None, 3], []]),
    "lists": (pa.list_(pa.list_(pa.date32())), [[[DAY.date()], None], None]),
    "pair": (pa.list_(pa.decimal128(5, 1), 2), [[Decimal("1.5"), Decimal("2.0")], [None, None]]),
    "object": (
        pa.struct([("at", pa.timestamp("us")), ("raw", pa.list_(pa.binary()))]),
        [{"at": DAY, "raw": [b"\x80"]}, None],
    ),
    "map": (pa.map_(pa.string(), pa.duration("us")), [[("a", dt.timedelta(seconds=5))], []]),
}


def through(tmp_path: Path, table: Any) -> Any:
    """Return what becomes of a table, each of its rows answered."""
    pq.write_table(table, tmp_path / "in.parquet")
    rows = open_rows(tmp_path / "in.parquet")
    assert rows.types is not None
    out = open_output(
        tmp_path / "out.parquet",
        fields=RowLayout().fields(tuple(rows.types)),
        types=RowLayout().types(rows.types),
    )
    with out:
        for index, row in enumerate(rows):
            out.write(RowLayout().answer(row, {"response": "yes"}, index))
    return pq.read_table(tmp_path / "out.parquet")


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_keeps_its_type_and_values(tmp_path: Path, name: str) -> None:
    kind, values = COLUMNS[name]
    table = pa.table({name: pa.array(values, type=kind)})
    found = through(tmp_path, table)
    stored = pq.read_table(tmp_path / "in.parquet")  # Parquet has no seconds
    assert found.schema.field(name).type == stored.schema.field(name).type
    assert found.column(name).to_pylist() == stored.column(name).to_pylist()
    assert found.column("response").to_pylist() == ["yes", "yes"]


def test_all_together_and_under_other_names(tmp_path: Path) -> None:
    columns = {name: pa.array(values, type=kind) for name, (kind, values) in COLUMNS.items()}
    columns["index"] = pa.array([7, 8], type=pa.int16())
    found = through(tmp_path, pa.table(columns))
    assert found.schema.field("index").type == pa.int64()
    assert found.schema.field("input_index").type == pa.int16()
    assert found.column("input_index").to_pylist() == [7, 8]
    assert found.column_names[0] == "index"


def test_many_rows_in_another_order(tmp_path: Path) -> None:
    times = [DAY + dt.timedelta(hours=n) for n in range(25_000)]
    pq.write_table(pa.table({"at": times}), tmp_path / "in.parquet")
    rows = open_rows(tmp_path / "in.parquet")
    out = open_output(tmp_path / "out.parquet", types=rows.types)
    with out:
        for index, row in reversed(list(enumerate(rows))):
            out.write(RowLayout().answer(row, {"response": "yes"}, index))
    assert pq.read_table(tmp_path / "out.parquet").column("at").to_pylist() == times[::-1]


def test_values_that_do_not_fit_have_a_type_of_their_own(tmp_path: Path) -> None:
    out = open_output(
        tmp_path / "out.parquet", types={"n": pa.int8(), "at": pa.timestamp("us"), "m": pa.int8()}
    )
    with out:
        out.write({"n": 1, "at": DAY, "m": 1})
        for _ in range(10_000):
            out.write({"n": 1_000, "at": "no time", "m": 2})
    found = pq.read_table(tmp_path / "out.parquet")
    assert [str(each.type) for each in found.schema] == ["int64", "string", "int8"]
    assert found.num_rows == 10_001
    assert found.column("at").to_pylist()[1] == "no time"


def test_other_outputs_have_no_types(tmp_path: Path) -> None:
    out = open_output(tmp_path / "out.jsonl", types={"raw": pa.binary()})
    with out:
        out.write({"raw": b"text"})
    assert (tmp_path / "out.jsonl").read_text() == '{"raw":"text"}\n'


def test_a_time_that_python_does_not_have_is_one_line(tmp_path: Path) -> None:
    far = pa.array([10**18], type=pa.timestamp("us"))
    pq.write_table(pa.table({"at": far}), tmp_path / "in.parquet")
    with pytest.raises(InputError, match=r"in\.parquet is not a readable Parquet file"):
        list(open_rows(tmp_path / "in.parquet"))
