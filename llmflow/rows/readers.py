"""Rows from lines, tables and folders: generators that hold one row at a time.

Every generator opens its file when it starts and closes it when it ends, breaks or
is closed. What is wrong with the input becomes an `InputError` that names the place.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import orjson

from llmflow.errors import InputError

Row = dict[str, Any]
Rows = Iterator[Row]
Open = Callable[[], IO[bytes]]
"""How a source's bytes are opened; each call starts at the beginning."""

TEXT_SUFFIXES = (".txt", ".md")
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")
# The csv module refuses fields above 131,072 characters: long documents are
# longer. Some bound must stay, or an unclosed quote would read a whole file into
# memory as one field.
_FIELD_LIMIT = 1 << 26
_UTF8 = "the text is not UTF-8. Is it Latin-1 or UTF-16? Save it as UTF-8."


def opener(path: Path) -> Open:
    """Return how to open a file's bytes; ``.gz`` is unpacked on the way."""
    if path.suffix.lower() == ".gz":
        return lambda: cast("IO[bytes]", gzip.open(path, "rb"))
    return lambda: path.open("rb")


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn failures of the file system and of gzip into one line for the user."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file") from None
    except PermissionError:
        raise InputError(f"{name} cannot be read: permission denied") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{name} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from None


def json_rows(lines: Iterable[bytes], *, name: str, text_field: str) -> Rows:
    """Yield one row per line of JSON: an object, or a text for `text_field`."""
    loads = orjson.loads
    number = 0
    for line in _without_bom(lines, name):
        number += 1
        try:
            row = loads(line)
        except orjson.JSONDecodeError as error:
            if line.isspace():
                continue
            raise InputError(_broken_line(line, number, name, error)) from None
        if type(row) is dict:
            yield row
        elif type(row) is str:
            yield {text_field: row}
        else:
            kind = "an array" if type(row) is list else "null" if row is None else "a bare value"
            raise InputError(
                f"{name}, line {number}: {kind}; each line must be a JSON object, "
                'such as {"text": "..."}, or a JSON string'
            )


def text_rows(lines: Iterable[bytes], *, name: str, text_field: str) -> Rows:
    """Yield one row per line of text; blank lines are skipped."""
    number = 0
    for line in _without_bom(lines, name):
        number += 1
        if line.isspace():
            continue
        try:
            yield {text_field: line.decode().rstrip("\r\n")}
        except UnicodeDecodeError:
            raise InputError(f"{name}, line {number}: {_UTF8}") from None


def stream_rows(stream: IO[bytes], *, name: str, text_field: str) -> Rows:
    """Yield rows of a stream whose format its first line with content tells.

    A line that begins with ``{`` promises JSON. A prompt is never made from what
    only might be JSON: a broken line is an error, not a text to pay for.
    """
    with reading(name):
        begun: list[bytes] = []
        first = b""
        for line in stream:
            begun.append(line)
            first = line.removeprefix(_BOM).strip()
            if first:
                break
        rows = json_rows if first.startswith(b"{") else text_rows
        yield from rows(chain(begun, stream), name=name, text_field=text_field)


def line_rows(open_bytes: Open, *, name: str, text_field: str, rows: Callable[..., Rows]) -> Rows:
    """Yield the rows of a file of lines, which is closed at the end."""
    with reading(name), open_bytes() as lines:
        yield from rows(lines, name=name, text_field=text_field)


def count_lines(open_bytes: Open, *, name: str) -> int:
    """Return how many lines have content."""
    with reading(name), open_bytes() as lines:
        return sum(not line.isspace() for line in lines)


def csv_header(open_bytes: Open, *, name: str, delimiter: str) -> tuple[str, ...]:
    """Return the columns that the first line names."""
    with reading(name), open_bytes() as raw, _text(raw) as text:
        return _header(_csv_reader(text, delimiter), open_bytes, name)


def csv_rows(open_bytes: Open, *, name: str, delimiter: str) -> Rows:
    """Yield one row per record; a short record has None in its last columns."""
    with reading(name), open_bytes() as raw, _text(raw) as text:
        reader = _csv_reader(text, delimiter)
        header = _header(reader, open_bytes, name)
        width = len(header)
        for values in _records(reader, open_bytes, name):
            if len(values) == width:
                yield dict(zip(header, values, strict=True))
            elif len(values) < width:
                yield dict.fromkeys(header) | dict(zip(header, values, strict=False))
            else:
                raise InputError(
                    f"{name}, line {reader.line_num}: {len(values)} columns where the header "
                    f'names {width}; put "..." around values that hold {delimiter!r}'
                )


def folder_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the texts in a folder and below, in the order of their names.

    Hidden files and folders are passed over, and links to folders are not followed.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            for name, file in folder_files(path):
                yield f"{entry.name}/{name}", file
        elif path.suffix.lower() in TEXT_SUFFIXES and entry.is_file():
            yield entry.name, path


def folder_rows(folder: Path, *, text_field: str) -> Rows:
    """Yield one row per text file, with its name relative to the folder."""
    with reading(str(folder)):
        for name, path in folder_files(folder):
            yield {"file": name, text_field: _read_text(path)}


def _read_text(path: Path) -> str:
    with reading(str(path)):
        raw = path.read_bytes().removeprefix(_BOM)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {number}: {_UTF8}") from None
    return text.replace("\r\n", "\n").rstrip()


def _without_bom(lines: Iterable[bytes], name: str) -> Iterable[bytes]:
    """Return the lines without the mark that some editors put first."""
    rest = iter(lines)
    first = next(rest, b"")
    if first.startswith(_WIDE_BOMS):
        raise InputError(f"{name}, line 1: {_UTF8}")
    return chain((first.removeprefix(_BOM),), rest) if first else ()


def _broken_line(line: bytes, number: int, name: str, error: orjson.JSONDecodeError) -> str:
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return f"{name}, line {number}: {_UTF8}"
    if text.strip() in ("{", "[", "[{"):
        return (
            f"{name}, line {number}: one JSON value over several lines; each line must be a whole "
            "object. `jq -c '.[]?' FILE > FILE.jsonl` rewrites an array."
        )
    shown = text.strip()
    shown = shown if len(shown) <= 60 else shown[:59] + "…"
    return f"{name}, line {number}: not valid JSON ({error.msg} at column {error.colno}): {shown!r}"


def _text(raw: IO[bytes]) -> io.TextIOWrapper:
    # newline="" leaves line ends to the csv module, which must see those inside quotes.
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="")


def _csv_reader(text: io.TextIOWrapper, delimiter: str) -> Any:
    csv.field_size_limit(max(csv.field_size_limit(), _FIELD_LIMIT))
    # strict: without it a quote that is never closed swallows the rest in silence.
    return csv.reader(text, delimiter=delimiter, strict=True)


def _records(reader: Any, open_bytes: Open, name: str) -> Iterator[list[str]]:
    """Yield the records that are not blank; say where one cannot be read."""
    line = 0
    try:
        for values in reader:
            line = reader.line_num
            if values:
                yield values
    except csv.Error as error:
        remedy = "" if "end of data" not in str(error) else ": a quote is opened and never closed"
        raise InputError(f"{name}, record at line {line + 1}: {error}{remedy}") from None
    except UnicodeDecodeError:
        raise InputError(f"{name}, line {_bad_line(open_bytes, line + 1)}: {_UTF8}") from None


def _header(reader: Any, open_bytes: Open, name: str) -> tuple[str, ...]:
    header = next(_records(reader, open_bytes, name), None)
    if header is None:
        raise InputError(f"{name} is empty: it needs a header line and rows")
    doubled = sorted({column for column in header if header.count(column) > 1})
    if doubled:
        raise InputError(f"{name}, line 1: the header names {doubled[0]!r} twice")
    return tuple(header)


def _bad_line(open_bytes: Open, otherwise: int) -> int:
    """Return the first line that is not UTF-8: text is decoded in blocks, without line numbers."""
    with open_bytes() as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return otherwise
