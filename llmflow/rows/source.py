"""Where the rows come from: one name for a file, a folder or standard input."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from types import TracebackType
from typing import IO, Any, Self

from llmflow.errors import InputError
from llmflow.rows import readers
from llmflow.rows.readers import Row, Rows

READABLE = ".jsonl, .ndjson, .csv, .tsv, .txt (also with .gz), .parquet, a folder, or - for stdin"


class RowSource:
    """Rows, read as they are asked for; memory does not grow with the source.

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
        name: str,
        fields: tuple[str, ...] | None = None,
        limit: int | None = None,
        count: Callable[[], int] | None = None,
        once: bool = False,
    ) -> None:
        self.name = name
        """What to call the source in messages."""
        self.fields = fields
        """The rows' fields where the format fixes them, else None."""
        self._start = start
        self._limit = limit
        self._count = count
        self.once = once
        """Whether it can be read once only, and may block: a pipe or standard input."""
        self._single: Rows | None = None
        self._ahead: list[Row] = []
        self._open: list[Rows] = []

    def __iter__(self) -> Iterator[Row]:
        rows, ahead = self._begin(), self._ahead
        self._ahead = []
        seen = False
        try:
            for row in islice(chain(ahead, rows), self._limit):
                seen = True
                yield row
        finally:
            self._end(rows)
        if not seen:
            raise InputError(f"{self.name} has no rows")

    def head(self, count: int = 1) -> list[Row]:
        """Return the first rows, so that what is wrong with them shows before any work.

        Nothing is used up: iterating afterwards starts at the first row, also on
        standard input.

        Args:
            count: how many rows at most.

        Raises:
            InputError: the source cannot be read, or has no rows.

        """
        if not self.once:
            rows = iter(self)
            try:
                return list(islice(rows, count))
            finally:
                rows.close()  # type: ignore[attr-defined]  # it is a generator
        if self._single is None:
            self._single = self._start()
            self._open.append(self._single)
        wanted = count if self._limit is None else min(count, self._limit)
        self._ahead += islice(self._single, max(0, wanted - len(self._ahead)))
        if not self._ahead:
            raise InputError(f"{self.name} has no rows")
        return self._ahead[:wanted]

    def count(self) -> int | None:
        """Return how many rows there are, or None where only reading them all could tell.

        A file of lines is counted at about ten million lines a second, a CSV at a
        million.
        """
        if self._count is None:
            return None
        total = self._count()
        return total if self._limit is None else min(total, self._limit)

    def close(self) -> None:
        """Close what is open. Doing so twice is fine."""
        for rows in self._open:
            _close(rows)
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RowSource {self.name}>"

    def _begin(self) -> Rows:
        if not self.once:
            rows = self._start()
        elif self._single is not None:
            rows, self._single = self._single, None
            self._start = self._used_up
            return rows
        else:
            rows, self._start = self._start(), self._used_up
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
) -> RowSource:
    """Open a file, a folder or standard input as rows.

    The format follows the name: ``.jsonl`` and ``.ndjson`` (one object per line),
    ``.csv`` and ``.tsv`` (with a header), ``.txt`` (one text per line), each also
    with ``.gz``; ``.parquet``; a folder (one row per ``.txt`` or ``.md`` file, with
    ``file`` and the text); ``-`` for standard input (JSON lines or one text per line).
    Values of a CSV are text. Integers above 64 bits in JSON are read as floats; write
    such ids as text.

    >>> rows = open_rows("reviews.csv", limit=100)  # doctest: +SKIP

    Args:
        source: a path, or ``-``.
        text_field: the field that a bare text goes to.
        stdin: the binary stream that ``-`` means; by default the process's own.
        limit: stop after this many rows; None reads all.

    Raises:
        InputError: there is nothing to read, or its format is not known.
        MissingExtraError: Parquet without pyarrow.

    """
    if limit is not None and (isinstance(limit, bool) or limit < 1):
        raise InputError(f"limit must be at least 1 row; got {limit!r}")
    if os.fspath(source) == "-":
        stream = sys.stdin.buffer if stdin is None else stdin
        start = partial(readers.stream_rows, stream, name="<stdin>", text_field=text_field)
        return RowSource(start, name="<stdin>", limit=limit, once=True)
    path, name = Path(source), os.fspath(source)
    with readers.reading(name):
        try:
            mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(_no_file(path)) from None
        if S_ISDIR(mode):
            return _open_folder(path, text_field=text_field, limit=limit)
        if not S_ISREG(mode):
            # A pipe, such as the shell's <(...): its name tells nothing.
            start = partial(_pipe_rows, path, text_field=text_field)
            return RowSource(start, name=name, limit=limit, once=True)
        path.open("rb").close()
    return _open_file(path, text_field=text_field, limit=limit)


def _open_file(path: Path, *, text_field: str, limit: int | None) -> RowSource:
    name, opener = str(path), readers.opener(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    suffix = "".join(suffixes[-2:-1] if packed else suffixes[-1:])
    if suffix in (".jsonl", ".ndjson", ".txt"):
        rows = readers.text_rows if suffix == ".txt" else readers.json_rows
        start = partial(readers.line_rows, opener, name=name, text_field=text_field, rows=rows)
        count = partial(readers.count_lines, opener, name=name)
        return RowSource(start, name=name, limit=limit, count=count)
    if suffix in (".csv", ".tsv"):
        options: dict[str, Any] = {"name": name, "delimiter": "\t" if suffix == ".tsv" else ","}
        start = partial(readers.csv_rows, opener, **options)
        fields = readers.csv_header(opener, **options)
        return RowSource(
            start, name=name, fields=fields, limit=limit, count=lambda: sum(1 for _ in start())
        )
    if suffix == ".parquet" and not packed:
        from llmflow.rows import parquet

        fields, total = parquet.describe(path)
        start = partial(parquet.parquet_rows, path)
        return RowSource(start, name=name, fields=fields, limit=limit, count=lambda: total)
    remedy = ""
    if suffix == ".json":
        remedy = " `jq -c '.[]' FILE.json > FILE.jsonl` rewrites a JSON array."
    raise InputError(f"{name}: unknown format; readable are {READABLE}.{remedy}")


def _open_folder(path: Path, *, text_field: str, limit: int | None) -> RowSource:
    if next(readers.folder_files(path), None) is None:
        raise InputError(f"{path} has no text files (.txt or .md)")
    return RowSource(
        partial(readers.folder_rows, path, text_field=text_field),
        name=str(path),
        fields=("file", text_field),
        limit=limit,
        count=lambda: sum(1 for _ in readers.folder_files(path)),
    )


def _pipe_rows(path: Path, *, text_field: str) -> Rows:
    with readers.reading(str(path)), path.open("rb") as stream:
        yield from readers.stream_rows(stream, name=str(path), text_field=text_field)


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
