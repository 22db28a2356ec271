"""Frames of pandas, polars and pyarrow, without importing any of them.

Whoever passes a frame has imported its library already; it is recognised by its
type's module and reached through `sys.modules`.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

from llmflow.mapping.frame_table import Rows

_KINDS = {
    ("pandas", "DataFrame"),
    ("pandas", "Series"),
    ("polars", "DataFrame"),
    ("polars", "LazyFrame"),
    ("polars", "Series"),
    ("pyarrow", "Table"),
    ("pyarrow", "RecordBatch"),
    ("pyarrow", "RecordBatchReader"),
    ("pyarrow", "Dataset"),
    ("pyarrow", "ChunkedArray"),
    ("pyarrow", "Array"),
}
_UNREAD: Final = frozenset({"LazyFrame", "RecordBatchReader", "Dataset"})


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


def is_unread(items: object) -> bool:
    """Return whether items are a query or dataset, yet to be read."""
    kind = kind_of(items)
    return kind is not None and kind[1] in _UNREAD


def rows_of(items: Any) -> Rows:
    """Return a frame, series, query or dataset as rows, without reading it."""
    library, name = kind_of(items) or ("", "")
    if library == "pandas":
        from llmflow.mapping.pandas_frames import PandasTable

        return PandasTable(items, single=name == "Series")
    if library == "pyarrow":
        from llmflow.mapping import arrow_frames

        if name in _UNREAD:
            return arrow_frames.ArrowBatches(items)
        return arrow_frames.ArrowTable(items, single=name in ("Array", "ChunkedArray"))
    from llmflow.mapping.polars_frames import PolarsQuery, PolarsTable

    if name in _UNREAD:
        return PolarsQuery(items)
    return PolarsTable(items, single=name == "Series")
