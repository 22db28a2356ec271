"""Check that a job's results are as many as the provider says.

A download may end early although its length fits, and a file may not be finished when it is
served for the first time. Both would have rows asked, and paid, again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from llmflow.batch.blocking import in_thread
from llmflow.batch.reading import Results, files_in, row_in
from llmflow.batch.spool import name_in, names_of

if TYPE_CHECKING:
    from llmflow.batch.job import Job
    from llmflow.batch.queue import Queue
    from llmflow.batch_api import BatchRow, BatchStatus

_EARLIER: Final = "earlier-"
_READ_AT_ONCE: Final = 2**16
_LONGEST_PLAIN: Final = 2**18


class Seen(NamedTuple):
    """The contents of result files.

    Args:
        lines: how many lines there are.
        missing: how many rows the provider has counted besides.
        is_cut_off: whether the last line of a file is none.
        needs_earlier: whether some rows are in what was set aside, and nowhere else.
    """

    lines: int
    missing: int
    is_cut_off: bool
    needs_earlier: bool

    @property
    def is_whole(self) -> bool:
        """True if nothing is wrong."""
        return not self.missing and not self.is_cut_off


async def look_through(job: Job, queue: Queue, status: BatchStatus) -> Seen:
    """Return what arrived of a job's results, beside the provider's counts.

    What was set aside counts, too: of several downloads that were cut off, each has its rows.
    """
    counted = min((status.succeeded or 0) + (status.failed or 0), job.record.requests)
    rows = await _plain_rows(job, queue)
    if rows is not None:
        return Seen(rows, max(0, counted - rows), is_cut_off=False, needs_earlier=False)
    ours = await in_thread(lambda: set(names_of(job.path)))
    found, fresh, others, lines, is_cut_off = set[str](), set[str](), 0, 0, False
    for path in files_in(job.results):
        is_fresh = not path.name.startswith(_EARLIER)
        glance = _Glance(queue.control.api.read)
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
    missing = counted - len(found) - others
    return Seen(lines, max(0, missing), is_cut_off, len(fresh) < len(found))


async def _plain_rows(job: Job, queue: Queue) -> int | None:
    """Count the rows of files in which there is nothing else; None where there is.

    Nearly all results are like that, and so they are looked through in one go.
    """
    files = files_in(job.results)
    if any(path.name.startswith(_EARLIER) for path in files):
        return None
    all_here = len(job.names) == job.record.requests
    pending = set(job.names) if all_here else await in_thread(lambda: set(names_of(job.path)))
    last = await in_thread(_last_of_distinct_rows, pending, files)
    if last is None:
        return None
    for line in last:
        if await row_in(line, queue.control.api.read) is None:
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
        while piece := file.read(_READ_AT_ONCE):
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
