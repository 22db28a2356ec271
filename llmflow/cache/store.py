"""The cache's SQLite file, written by many processes.

Not in WAL mode: versions of SQLite before 3.51.3 can damage a file in that mode when
several connections write and checkpoint at once. In a rollback journal a reader waits
for a writer, some milliseconds at a time, which nothing here minds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Final

from llmflow.errors import redact
from llmflow.journal.rows import ANSWER_COLUMNS, KEY_COLUMNS, Row, plain_row, response_of
from llmflow.private_files import make_private_folder
from llmflow.types import Response

APPLICATION: Final = 0x6C6C6D63  # "llmc"
VERSION: Final = 1
_SIZES: Final = (128, 32, 8, 1)
# A question has one answer here: there is no ordinal, and an answer is for all that ask.
_NAMES: Final = ("fingerprint", *ANSWER_COLUMNS[KEY_COLUMNS:])
_COLUMNS: Final = ", ".join(_NAMES)
_INSERT: Final = f"INSERT OR IGNORE INTO answers ({_COLUMNS}) VALUES "  # noqa: S608 - names of this module
_ONE: Final = f"({', '.join('?' * len(_NAMES))})"
# What SQLite's binding says of values that are odd; everything else is the file's.
_ODD: Final = (
    UnicodeError,
    OverflowError,
    TypeError,
    ValueError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)
_CREATE: Final = (
    f"CREATE TABLE answers (id INTEGER PRIMARY KEY, {_COLUMNS})",
    "CREATE UNIQUE INDEX answers_key ON answers (fingerprint)",
)
_OLDEST: Final = "DELETE FROM answers WHERE id IN (SELECT id FROM answers ORDER BY id LIMIT ?)"
# For each answer that comes at most so many of the oldest go, however many are too many.
_ROOM: Final = 2


class Unusable(Exception):  # noqa: N818 - it is caught where it matters, and never seen
    """The file is not a usable cache, and waiting will not help."""


class Store:
    """An open cache file, for one thread.

    Args:
        path: the file; made with its folder if it is not there.
        most_bytes: how many bytes of answers it may hold.
        patience: seconds to wait for another process.

    Raises:
        Unusable: it is damaged, another program's, or of a newer llmflow.
        sqlite3.Error: it cannot be opened.
        OSError: its folder cannot be made.
    """

    def __init__(self, path: Path, *, most_bytes: int, patience: float) -> None:
        self._path = path
        self._most_bytes = most_bytes
        make_private_folder(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except PermissionError:
            if not path.exists():
                raise
        except OSError:
            if not path.is_file():  # such as on a disk that cannot be written
                raise
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=patience
        )
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise
        self._identity = self._identify()

    @property
    def is_current(self) -> bool:
        """Return whether the open file is still the one on disk."""
        return self._identity is not None and self._identity == self._identify()

    def find(self, fingerprints: Sequence[bytes]) -> dict[bytes, Response]:
        """Return what is known of some questions.

        Raises:
            Unusable: the file is damaged.
            sqlite3.Error: it cannot be read now.
        """
        found: dict[bytes, Response] = {}
        start = 0
        while start < len(fingerprints):
            size = _size(len(fingerprints) - start)
            question = ", ".join("?" * size)
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM answers WHERE fingerprint IN ({question})",  # noqa: S608
                fingerprints[start : start + size],
            )
            for row in rows.fetchall():
                try:
                    found[row[0]] = response_of(row[1:])
                except Exception as error:
                    raise damaged(self._path, f"{type(error).__name__} in an answer") from error
            start += size
        return found

    def add(self, rows: Sequence[Row]) -> None:
        """Write answers in one transaction, and drop the oldest beyond capacity.

        Raises:
            sqlite3.Error: they cannot be written; none of them is.
        """
        kept = [(row[0], *row[KEY_COLUMNS:]) for row in rows]
        try:
            self._add(kept)
        except _ODD:
            self._add([plain_row(row, _NAMES) for row in kept])

    def _add(self, rows: Sequence[Row]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            start = 0
            while start < len(rows):
                size = _size(len(rows) - start)
                values = [value for row in rows[start : start + size] for value in row]
                connection.execute(_INSERT + ", ".join([_ONE] * size), values)
                start += size
            surplus = self._used_bytes() - self._most_bytes
            if surplus > 0:
                self._make_room(surplus, most=_ROOM * len(rows))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _prepare(self) -> None:
        execute = self._connection.execute
        execute("PRAGMA cache_size = -8000")
        execute("PRAGMA temp_store = MEMORY")
        # After a power cut the file is whole. What was written last may be gone.
        execute("PRAGMA synchronous = NORMAL")
        if self._is_new():
            execute("PRAGMA journal_mode = TRUNCATE")
            execute("BEGIN IMMEDIATE")
            try:
                if self._is_new():  # and no other process was faster
                    for statement in _CREATE:
                        execute(statement)
                    execute(f"PRAGMA application_id = {APPLICATION}")
                    execute(f"PRAGMA user_version = {VERSION}")
                execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    execute("ROLLBACK")
                raise
        self._check()
        execute("PRAGMA journal_mode = TRUNCATE")

    def _is_new(self) -> bool:
        tables = self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        return not tables and not self._pragma("application_id")

    def _check(self) -> None:
        if self._pragma("application_id") != APPLICATION:
            raise Unusable(f"{self._shown} is a database of another program")
        version = self._pragma("user_version")
        if version != VERSION:
            raise Unusable(
                f"{self._shown} has version {version}, and this llmflow knows version {VERSION}"
            )

    def _make_room(self, surplus: int, *, most: int) -> None:
        execute = self._connection.execute
        first = int(execute("SELECT min(id) FROM answers").fetchone()[0])
        last = int(execute("SELECT max(id) FROM answers").fetchone()[0])
        share = surplus / self._used_bytes()
        execute(_OLDEST, (min(most, ceil(share * (last - first + 1))),))

    def _used_bytes(self) -> int:
        pages = self._pragma("page_count") - self._pragma("freelist_count")
        return pages * self._pragma("page_size")

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    @property
    def _shown(self) -> str:
        return redact(str(self._path))


def damaged(path: Path, reason: str) -> Unusable:
    """Return the message for a file that is not a cache."""
    return Unusable(f"{redact(str(path))} is damaged ({redact(reason)}): delete it to begin anew")


def _size(left: int) -> int:
    """Return how many values a statement is for: few sizes, so that statements are kept."""
    return next(each for each in _SIZES if each <= left)
