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
from llmflow.journal.group_commit import ODD_VALUE, GroupWorker, filled, insert, pieces, transaction
from llmflow.journal.rows import ANSWER_COLUMNS, KEY_COLUMNS, Row, plain_row, response_of
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
_OLDEST: Final = "DELETE FROM answers WHERE id IN (SELECT id FROM answers ORDER BY id LIMIT ?)"
# For each answer that comes at most so many of the oldest go, however many are too many.
_ROOM: Final = 2
_MOST_PER_COMMIT: Final = 1024
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_T = TypeVar("_T")


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
        for piece in pieces(self._connection, fingerprints, 1):
            for row in self._connection.execute(filled(_FIND, len(piece), 1), piece).fetchall():
                try:
                    found[row[0]] = response_of(row[1:])
                except Exception as error:
                    raise damaged(self._path, f"{type(error).__name__} in an answer") from error
        return found

    def add(self, rows: Sequence[Row]) -> None:
        """Write answers in one transaction, and drop the oldest beyond capacity.

        Raises:
            sqlite3.Error: they cannot be written; none of them is.
        """
        kept = [(row[0], *row[KEY_COLUMNS:]) for row in rows]
        try:
            self._add(kept)
        except ODD_VALUE:
            self._add([plain_row(row, _NAMES) for row in kept])

    def _add(self, rows: Sequence[Row]) -> None:
        with transaction(self._connection):
            insert(self._connection, _INSERT, rows)
            surplus = self._used_bytes() - self._most_bytes
            if surplus > 0:
                self._make_room(surplus, most=_ROOM * len(rows))

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
            with transaction(self._connection):
                if self._is_new():  # and no other process was faster
                    for statement in _CREATE:
                        execute(statement)
                    execute(f"PRAGMA application_id = {APPLICATION}")
                    execute(f"PRAGMA user_version = {VERSION}")
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


class StoreWorker(GroupWorker):
    """Looks up and writes in groups; problems are warned of, never raised.

    It is the one thread of a process that touches the cache's file. Calls hand it lookups and
    answers, and wait without blocking their event loop.

    Args:
        path: the cache's file.
        open_store: opens it.
        pause: seconds until what did not work is tried again.
        warn: is told what is wrong.

    Raises:
        RuntimeError: there are no more threads.
    """

    def __init__(
        self,
        path: Path,
        open_store: Callable[[], Store],
        *,
        pause: float,
        warn: Callable[[str], None],
    ) -> None:
        super().__init__("llmflow-cache", most=_MOST_PER_COMMIT)
        self._path = path
        self._open_store = open_store
        self._pause = pause
        self._warn = warn
        self._store: Store | None = None
        self._paused_until = {"find": 0.0, "add": 0.0}
        self._start()

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

    def _look_up(self, group: Sequence[bytes]) -> Mapping[bytes, Response]:
        return self._try("find", lambda store: store.find(group)) or {}

    def _write(self, group: Sequence[Row]) -> None:
        self._try("add", lambda store: store.add(group))

    def _try(self, what: str, act: Callable[[Store], _T]) -> _T | None:
        if self.is_paused(what):
            return None
        try:
            with self.using:
                result = act(self._opened())
        except Exception as error:  # noqa: BLE001 - whatever it is, calls go on
            self._tell_of(error)
            self._paused_until[what] = time.monotonic() + self._pause
            return None
        self._paused_until[what] = 0.0
        return result

    def _on_death(self, error: BaseException) -> None:
        self._warn(redact(str(error)) or type(error).__name__)

    def _opened(self) -> Store:
        # Through a name that is another file's by now, SQLite would damage that one.
        if self._store is not None and not self._store.is_current:
            self._let_go()
        if self._store is None:
            self._store = self._open_store()
        return self._store

    def _let_go(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(sqlite3.Error):
                store.close()

    def _tell_of(self, error: Exception) -> None:
        """Warn of what is wrong, and let go of the file."""
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _DAMAGED:
            error = damaged(self._path, str(error))
        if isinstance(error, Unusable):
            self._warn(str(error))
        else:
            text = (error.strerror if isinstance(error, OSError) else None) or str(error)
            self._warn(f"{redact(str(self._path))}: {redact(text)}")
        with self.using:
            self._let_go()
