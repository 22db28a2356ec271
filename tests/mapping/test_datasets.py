"""Datasets, readers and queries: read in batches as their rows are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM
from llmflow.errors import InputError
from llmflow.testing import ScriptedProvider
from llmflow.types import Request

pyarrow = pytest.importorskip("pyarrow")
polars = pytest.importorskip("polars")
dataset = pytest.importorskip("pyarrow.dataset")
parquet = pytest.importorskip("pyarrow.parquet")


def echo(request: Request) -> str:
    return str(request.messages[-1]["content"]).upper()


def shouting() -> LLM:
    return LLM(ScriptedProvider(default=echo))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        texts = [f"{name}{number}" for number in range(3)]
        parquet.write_table(
            pyarrow.table({"text": texts, "n": [1, 2, None]}), tmp_path / f"{name}.parquet"
        )
    return tmp_path


def reader(table: Any, *, rows: int = 2) -> Any:
    return pyarrow.RecordBatchReader.from_batches(table.schema, table.to_batches(rows))


def test_a_dataset_becomes_a_table_in_its_order(folder: Path) -> None:
    out = shouting().map_sync(dataset.dataset(folder), prompt="{text}")
    assert isinstance(out, pyarrow.Table)
    assert out.schema.names == ["text", "n", "response", "error"]
    assert out["response"].to_pylist() == ["A0", "A1", "A2", "B0", "B1", "B2"]
    assert out["n"].to_pylist() == [1, 2, None, 1, 2, None]


async def test_awaited_it_becomes_a_table_too(folder: Path) -> None:
    out = await shouting().map(dataset.dataset(folder), prompt="{text}")
    assert out["response"].to_pylist() == ["A0", "A1", "A2", "B0", "B1", "B2"]


def test_filtered_partitioned_and_in_memory_datasets_stream_too(tmp_path: Path) -> None:
    table = pyarrow.table({"k": ["a", "b", "a"], "n": [1, 2, 3]})
    dataset.write_dataset(
        table, tmp_path, format="parquet", partitioning=["k"], partitioning_flavor="hive"
    )
    parts = dataset.dataset(tmp_path, partitioning="hive")
    some = parts.filter(dataset.field("n") > 1)
    for items, texts in (
        (parts, ["A1", "A3", "B2"]),
        (some, ["A3", "B2"]),
        (dataset.dataset(table), ["A1", "A3", "B2"]),
    ):
        stream = shouting().map_sync(items, prompt="{k}{n}", stream=True)
        assert sorted(each.text for each in stream) == texts


def test_a_reader_becomes_a_table() -> None:
    table = pyarrow.table({"text": ["a", None, "c"]})
    out = shouting().map_sync(reader(table), prompt="{text}")
    assert isinstance(out, pyarrow.Table)
    assert out["response"].to_pylist() == ["A", None, "C"]


def test_a_stream_gives_a_dataset_row_by_row(folder: Path) -> None:
    data = dataset.dataset(folder)
    stream = shouting().map_sync(data, prompt="{text}", stream=True, ordered=True)
    rows = [(each.item, each.text) for each in stream]
    assert rows[0] == ({"text": "a0", "n": 1}, "A0")
    assert rows[2] == ({"text": "a2", "n": None}, "A2")
    assert len(rows) == 6
    assert stream.counts.total == 6


async def test_an_async_stream_gives_it_too(folder: Path) -> None:
    answers = shouting().map(dataset.dataset(folder), prompt="{text}", ordered=True)
    assert [each.text async for each in answers][3:] == ["B0", "B1", "B2"]
    assert answers.counts.total == 6


def test_a_stream_reads_a_reader_no_further_than_wanted() -> None:
    read = []
    schema = pyarrow.schema([("text", pyarrow.string())])

    def batches() -> Any:
        for number in range(1000):
            read.append(number)
            yield pyarrow.record_batch({"text": [f"t{number}"] * 10}, schema=schema)

    items = pyarrow.RecordBatchReader.from_batches(schema, batches())
    with shouting().map_sync(items, prompt="{text}", stream=True, concurrency=2) as stream:
        next(iter(stream))
    assert len(read) < 50


def test_a_stream_of_a_dataset_holds_a_small_part_of_it(tmp_path: Path) -> None:
    text = "x" * 1000
    schema = pyarrow.schema([("n", pyarrow.int64()), ("text", pyarrow.string())])
    with parquet.ParquetWriter(tmp_path / "big.parquet", schema, use_dictionary=False) as writer:
        for start in range(0, 20_000, 1_000):
            rows = range(start, start + 1_000)
            table = pyarrow.table({"n": rows, "text": [f"{n}{text}" for n in rows]}, schema=schema)
            writer.write_table(table)
    before, most = pyarrow.total_allocated_bytes(), 0
    count = 0
    for _ in shouting().map_sync(dataset.dataset(tmp_path), prompt="{n}", stream=True):
        count += 1
        most = max(most, pyarrow.total_allocated_bytes() - before)
    assert count == 20_000
    assert most < 5_000_000  # of 20 MB


def test_a_missing_column_is_named_before_a_dataset_is_read(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no field 'txt' \(did you mean 'text'\?\)"):
        shouting().map_sync(dataset.dataset(folder), prompt="{txt}", stream=True)
    items = reader(pyarrow.table({"text": ["a"]}))
    with pytest.raises(InputError, match="no field 'x'"):
        shouting().map(items, prompt="{x}")
    assert items.read_all().num_rows == 1


def test_a_stream_of_a_query_does_not_collect_it_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(polars.LazyFrame, "collect_batches"):
        pytest.skip("this polars collects whole queries only")
    monkeypatch.delattr(polars.LazyFrame, "collect")
    query = polars.scan_parquet(folder / "*.parquet").filter(polars.col("text") != "a1")
    stream = shouting().map_sync(query, prompt="{text}", stream=True, ordered=True)
    assert [each.text for each in stream] == ["A0", "A2", "B0", "B1", "B2"]


def test_a_query_streams_where_polars_has_no_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(polars.LazyFrame, "collect_batches", raising=False)
    query = polars.scan_parquet(folder / "*.parquet")
    stream = shouting().map_sync(query, prompt="{text}", stream=True, ordered=True)
    assert [each.item["n"] for each in stream] == [1, 2, None, 1, 2, None]


async def test_an_async_stream_of_a_query_can_be_left(folder: Path) -> None:
    query = polars.scan_parquet(folder / "*.parquet")
    async for result in shouting().map(query, prompt="{text}", ordered=True):
        assert result.text == "A0"
        break


def test_a_file_that_cannot_be_read_ends_the_map(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    data = dataset.dataset(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"no Parquet at all")
    with pytest.raises((OSError, pyarrow.ArrowException)):
        list(shouting().map_sync(data, prompt="{text}", stream=True))
