"""Frames, series and queries of polars."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

from llmflow.mapping.frame_table import FLOATS, INTEGERS, UNNAMED, Columns, Rows, Table, clean
from llmflow.rows.cells import is_missing
from llmflow.rows.records import free_names

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

    def joined(self, columns: Columns) -> Any:
        """Return the frame with added columns."""
        polars: Any = sys.modules["polars"]
        frame = self._frame.rename(free_names(self._frame.columns, columns))
        kinds = dict.fromkeys(INTEGERS, polars.Int64) | dict.fromkeys(FLOATS, polars.Float64)
        out = frame.with_columns(
            polars.Series(name, values, dtype=kinds[name])
            if name in kinds
            else polars.Series(name, clean(values), dtype=polars.String)
            for name, values in columns.items()
        )
        return out.lazy() if self._lazy else out


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
