"""Frames and series of pandas."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from llmflow.mapping.frame_table import (
    FLOATS,
    INTEGERS,
    UNNAMED,
    Columns,
    Table,
    checked_names,
    clean,
)
from llmflow.rows.cells import is_missing
from llmflow.rows.records import free_names


class PandasTable(Table):
    """A frame of pandas, or a series as one."""

    def __init__(self, items: Any, *, single: bool) -> None:
        super().__init__(items)
        if single:
            self._values = items
            self._frame = items.to_frame(name=UNNAMED if items.name is None else items.name)
        else:
            self.columns = checked_names(list(items.columns))

    def rows(self) -> Iterator[Any]:
        """Iterate over rows."""
        names = self.columns
        if names is None:
            for value in self._values:
                yield None if is_missing(value) else value
            return
        if not names:  # then itertuples gives no rows at all
            yield from ({} for _ in range(len(self)))
            return
        for values in self._frame.itertuples(index=False, name=None):
            yield {
                name: None if is_missing(value) else value
                for name, value in zip(names, values, strict=True)
            }

    def joined(self, columns: Columns) -> Any:
        """Return the frame with added columns."""
        pandas: Any = sys.modules["pandas"]
        frame = self._frame
        taken = free_names([name for name in frame.columns if isinstance(name, str)], columns)
        out = frame.rename(columns=taken)
        for name, values in columns.items():
            # Texts as objects, so that what is missing is None, and false, in every version.
            kind = "Int64" if name in INTEGERS else "float64" if name in FLOATS else object
            fit = clean(values) if kind is object else values
            out[name] = pandas.Series(fit, index=out.index, dtype=kind)
        return out
