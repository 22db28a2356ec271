"""File of a job's rows, as it grows, and their names.

A row's name says all that is needed to give an answer to whom it belongs, in any later process:
what it asks, and for which time. No list of rows has to be kept beside a job. It fits every
provider: at most 64 characters of ``A-Z a-z 0-9 - _``, and no number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

from llmflow.private_files import private, sync_folder

_NAMED_BY: Final = 4096
_BUFFER: Final = 2**20
_MOST_PREFIXES: Final = 1000
# Whatever a provider calls it, the name comes before the call's body.
_NAME_IN: Final = re.compile(rb'"(r[0-9a-f]{32}-\d{1,18})"')
_NAME: Final = re.compile(r"r([0-9a-f]{32})-(\d{1,18})")
_T = TypeVar("_T")


class Spool:
    """A file that gets one row after another, until it is sealed.

    The rows are in a file of another name until then: what a process leaves unfinished is
    nobody's job.

    Args:
        path: where the sealed file will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: set[str] = set()
        self.prefixes: dict[bytes, dict[str, None]] = {}
        """Of each marked beginning the rows that have it, in order; those left out among them."""
        self.tokens = 0.0
        self.size = 0
        self.handed_on = asyncio.Event()
        """Set when a job has been made of it, or none will be."""
        self._part = path.with_name(f"{path.name}.part")
        self._dropped: set[str] = set()
        self._buffer: list[bytes] = []
        self._written = 0
        _create(self._part).close()

    @property
    def requests(self) -> int:
        """The number of rows."""
        return len(self.names)

    def add(self, name: str, line: bytes, tokens: float) -> None:
        """Write a row."""
        if name in self._dropped:  # it is there, and wanted again
            self._dropped.remove(name)
            self.names.add(name)
            return
        if self.size - self._written >= _BUFFER:
            self._flush()
        if self.size:
            line = b"\n" + line
        self._buffer.append(line)
        self.size += len(line)
        self.tokens += tokens
        self.names.add(name)

    def note_prefix(self, digest: bytes, name: str) -> None:
        """Register a row's marked prefix; of many, the first ones."""
        names = self.prefixes.get(digest)
        if names is not None:
            names[name] = None  # it may be here already, left out and wanted again
        elif len(self.prefixes) < _MOST_PREFIXES:
            self.prefixes[digest] = {name: None}

    def drop(self, name: str) -> None:
        """Leave a row out, whose caller has gone."""
        self.names.remove(name)
        self._dropped.add(name)

    def _flush(self, *, durable: bool = False) -> None:
        # Opened each time: no file is left open by a program that ends in between.
        with self._part.open("r+b", buffering=0) as file:
            file.seek(self._written)  # and not after what a full disk took of it before
            data = memoryview(b"".join(self._buffer))
            while data:
                data = data[file.write(data) or 0 :]
            file.truncate()
            if durable:
                os.fsync(file.fileno())
        self._buffer.clear()
        self._written = self.size

    def seal(self) -> None:
        """Make the file a job's; blocks while the disk works."""
        self._flush(durable=True)
        self._part.replace(self.path)
        if self._dropped:
            keep = self.names
            self.size = copy_rows(self.path, self.path, lambda name: name in keep)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what is there."""
        self.handed_on.set()
        self._buffer.clear()
        for path in (self._part, self.path):
            with contextlib.suppress(OSError):
                path.unlink()


def name_of(fingerprint: bytes, nth: int) -> str:
    """Return the ``custom_id`` of a call.

    >>> name_of(bytes(16), 2)
    'r00000000000000000000000000000000-2'
    """
    return f"r{fingerprint.hex()}-{nth}"


def call_of(name: str) -> tuple[bytes, int] | None:
    """Return the fingerprint and ordinal of a ``custom_id``, or None.

    >>> call_of("r00000000000000000000000000000000-2")[1], call_of("request-7")
    (2, None)
    """
    found = _NAME.fullmatch(name)
    return None if found is None else (bytes.fromhex(found[1]), int(found[2]))


def rows_of(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and line of each row, without its line break."""
    with path.open("rb") as file:
        for line in file:
            yield row_name(line), line.rstrip(b"\n")


def row_name(line: bytes) -> str:
    """Return the name in a line of ours.

    Raises:
        ValueError: there is none.
    """
    name = name_in(line)
    if name is None:
        raise ValueError("a row without a name")
    return name


def name_in(line: bytes) -> str | None:
    """Return the first of our names near a line's start, or None."""
    found = _NAME_IN.search(line, 0, _NAMED_BY)
    return None if found is None else found[1].decode()


def names_of(path: Path) -> Iterator[str]:
    """Yield the name of each row of a file."""
    for name, _ in rows_of(path):
        yield name


def parts_of(path: Path, names: Collection[str], parts: int) -> list[set[str]]:
    """Divide the named rows of a file into parts of equal size."""
    ordered = [name for name in names_of(path) if name in names]
    size = -(-len(ordered) // max(1, min(parts, len(ordered)))) or 1
    return [set(ordered[at : at + size]) for at in range(0, len(ordered), size)]


def copy_rows(source: Path, target: Path, wanted: Callable[[str], bool]) -> int:
    """Copy wanted rows into another file, atomically; return its bytes."""
    part = target.with_name(f"{target.name}.part")
    size = 0
    with _create(part) as file:
        for name, line in rows_of(source):
            if wanted(name):
                if size:
                    file.write(b"\n")
                    size += 1
                file.write(line)
                size += len(line)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
    return size


def remove_all(paths: Collection[Path]) -> None:
    """Remove files and folders of files; missing ones are no error."""
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_dir():
                remove_all(list(path.iterdir()))
                path.rmdir()
            else:
                path.unlink()


def _create(path: Path) -> BinaryIO:
    return open(path, "wb", buffering=_BUFFER, opener=private)


async def in_thread(work: Callable[..., _T], *args: Any) -> _T:
    """Run blocking work in a thread, or inline at the program's end."""
    try:
        done = asyncio.get_running_loop().run_in_executor(None, lambda: work(*args))
    except RuntimeError:
        return work(*args)
    return await done
