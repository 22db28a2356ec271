"""Values of columns: what fits becomes a typed value, and nothing else does."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.typed.arrow_columns import arrow_type
from llmflow.typed.column_values import reader
from llmflow.typed.columns import JSON, Column, ColumnKind, ListOf, Scalar, Struct

pa = pytest.importorskip("pyarrow")

PART = Struct((Column("a", Scalar("integer")), Column("b", ListOf(Scalar("date")))))
NOON = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
FITTING: list[tuple[ColumnKind, Any, Any]] = [
    (Scalar("string"), "a", "a"),
    (Scalar("integer"), 5.0, 5),
    (Scalar("number"), 5, 5.0),
    (Scalar("boolean"), True, True),
    (Scalar("date"), "2026-03-01", dt.date(2026, 3, 1)),
    (Scalar("datetime"), "2026-03-01T13:00:00+01:00", NOON),
    (Scalar("datetime"), "2026-03-01T12:00:00Z", NOON),
    (Scalar("datetime"), "2026-03-01T12:00:00", NOON),
    (Scalar("time"), "12:30:00Z", dt.time(12, 30)),
    (Scalar("decimal"), "12.50", Decimal("12.5")),
    (Scalar("decimal"), 0.1, Decimal("0.1")),
    (Scalar("decimal"), "1.50000000000000000000000000000", Decimal("1.5")),
    (Scalar("decimal"), "0e40", Decimal(0)),
    (ListOf(Scalar("integer")), [1, None], [1, None]),
    (PART, {"a": 1, "c": 2}, {"a": 1, "b": None}),
    (PART, {"b": ["2026-03-01"]}, {"a": None, "b": [dt.date(2026, 3, 1)]}),
    (JSON, "5", '"5"'),
    (JSON, {"a": [1, None]}, '{"a":[1,null]}'),
    (JSON, 2**70, "1180591620717411303424"),
]
MISFITS: list[tuple[ColumnKind, Any]] = [
    (Scalar("string"), 5),
    (Scalar("integer"), 2**63),
    (Scalar("integer"), True),
    (Scalar("integer"), 1.5),
    (Scalar("number"), "5"),
    (Scalar("number"), 10**400),
    (Scalar("boolean"), 1),
    (Scalar("date"), "soon"),
    (Scalar("date"), 5),
    (Scalar("datetime"), "0001-01-01T00:00:00+10:00"),
    (Scalar("time"), "12:30:00+02:00"),
    (Scalar("decimal"), "1e25"),
    (Scalar("decimal"), "1e-19"),
    (Scalar("decimal"), "NaN"),
    (Scalar("decimal"), "ten"),
    (ListOf(Scalar("integer")), 5),
    (ListOf(Scalar("integer")), ["5"]),
    (PART, []),
]


@pytest.mark.parametrize(("kind", "data", "value"), FITTING)
def test_what_fits_is_a_value_that_arrow_takes(kind: ColumnKind, data: Any, value: Any) -> None:
    found = reader(kind)(data)
    assert (found, type(found)) == (value, type(value))
    assert pa.array([found, None], type=arrow_type(kind)).to_pylist() == [value, None]


@pytest.mark.parametrize(("kind", "data"), MISFITS)
def test_what_does_not_fit_is_named(kind: ColumnKind, data: Any) -> None:
    with pytest.raises(ValueError, match="does not fit a"):
        reader(kind)(data)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_is_exact_or_refused(value: Decimal) -> None:
    kind = Scalar("decimal")
    try:
        found = reader(kind)(str(value))
    except ValueError:
        return
    assert pa.array([found], type=arrow_type(kind)).to_pylist() == [value]
