"""Reads and writes Parquet; imports pyarrow only when used."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from llmflow.errors import InputError, MissingExtraError
from llmflow.rows.column_types import column
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


Types = dict[str, Any]
"""For each column its Arrow type."""


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


def describe(path: Path) -> tuple[Types, int]:
    """Return columns, types and row count from a file's footer."""
    pa = need_pyarrow()
    with reading(str(path)):
        try:
            with pa.parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                return dict(zip(schema.names, schema.types, strict=True)), file.metadata.num_rows
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
        # Also of values that Python has not, such as the year 12000.
        except (ValueError, OverflowError) as error:
            raise InputError(_unreadable(path, error)) from None


def note_kinds(kinds: Kinds, row: Mapping[str, Any]) -> None:
    """Note the types in a row, before Parquet columns are fixed."""
    for name, value in row.items():
        kind = type(value)
        if kind is int and value not in _INT64:
            kind = _BigInt
        try:
            kinds[name].add(kind)
        except KeyError:
            kinds[name] = {kind}


def write_parquet(
    spool: Path, target: BinaryIO, kinds: Kinds, types: Mapping[str, Any] | None = None
) -> None:
    """Turn a file of JSON lines into Parquet, batch by batch.

    Args:
        spool: the rows as JSON lines.
        target: the open file to write.
        kinds: the types that `note_kinds` saw in these rows.
        types: Arrow types that columns are to have. One whose values do not fit its type,
            after all, has a type by its values.

    """
    pa = need_pyarrow()
    kept = {name: kind for name, kind in (types or {}).items() if name in kinds}
    while (misfit := _write(pa, spool, target, kinds, kept)) is not None:
        del kept[misfit]
        target.seek(0)
        target.truncate()


def _write(
    pa: Any, spool: Path, target: BinaryIO, kinds: Kinds, kept: Mapping[str, Any]
) -> str | None:
    """Write all rows; return the name of a column whose values do not fit its type, if any."""
    names = {name: _column_type(kinds[name]) for name in kinds if name not in kept}
    schema = pa.schema(
        [(name, kept[name] if name in kept else getattr(pa, names[name])()) for name in kinds]
    )
    # orjson reads integers above 64 bits as floats.
    big = any(_BigInt in kinds[name] for name in names)
    with pa.parquet.ParquetWriter(target, schema) as writer:
        for rows in _batches(spool, json.loads if big else orjson.loads):
            columns = {}
            for name in kinds:
                values = [row.get(name) for row in rows]
                if name not in kept:
                    kind = names[name]
                    columns[name] = pa.array(
                        [_fit(value, kind) for value in values], schema.field(name).type
                    )
                    continue
                try:
                    columns[name] = column(pa, values, kept[name])
                except Exception:  # noqa: BLE001 - Arrow, decimal and base64 have their own
                    return name
            writer.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema))
    return None


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
