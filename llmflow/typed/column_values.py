"""Reads the JSON data of answers as a column's values."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final, TypeAlias

import orjson

from llmflow.typed.columns import ColumnKind, ListOf, Scalar, Struct

Reader: TypeAlias = Callable[[Any], Any]
"""Returns the value of JSON data that is not null; raises ValueError if it is no such value."""

INT64: Final = range(-(1 << 63), 1 << 63)
_DIGITS: Final = 38
_SCALE: Final = 18
"""Decimals have 38 digits, 18 of them behind the point: Spark's default, and a 128-bit number."""


def reader(kind: ColumnKind) -> Reader:
    """Return what reads a column's values.

    >>> from llmflow.typed.columns import Scalar
    >>> reader(Scalar("date"))("2026-03-01")
    datetime.date(2026, 3, 1)

    Moments are in UTC, as those without a zone are taken to be; values of several types are JSON
    text. A missing field of an object is null.
    """
    if isinstance(kind, Scalar):
        return _SCALARS[kind.name]
    if isinstance(kind, ListOf):
        return _list_reader(reader(kind.item))
    if isinstance(kind, Struct) and kind.fields:
        return _struct_reader({each.name: reader(each.kind) for each in kind.fields})
    return json_text


def json_text(value: Any) -> str:
    """Return JSON data as text."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer above 64 bits, half of a surrogate pair
        return json.dumps(value, separators=(",", ":"))


def _list_reader(read: Reader) -> Reader:
    def values(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _misfit(value, "list")
        return [None if each is None else read(each) for each in value]

    return values


def _struct_reader(readers: dict[str, Reader]) -> Reader:
    def values(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise _misfit(value, "object")
        found = {}
        for name, read in readers.items():
            each = value.get(name)
            found[name] = None if each is None else read(each)
        return found

    return values


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _misfit(value, "text")
    return value


def _integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():  # as JSON Schema has it
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _misfit(value, "integer")
    if value not in INT64:
        raise _misfit(value, "64-bit integer")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _misfit(value, "number")
    try:
        return float(value)
    except OverflowError:
        raise _misfit(value, "64-bit number") from None


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _misfit(value, "truth value")
    return value


def _date(value: Any) -> date:
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise _misfit(value, "date") from None


def _datetime(value: Any) -> datetime:
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise _misfit(value, "moment") from None


def _time(value: Any) -> time:
    try:
        found = time.fromisoformat(value)
    except (TypeError, ValueError):
        raise _misfit(value, "time") from None
    if found.utcoffset():
        raise _misfit(value, "time without a zone")
    return found.replace(tzinfo=None)


def _decimal(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _misfit(value, "decimal")
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        raise _misfit(value, "decimal") from None
    if not found.is_finite():
        raise _misfit(value, "decimal")
    if not found:  # of whatever exponent
        return Decimal()
    _, digits, exponent = found.as_tuple()
    assert isinstance(exponent, int)  # as it is finite
    if exponent < -_SCALE:  # zeros at the end take no place
        found = found.normalize(Context(prec=len(digits)))
    exponent = found.as_tuple().exponent
    assert isinstance(exponent, int)
    if exponent < -_SCALE or found.adjusted() >= _DIGITS - _SCALE:
        raise _misfit(value, f"decimal of {_DIGITS} digits, {_SCALE} of them behind the point")
    return found


def _misfit(value: Any, what: str) -> ValueError:
    return ValueError(f"{json_text(value)[:80]} does not fit a {what}")


_SCALARS: Final[dict[str, Reader]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "datetime": _datetime,
    "time": _time,
    "decimal": _decimal,
}
