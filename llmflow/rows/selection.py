"""Builds the prompts of rows, and selects which rows to skip."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from llmflow.errors import InputError
from llmflow.rows.inputs import BadRow, Row
from llmflow.rows.source import RowSource
from llmflow.rows.template import PromptTemplate

OnBadRow: TypeAlias = Literal["fail", "skip"]
"""What becomes of a row of which no prompt can be made: a named failure, or nothing."""

# Of a pipe, so many rows are looked at before any is asked.
_AHEAD: Final = 100


class LeftOut(NamedTuple):
    """A row that is not asked.

    It is empty if it has nothing in its prompt's fields; else no prompt can be made of it.
    """

    empty: bool
    reason: str


class Selection:
    """Makes the prompts of rows, and decides which rows are left out.

    >>> rows = Selection(PromptTemplate("Sum: {text}"), skip_empty=True)
    >>> rows.prompt({"text": "a"}, 0), rows.prompt({"text": " "}, 1)
    ('Sum: a', LeftOut(empty=True, reason='row 1: nothing in its prompt fields'))

    Args:
        template: makes a prompt of a row.
        on_bad_row: what becomes of a row of which it can make none.
        skip_empty: whether rows with nothing in their prompt fields are left out.
    """

    __slots__ = ("prompt", "skips_bad", "skips_empty", "template")

    prompt: Callable[[Mapping[str, Any], int], str | LeftOut]
    """Returns a row's prompt, or why it is left out, by the row and its index.

    Raises:
        InputError: no prompt can be made of it, and that is a failure.
    """

    def __init__(
        self,
        template: PromptTemplate,
        *,
        on_bad_row: OnBadRow = "fail",
        skip_empty: bool = False,
    ) -> None:
        self.template = template
        self.skips_bad = on_bad_row == "skip"
        self.skips_empty = skip_empty
        # Every row passes here: where nothing is left out, nothing comes in between.
        self.prompt = self._select if self.skips_bad or skip_empty else template.render

    def _select(self, row: Mapping[str, Any], index: int) -> str | LeftOut:
        if self.skips_empty and self.template.is_blank(row):
            return LeftOut(empty=True, reason=f"row {index}: nothing in its prompt fields")
        try:
            return self.template.render(row, index=index)
        except InputError as error:
            if not self.skips_bad:
                raise
            return LeftOut(empty=False, reason=str(error))


def check_fits(
    rows: RowSource, template: PromptTemplate, *, each: Callable[[], None] = lambda: None
) -> None:
    """Check that some row has all fields of the prompt.

    Usually that is the first one, and no other is read. A source that can be read again is
    read as far as the first such row, of a pipe the first hundred rows.

    Raises:
        InputError: there is no such row, or the source cannot be read.
    """
    if rows.fields is not None:
        template.check_names(rows.fields)
    wrong: InputError | None = None
    bad: InputError | None = None
    count = 0
    with closing(_ahead(rows)) as ahead:
        for count, row in enumerate(ahead, 1):
            each()
            error = _lack(row, template, count - 1)
            if error is None:
                return
            if isinstance(row, BadRow):
                bad = bad or error
            else:
                wrong = wrong or error
    if wrong is not None:
        raise wrong
    assert bad is not None  # a source without rows has raised
    every = "its only row" if count == 1 else f"none of its {count:,} rows"
    cannot = "cannot be read" if count == 1 else "can be read; the first"
    raise InputError(f"{rows.name}: {every} {cannot}: {bad}")


def _ahead(rows: RowSource) -> Generator[Row, None, None]:
    """Yield the rows, of a pipe without using them up."""
    if not rows.once:
        yield from rows
        return
    for count in range(1, _AHEAD + 1):
        found = rows.head(count)
        if len(found) < count:
            return
        yield found[-1]


def _lack(row: Mapping[str, Any], template: PromptTemplate, index: int) -> InputError | None:
    """Return what a row lacks; a field that it has may well be null."""
    if isinstance(row, BadRow):
        return row.error
    try:
        template.values(row, index=index)
    except InputError as error:
        return error
    return None
