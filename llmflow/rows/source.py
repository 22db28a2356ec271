"""Opens the source of rows: a file, folder or standard input."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import IO, Any, Final, Literal, Self

from llmflow.errors import InputError
from llmflow.rows.csv_tables import csv_header, csv_rows, csv_stream_rows
from llmflow.rows.inputs import (
    BOM,
    Reading,
    Repaired,
    Row,
    Rows,
    checked_delimiter,
    checked_encoding,
    opener,
    reading,
)
from llmflow.rows.json_lines import FORMATS as _LINES
from llmflow.rows.json_lines import line_rows, stream_rows
from llmflow.surrogates import well_formed

READABLE = ".jsonl, .ndjson, .csv, .tsv, .txt (also with .gz), .parquet, a folder, or - for stdin"
FORMATS: Final = ("jsonl", "csv", "tsv", "txt")
"""What `open_rows` takes as a format."""
_SUFFIXES: Final = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
}
_TEXTS: Final = (".txt", ".md")
"""The files of a folder that are rows."""
_TABLES: Final = {"csv": ",", "tsv": "\t"}
"""What separates their columns, unless the text says otherwise."""


class RowSource:
    """Rows, read on demand in constant memory.

    Iterating starts at the first row each time, except for standard input and
    pipes, which can be read once. Rows are plain dicts; a row's position is its
    number in this order, counted from 0.

    >>> for index, row in enumerate(open_rows("texts.jsonl")):  # doctest: +SKIP
    ...     print(index, row["text"])

    Use it as a context manager, or call `close`, to close the file early.
    """

    def __init__(
        self,
        start: Callable[[], Rows],
        *,
        how: Reading,
        fields: tuple[str, ...] | None = None,
        types: Mapping[str, Any] | None = None,
        limit: int | None = None,
        once: bool = False,
    ) -> None:
        self.name = how.name
        """What to call the source in messages."""
        self._how = how
        self.fields = fields
        """The rows' fields where the format fixes them, else None."""
        self.types = types
        """Their Arrow types, of a Parquet file."""
        self._start = start
        self._limit = limit
        self.once = once
        """Whether it can be read once only, and may block: a pipe or standard input."""
        self._single: Rows | None = None
        self._ahead: list[Row] = []
        self._open: list[Rows] = []

    @property
    def remarks(self) -> tuple[str, ...]:
        """Surprising findings about it, such as another delimiter."""
        return tuple(self._how.remarks)

    @property
    def repaired(self) -> str | None:
        """Counts of values repaired in the last reading, or None."""
        words = self._how.repaired.words()
        return None if words is None else f"{self.name}: {words}"

    def __iter__(self) -> Iterator[Row]:
        rows, ahead = self._begin(), self._ahead
        self._ahead = []
        try:
            found = (
                rows
                if self._limit is None and not ahead
                else islice(chain(ahead, rows), self._limit)
            )
            first = next(found, None)
            if first is None:
                raise InputError(f"{self.name} has no rows")
            yield first
            yield from found
        finally:
            self._end(rows)

    def head(self, count: int = 1) -> list[Row]:
        """Return the first rows, so that errors show before any work.

        Nothing is used up: iterating afterwards starts at the first row, also on
        standard input.

        Raises:
            InputError: the source cannot be read, or has no rows.
        """
        if not self.once:
            rows = iter(self)
            try:
                return list(islice(rows, count))
            finally:
                rows.close()  # type: ignore[attr-defined]  # it is a generator
        self._single = self._single or self._opened()
        wanted = count if self._limit is None else min(count, self._limit)
        self._ahead += islice(self._single, max(0, wanted - len(self._ahead)))
        if not self._ahead:
            raise InputError(f"{self.name} has no rows")
        return self._ahead[:wanted]

    def close(self) -> None:
        """Close what is open. Doing so twice is fine."""
        for rows in self._open:
            _close(rows)
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RowSource {self.name}>"

    def _begin(self) -> Rows:
        if not self.once:
            self._how.repaired = Repaired()
            return self._opened()
        rows = self._single or self._opened()
        self._single, self._start = None, self._used_up
        return rows

    def _opened(self) -> Rows:
        rows = self._start()
        self._open.append(rows)
        return rows

    def _end(self, rows: Rows) -> None:
        _close(rows)
        if rows in self._open:
            self._open.remove(rows)

    def _used_up(self) -> Rows:
        raise InputError(f"{self.name} can be read only once; save it to a file first")


def open_rows(
    source: str | os.PathLike[str],
    *,
    text_field: str = "text",
    stdin: IO[bytes] | None = None,
    limit: int | None = None,
    format: str | None = None,  # noqa: A002 - what users would call it
    encoding: str | None = None,
    delimiter: str | None = None,
    bad_rows: Literal["raise", "keep"] = "raise",
) -> RowSource:
    """Open a file, a folder or standard input as rows.

    The format follows the name: ``.jsonl`` and ``.ndjson`` (one object per line),
    ``.csv`` and ``.tsv`` (with a header), ``.txt`` (one text per line), each also
    with ``.gz``; ``.parquet``; a folder (one row per ``.txt`` or ``.md`` file, with
    ``file`` and the text); ``-`` for standard input (JSON lines or one text per line).
    Values of a CSV are text.

    >>> rows = open_rows("reviews.csv", limit=100)  # doctest: +SKIP

    Args:
        source: a path, or ``-``.
        text_field: the field that a bare text goes to.
        stdin: the binary stream that ``-`` means; by default the process's own.
        limit: stop after this many rows; None reads all.
        format: ``jsonl``, ``csv``, ``tsv`` or ``txt``, where the name does not tell, as with
            standard input.
        encoding: of the text; by default UTF-8.
        delimiter: the character between the columns of a CSV; by default a comma, or what the
            header says: a semicolon or a tab.
        bad_rows: whether a row that cannot be read is raised, or is a `BadRow` in its place, so
            that those after it are read.

    Raises:
        InputError: there is nothing to read, or its format is not known.
        MissingExtraError: Parquet without pyarrow.
    """
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise InputError(f"limit must be at least 1 row; got {limit!r}")
    if format is not None and format not in FORMATS:
        raise InputError(f"format must be {', '.join(FORMATS)}; got {format!r}")
    name = os.fspath(source)
    how = Reading(
        name="<stdin>" if name == "-" else well_formed(name),
        text_field=text_field,
        keeps_bad=bad_rows == "keep",
        encoding=checked_encoding(encoding),
        delimiter=checked_delimiter(delimiter),
    )
    if name == "-":
        stream = sys.stdin.buffer if stdin is None else stdin
        return _open_stream(lambda: nullcontext(stream), how, format, limit)
    path = Path(source)
    with reading(how.name):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(_no_file(path)) from None
        if S_ISDIR(mode):
            return _open_folder(path, how, format, limit)
        if not S_ISREG(mode):
            # A pipe, such as the shell's <(...): its name tells nothing.
            return _open_stream(lambda: path.open("rb"), how, format, limit)
        path.open("rb").close()
    return _open_file(path, how, format, limit)


def _open_stream(
    opened: Callable[[], AbstractContextManager[IO[bytes]]],
    how: Reading,
    kind: str | None,
    limit: int | None,
) -> RowSource:
    if kind not in _TABLES:
        _check_options(how, kind or "a stream of lines")

    def rows() -> Rows:
        with reading(how.name), opened() as stream:
            if kind in _TABLES:
                yield from csv_stream_rows(stream, how, _TABLES[kind])
            else:
                yield from stream_rows(stream, how, kind)

    return RowSource(rows, how=how, limit=limit, once=True)


def _open_file(path: Path, how: Reading, kind: str | None, limit: int | None) -> RowSource:
    opened = opener(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    suffix = "".join(suffixes[-2:-1] if packed else suffixes[-1:])
    kind = kind or _SUFFIXES.get(suffix)
    if kind in _LINES:
        _check_options(how, kind)
        return RowSource(partial(line_rows, opened, how, _LINES[kind]), how=how, limit=limit)
    if kind in _TABLES:
        fields = csv_header(opened, how, _TABLES[kind])
        return RowSource(partial(csv_rows, opened, how), how=how, fields=fields, limit=limit)
    if suffix == ".parquet" and not packed:
        from llmflow.rows import parquet

        _check_options(how, "Parquet", text=False)
        types = parquet.column_types(path)
        start = partial(parquet.parquet_rows, path)
        return RowSource(start, how=how, fields=tuple(types), types=types, limit=limit)
    remedy = "" if suffix in _SUFFIXES else " --format names that of another file."
    if suffix == ".json":
        remedy = " `jq -c '.[]' FILE.json > FILE.jsonl` rewrites a JSON array."
    raise InputError(f"{how.name}: unknown format; readable are {READABLE}.{remedy}")


def _open_folder(path: Path, how: Reading, kind: str | None, limit: int | None) -> RowSource:
    if kind is not None:
        raise InputError(f"{how.name} is a folder, of which each file is a row: it has no format")
    _check_options(how, "a folder")
    if next(_folder_files(path), None) is None:
        raise InputError(f"{how.name} has no text files (.txt or .md)")
    return RowSource(
        partial(_folder_rows, path, how),
        how=how,
        fields=("file", how.text_field),
        limit=limit,
    )


def _folder_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the texts of a folder and its subfolders, by name.

    Hidden files and folders are passed over, and links to folders are not followed.
    """
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            for name, file in _folder_files(path):
                yield f"{entry.name}/{name}", file
        elif path.suffix.lower() in _TEXTS and entry.is_file():
            yield entry.name, path


def _folder_rows(folder: Path, how: Reading) -> Rows:
    """Yield one row per text file, with its relative name."""
    with reading(how.name):
        for name, path in _folder_files(folder):
            yield _file_row(well_formed(name), path, how)


def _file_row(name: str, path: Path, how: Reading) -> Row:
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        return how.bad(f"{path} cannot be read: {reason}", error_from=error, file=name)
    encoding = how.encoding or "utf-8"
    try:
        text = raw.removeprefix(BOM).decode(encoding)
    except UnicodeError as error:
        line = raw.count(b"\n", 0, getattr(error, "start", 0)) + 1
        return how.bad(f"{path}, line {line}: {how.not_text}", file=name)
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").rstrip()
    return {"file": name, how.text_field: text}


def _check_options(how: Reading, what: str, *, text: bool = True) -> None:
    """Refuse what would have no effect: it was meant to have one."""
    if how.delimiter is not None:
        raise InputError(f"delimiter is for CSV, and {how.name} is {what}: leave it out")
    if not text and how.encoding is not None:
        raise InputError(f"encoding is for text, and {how.name} is {what}: leave it out")


def _close(rows: Rows) -> None:
    # A thread may be waiting inside for a pipe on which nothing comes. Nobody can end
    # that but the pipe; the thread must not keep anything else from ending.
    with suppress(ValueError):
        rows.close()  # type: ignore[attr-defined]  # every source is a generator


def _no_file(path: Path) -> str:
    """Say that a file is missing, and which one there may have been meant."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return f"{path}: there is no such file"
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"{path}: there is no such file" + (f"; did you mean {near[0]!r}?" if near else "")
