"""Arrow types of typed columns."""

from __future__ import annotations

import sys
from typing import Any

from llmflow.rows.column_values import DECIMAL_DIGITS, DECIMAL_SCALE, is_json
from llmflow.surrogates import well_formed
from llmflow.typed.columns import ColumnKind, ListOf, Scalar, Struct


def arrow_type(kind: ColumnKind) -> Any:
    """Return a column's Arrow type, for values as `value_reader` makes them.

    Values of no fixed type are JSON text. pyarrow is imported already.
    """
    pa: Any = sys.modules["pyarrow"]
    if is_json(kind):
        return pa.string()
    if isinstance(kind, ListOf):
        return pa.list_(arrow_type(kind.item))
    if isinstance(kind, Struct):
        return pa.struct([(well_formed(each.name), arrow_type(each.kind)) for each in kind.fields])
    assert isinstance(kind, Scalar)
    return {
        "string": pa.string(),
        "integer": pa.int64(),
        "number": pa.float64(),
        "boolean": pa.bool_(),
        "date": pa.date32(),
        "datetime": pa.timestamp("us", "UTC"),
        "time": pa.time64("us"),
        "decimal": pa.decimal128(DECIMAL_DIGITS, DECIMAL_SCALE),
    }[kind.name]
