"""Rows of a frame as items, and the frame with columns added."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from llmflow.errors import InputError
from llmflow.surrogates import well_formed

INTEGERS: Final = frozenset({"input_tokens", "output_tokens", "attempts"})
"""Columns of ours that are no text."""
FLOATS: Final = frozenset({"cost"})
UNNAMED: Final = "text"
"""The column of a series that has no name."""
Columns: TypeAlias = dict[str, list[Any]]
"""Columns to be added, by name."""


class Rows(ABC):
    """Rows of a frame, query or dataset; perhaps yet to be read."""

    columns: list[str] | None = None
    """The rows' fields; None where the rows are single values."""

    @property
    def total(self) -> int | None:
        """The number of rows; None if it takes reading them."""
        return None

    @abstractmethod
    def rows(self) -> Iterator[Any]:
        """Iterate over rows: dicts or single values; missing is None."""

    @abstractmethod
    def whole(self) -> Table:
        """Return a table of all rows; reads them if they are not."""


class Table(Rows):
    """A frame or series, as rows in and as a frame out."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def __len__(self) -> int:
        return len(self._frame)

    @property
    def total(self) -> int:
        """The number of rows."""
        return len(self)

    def whole(self) -> Table:
        """Return itself."""
        return self

    @abstractmethod
    def joined(self, columns: Columns) -> Any:
        """Return a frame of the same kind with added columns."""


def checked_names(labels: Sequence[Any]) -> list[str]:
    """Return the names of columns.

    Raises:
        InputError: two have one name.
    """
    names = [str(label) for label in labels]
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"the frame has {count} columns named {name!r}: rename all but one")
    return names


def clean(texts: Sequence[str | None]) -> list[str | None]:
    """Return texts that a frame can hold: models cut emoji in half."""
    return [None if text is None else well_formed(text) for text in texts]
