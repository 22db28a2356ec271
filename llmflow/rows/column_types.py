"""Keeps the types of Parquet columns from input to output."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import time, timedelta
from decimal import Decimal
from typing import Any

_TICK = timedelta(microseconds=1)


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


def column(pa: Any, values: Sequence[Any], kind: Any) -> Any:
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
