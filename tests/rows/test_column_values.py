"""Values of typed columns: exact, or refused with the reason."""

from __future__ import annotations

import contextlib
import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.rows.column_values import misfit, value_reader
from llmflow.typed.columns import AnyJson, Column, ColumnKind, ListOf, Scalar, Struct
from tests.examples import examples
from tests.mapping.column_examples import JSON_VALUES, KINDS, TEXTS

LARGEST = Decimal("99999999999999999999.999999999999999999")


def read(name: Any, value: Any) -> Any:
    return value_reader(Scalar(name))(value)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("string", "cut \ud83d", "cut \ufffd"),
        ("string", 5, "5"),
        ("integer", 5.0, 5),
        ("integer", -(2**63), -(2**63)),
        ("number", 3, 3.0),
        ("boolean", False, False),
        ("date", "2026-01-02", dt.date(2026, 1, 2)),
        ("datetime", "2026-01-02T03:04:05", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
        ("datetime", "2026-01-02t03:04:05z", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)),
        ("datetime", "2026-01-02T03:04:05+02:00", dt.datetime(2026, 1, 2, 1, 4, 5, tzinfo=dt.UTC)),
        ("time", "03:04:05Z", dt.time(3, 4, 5)),
        ("decimal", "0.100000000000000000000", Decimal("0.1")),
        (
            "decimal",
            str(LARGEST),
            LARGEST,
        ),
        ("decimal", "0E-30", Decimal(0)),
        ("decimal", 0.1, Decimal("0.1")),
    ],
)
def test_what_fits_is_exact(name: str, value: Any, wanted: Any) -> None:
    found = read(name, value)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("integer", 2**63, "does not fit a 64-bit integer"),
        ("integer", 1.5, "is not an integer"),
        ("integer", True, "is not an integer"),
        ("number", 10**400, "does not fit a 64-bit float"),
        ("number", "1", "is not a number"),
        ("boolean", 1, "is not true or false"),
        ("date", "2026-02-30", "day is out of range for month"),
        ("date", 5, "is not a date"),
        ("datetime", "0001-01-01T00:00:00+14:00", "does not fit the years 1 to 9999 in UTC"),
        ("time", "03:04:05+02:00", "has an offset, which the column cannot hold"),
        ("decimal", "1e20", "does not fit a decimal of 20 digits before the point and 18 after it"),
        ("decimal", "0.0000000000000000001", "does not fit a decimal of 20 digits"),
        ("decimal", "Infinity", "is not a decimal"),
        ("decimal", "one", "is not a decimal"),
        ("decimal", True, "is not a decimal"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(name: str, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(name, value)


def test_the_reason_holds_the_whole_value() -> None:
    reason = misfit("sizes", [1, 2**70], ValueError("does not fit a 64-bit integer\nsecond line"))
    assert reason == "sizes: does not fit a 64-bit integer: [1,1180591620717411303424]"


def test_nested_values_are_read_to_their_leaves() -> None:
    kind = Struct((Column("day", Scalar("date")), Column("sizes", ListOf(Scalar("integer")))))
    found = value_reader(ListOf(kind))([{"day": "2026-01-02", "sizes": [1, None]}, {}, None])
    assert found == [
        {"day": dt.date(2026, 1, 2), "sizes": [1, None]},
        {"day": None, "sizes": None},
        None,
    ]
    with pytest.raises(ValueError, match="is not a list"):
        value_reader(ListOf(kind))({})


@given(JSON_VALUES)
def test_values_of_no_fixed_type_are_kept_or_json_text(value: Any) -> None:
    kept = value_reader(AnyJson(), json_as_text=False)(value)
    assert kept == value
    text = value_reader(AnyJson())(value)
    assert text is None if value is None else isinstance(text, str)


@examples(300)
@given(kind=KINDS, value=JSON_VALUES | TEXTS, as_text=st.booleans())
def test_whatever_an_answer_holds_is_read_or_refused(
    kind: ColumnKind, value: Any, as_text: bool
) -> None:
    with contextlib.suppress(ValueError):
        value_reader(kind, json_as_text=as_text)(value)
