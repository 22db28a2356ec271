"""Arrow types of columns; pyarrow is imported lazily."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from llmflow.typed.columns import ColumnKind, ListOf, Scalar, Struct

_SCALARS: Final[dict[str, Callable[[Any], Any]]] = {
    "string": lambda pa: pa.string(),
    "integer": lambda pa: pa.int64(),
    "number": lambda pa: pa.float64(),
    "boolean": lambda pa: pa.bool_(),
    "date": lambda pa: pa.date32(),
    "datetime": lambda pa: pa.timestamp("us", "UTC"),
    "time": lambda pa: pa.time64("us"),
    "decimal": lambda pa: pa.decimal128(38, 18),
}


def arrow_type(kind: ColumnKind) -> Any:
    """Return the Arrow type of a column's values, as `column_values.reader` gives them.

    Values of several types, and objects without named fields, are text: their JSON.
    """
    import pyarrow as pa

    if isinstance(kind, Scalar):
        return _SCALARS[kind.name](pa)
    if isinstance(kind, ListOf):
        return pa.list_(arrow_type(kind.item))
    if isinstance(kind, Struct) and kind.fields:
        return pa.struct([(each.name, arrow_type(each.kind)) for each in kind.fields])
    return pa.string()
