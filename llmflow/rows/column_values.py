"""Reads values of typed columns from plain JSON data, exactly."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias

from llmflow.rows.cells import json_text
from llmflow.surrogates import well_formed, well_formed_value
from llmflow.typed.columns import AnyJson, Column, ColumnKind, ListOf, Scalar, Struct

Reader: TypeAlias = Callable[[Any], Any]
"""Returns the value of a column for plain JSON data; raises `ValueError` where it cannot."""

DECIMAL_DIGITS: Final = 38
DECIMAL_SCALE: Final = 18
"""Decimals have the digits that Spark gives them: no schema says how many there are."""
_WHOLE_DIGITS: Final = DECIMAL_DIGITS - DECIMAL_SCALE
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_MOST_REASON: Final = 100
_EXACT: Final[Mapping[str, type]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
}


def is_json(kind: ColumnKind) -> bool:
    """Return whether a column holds values of no fixed type."""
    # No library writes an object without fields.
    return isinstance(kind, AnyJson) or (isinstance(kind, Struct) and not kind.fields)


def value_reader(kind: ColumnKind, *, json_as_text: bool = True) -> Reader:
    """Return what makes the Python values of a column.

    >>> from llmflow.typed.columns import ListOf, Scalar
    >>> value_reader(ListOf(Scalar("date")))(["2026-01-02", None])
    [datetime.date(2026, 1, 2), None]

    Args:
        kind: the column's type. A date-time without an offset is taken as UTC.
        json_as_text: whether values of no fixed type become JSON text, or stay as they are.
    """
    read = _reader(kind, json_as_text=json_as_text)
    return lambda value: None if value is None else read(value)


def read_column(
    column: Column, values: Sequence[Any], *, json_as_text: bool = True
) -> tuple[list[Any], dict[int, str]]:
    """Return a column's values, and by place why some are null.

    >>> from llmflow.typed.columns import Column, Scalar
    >>> read_column(Column("score", Scalar("integer")), [3, None, 2**70])
    ([3, None, None], {2: 'score: does not fit a 64-bit integer: 1180591620717411303424'})
    """
    if _are_read(column.kind, values):
        return list(values), {}
    read = value_reader(column.kind, json_as_text=json_as_text)
    found: list[Any] = []
    misfits = {}
    for index, value in enumerate(values):
        try:
            found.append(read(value))
        except ValueError as error:
            found.append(None)
            misfits[index] = misfit(column.name, value, error)
    return found, misfits


def _are_read(kind: ColumnKind, values: Sequence[Any]) -> bool:
    """Return whether all values are what a reader would return, by a look at the whole."""
    exact = _EXACT.get(kind.name) if isinstance(kind, Scalar) else None
    if exact is None or not set(map(type, values)) <= {exact, type(None)}:
        return False
    if exact is str:
        return all(each is None or each.isascii() for each in values)
    if exact is int:
        return all(each is None or _SMALLEST <= each <= _LARGEST for each in values)
    return True


def misfit(name: str, value: object, error: Exception) -> str:
    """Return why a value is not in its column, with the value.

    >>> misfit("score", 2**70, ValueError("does not fit a 64-bit integer"))
    'score: does not fit a 64-bit integer: 1180591620717411303424'
    """
    reason = str(error).partition("\n")[0][:_MOST_REASON]
    return f"{name}: {reason}: {json_text(value)}"


def _reader(kind: ColumnKind, *, json_as_text: bool) -> Reader:
    if is_json(kind):
        return json_text if json_as_text else well_formed_value
    if isinstance(kind, Scalar):
        return _SCALARS[kind.name]
    if isinstance(kind, ListOf):
        read = value_reader(kind.item, json_as_text=json_as_text)
        return lambda value: [read(each) for each in _checked(value, list, "list")]
    assert isinstance(kind, Struct)
    parts = [
        (each.name, well_formed(each.name), value_reader(each.kind, json_as_text=json_as_text))
        for each in kind.fields
    ]

    def read_struct(value: Any) -> dict[str, Any]:
        found = _checked(value, Mapping, "object").get
        return {shown: read(found(name)) for name, shown, read in parts}

    return read_struct


def _checked(value: Any, kind: Any, name: str) -> Any:
    if isinstance(value, kind):
        return value
    raise ValueError(f"is not a {name}")


def _string(value: Any) -> str:
    return well_formed(value) if isinstance(value, str) else json_text(value)


def _integer(value: Any) -> int:
    if type(value) is not int:
        if not (isinstance(value, float) and value.is_integer()):
            raise ValueError("is not an integer")
        value = int(value)
    found: int = value
    if _SMALLEST <= found <= _LARGEST:
        return found
    raise ValueError("does not fit a 64-bit integer")


def _number(value: Any) -> float:
    if type(value) is float:
        return value
    if type(value) is not int:
        raise ValueError("is not a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("does not fit a 64-bit float") from None


def _boolean(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise ValueError("is not true or false")


def _date(value: Any) -> dt.date:
    return dt.date.fromisoformat(_checked(value, str, "date"))


def _datetime(value: Any) -> dt.datetime:
    found = dt.datetime.fromisoformat(_checked(value, str, "date-time").upper())
    if found.tzinfo is None:
        return found.replace(tzinfo=dt.UTC)
    try:
        return found.astimezone(dt.UTC)
    except OverflowError:
        raise ValueError("does not fit the years 1 to 9999 in UTC") from None


def _time(value: Any) -> dt.time:
    found = dt.time.fromisoformat(_checked(value, str, "time").upper())
    if found.utcoffset():
        raise ValueError("has an offset, which the column cannot hold")
    return found.replace(tzinfo=None)


def _decimal(value: Any) -> Decimal:
    if type(value) is bool or not isinstance(value, str | int | float):
        raise ValueError("is not a decimal")
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        raise ValueError("is not a decimal") from None
    if not found.is_finite():
        raise ValueError("is not a decimal")
    if not found:
        return Decimal(0)
    sign, digits, exponent = found.as_tuple()
    assert isinstance(exponent, int)
    while digits[-1] == 0 and -exponent > DECIMAL_SCALE:
        digits, exponent = digits[:-1], exponent + 1
    if -exponent > DECIMAL_SCALE or found.adjusted() >= _WHOLE_DIGITS:
        raise ValueError(
            f"does not fit a decimal of {_WHOLE_DIGITS} digits before the point "
            f"and {DECIMAL_SCALE} after it"
        )
    return Decimal((sign, digits, exponent))


_SCALARS: Final[Mapping[str, Reader]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "date": _date,
    "datetime": _datetime,
    "time": _time,
    "decimal": _decimal,
}
