"""Writes answers in any format, and failures to a second file."""

from __future__ import annotations

import csv
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Self, cast

from llmflow.errors import ConfigurationError
from llmflow.rows.cells import JsonLines, cell, json_line, json_text, without_formula
from llmflow.rows.output_files import (
    Appender,
    Partial,
    cannot_write,
    create_anew,
    followed,
    is_stdout,
    is_stream,
    partial_path,
)
from llmflow.rows.parquet import Parquet
from llmflow.rows.records import failed_path
from llmflow.surrogates import well_formed

if TYPE_CHECKING:
    from llmflow.typed.columns import Column

WRITABLE = ".jsonl, .ndjson, .csv, .tsv, .parquet, or - for stdout"
STREAM_FAILURES = "llmflow.failed.jsonl"
"""Where failures go when the answers go to a stream: in the working directory."""


class _Line:
    """Where a csv writer writes to: it hands back the line instead of keeping it."""

    def write(self, line: str) -> str:
        return line


class Csv(JsonLines):
    """One record per line, as RFC 4180 has it: UTF-8, CRLF.

    The columns are the fields known beforehand, then those of the first row, then
    any that later rows bring. Where later rows brought some, the file is written
    once more at the end with the full header: nothing is dropped, and the usual
    file costs nothing extra.
    """

    def __init__(
        self,
        suffix: str,
        fields: Sequence[str] = (),
        columns: Sequence[Column] = (),
        *,
        escape_formulas: bool = False,
    ) -> None:
        super().__init__(suffix)
        self._json = _json_names(columns)
        self._delimiter = "\t" if suffix == ".tsv" else ","
        self._columns = dict.fromkeys(fields)
        self._in_header = 0
        self._escapes = escape_formulas
        self._writer: Any = csv.writer(_Line(), delimiter=self._delimiter)

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Return a row as a record, with a header before the first."""
        columns = self._columns
        for name in self._json:  # else a text could not be told from other values
            if row.get(name) is not None:
                row = {**row, name: json_text(row[name])}
        if not row.keys() <= columns.keys():
            columns.update(dict.fromkeys(row))
        header = b""
        if not self._in_header:
            self._in_header = len(columns)
            header = self._header()
        values = [value if type(value) is str else cell(value) for value in map(row.get, columns)]
        if self._escapes:
            # Numbers of the row's own cannot be formulas, but for text nobody vouches.
            values = list(map(without_formula, values))
        return header + self._line(values)

    def ending(self) -> bytes:
        """Return the header if no row came."""
        if self._in_header or not self._columns:
            return b""
        return self._header()

    def finish(self, partial: Path, mode: int | None) -> Path:
        """Return the partial file, or a copy with late columns."""
        if len(self._columns) == self._in_header or not self._in_header:
            return partial
        whole = partial.with_suffix(f".whole{self.suffix}")
        width = len(self._columns)
        with (
            partial.open(encoding="utf-8", newline="") as rows,
            create_anew(whole, mode) as raw,
        ):
            out = Appender(raw, name=str(whole), flush_interval=60.0)
            csv.field_size_limit((1 << 31) - 1)
            records = csv.reader(rows, delimiter=self._delimiter, strict=True)
            next(records)
            out.append(self._header())
            for values in records:
                out.append(self._line(values + [""] * (width - len(values))))
            out.sync()
        partial.unlink()
        return whole

    def _header(self) -> bytes:
        names = list(self._columns)
        if self._escapes:
            names = list(map(without_formula, names))
        if any(other in name for name in names for other in ",;\t"):
            # Quoted, no name is taken for several columns by whoever looks what separates them.
            every = csv.writer(_Line(), delimiter=self._delimiter, quoting=csv.QUOTE_ALL)
            return self._encoded(every.writerow(names))
        return self._line(names)

    def _line(self, values: Any) -> bytes:
        return self._encoded(self._writer.writerow(values))

    def _encoded(self, line: Any) -> bytes:
        try:
            return bytes(line.encode())
        except UnicodeEncodeError:
            return well_formed(line).encode()


def _json_names(columns: Sequence[Column]) -> list[str]:
    """Return the columns with values of several types."""
    if not columns:
        return []
    from llmflow.typed.columns import JSON

    return [each.name for each in columns if each.kind == JSON]


class RowWriter:
    """Rows written as they come, under a temporary name until `commit`.

    Failures go to a second file of JSON lines, made when the first one comes. As
    a context manager it commits at the end, or, after an exception, keeps the
    partial file.

    >>> with open_output("summaries.jsonl") as out:  # doctest: +SKIP
    ...     out.write(RowLayout().answer(row, {"response": "A short text."}, 0))
    """

    def __init__(
        self,
        *,
        name: str,
        target: Path | None,
        failures: Path,
        encoding: JsonLines,
        stream: BinaryIO | None = None,
        closes: bool = True,
        keep_partial: bool = True,
        flush_interval: float = 1.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        """What to call the output in messages."""
        self.failed_path = failures
        """Where failures go; there is such a file only if there are any."""
        self.written = 0
        """Rows written so far."""
        self.failed = 0
        """Failures written so far."""
        self._target = target
        self._closes = closes
        self._format = encoding
        self._options: Any = {"flush_interval": flush_interval, "now": now}
        self._failures: Appender | None = None
        self._failed_file: Partial | None = None
        self._done = False
        self._keep_partial = keep_partial
        self._file: Partial | None = None
        if target:
            path = partial_path(target, encoding.suffix)
            self._file = Partial(path, target, keep=keep_partial)
            name, stream = str(self._file.path), self._file.raw
        elif stream is None:
            raise TypeError("RowWriter needs a target or a stream")
        self.partial_path = self._file.path if self._file else None
        """Where rows are until `commit`; None for a stream."""
        self.set_aside = self._file.set_aside if self._file else None
        """Where the rows of an earlier, unfinished run are now, or None."""
        self._out = Appender(stream, name=name, **self._options)

    def write(self, *rows: Mapping[str, Any]) -> None:
        """Add rows; they are written by block or flush interval.

        Raises:
            ConfigurationError: the disk is full, or standard output's reader is gone.
        """
        self._out.append(b"".join(map(self._format.encode, rows)))
        self.written += len(rows)

    def fail(self, row: Mapping[str, Any]) -> None:
        """Add one row to the file of failures.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        if self._failures is None:
            path = partial_path(self.failed_path)
            file = self._failed_file = Partial(
                path, self.failed_path, like=self._target, keep=self._keep_partial
            )
            self._failures = Appender(file.raw, name=str(file.path), **self._options)
        self._failures.append(json_line(row))
        self.failed += 1

    def flush(self) -> None:
        """Write pending rows, so that readers see all so far."""
        self._out.flush()
        if self._failures:
            self._failures.flush()

    def commit(self) -> None:
        """Finish: rename the files, and remove an earlier run's failures.

        Raises:
            ConfigurationError: a file cannot be written; what was written stays in
                the partial file.
        """
        if self._done:
            return
        try:
            if self._file:
                self._commit_rows(self._file)
            else:
                self._out.flush()
            self._commit_failures()
        finally:
            self._close()

    def abort(self, *, keep: bool = True) -> None:
        """Finish without the output's name: the run did not reach its end.

        Without `keep`, the partial files are removed.
        """
        if self._done:
            return
        try:
            if keep:
                self.flush()
        finally:
            self._close()
            if not keep and self.partial_path:
                self.partial_path.unlink(missing_ok=True)
            if not keep and self._failed_file:
                self._failed_file.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is None:
            self.commit()
            return
        try:
            self.abort()
        except ConfigurationError as second:
            # The first error is the reason; a full disk on top of it is a remark.
            error.add_note(str(second))

    def __repr__(self) -> str:
        return f"<RowWriter {self.name}: {self.written} written, {self.failed} failed>"

    def _commit_rows(self, file: Partial) -> None:
        self._out.append(self._format.ending())
        self._out.sync()
        file.check(self._out.size)
        if os.name == "nt":
            # Windows renames no open file; elsewhere the open file holds the lock.
            self._out.close()
        try:
            whole = self._format.finish(file.path, file.mode)
        except OSError as error:
            remedy = f"; the rows are in {file.path}"
            raise cannot_write(self._target or file.path, error, remedy) from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; the rows are in {file.path}") from error
        file.put_in_place(whole)

    def _commit_failures(self) -> None:
        if self._failures and self._failed_file:
            self._failures.sync()
            self._failed_file.check(self._failures.size)
            if os.name == "nt":
                self._failures.close()
            self._failed_file.put_in_place(self._failed_file.path)
            return
        try:
            self.failed_path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(self.failed_path, error) from error

    def _close(self) -> None:
        self._done = True
        if self._failures:
            self._failures.close()
        if self._closes:
            self._out.close()


def open_output(
    path: str | os.PathLike[str],
    *,
    fields: Sequence[str] | None = None,
    types: Mapping[str, Any] | None = None,
    columns: Sequence[Column] = (),
    inputs: Iterable[str | os.PathLike[str]] = (),
    stdout: IO[bytes] | None = None,
    keep_partial: bool = True,
    escape_formulas: bool = False,
    flush_interval: float = 1.0,
    now: Callable[[], float] = time.monotonic,
) -> RowWriter:
    """Open the output, and report what cannot work before any cost.

    The format follows the name: ``.jsonl``, ``.ndjson`` or no suffix (JSON lines),
    ``.csv``, ``.tsv``, ``.parquet``; ``-`` is standard output, as JSON lines.
    ``summaries.jsonl`` is ``summaries.partial.jsonl`` until it is whole, and its
    failures are ``summaries.failed.jsonl``. With ``-``, and with a pipe or device,
    failures are ``llmflow.failed.jsonl`` in the working directory.

    >>> out = open_output("summaries.csv", fields=["index", "text"])  # doctest: +SKIP

    Args:
        path: a path, or ``-``.
        fields: columns known beforehand, for formats that have columns.
        types: Arrow types that columns of a Parquet file are to have, where they are known.
        columns: the fields of answers, with the kinds of their values.
        inputs: paths that the run reads; it must not write over them.
        stdout: the binary stream that ``-`` means; by default the process's own.
        keep_partial: move the rows of an earlier, unfinished run away instead of replacing them.
        escape_formulas: put an apostrophe before text that a spreadsheet would take for a
            formula; for CSV and TSV only.
        flush_interval: seconds that a row may wait before it is in the file. A
            stream gets every row at once.
        now: a clock in seconds that never goes back.

    Raises:
        ConfigurationError: it cannot be written, or its format is not known.
        MissingExtraError: Parquet without pyarrow.
    """
    name = os.fspath(path)
    if escape_formulas and (is_stdout(name) or is_stream(name)):
        raise _no_table(name)
    if is_stdout(name):
        stream = sys.stdout.buffer if stdout is None else stdout
        return _stream_writer("<stdout>", cast("BinaryIO", stream), closes=False)
    if is_stream(name):
        # A pipe or a device such as /dev/null must not be replaced by a file. It is opened by
        # the name given: what /dev/fd/3 points to has no name that could be opened.
        return _stream_writer(name, _open_device(Path(path)), closes=True)
    target = followed(Path(path))
    failures = failed_path(target)
    for source in inputs:
        for mine in (target, failures):
            try:
                is_input = mine.exists() and Path(source).exists() and mine.samefile(source)
            except OSError as error:
                raise cannot_write(mine, error) from error
            if is_input:
                raise ConfigurationError(
                    f"{source} is read by this run and would be written over; name another output"
                )
    return RowWriter(
        name=name,
        target=target,
        failures=failures,
        encoding=_format_of(target, fields or (), types, columns, escape_formulas=escape_formulas),
        keep_partial=keep_partial,
        flush_interval=flush_interval,
        now=now,
    )


def partial_file(output: str) -> Path:
    """Return the path of an output's rows while it is incomplete.

    Raises:
        ConfigurationError: there can be no such file.
    """
    target = followed(Path(output))
    of_parquet = target.suffix.lower() == ".parquet"
    return partial_path(target, JsonLines().suffix if of_parquet else None)


def _stream_writer(name: str, stream: BinaryIO, *, closes: bool) -> RowWriter:
    return RowWriter(
        name=name,
        target=None,
        failures=Path(STREAM_FAILURES),
        encoding=JsonLines(),
        stream=stream,
        closes=closes,
        flush_interval=0.0,
    )


def _open_device(path: Path) -> BinaryIO:
    try:
        return path.open("wb", buffering=0)
    except OSError as error:
        raise cannot_write(path, error) from error


def _format_of(
    path: Path,
    fields: Sequence[str],
    types: Mapping[str, Any] | None,
    columns: Sequence[Column],
    *,
    escape_formulas: bool,
) -> JsonLines:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return Csv(suffix, fields, columns, escape_formulas=escape_formulas)
    if escape_formulas:
        raise _no_table(str(path))
    if suffix in ("", ".jsonl", ".ndjson"):
        return JsonLines(path.suffix)
    if suffix == ".parquet":
        return Parquet(fields, types, columns)
    raise ConfigurationError(f"{path}: unknown format; writable are {WRITABLE}")


def _no_table(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"formulas are escaped in .csv and .tsv only, and {name} is neither: leave out "
        "--escape-formulas (escape_formulas), or name another output"
    )
