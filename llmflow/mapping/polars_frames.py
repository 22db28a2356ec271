"""Frames, series and queries of polars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from llmflow.mapping.frame_table import (
    FLOATS,
    INTEGERS,
    UNNAMED,
    Columns,
    Kinds,
    Rows,
    Table,
    built_or_text,
    clean,
)
from llmflow.rows.cells import is_missing
from llmflow.rows.column_values import DECIMAL_DIGITS, DECIMAL_SCALE, is_json
from llmflow.rows.records import free_names
from llmflow.surrogates import well_formed
from llmflow.typed.columns import ColumnKind, ListOf, Scalar, Struct

_BATCH: Final = 1_024


class PolarsTable(Table):
    """A frame of polars, or a series as one."""

    def __init__(self, items: Any, *, single: bool = False, lazy: bool = False) -> None:
        super().__init__(items)
        self._lazy = lazy
        if single:
            self._values = items
            self._frame = items.to_frame(items.name or UNNAMED)
        else:
            self.columns = list(items.columns)

    def rows(self) -> Iterator[Any]:
        """Iterate over rows."""
        if self.columns is None:
            return (None if is_missing(value) else value for value in self._values)
        return _rows(self._frame)

    def joined(self, columns: Columns, kinds: Kinds | None = None) -> Any:
        """Return the frame with added columns."""
        frame = self._frame.rename(free_names(self._frame.columns, columns))
        out = frame.with_columns(
            _typed(name, kinds[name], values) if kinds and name in kinds else _own(name, values)
            for name, values in columns.items()
        )
        return out.lazy() if self._lazy else out


def _own(name: str, values: list[Any]) -> Any:
    polars: Any = sys.modules["polars"]
    if name in INTEGERS:
        return polars.Series(name, values, dtype=polars.Int64)
    if name in FLOATS:
        return polars.Series(name, values, dtype=polars.Float64)
    return polars.Series(name, clean(values), dtype=polars.String)


def _typed(name: str, kind: ColumnKind, values: list[Any]) -> Any:
    polars: Any = sys.modules["polars"]

    def build(values: list[Any]) -> Any:
        return polars.Series(name, values, dtype=polars_type(kind))

    def build_text(texts: list[str | None]) -> Any:
        return polars.Series(name, texts, dtype=polars.String)

    return built_or_text(build, build_text, name, values)


def polars_type(kind: ColumnKind) -> Any:
    """Return a column's type, for values as `value_reader` makes them."""
    pl: Any = sys.modules["polars"]
    if is_json(kind):
        return pl.String
    if isinstance(kind, ListOf):
        return pl.List(polars_type(kind.item))
    if isinstance(kind, Struct):
        return pl.Struct({well_formed(each.name): polars_type(each.kind) for each in kind.fields})
    assert isinstance(kind, Scalar)
    return {
        "string": pl.String,
        "integer": pl.Int64,
        "number": pl.Float64,
        "boolean": pl.Boolean,
        "date": pl.Date,
        "datetime": pl.Datetime("us", "UTC"),
        "time": pl.Time,
        "decimal": pl.Decimal(DECIMAL_DIGITS, DECIMAL_SCALE),
    }[kind.name]


class PolarsQuery(Rows):
    """A lazy frame, which runs as its rows are read."""

    def __init__(self, query: Any) -> None:
        self._query = query
        self.columns = query.collect_schema().names()

    def rows(self) -> Iterator[Any]:
        """Iterate over rows, in batches where polars can: from 1.34."""
        if not hasattr(self._query, "collect_batches"):
            yield from _rows(self._query.collect())
            return
        for batch in self._query.collect_batches(chunk_size=_BATCH):
            yield from _rows(batch)

    def whole(self) -> Table:
        """Run the query."""
        return PolarsTable(self._query.collect(), lazy=True)


def _rows(frame: Any) -> Iterator[dict[str, Any]]:
    if not frame.width:
        return iter([{} for _ in range(frame.height)])
    # A column of floats may hold NaN beside null.
    rows: Iterator[dict[str, Any]] = frame.fill_nan(None).iter_rows(named=True)
    return rows
