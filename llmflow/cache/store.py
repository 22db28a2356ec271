"""The cache's SQLite file, and the thread that uses it.

Many processes write it. It is not in WAL mode: versions of SQLite before 3.51.3 can damage a
file in that mode when several connections write and checkpoint at once. In a rollback journal a
reader waits for a writer, some milliseconds at a time, which nothing here minds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Final, TypeVar

from llmflow.errors import redact
from llmflow.journal.rows import (
    ANSWER_COLUMNS,
    KEY_COLUMNS,
    Row,
    filled,
    insert,
    pieces,
    plain_row,
    response_of,
)
from llmflow.journal.writer import ODD_VALUE, GroupWorker, transaction
from llmflow.private_files import make_private_folder
from llmflow.types import Response

APPLICATION: Final = 0x6C6C6D63  # "llmc"
VERSION: Final = 1
# A question has one answer here: there is no ordinal, and an answer is for all that ask.
_NAMES: Final = ("fingerprint", *ANSWER_COLUMNS[KEY_COLUMNS:])
_COLUMNS: Final = ", ".join(_NAMES)
_INSERT: Final = f"INSERT OR IGNORE INTO answers ({_COLUMNS}) VALUES {{}}"  # noqa: S608 - names of this module
_FIND: Final = f"SELECT {_COLUMNS} FROM answers WHERE fingerprint IN (VALUES {{}})"  # noqa: S608
_CREATE: Final = (
    f"CREATE TABLE answers (id INTEGER PRIMARY KEY, {_COLUMNS})",
    "CREATE UNIQUE INDEX answers_key ON answers (fingerprint)",
)
_ENDS: Final = "SELECT (SELECT min(id) FROM answers), (SELECT max(id) FROM answers)"
_OLDEST: Final = "DELETE FROM answers WHERE id IN (SELECT id FROM answers ORDER BY id LIMIT ?)"
# For each answer that comes at most so many of the oldest go, however many are too many.
_ROOM: Final = 2
_MOST_PER_COMMIT: Final = 1024
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_T = TypeVar("_T")
_R = TypeVar("_R")


class Unusable(Exception):  # noqa: N818 - it is caught where it matters, and never seen
    """The file is not a usable cache, and waiting will not help."""


class StoreWorker(GroupWorker):
    """Looks up and writes in groups; problems are warned of, never raised.

    It is the one thread of a process that touches the cache's file. Calls hand it lookups and
    answers, and wait without blocking their event loop.

    The arguments are those of `Cache`; `warn` is told what is wrong.

    Raises:
        RuntimeError: there are no more threads.
    """

    def __init__(
        self,
        path: Path,
        *,
        most_bytes: int,
        patience: float,
        pause: float,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__("llmflow-cache", most=_MOST_PER_COMMIT)
        self._path = path
        self._most_bytes = most_bytes
        self._patience = patience
        self._pause = pause
        self._warn = warn
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._paused_until = {"find": 0.0, "add": 0.0}
        self._start()

    # --- for calls ------------------------------------------------------------------------------

    def is_paused(self, what: str) -> bool:
        """Return whether ``"find"`` or ``"add"`` has failed a moment ago."""
        until = self._paused_until[what]
        return until > 0.0 and time.monotonic() < until

    def find(self, fingerprint: bytes) -> asyncio.Future[Response | None]:
        """Look up an answer; the future's result is it, or None."""
        return self._hand(self._lookups, fingerprint)

    def store(self, row: Row) -> asyncio.Future[None]:
        """Store an answer; the future ends when it is, or cannot be."""
        return self._hand(self._rows, row)

    # --- in its thread --------------------------------------------------------------------------

    def _look_up(self, group: Sequence[bytes]) -> Mapping[bytes, Response]:
        return self._try("find", self._find, group) or {}

    def _write(self, group: Sequence[Row]) -> None:
        self._try("add", self._add, [(row[0], *row[KEY_COLUMNS:]) for row in group])

    def _try(
        self, what: str, act: Callable[[sqlite3.Connection, Sequence[_T]], _R], group: Sequence[_T]
    ) -> _R | None:
        if self.is_paused(what):
            return None
        try:
            with self.using:
                result = act(self._opened(), group)
        except Exception as error:  # noqa: BLE001 - whatever it is, calls go on
            self._tell_of(error)
            self._paused_until[what] = time.monotonic() + self._pause
            return None
        self._paused_until[what] = 0.0
        return result

    def _find(
        self, connection: sqlite3.Connection, fingerprints: Sequence[bytes]
    ) -> dict[bytes, Response]:
        found: dict[bytes, Response] = {}
        for piece in pieces(connection, fingerprints, 1):
            for row in connection.execute(filled(_FIND, len(piece), 1), piece).fetchall():
                try:
                    found[row[0]] = response_of(row[1:])
                except Exception as error:
                    raise self._damaged(f"{type(error).__name__} in an answer") from error
        return found

    def _add(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """Write answers in one transaction, and drop the oldest beyond capacity."""
        try:
            self._insert(connection, rows)
        except ODD_VALUE:
            self._insert(connection, [plain_row(row, _NAMES) for row in rows])

    def _insert(self, connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
        with transaction(connection):
            insert(connection, _INSERT, rows)
            used = _used_bytes(connection)
            if used > self._most_bytes:
                first, last = connection.execute(_ENDS).fetchone()
                surplus = ceil((used - self._most_bytes) / used * (last - first + 1))
                connection.execute(_OLDEST, (min(_ROOM * len(rows), surplus),))

    def _opened(self) -> sqlite3.Connection:
        # Through a name that is another file's by now, SQLite would damage that one.
        is_current = self._identity is not None and self._identity == self._identify()
        if self._connection is None or not is_current:
            self._let_go()
            self._connection = self._open()
            self._identity = self._identify()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        """Open the file, made if it is not there.

        Raises:
            Unusable: it is damaged, another program's, or of a newer llmflow.
            sqlite3.Error: it cannot be opened.
            OSError: its folder cannot be made.
        """
        path = self._path
        make_private_folder(path.parent)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except PermissionError:
            if not path.exists():
                raise
        except OSError:
            if not path.is_file():  # such as on a disk that cannot be written
                raise
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=self._patience
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        execute = connection.execute
        execute("PRAGMA cache_size = -8000")
        execute("PRAGMA temp_store = MEMORY")
        # After a power cut the file is whole. What was written last may be gone.
        execute("PRAGMA synchronous = NORMAL")
        if _is_new(connection):
            execute("PRAGMA journal_mode = TRUNCATE")
            with transaction(connection):
                if _is_new(connection):  # and no other process was faster
                    for statement in _CREATE:
                        execute(statement)
                    execute(f"PRAGMA application_id = {APPLICATION}")
                    execute(f"PRAGMA user_version = {VERSION}")
        if _pragma(connection, "application_id") != APPLICATION:
            raise Unusable(f"{redact(str(self._path))} is a database of another program")
        version = _pragma(connection, "user_version")
        if version != VERSION:
            raise Unusable(
                f"{redact(str(self._path))} has version {version}, and this llmflow knows "
                f"version {VERSION}"
            )
        execute("PRAGMA journal_mode = TRUNCATE")

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    # --- problems -------------------------------------------------------------------------------

    def _on_death(self, error: BaseException) -> None:
        self._warn(redact(str(error)) or type(error).__name__)

    def _damaged(self, reason: str) -> Unusable:
        path = redact(str(self._path))
        return Unusable(f"{path} is damaged ({redact(reason)}): delete it to begin anew")

    def _tell_of(self, error: Exception) -> None:
        """Warn of what is wrong, and let go of the file."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _DAMAGED:
            error = self._damaged(str(error))
        if isinstance(error, Unusable):
            self._warn(str(error))
        else:
            text = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._warn(f"{redact(str(self._path))}: {redact(text)}")
        with self.using:
            self._let_go()


def _is_new(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return not tables and not _pragma(connection, "application_id")


def _used_bytes(connection: sqlite3.Connection) -> int:
    pages = _pragma(connection, "page_count") - _pragma(connection, "freelist_count")
    return pages * _pragma(connection, "page_size")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
