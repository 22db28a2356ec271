"""Frames of pandas, polars and pyarrow, without importing any of them.

Whoever passes a frame has imported its library already; it is recognised by its
type's module and reached through `sys.modules`.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from llmflow.errors import InputError
from llmflow.rows.cells import is_missing
from llmflow.rows.records import free_names
from llmflow.surrogates import well_formed

_KINDS = {
    ("pandas", "DataFrame"),
    ("pandas", "Series"),
    ("polars", "DataFrame"),
    ("polars", "LazyFrame"),
    ("polars", "Series"),
    ("pyarrow", "Table"),
    ("pyarrow", "RecordBatch"),
    ("pyarrow", "ChunkedArray"),
    ("pyarrow", "Array"),
}
# Of the columns that are added; the others are texts.
_INTEGERS = frozenset({"input_tokens", "output_tokens", "attempts"})
_FLOATS = frozenset({"cost"})
Columns: TypeAlias = dict[str, list[Any]]
"""Columns to be added, by name."""
_UNNAMED = "text"
_BATCH = 256  # rows of an Arrow table that are Python objects at a time


class DataFrame(Protocol):
    """Protocol of a pandas or polars data frame, for type checkers."""

    @property
    def columns(self) -> Any:
        """The names of the columns."""

    def head(self, n: int = ..., /) -> Any:
        """The first rows."""

    def join(self, other: Any, /) -> Any:
        """The columns of another frame beside its own."""


class Series(Protocol):
    """Protocol of a pandas or polars series, for type checkers."""

    @property
    def name(self) -> Any:
        """The series' name."""

    def to_frame(self, name: Any = ..., /) -> Any:
        """A frame of this one column."""


FrameT = TypeVar("FrameT", bound=DataFrame)


class Table(ABC):
    """A frame or series, as rows in and as a frame out."""

    columns: list[str] | None = None
    """The rows' fields; None where the rows are single values."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __len__(self) -> int:
        return len(self._frame)

    @abstractmethod
    def rows(self) -> Iterator[Any]:
        """Iterate over rows: dicts or single values; missing is None."""

    @abstractmethod
    def joined(self, columns: Columns) -> Any:
        """Return a frame of the same kind with added columns."""


def kind_of(items: object) -> tuple[str, str] | None:
    """Return library and class of a frame or series, or None.

    >>> kind_of([1, 2]) is None
    True
    """
    for each in type(items).__mro__:
        found = each.__module__.partition(".")[0], each.__name__
        if found in _KINDS:
            return found
    return None


def table_of(items: Any) -> Table:
    """Return a frame or series as table; lazy frames are collected."""
    library, name = kind_of(items) or ("", "")
    if library == "pandas":
        return _PandasTable(items, single=name == "Series")
    if library == "pyarrow":
        return _ArrowTable(items, single=name in ("Array", "ChunkedArray"))
    lazy = name == "LazyFrame"
    return _PolarsTable(items.collect() if lazy else items, single=name == "Series", lazy=lazy)


def _checked_names(labels: Sequence[Any]) -> list[str]:
    names = [str(label) for label in labels]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"the frame has {count} columns named {name!r}: rename all but one")
    return names


def _clean(texts: Sequence[str | None]) -> list[str | None]:
    # Models answer with emoji cut in half, which no frame can hold.
    return [None if text is None else well_formed(text) for text in texts]


class _PandasTable(Table):
    def __init__(self, items: Any, *, single: bool) -> None:
        super().__init__(items)
        if single:
            self._values = items
            self._frame = items.to_frame(name=_UNNAMED if items.name is None else items.name)
        else:
            self.columns = _checked_names(list(items.columns))

    def rows(self) -> Iterator[Any]:
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
        pandas: Any = sys.modules["pandas"]
        frame = self._frame
        taken = free_names([name for name in frame.columns if isinstance(name, str)], columns)
        out = frame.rename(columns=taken)
        for name, values in columns.items():
            # Texts as objects, so that what is missing is None, and false, in every version.
            kind = "Int64" if name in _INTEGERS else "float64" if name in _FLOATS else object
            fit = _clean(values) if kind is object else values
            out[name] = pandas.Series(fit, index=out.index, dtype=kind)
        return out


class _PolarsTable(Table):
    def __init__(self, items: Any, *, single: bool, lazy: bool) -> None:
        super().__init__(items)
        self._lazy = lazy
        if single:
            self._values = items
            self._frame = items.to_frame(items.name or _UNNAMED)
        else:
            self.columns = list(items.columns)

    def rows(self) -> Iterator[Any]:
        if self.columns is None:
            return (None if is_missing(value) else value for value in self._values)
        # A column of floats may hold NaN beside null.
        rows: Iterator[dict[str, Any]] = self._frame.fill_nan(None).iter_rows(named=True)
        return rows

    def joined(self, columns: Columns) -> Any:
        polars: Any = sys.modules["polars"]
        frame = self._frame.rename(free_names(self._frame.columns, columns))
        kinds = dict.fromkeys(_INTEGERS, polars.Int64) | dict.fromkeys(_FLOATS, polars.Float64)
        out = frame.with_columns(
            polars.Series(name, values, dtype=kinds[name])
            if name in kinds
            else polars.Series(name, _clean(values), dtype=polars.String)
            for name, values in columns.items()
        )
        return out.lazy() if self._lazy else out


class _ArrowTable(Table):
    def __init__(self, items: Any, *, single: bool) -> None:
        pyarrow: Any = sys.modules["pyarrow"]
        self._whole = not isinstance(items, pyarrow.RecordBatch)
        if single:
            items = {_UNNAMED: items}
        super().__init__(pyarrow.table(items) if single or not self._whole else items)
        if not single:
            self.columns = _checked_names(self._frame.column_names)

    def rows(self) -> Iterator[Any]:
        if self.columns == []:  # then batches have no rows at all
            yield from ({} for _ in range(len(self)))
            return
        for batch in self._frame.to_batches(max_chunksize=_BATCH):
            for row in batch.to_pylist():
                found = {name: None if is_missing(value) else value for name, value in row.items()}
                yield found[_UNNAMED] if self.columns is None else found

    def joined(self, columns: Columns) -> Any:
        pyarrow: Any = sys.modules["pyarrow"]
        frame = self._frame
        taken = free_names(frame.column_names, columns)
        kinds = dict.fromkeys(_INTEGERS, pyarrow.int64()) | dict.fromkeys(
            _FLOATS, pyarrow.float64()
        )
        frame = frame.rename_columns([taken.get(name, name) for name in frame.column_names])
        for name, values in columns.items():
            kind = kinds.get(name, pyarrow.string())
            fit = values if name in kinds else _clean(values)
            frame = frame.append_column(name, pyarrow.array(fit, type=kind))
        if self._whole:
            return frame
        arrays = [each.combine_chunks() for each in frame.columns]
        return pyarrow.RecordBatch.from_arrays(arrays, schema=frame.schema)
