"""Kinds of columns with plain values of them, for property tests."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from llmflow.typed.columns import AnyJson, Column, ColumnKind, ListOf, Scalar, ScalarName, Struct

TEXTS = st.text(max_size=8)
_OFFSETS = st.integers(-720, 720).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
_DATES = st.dates().map(dt.date.isoformat)
_TIMES = st.times().map(dt.time.isoformat) | st.times().map(lambda each: f"{each.isoformat()}Z")
_DATETIMES = st.datetimes(dt.datetime(1, 1, 3), dt.datetime(9999, 12, 29)).map(  # noqa: DTZ001
    dt.datetime.isoformat
)
_AWARE = st.datetimes(
    dt.datetime(1, 1, 3),  # noqa: DTZ001
    dt.datetime(9999, 12, 29),  # noqa: DTZ001
    timezones=_OFFSETS,
).map(dt.datetime.isoformat)
_DECIMALS = st.builds(
    lambda whole, scale: str(Decimal(whole).scaleb(-scale)),
    st.integers(-(10**20) + 1, 10**20 - 1),
    st.integers(0, 18),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
PLAIN: dict[ScalarName, st.SearchStrategy[Any]] = {
    "string": TEXTS,
    "integer": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53),
    "boolean": st.booleans(),
    "date": _DATES,
    "datetime": _DATETIMES | _AWARE,
    "time": _TIMES,
    "decimal": _DECIMALS,
}
_NAMES = st.text(min_size=1, max_size=4)
KINDS: st.SearchStrategy[ColumnKind] = st.recursive(
    st.sampled_from([*map(Scalar, PLAIN), AnyJson()]),
    lambda inner: (
        inner.map(ListOf)
        | st.dictionaries(_NAMES, inner, max_size=3).map(
            lambda fields: Struct(tuple(Column(name, kind) for name, kind in fields.items()))
        )
    ),
    max_leaves=4,
)


def values_of(kind: ColumnKind) -> st.SearchStrategy[Any]:
    """Return plain values that fit a column, and null."""
    if isinstance(kind, Scalar):
        return st.none() | PLAIN[kind.name]
    if isinstance(kind, ListOf):
        return st.none() | st.lists(values_of(kind.item), max_size=3)
    if isinstance(kind, Struct):
        return st.none() | st.fixed_dictionaries(
            {each.name: values_of(each.kind) for each in kind.fields}
        )
    return JSON_VALUES
