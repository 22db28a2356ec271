"""Reads result files in a thread, in pieces of bounded size.

What stands in them is somebody else's: a line without end, millions of blank lines, values
that take seconds to be parsed. None of that stops the event loop or fills the memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Generic, NamedTuple, TypeVar

from llmflow.batch.blocking import in_thread
from llmflow.batch_api import FileBounds

_R = TypeVar("_R")

LONGEST_LINE: Final = 64 * 2**20
# Rows that are held longer than a moment are what the garbage collector looks through.
_ROWS_AT_ONCE: Final = 25
_LINES_AT_ONCE: Final = 1000
# Several jobs, and threads, do so at once.
_READ_AT_ONCE: Final = 2**18
_LARGE: Final = 2**18
_START: Final = 4096
_BLANK: Final = b" \t\r\n\xef\xbb\xbf"
# A line break that is not escaped, within an answer, cuts a row in two.
_MOST_JOINS: Final = 16
_MOST_PARTS: Final = 10_000

# A row's answer, its log probabilities among it, is on average less than this.
_BYTES_OF_A_ROW: Final = 4 * 2**20
_LINES_OF_A_ROW: Final = 100
_SPARE_LINES: Final = 100_000


def bounds_for(rows: int) -> FileBounds:
    """Return the size limits of a result file of so many rows."""
    return FileBounds(
        size=LONGEST_LINE + rows * _BYTES_OF_A_ROW,
        lines=_SPARE_LINES + rows * _LINES_OF_A_ROW,
    )


class Unread(NamedTuple):
    """A line that is no row.

    Args:
        start: how it begins.
        is_too_long: whether it has more bytes than are read.
    """

    start: bytes
    is_too_long: bool = False


class Results(Generic[_R]):
    """The rows in files of results, in pieces.

    Lines come from a thread, and large ones are read there, too. A row that raw line breaks
    within its strings have cut is put together again.

    Args:
        paths: the files.
        read: reads one line; raises `ValueError` where it is no row.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[bytes], _R]) -> None:
        self._paths = list(paths)
        self._read = read
        self._at = 0
        self._is_open = False
        self._parts: list[bytes] = []
        self._joined = 0
        self._joins = 0

    async def __aiter__(self) -> AsyncIterator[list[_R | Unread]]:
        while self._paths:
            lines = await in_thread(self._lines)
            # A thread costs more than a turn of the event loop, and a turn is not to take long.
            for start in range(0, len(lines) or 1, _ROWS_AT_ONCE):
                if start:
                    await asyncio.sleep(0)
                end = start + _ROWS_AT_ONCE
                found = await self._rows(lines[start:end])
                if not self._at and end >= len(lines):  # a row does not go on in the next file
                    found += self._given_up()
                yield found

    async def _rows(self, lines: Sequence[bytes | Unread]) -> list[_R | Unread]:
        found: list[_R | Unread] = []
        for line in lines:
            if isinstance(line, Unread):
                found += (*self._given_up(), line)
                continue
            row = await row_in(line, self._read) if len(line) > _LARGE else self._row(line)
            if row is None:
                found += await self._take_part(line)
            else:
                if self._parts:
                    found += self._given_up()
                found.append(row)
        return found

    def _lines(self) -> list[bytes | Unread]:
        """Return the next lines: a few, or none where there is much to be left out."""
        lines: list[bytes | Unread] = []
        # Opened each time: no file is left open by whoever reads no further.
        with self._paths[0].open("rb") as file:
            file.seek(self._at)
            size = 0
            while len(lines) < _LINES_AT_ONCE and size < _READ_AT_ONCE:
                line = file.readline(LONGEST_LINE + 1)
                size += len(line)
                if line.endswith(b"}\n") and len(line) <= LONGEST_LINE:
                    self._is_open = False
                    lines.append(line)
                elif not line:
                    self._paths.pop(0)
                    self._at, self._is_open = 0, False
                    return lines
                elif len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                    _skip_line(file)
                    lines.append(Unread(line[:_START], is_too_long=True))
                elif text := line.strip(_BLANK):
                    self._is_open = not text.endswith(b"}")
                    lines.append(line)
                elif self._is_open:  # it may stand within a row
                    lines.append(line)
            self._at = file.tell()
        return lines

    def _row(self, line: bytes) -> _R | None:
        try:
            return self._read(line)
        except ValueError:
            return None

    async def _take_part(self, line: bytes) -> Sequence[_R | Unread]:
        """Return the row that ends with a line, or what is to be said of it and those before."""
        if not self._parts and not line.lstrip(_BLANK).startswith(b"{"):
            return (Unread(line[:_START]),) if line.strip(_BLANK) else ()
        is_too_much = self._joined + len(line) > LONGEST_LINE or len(self._parts) >= _MOST_PARTS
        given_up = self._given_up() if is_too_much else []
        self._parts.append(line)
        self._joined += len(line)
        if len(self._parts) == 1 or not line.rstrip(_BLANK).endswith(b"}"):
            return given_up
        return [*given_up, *await self._rejoined()]

    async def _rejoined(self) -> Sequence[_R | Unread]:
        self._joins += 1
        if self._joins > _MOST_JOINS:
            return self._given_up()
        row = await row_in(b"".join(self._parts), self._read)
        if row is None:
            return ()
        self._forget()
        return (row,)

    def _given_up(self) -> list[Unread]:
        """Return the parts of a row that could not be put together."""
        given_up = [Unread(part[:_START]) for part in self._parts if part.strip(_BLANK)]
        self._forget()
        return given_up

    def _forget(self) -> None:
        self._parts = []
        self._joined = self._joins = 0


async def row_in(text: bytes, read: Callable[[bytes], _R]) -> _R | None:
    """Parse a row, large ones in a thread; None if invalid."""
    try:
        return await in_thread(read, text) if len(text) > _LARGE else read(text)
    except ValueError:
        return None


def _skip_line(file: BinaryIO) -> None:
    while (piece := file.readline(_READ_AT_ONCE)) and not piece.endswith(b"\n"):
        pass


def files_in(folder: Path) -> list[Path]:
    """Return the files of results in a folder, if it is there."""
    return sorted(folder.iterdir()) if folder.is_dir() else []
