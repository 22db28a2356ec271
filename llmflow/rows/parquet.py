"""Parquet in and out, through pyarrow, which is imported only here and only when used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from llmflow.errors import InputError, MissingExtraError
from llmflow.rows.reading import Rows, reading
from llmflow.rows.values import cell

# Few enough rows that 256 documents of 100 kB are 25 MB, enough that the cost of a
# batch is shared.
_READ_ROWS = 256
_WRITE_ROWS = 10_000
_WRITE_BYTES = 16 << 20
_INT64 = range(-(1 << 63), 1 << 63)


class _BigInt:
    """Stands for integers that no column of Parquet holds."""


Kinds = dict[str, set[type]]
"""For each column in order of appearance, the types of its values."""


def need_pyarrow() -> Any:
    """Return pyarrow with its Parquet part.

    Raises:
        MissingExtraError: it is not installed.

    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError(
            "Parquet files need pyarrow: pip install 'llmflow[parquet]'"
        ) from None
    return pa


def describe(path: Path) -> tuple[tuple[str, ...], int]:
    """Return a file's columns and its number of rows, from its footer alone."""
    pa = need_pyarrow()
    with reading(str(path)):
        try:
            with pa.parquet.ParquetFile(path) as file:
                return tuple(file.schema_arrow.names), file.metadata.num_rows
        except pa.ArrowInvalid as error:
            raise InputError(_unreadable(path, error)) from None


def parquet_rows(path: Path) -> Rows:
    """Yield a file's rows, one record batch in memory at a time."""
    pa = need_pyarrow()
    with reading(str(path)):
        try:
            # pre_buffer would load whole row groups ahead.
            with pa.parquet.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=_READ_ROWS):
                    yield from batch.to_pylist()
        except pa.ArrowInvalid as error:
            raise InputError(_unreadable(path, error)) from None


def note_kinds(kinds: Kinds, row: Mapping[str, Any]) -> None:
    """Remember the types in a row: a Parquet column has one, fixed before the first row."""
    for name, value in row.items():
        kind = type(value)
        if kind is int and value not in _INT64:
            kind = _BigInt
        try:
            kinds[name].add(kind)
        except KeyError:
            kinds[name] = {kind}


def write_parquet(spool: Path, target: BinaryIO, kinds: Kinds) -> None:
    """Turn a file of JSON lines into Parquet, batch by batch.

    Args:
        spool: the rows as JSON lines.
        target: the open file to write.
        kinds: the types that `note_kinds` saw in these rows.

    """
    pa = need_pyarrow()
    types = {name: _column_type(kinds[name]) for name in kinds}
    schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in types.items()])
    with pa.parquet.ParquetWriter(target, schema) as writer:
        # orjson reads integers above 64 bits as floats.
        big = any(_BigInt in seen for seen in kinds.values())
        for rows in _batches(spool, json.loads if big else orjson.loads):
            columns = {
                name: [_fit(row.get(name), kind) for row in rows] for name, kind in types.items()
            }
            writer.write_table(pa.Table.from_pydict(columns, schema=schema))


def _batches(spool: Path, loads: Callable[[bytes], Any]) -> Iterator[list[dict[str, Any]]]:
    rows, size = [], 0
    with spool.open("rb") as lines:
        for line in lines:
            rows.append(loads(line))
            size += len(line)
            if len(rows) >= _WRITE_ROWS or size >= _WRITE_BYTES:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


def _column_type(kinds: set[type]) -> str:
    """Return the narrowest of four types that holds all of a column's values."""
    found = kinds - {type(None)}
    if found == {bool}:
        return "bool_"
    if found == {int}:
        return "int64"
    if found and found <= {int, float}:
        return "float64"
    return "string"


def _fit(value: object, kind: str) -> object:
    return value if value is None or kind != "string" else cell(value)


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}"
