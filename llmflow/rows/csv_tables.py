"""Rows from tables of text: CSV, whatever separates its columns."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, islice
from typing import IO, Any, Final, NamedTuple, Self, TypeAlias

from llmflow.errors import InputError
from llmflow.rows.inputs import (
    MARK,
    Open,
    Reading,
    Row,
    Rows,
    decoded,
    marks_so_far,
    reading,
)

_Rows: TypeAlias = Generator[Row, None, "_Span | None"]

# The csv module refuses fields above 131,072 characters: long documents are
# longer. Some bound must stay, or an unclosed quote would read a whole file into
# memory as one field.
_FIELD_LIMIT: Final = 1 << 26
_SAMPLE: Final = 20
_MOST_ALIKE: Final = 0.8
_NAMES: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}


def csv_header(open_bytes: Open, how: Reading, default: str) -> tuple[str, ...]:
    """Return the first line's columns, detecting their delimiter."""
    with _text(open_bytes, how) as text:
        sample = list(islice(text, _SAMPLE))
    if how.delimiter is None:
        _find_delimiter(how, sample, default)
    with _text(open_bytes, how) as text:
        return _header(_reader(text, how), how)


def csv_rows(open_bytes: Open, how: Reading) -> Rows:
    """Yield one row per record; short records are padded with None."""
    marks = marks_so_far()
    with _text(open_bytes, how) as text:
        reader = _reader(text, how)
        header = _header(reader, how)
        span = yield from _rows(reader, header, how, marks)
    if span is None:
        return
    # There may be more of the kind: from here on what a record has taken is kept, so that
    # none of them needs the file from its beginning.
    with _text(open_bytes, how) as text:
        lines = _KeptLines(islice(text, span.first, None))
        lines.forget(span.last - span.first)
        yield from _rows_after(span, lines, header, how, marks)


def _rows_after(
    span: _Span | None, lines: _KeptLines, header: Sequence[str], how: Reading, marks: int
) -> Rows:
    """Yield the rows after an unreadable record, and after those that come then."""
    while span is not None:
        # Of a record over several lines: those after its first may be rows of their own.
        begun = span.last
        if _begins_row(lines.kept, len(header), how):
            begun = span.first
            lines.take_back()
        lines.kept.clear()
        reader = _reader(lines, how)
        span = yield from _rows(reader, header, how, marks, begun, lines)


class _Span(NamedTuple):
    """The lines of a record that cannot be read."""

    first: int
    last: int


class _KeptLines:
    """Lines, of which those of the record under way are kept and can be read again."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.kept: list[str] = []
        self._lines = lines
        self._back: deque[str] = deque()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._back.popleft() if self._back else next(self._lines)
        self.kept.append(line)
        return line

    def forget(self, count: int) -> None:
        """Read so many lines, and keep them alone."""
        self.kept = list(islice(self, count))

    def take_back(self) -> None:
        """Let the lines that are kept be read once more."""
        self._back.extendleft(reversed(self.kept))


def csv_stream_rows(stream: IO[bytes], how: Reading, default: str) -> Rows:
    """Yield the rows of a stream, once, without closing it."""
    marks = marks_so_far()
    with reading(how.name), decoded(stream, how.encoding, newline="") as text:
        first = list(islice(text, 1))
        if how.delimiter is None:
            # Of a pipe, no second line is waited for.
            _find_delimiter(how, first, default)
        # It cannot be opened once more, so the lines are kept from the beginning.
        lines = _KeptLines(chain(first, text))
        reader = _reader(lines, how)
        header = _header(reader, how)
        lines.kept.clear()
        span = yield from _rows(reader, header, how, marks, 0, lines)
        yield from _rows_after(span, lines, header, how, marks)


def _rows(
    reader: Any,
    header: Sequence[str],
    how: Reading,
    marks: int,
    skipped: int = 0,
    lines: _KeptLines | None = None,
) -> _Rows:
    """Yield the rows of the records to come.

    `skipped` lines came before the reader's first, `marks` were there before the text was opened.
    If `lines` are kept, those of an unreadable record after its first are kept, too.

    Returns:
        An unreadable record over several lines, after which another reader is to go on; None
        at the end.
    """
    width, line = len(header), reader.line_num
    while True:
        try:
            for values in reader:
                if marks_so_far() != marks and any(MARK in value for value in values):
                    yield _bad(values, skipped + line + 1, how.not_text, how)
                elif len(values) == width:
                    yield dict(zip(header, values, strict=True))
                elif len(values) > width:
                    yield _too_wide(values, skipped + reader.line_num, width, how)
                elif values:
                    yield dict.fromkeys(header) | dict(zip(header, values, strict=False))
                line = reader.line_num
                if lines is not None:
                    lines.kept.clear()
            return None
        except csv.Error as error:
            span = _Span(skipped + line + 1, skipped + reader.line_num)
            yield _unreadable(error, span, how)
            if lines is not None:
                del lines.kept[:1]
            if span.last > span.first:
                return span
            line = reader.line_num


def _bad(values: list[str], line: int, what: str, how: Reading) -> Row:
    raw = (how.delimiter or ",").join(values)
    return how.bad(f"{how.name}, line {line}: {what}", line=line, raw=raw)


def _too_wide(values: list[str], line: int, width: int, how: Reading) -> Row:
    what = (
        f"{len(values)} columns where the header names {width}; "
        f'put "..." around values that hold {how.delimiter!r}'
    )
    return _bad(values, line, what, how)


def _unreadable(error: csv.Error, span: _Span, how: Reading) -> Row:
    remedy = "" if "end of data" not in str(error) else ": a quote is opened and never closed"
    over = f" (it runs on to line {span.last})" if span.last > span.first else ""
    message = f"{how.name}, record at line {span.first}: {error}{remedy}{over}"
    return how.bad(message, error_from=error, line=span.first)


def _begins_row(lines: Sequence[str], width: int, how: Reading) -> bool:
    """Return whether the first of some lines is a whole row by itself.

    A quote that is not closed runs on into the rows after it, up to the next quote: these
    are not lost with it. But the lines of a text in quotes are no rows, and must not be asked.
    """
    if width < 2 or not lines:
        return False  # every line would look like one
    line = lines[0]
    if line.count('"') % 2:
        return False
    try:
        return [len(values) for values in _reader([line], how)] == [width]
    except csv.Error:
        return False


@contextmanager
def _text(open_bytes: Open, how: Reading) -> Iterator[io.TextIOWrapper]:
    # newline="" leaves line ends to the csv module, which must see those inside quotes.
    with reading(how.name), open_bytes() as raw, decoded(raw, how.encoding, newline="") as text:
        yield text


def _reader(lines: Iterable[str], how: Reading) -> Any:
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    # strict: without it a quote that is never closed swallows the rest in silence.
    return csv.reader(lines, delimiter=how.delimiter or ",", strict=True)


def _header(reader: Any, how: Reading) -> tuple[str, ...]:
    try:
        header = next((values for values in reader if values), None)
    except csv.Error as error:
        raise InputError(f"{how.name}, line 1: {error}") from None
    if header is None:
        raise InputError(f"{how.name} is empty: it needs a header line and rows")
    header[0] = header[0].removeprefix("\ufeff")
    if any(MARK in column for column in header):
        raise InputError(f"{how.name}, line {reader.line_num}: {how.not_text}")
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        raise InputError(f"{how.name}, line 1: the header names {doubled[0]!r} twice")
    return tuple(header)


def _find_delimiter(how: Reading, sample: list[str], default: str) -> None:
    """Set what separates the columns, by the header and the records after it.

    The usual one is left only where it separates nothing, or not the same number of
    columns, and another one does.
    """
    found = default
    if _widths(sample, default) and not _separates(sample, default):
        others = [each for each in _NAMES if each != default and _separates(sample, each)]
        found = max(others, key=lambda each: _widths(sample, each)[0], default=default)
    how.delimiter = found
    if found != default:
        how.remarks.append(
            f"{how.name}: the columns are separated by {_NAMES[found]} "
            "(--delimiter names another character)"
        )


def _separates(sample: list[str], delimiter: str) -> bool:
    """Return whether the header has several columns, and most records as many."""
    header, *widths = _widths(sample, delimiter) or [0]
    same = sum(width == header for width in widths)
    return header > 1 and same >= _MOST_ALIKE * len(widths)


def _widths(sample: list[str], delimiter: str) -> list[int]:
    """Return how many columns the records of a sample have."""
    widths: list[int] = []
    reader = csv.reader(sample, delimiter=delimiter)
    before = 0
    with suppress(csv.Error):
        for values in reader:
            # A quote that is not closed takes the whole sample with it: it tells nothing.
            if values and reader.line_num == before + 1:
                widths.append(len(values))
            elif values and not widths:
                return []  # a header of several lines: it was written by a program
            before = reader.line_num
    return widths
