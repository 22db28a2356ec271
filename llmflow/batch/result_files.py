"""Reads downloaded result files, and counts what is in them.

What stands in them is somebody else's: a line without end, millions of blank lines, values
that take seconds to be parsed. None of that stops the event loop or fills the memory: they are
read in a thread, in pieces of bounded size. And they may not be whole: a download may end early
although its length fits, and a file may not be finished when it is served for the first time.
Both would have rows asked, and paid, again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Generic, NamedTuple, TypeVar

from llmflow.batch.record import JobRecord
from llmflow.batch.spool import in_thread, name_in, names_of
from llmflow.batch.steps import Seen
from llmflow.errors import BadReplyError
from llmflow.format import counted
from llmflow.provider import BatchRow, FileBounds

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

_EARLIER: Final = "earlier-"
_PAGE: Final = 2**16
_LONGEST_PLAIN: Final = 2**18


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
            try:
                row = self._read(line) if len(line) <= _LARGE else await in_thread(self._read, line)
            except ValueError:
                row = None
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
            page, size = file.read(_READ_AT_ONCE), 0
            end = page.rfind(b"\n") + 1
            if len(page) < _READ_AT_ONCE and page.endswith(b"}"):
                end = len(page)  # the last row comes with those before it, without a wait
            if end and page.count(b"}\n") == page.count(b"\n") and b"\r" not in page:
                self._at, self._is_open = self._at + end, False
                return page[:end].splitlines(keepends=True)  # type: ignore[return-value]
            file.seek(self._at)
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


# --- what is in them -----------------------------------------------------------------------------


async def look_through(
    folder: Path,
    read: Callable[[bytes], BatchRow],
    all_names: Callable[[], Awaitable[set[str]]],
    count: int,
) -> Seen:
    """Return what arrived of a job's results, beside the provider's counts.

    What was set aside counts, too: of several downloads that were cut off, each has its rows.

    Args:
        folder: where they are.
        read: reads one line; raises `ValueError` where it is no row.
        all_names: returns the names of all rows of the job, in a set of their own.
        count: how many rows the provider has counted.
    """
    rows = await _plain_rows(folder, read, all_names)
    if rows is not None:
        return Seen(rows, max(0, count - rows), is_cut_off=False, needs_earlier=False)
    ours = await all_names()
    found, fresh, others, lines, is_cut_off = set[str](), set[str](), 0, 0, False
    for path in files_in(folder):
        is_fresh = not path.name.startswith(_EARLIER)
        glance = _Glance(read)
        names = set[str]()
        async for batch in Results([path], glance):
            lines += len(batch)
            for each in batch:
                if isinstance(each, str):
                    if each in ours:
                        names.add(each)
                    elif is_fresh:
                        others += 1
        if await glance.is_cut_off():
            names.discard(glance.last_name)
            is_cut_off = is_cut_off or is_fresh
        found |= names
        if is_fresh:
            fresh |= names
    missing = count - len(found) - others
    return Seen(lines, max(0, missing), is_cut_off, len(fresh) < len(found))


async def _plain_rows(
    folder: Path,
    read: Callable[[bytes], BatchRow],
    all_names: Callable[[], Awaitable[set[str]]],
) -> int | None:
    """Count the rows of files in which there is nothing else; None where there is.

    Nearly all results are like that, and so they are looked through in one go.
    """
    files = files_in(folder)
    if any(path.name.startswith(_EARLIER) for path in files):
        return None
    last = await in_thread(_last_of_distinct_rows, await all_names(), files)
    if last is None:
        return None
    for line in last:
        if await row_in(line, read) is None:
            return None
    return sum(last.values())


def _last_of_distinct_rows(pending: set[str], files: Sequence[Path]) -> dict[bytes, int] | None:
    """Return the last line of each file and how many there are, where each is another row.

    Args:
        pending: the names of all rows; those that are found are removed.
        files: where to look.
    """
    found: dict[bytes, int] = {}
    for path in files:
        count, last = 0, b""
        for lines in _pages(path):
            objects = (each for each in lines if each.startswith(b"{") and each.endswith(b"}"))
            names = set(map(name_in, objects))
            # One less where a line is no object, or has the name of another one.
            if len(names) < len(lines) or not names <= pending:
                return None
            pending -= names
            count, last = count + len(lines), lines[-1]
        if count:
            found[last] = count
    return found


def _pages(path: Path) -> Iterator[list[bytes]]:
    """Yield the lines of a file, without their ends; a long line may come in several parts."""
    rest = b""
    with path.open("rb") as file:
        while piece := file.read(_PAGE):
            lines = piece.split(b"\n")
            lines[0] = rest + lines[0]
            rest = lines.pop()
            if len(rest) > _LONGEST_PLAIN:
                lines.append(rest)
                rest = b""
            if lines:
                yield lines
    if rest:
        yield [rest]


class _Glance:
    """Reads no more of a line than its name, where it looks like a row of ours.

    Args:
        read: reads a line as a whole.
    """

    def __init__(self, read: Callable[[bytes], BatchRow]) -> None:
        self._read = read
        self._last: bytes | None = None
        self.last_name = ""

    def __call__(self, line: bytes) -> str:
        self._last, self.last_name = line, ""
        is_one = line.find(b"\n", 0, -1) < 0  # and not put together of several
        if is_one and line.startswith(b"{") and line.endswith((b"}\n", b"}")):
            name = name_in(line)
            if name is not None:
                self.last_name = name
                return name
        return self._read(line).custom_id

    async def is_cut_off(self) -> bool:
        """Whether the last line that was read is no row."""
        if self._last is None:
            return False
        return await row_in(self._last, self._read) is None


def set_aside(folder: Path) -> None:
    """Keep what arrived while fetching again: that may bring less."""
    files = files_in(folder)
    number = sum(path.name.startswith(_EARLIER) for path in files)
    for path in files:
        if not path.name.startswith(_EARLIER):
            path.replace(path.with_name(f"{_EARLIER}{number}-{path.name}"))


def forget_earlier(folder: Path) -> None:
    """Remove what was set aside."""
    for path in files_in(folder):
        if path.name.startswith(_EARLIER):
            path.unlink(missing_ok=True)


async def belong_to(
    record: JobRecord,
    folder: Path,
    read: Callable[[bytes], BatchRow],
    names: set[str],
    path: Path,
) -> bool:
    """Return whether downloaded results hold a row of the job.

    Args:
        record: the job's.
        folder: where its results are.
        read: reads one line; raises `ValueError` where it is no row.
        names: its rows that have no outcome yet, which are looked at first.
        path: the file of all its rows.

    Raises:
        BadReplyError: they are somebody else's, or cannot be read, and the job is this one's.
    """
    all_names, lines, unreadable = None, 0, 0
    async for batch in Results(files_in(folder), read):
        lines += len(batch)
        for row in batch:
            if isinstance(row, Unread):
                unreadable += 1
                continue
            if row.custom_id in names:
                return True
            if all_names is None:  # those of other jobs by now are this one's, too
                all_names = set(names_of(path))
            if row.custom_id in all_names:
                return True
    if not lines:
        return True
    if record.found and unreadable < lines:
        return False
    # One bad row alone is its own matter; so many that are all bad are ours to understand.
    if unreadable == lines and (record.round > 1 or record.requests == 1):
        return True
    what = "cannot be read" if unreadable else "are of rows that it never had"
    raise BadReplyError(
        f"the results of the batch job {record.job} {what} ({counted(lines, 'line')}). Nothing is "
        f"asked again, as that is paid for: they are kept at the provider, and in {folder}",
        provider=record.provider,
        model=record.model,
    )
