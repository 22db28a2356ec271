"""Prompt templates such as ``Summarize: {text}``, filled from rows.

Only names, keys and positions inside the row's own data can be reached. Python's
`str.format` would also follow attributes (``{text.__class__}``), which a template
from somebody else must not be able to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import closing
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from llmflow.errors import InputError
from llmflow.rows.cells import cell, is_missing
from llmflow.rows.inputs import BadRow, Row
from llmflow.rows.source import RowSource

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\[\]]+)\]")
_NAME = re.compile(r"[^.\[\]]+")
_NAMES_SHOWN = 20
_ESCAPE = "Write {{ and }} for braces that are part of the prompt."
OnBadRow: TypeAlias = Literal["fail", "skip"]
"""What becomes of a row of which no prompt can be made: a named failure, or nothing."""

# Of a pipe, so many rows are looked at before any is asked.
_AHEAD: Final = 100


class _MissingError(LookupError):
    """A field leads nowhere; the message says where the way ended."""


class _Field(NamedTuple):
    """One ``{field}``: its text, and the steps into the row's nested data."""

    text: str
    steps: tuple[str, ...]


class PromptTemplate:
    """A prompt with ``{field}`` where a row's value goes.

    A field names a column or key. ``{user.name}`` and ``{items[0]}`` look into
    nested objects and lists, unless the row has a field of exactly that name.
    ``{{`` and ``}}`` are literal braces. Text goes in as it is, also when it
    holds braces; numbers as text; objects and lists as JSON.

    >>> PromptTemplate("Summarize: {text}").render({"text": "A long story."})
    'Summarize: A long story.'

    Args:
        text: the prompt.

    Raises:
        InputError: the prompt has no field, or a brace that belongs to none.
    """

    __slots__ = ("_fields", "_only", "_pieces", "fields", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        # Literals at even places, None where a field's value goes.
        self._pieces, found = _compile(text)
        self._fields = tuple((2 * i + 1, field.text, field) for i, field in enumerate(found))
        name = found[0].text if len(found) == 1 else None
        self._only = (name, self._pieces[0], self._pieces[-1])
        self.fields: tuple[str, ...] = tuple(dict.fromkeys(field.text for field in found))
        if not found:
            raise InputError(
                f"the prompt {_short(text)} has no {{field}}: every row would ask the same. "
                "Put a field's name in braces, such as {text}."
            )

    def render(self, row: Mapping[str, Any], index: int | None = None) -> str:
        """Return the prompt for one row.

        Raises:
            InputError: the row cannot be read; or a field is missing, or has no
                value (null, NaN, NaT). It names the row and its fields.
        """
        if type(row) is BadRow:
            raise row.error
        name, before, after = self._only
        if name is not None and type(value := row.get(name)) is str:  # most prompts, most rows
            return before + value + after
        pieces = self._pieces.copy()
        for place, name, field in self._fields:
            try:
                value = row[name]
            except KeyError:
                value = _look_up(row, field, index)
            if type(value) is not str:
                if is_missing(value):
                    raise InputError(f"{_row(index)}: field {name!r} is {_nothing(value)}")
                value = cell(value)
            pieces[place] = value
        return "".join(pieces)

    def check_names(self, names: Collection[str]) -> None:
        """Check that each field begins with one of these.

        Raises:
            InputError: it is not; with the nearest name.
        """
        for _, name, field in self._fields:
            if name not in names and field.steps[0] not in names:
                row = dict.fromkeys(names, "")
                near = _nearest(field.steps[0], row)
                raise InputError(
                    f"there is no field {field.steps[0]!r}{near}; the rows have {_names(row)}"
                )

    def values(self, row: Mapping[str, Any], *, index: int | None = None) -> list[object]:
        """Return what a row has for each field, which may be None.

        Raises:
            InputError: the row cannot be read, or a field is missing.
        """
        if type(row) is BadRow:
            raise row.error
        return [
            row[name] if name in row else _look_up(row, field, index)
            for _, name, field in self._fields
        ]

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row has all fields, and all are blank.

        >>> PromptTemplate("{a} {b}").is_blank({"a": " ", "b": None})
        True
        """
        name = self._only[0]
        if name is not None and type(value := row.get(name)) is str:
            return (not value or value.isspace()) and type(row) is not BadRow
        try:
            found = self.values(row)
        except InputError:
            return False
        return all(
            not value or value.isspace() if isinstance(value, str) else is_missing(value)
            for value in found
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PromptTemplate) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"PromptTemplate({self.text!r})"


def _compile(text: str) -> tuple[list[str], list[_Field]]:
    """Split a prompt into literals (with an empty place for each field) and fields."""
    pieces, fields, literal, end = [], [], "", 0
    for match in _PIECE.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        token = match.group()
        if token in ("{{", "}}"):
            literal += token[0]
        elif match.group(1) is None:
            around = text[max(0, match.start() - 20) : match.end() + 20]
            raise InputError(f"the prompt has a single {token!r} near {around!r}. {_ESCAPE}")
        else:
            fields.append(_parse_field(match.group(1)))
            pieces += [literal, ""]
            literal = ""
    return [*pieces, literal + text[end:]], fields


def _parse_field(text: str) -> _Field:
    """Read what stands between two braces."""
    whole = "{" + text + "}"
    if not text.strip():
        raise InputError(f"the prompt has an empty field {whole}: name the field. {_ESCAPE}")
    if any(mark in text for mark in "\"'\n"):
        raise InputError(f"{_short(whole)} in the prompt is no field's name. {_ESCAPE}")
    for mark, what in (("!", "conversions"), (":", "format specifications")):
        if mark in text:
            name = text.partition(mark)[0] or "field"
            raise InputError(f"{whole}: {what} are not supported; write {{{name}}}. {_ESCAPE}")
    start = _NAME.match(text)
    steps = [start.group()] if start else []
    end = start.end() if start else 0
    while start and end < len(text):
        step = _STEP.match(text, end)
        if not step:
            break
        steps.append(step.group(1) or step.group(2))
        end = step.end()
    if not start or end < len(text):
        raise InputError(
            f"{whole} in the prompt cannot be read: write {{name}}, {{name.key}} or {{name[0]}}"
        )
    return _Field(text, tuple(steps))


def _look_up(row: Mapping[str, Any], field: _Field, index: int | None) -> object:
    """Follow a field's steps into nested data."""
    value: object = row
    for done, step in enumerate(field.steps):
        try:
            value = _step(value, step)
        except _MissingError as error:
            if done == 0:
                raise InputError(_no_field(row, field, index)) from None
            raise InputError(
                f"{_row(index)}: field {field.text!r} leads nowhere: "
                f"{'.'.join(field.steps[:done])!r} {error}"
            ) from None
    return value


def _step(value: object, step: str) -> object:
    if isinstance(value, Mapping):
        if step not in value:
            raise _MissingError(f"has {_names(value)}{_nearest(step, value)}")
        return value[step]
    if isinstance(value, list | tuple):
        # isascii: int() also reads digits such as "²" or "٣", or fails on them.
        if not (step.isascii() and step.isdigit()):
            raise _MissingError(f"is a list: {step!r} is no position in it")
        if int(step) >= len(value):
            raise _MissingError(f"is a list of {len(value)}: it has no position {step}")
        return value[int(step)]
    kind = "null" if value is None else "text" if isinstance(value, str) else "a single value"
    raise _MissingError(f"is {kind}, neither an object nor a list")


def _no_field(row: Mapping[str, Any], field: _Field, index: int | None) -> str:
    return (
        f"{_row(index)} has no field {field.steps[0]!r}{_nearest(field.steps[0], row)}; "
        f"it has {_names(row)}"
    )


def _nearest(name: str, row: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, [str(key) for key in row], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _names(row: Mapping[str, Any]) -> str:
    names = [repr(key) for key in row]
    more = len(names) - _NAMES_SHOWN
    shown = ", ".join(names[:_NAMES_SHOWN]) or "no fields"
    return f"{shown} and {more} more" if more > 0 else shown


def _row(index: int | None) -> str:
    return "the row" if index is None else f"row {index}"


def _nothing(value: object) -> str:
    """Return what a value that is none is called: null, or NaN and its like as well."""
    return "null" if value is None else f"null ({value})"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


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
