"""Rows of a frame as items, and the frame with columns added."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from llmflow.errors import InputError
from llmflow.rows.cells import json_text
from llmflow.surrogates import well_formed
from llmflow.typed.columns import ColumnKind

INTEGERS: Final = frozenset({"input_tokens", "output_tokens", "attempts"})
"""Columns of ours that are no text."""
FLOATS: Final = frozenset({"cost"})
UNNAMED: Final = "text"
"""The column of a series that has no name."""
Columns: TypeAlias = dict[str, list[Any]]
"""Columns to be added, by name."""
Kinds: TypeAlias = Mapping[str, ColumnKind]
"""Types of columns, by name."""
logger = logging.getLogger("llmflow")
_BuiltT = TypeVar("_BuiltT")


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

    json_as_text = True
    """Whether a column of no fixed type holds JSON text, and no objects."""

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
    def joined(self, columns: Columns, kinds: Kinds | None = None) -> Any:
        """Return a frame of the same kind with added columns.

        Args:
            columns: the columns' values, by name.
            kinds: the types of columns that come from an output type; the others are ours.
        """


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


def built_or_text(
    build: Callable[[list[Any]], _BuiltT],
    build_text: Callable[[list[str | None]], _BuiltT],
    name: str,
    values: list[Any],
) -> _BuiltT:
    """Return a column, of JSON text where its library refuses the values."""
    try:
        return build(values)
    except Exception as error:  # noqa: BLE001 - whatever the library raises
        logger.warning(
            "llm.map: column %r has its values as JSON text: %s: %s",
            name,
            type(error).__name__,
            str(error).partition("\n")[0],
        )
        return build_text([None if each is None else json_text(each) for each in values])
