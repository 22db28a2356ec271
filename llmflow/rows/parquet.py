"""Reads and writes Parquet with its columns' types; imports pyarrow lazily."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import time, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import orjson

from llmflow.errors import InputError, MissingExtraError
from llmflow.rows.arrow_columns import arrow_type
from llmflow.rows.cells import JsonLines, cell, json_line
from llmflow.rows.column_values import value_reader
from llmflow.rows.inputs import Rows, reading
from llmflow.rows.output_files import create_anew

if TYPE_CHECKING:
    from llmflow.typed.columns import Column

# Few enough rows that 256 documents of 100 kB are 25 MB, enough that the cost of a
# batch is shared.
_READ_ROWS = 256
_WRITE_ROWS = 10_000
_WRITE_BYTES = 16 << 20
_TICK = timedelta(microseconds=1)
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


def column_types(path: Path) -> Types:
    """Return columns and their types from a file's footer."""
    pa = need_pyarrow()
    with reading(str(path)):
        try:
            with pa.parquet.ParquetFile(path) as file:
                schema = file.schema_arrow
                return dict(zip(schema.names, schema.types, strict=True))
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


class Parquet(JsonLines):
    """A Parquet file, made at the end from JSON lines.

    Parquet fixes a column's type before its first value and is unreadable without
    its last bytes. So the rows wait as JSON lines, which a crash leaves intact, and
    the types come from all rows. Columns hold truth values, 64-bit integers, 64-bit
    floats or text; mixed kinds, lists and objects become text. Columns of a Parquet
    input keep its types, and those of an answer's fields have the types of their kinds.
    """

    def __init__(
        self,
        fields: Sequence[str] = (),
        types: Mapping[str, Any] | None = None,
        columns: Sequence[Column] = (),
    ) -> None:
        super().__init__()
        pa = need_pyarrow()
        self._kinds: Kinds = {name: set() for name in fields}
        self._types = types or {}
        self._columns = columns
        self._spelled = [name for name, kind in self._types.items() if needs_spelling(pa, kind)]

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Return a row as one line of JSON, and remember its types."""
        kinds = self._kinds
        for name, value in row.items():
            kind = type(value)
            if kind is int and value not in _INT64:
                kind = _BigInt
            try:
                kinds[name].add(kind)
            except KeyError:
                kinds[name] = {kind}
        if self._spelled:
            row = {**row, **{name: spelled(row.get(name)) for name in self._spelled}}
        return json_line(row)

    def finish(self, partial: Path, mode: int | None) -> Path:
        """Return the Parquet file made from the partial one."""
        whole = partial.with_suffix(".parquet")
        with create_anew(whole, mode) as raw:
            write_parquet(partial, raw, self._kinds, self._types, self._columns)
            os.fsync(raw.fileno())
        partial.unlink()
        return whole


@dataclass(frozen=True, slots=True)
class _Typed:
    """A column of a given type, made of JSON values.

    `made` raises what it likes if one of them does not fit.
    """

    type: Any
    made: Callable[[Sequence[Any]], Any]


def write_parquet(
    spool: Path,
    target: BinaryIO,
    kinds: Kinds,
    types: Mapping[str, Any] | None = None,
    columns: Sequence[Column] = (),
) -> None:
    """Turn a file of JSON lines into Parquet, batch by batch.

    A column whose values do not fit its given Arrow type, or kind, has a type by its values.
    """
    pa = need_pyarrow()
    kinds = {**kinds, **{each.name: kinds.get(each.name, set()) for each in columns}}
    typed = {
        name: _Typed(kind, partial(_column, pa, kind=kind))
        for name, kind in (types or {}).items()
        if name in kinds
    }
    typed |= {each.name: _typed_answers(pa, each) for each in columns}
    while (misfit := _write(pa, spool, target, kinds, typed)) is not None:
        del typed[misfit]
        target.seek(0)
        target.truncate()


def _write(
    pa: Any, spool: Path, target: BinaryIO, kinds: Kinds, typed: Mapping[str, _Typed]
) -> str | None:
    """Write all rows; return the name of a column whose values do not fit its type, if any."""
    names = {name: _column_type(kinds[name]) for name in kinds if name not in typed}
    schema = pa.schema(
        [
            (name, typed[name].type if name in typed else getattr(pa, names[name])())
            for name in kinds
        ]
    )
    # orjson reads integers above 64 bits as floats.
    big = any(_BigInt in kinds[name] for name in names)
    with pa.parquet.ParquetWriter(target, schema) as writer:
        for rows in _batches(spool, json.loads if big else orjson.loads):
            columns = {}
            for name in kinds:
                values = [row.get(name) for row in rows]
                if name not in typed:
                    kind = names[name]
                    columns[name] = pa.array(
                        [_fit(value, kind) for value in values], schema.field(name).type
                    )
                    continue
                try:
                    columns[name] = typed[name].made(values)
                except Exception:  # noqa: BLE001 - Arrow, decimal and base64 have their own
                    return name
            writer.write_table(pa.Table.from_arrays(list(columns.values()), schema=schema))
    return None


def _typed_answers(pa: Any, column: Column) -> _Typed:
    """Return the typed column of a field of answers."""
    kind, read = arrow_type(column.kind), value_reader(column.kind)

    def made(values: Sequence[Any]) -> Any:
        return pa.array(map(read, values), type=kind)

    return _Typed(kind, made)


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


# --- columns of the input's types, by way of JSON ---------------------------------------


def spelled(value: Any) -> Any:
    """Return a typed column's value in a lossless JSON form.

    Bytes become base64, and durations microseconds: their usual forms could not be read back.

    >>> spelled([b"ab", timedelta(seconds=1)])
    ['YWI=', 1000000]
    """
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, timedelta):
        return value // _TICK
    if isinstance(value, Mapping):
        return {name: spelled(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(each) for each in value]
    return value


def needs_spelling(pa: Any, kind: Any) -> bool:
    """Return whether a type has bytes or durations in it."""
    types = pa.types
    if types.is_dictionary(kind):
        return needs_spelling(pa, kind.value_type)
    if types.is_nested(kind):
        return any(needs_spelling(pa, kind.field(at).type) for at in range(kind.num_fields))
    return bool(_is_bytes(types, kind) or types.is_duration(kind))


def _column(pa: Any, values: Sequence[Any], kind: Any) -> Any:
    """Return JSON values as an Arrow array of a type.

    Raises:
        Exception: one of them is no such value.
    """
    if pa.types.is_temporal(kind) and not pa.types.is_duration(kind):
        return _times(pa, values, kind)
    return pa.array(_restored(pa, values, kind), type=kind)


def _restored(pa: Any, values: Sequence[Any], kind: Any) -> Sequence[Any]:
    """Return what Arrow takes for values of a type."""
    types = pa.types
    if types.is_dictionary(kind):
        return _restored(pa, values, kind.value_type)
    if types.is_decimal(kind):
        return [None if value is None else Decimal(value) for value in values]
    if types.is_duration(kind):
        return [None if value is None else timedelta(microseconds=value) for value in values]
    if _is_bytes(types, kind):
        return [None if value is None else base64.b64decode(value) for value in values]
    if types.is_temporal(kind):
        found: list[Any] = _times(pa, values, kind).to_pylist()
        return found
    if types.is_map(kind):
        return _pairs(pa, values, kind)
    if types.is_struct(kind):
        return _objects(pa, values, kind)
    if types.is_nested(kind) and kind.num_fields == 1:
        return _lists(pa, values, kind.field(0).type)
    return values


def _times(pa: Any, values: Sequence[Any], kind: Any) -> Any:
    if pa.types.is_time(kind):  # Arrow reads no fractions of seconds
        return pa.array([value and time.fromisoformat(value) for value in values], type=kind)
    texts = pa.array(values, type=pa.string())
    if pa.types.is_timestamp(kind) and kind.unit != "ns":
        # Python writes six digits, which would be too many for coarser units.
        return texts.cast(pa.timestamp("us", kind.tz)).cast(kind)
    if pa.types.is_date(kind):
        # As date64, it may have come as a date or as a moment.
        days = [value and value[:10] for value in values]
        return pa.array(days, type=pa.string()).cast(pa.date32()).cast(kind)
    return texts.cast(kind)


def _lists(pa: Any, values: Sequence[Any], kind: Any) -> Sequence[Any]:
    flat = _restored(pa, [each for value in values if value is not None for each in value], kind)
    rest = iter(flat)
    return [None if value is None else [next(rest) for _ in value] for value in values]


def _pairs(pa: Any, values: Sequence[Any], kind: Any) -> Sequence[Any]:
    keys = _lists(pa, [value and [key for key, _ in value] for value in values], kind.key_type)
    items = _lists(pa, [value and [item for _, item in value] for value in values], kind.item_type)
    return [
        None if value is None else list(zip(keys[at] or (), items[at] or (), strict=True))
        for at, value in enumerate(values)
    ]


def _objects(pa: Any, values: Sequence[Any], kind: Any) -> Sequence[Any]:
    fields = [kind.field(at) for at in range(kind.num_fields)]
    there = [value for value in values if value is not None]
    parts = [_restored(pa, [value.get(each.name) for value in there], each.type) for each in fields]
    names = [each.name for each in fields]
    rest = (dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True))
    return [None if value is None else next(rest) for value in values]


def _is_bytes(types: Any, kind: Any) -> bool:
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    )


def _unreadable(path: Path, error: Exception) -> str:
    return f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}"
