"""Output formats: JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from llmflow.rows import parquet
from llmflow.rows.cells import cell, json_line, well_formed, without_formula
from llmflow.rows.output_files import Appender
from llmflow.rows.partial import create_anew


class Format(Protocol):
    """One output format."""

    suffix: str
    """The suffix of the partial file."""

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Return a row's bytes."""
        ...

    def ending(self) -> bytes:
        """Return what the partial file still lacks."""
        ...

    def finish(self, partial: Path, mode: int | None, /) -> Path:
        """Return the final file, made from the partial one."""
        ...


class JsonLines:
    """One JSON object per line."""

    def __init__(self, suffix: str = ".jsonl") -> None:
        self.suffix = suffix

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Return a row as one line."""
        return json_line(row)

    def ending(self) -> bytes:
        """Return nothing: the rows are all there is."""
        return b""

    def finish(self, partial: Path, _mode: int | None) -> Path:
        """Return the partial file: it is complete."""
        return partial


class _Line:
    """Where a csv writer writes to: it hands back the line instead of keeping it."""

    def write(self, line: str) -> str:
        return line


class Csv:
    """One record per line, as RFC 4180 has it: UTF-8, CRLF.

    The columns are the fields known beforehand, then those of the first row, then
    any that later rows bring. Where later rows brought some, the file is written
    once more at the end with the full header: nothing is dropped, and the usual
    file costs nothing extra.
    """

    def __init__(
        self, suffix: str, fields: Sequence[str] = (), *, escape_formulas: bool = False
    ) -> None:
        self.suffix = suffix
        self._delimiter = "\t" if suffix == ".tsv" else ","
        self._columns = dict.fromkeys(fields)
        self._in_header = 0
        self._escapes = escape_formulas
        self._writer: Any = csv.writer(_Line(), delimiter=self._delimiter)

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Return a row as a record, with a header before the first."""
        columns = self._columns
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


class Parquet:
    """A Parquet file, made at the end from JSON lines.

    Parquet fixes a column's type before its first value and is unreadable without
    its last bytes. So the rows wait as JSON lines, which a crash leaves intact, and
    the types come from all rows. Columns hold truth values, 64-bit integers, 64-bit
    floats or text; mixed kinds, lists and objects become text. Columns of a Parquet
    input keep its types.
    """

    suffix = ".jsonl"

    def __init__(self, fields: Sequence[str] = (), types: Mapping[str, Any] | None = None) -> None:
        pa = parquet.need_pyarrow()
        self._kinds: parquet.Kinds = {name: set() for name in fields}
        self._types = types or {}
        self._spelled = [
            name for name, kind in self._types.items() if parquet.needs_spelling(pa, kind)
        ]

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Return a row as one line of JSON, and remember its types."""
        parquet.note_kinds(self._kinds, row)
        if self._spelled:
            row = {**row, **{name: parquet.spelled(row.get(name)) for name in self._spelled}}
        return json_line(row)

    def ending(self) -> bytes:
        """Return nothing: the rows are all there is."""
        return b""

    def finish(self, partial: Path, mode: int | None) -> Path:
        """Return the Parquet file made from the partial one."""
        whole = partial.with_suffix(".parquet")
        with create_anew(whole, mode) as raw:
            parquet.write_parquet(partial, raw, self._kinds, self._types)
            os.fsync(raw.fileno())
        partial.unlink()
        return whole
