"""Tables, batches, arrays, readers and datasets of pyarrow."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
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
    checked_names,
    clean,
)
from llmflow.rows.arrow_columns import arrow_type
from llmflow.rows.cells import is_missing
from llmflow.rows.records import free_names
from llmflow.typed.columns import ColumnKind

_OBJECTS: Final = 256
"""Rows that are Python objects at a time."""
_READING: Final[dict[str, Any]] = {
    "batch_size": 1_024,
    "batch_readahead": 1,
    "fragment_readahead": 1,
}
"""How a dataset is read: little ahead."""


class ArrowTable(Table):
    """A table, record batch or array of pyarrow."""

    def __init__(self, items: Any, *, single: bool = False) -> None:
        pyarrow: Any = sys.modules["pyarrow"]
        self._whole = not isinstance(items, pyarrow.RecordBatch)
        if single:
            items = {UNNAMED: items}
        super().__init__(pyarrow.table(items) if single or not self._whole else items)
        if not single:
            self.columns = checked_names(self._frame.column_names)

    def rows(self) -> Iterator[Any]:
        """Iterate over rows."""
        if self.columns == []:  # then batches have no rows at all
            yield from ({} for _ in range(len(self)))
            return
        rows = _rows(self._frame.to_batches(max_chunksize=_OBJECTS))
        yield from rows if self.columns is not None else (row[UNNAMED] for row in rows)

    def joined(self, columns: Columns, kinds: Kinds | None = None) -> Any:
        """Return the table or batch with added columns."""
        pyarrow: Any = sys.modules["pyarrow"]
        frame = self._frame
        taken = free_names(frame.column_names, columns)
        frame = frame.rename_columns([taken.get(name, name) for name in frame.column_names])
        for name, values in columns.items():
            if kinds and name in kinds:
                added = _typed(pyarrow, name, kinds[name], values)
            else:
                added = _own(pyarrow, name, values)
            frame = frame.append_column(name, added)
        if self._whole:
            return frame
        arrays = [each.combine_chunks() for each in frame.columns]
        return pyarrow.RecordBatch.from_arrays(arrays, schema=frame.schema)


class ArrowBatches(Rows):
    """A dataset or record batch reader, read as rows are wanted."""

    def __init__(self, items: Any) -> None:
        self._items = items
        self.columns = checked_names(items.schema.names)

    @property
    def total(self) -> int | None:
        """The number of rows, where the files say it without being read."""
        kinds = ("parquet", "arrow", "feather")
        return self._items.count_rows() if self._kind in kinds else None

    @property
    def _kind(self) -> str | None:
        """The files' suffix, of a dataset of files."""
        return getattr(getattr(self._items, "format", None), "default_extname", None)

    def rows(self) -> Iterator[Any]:
        """Iterate over rows, a batch in memory at a time."""
        for batch in self._batches():
            for start in range(0, batch.num_rows, _OBJECTS):
                yield from _rows([batch.slice(start, _OBJECTS)])

    def whole(self) -> Table:
        """Read all rows."""
        read = getattr(self._items, "to_table", None) or self._items.read_all
        return ArrowTable(read())

    def _batches(self) -> Iterator[Any]:
        items = self._items
        if not hasattr(items, "to_batches"):
            yield from items
            return
        try:
            fragments = items.get_fragments()
        except ValueError:  # it is filtered
            yield from items.to_batches(**_READING)
            return
        for fragment in fragments:
            yield from _fragment_batches(fragment, items.schema)


def _fragment_batches(fragment: Any, schema: Any) -> Iterator[Any]:
    if not hasattr(fragment, "split_by_row_group"):
        yield from fragment.to_batches(schema=schema, **_READING)
        return
    # Of Parquet, a scan reads row groups ahead that nobody may want, and keeps what it has read.
    options = sys.modules["pyarrow.dataset"].ParquetFragmentScanOptions(
        use_buffered_stream=True, pre_buffer=False
    )
    for part in fragment.split_by_row_group():
        yield from part.to_batches(schema=schema, fragment_scan_options=options, **_READING)


def _own(pyarrow: Any, name: str, values: list[Any]) -> Any:
    if name in INTEGERS:
        return pyarrow.array(values, type=pyarrow.int64())
    if name in FLOATS:
        return pyarrow.array(values, type=pyarrow.float64())
    return pyarrow.array(clean(values), type=pyarrow.string())


def _typed(pyarrow: Any, name: str, kind: ColumnKind, values: list[Any]) -> Any:
    def build(values: list[Any]) -> Any:
        return pyarrow.array(values, type=arrow_type(kind))

    def build_text(texts: list[str | None]) -> Any:
        return pyarrow.array(texts, type=pyarrow.string())

    return built_or_text(build, build_text, name, values)


def _rows(batches: Iterable[Any]) -> Iterator[dict[str, Any]]:
    for batch in batches:
        for row in batch.to_pylist():
            yield {name: None if is_missing(value) else value for name, value in row.items()}
