"""The journal's file: its tables, its versions, and what can be wrong with it.

::

    answers    what was answered, by fingerprint and ordinal; one row serves `uses` equal calls
    failures   what failed for good, likewise
    meta       what is known of the run, as names and JSON values

``sqlite3 journal.db "select text from answers"`` shows the answers.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from llmflow.errors import JournalError, redact

NAME: Final = "journal.db"
APPLICATION: Final = 0x6C6C6D66  # "llmf"
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER: Final = 100

_FIRST: Final = """
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    ordinal INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    at REAL NOT NULL,
    text TEXT NOT NULL,
    finish_reason TEXT,
    model TEXT,
    provider TEXT,
    request_id TEXT,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    usage TEXT,
    cost REAL,
    attempts INTEGER NOT NULL,
    waited REAL NOT NULL,
    raw BLOB
);
CREATE UNIQUE INDEX answers_key ON answers (fingerprint, ordinal);
CREATE TABLE failures (
    id INTEGER PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    ordinal INTEGER NOT NULL,
    uses INTEGER NOT NULL,
    at REAL NOT NULL,
    error TEXT NOT NULL,
    message TEXT NOT NULL,
    provider TEXT,
    model TEXT,
    status INTEGER,
    code TEXT,
    request_id TEXT,
    retry_after REAL,
    dimension TEXT,
    attempts INTEGER NOT NULL
);
CREATE UNIQUE INDEX failures_key ON failures (fingerprint, ordinal);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

Migration = Callable[[sqlite3.Connection], None]


def _create(connection: sqlite3.Connection) -> None:
    for statement in _FIRST.split(";"):
        if statement.strip():
            connection.execute(statement)


MIGRATIONS: Final[tuple[Migration, ...]] = (_create,)
"""The step from each version to the next; the first makes the tables."""


def open_writer(path: Path, *, migrations: Sequence[Migration] = MIGRATIONS) -> sqlite3.Connection:
    """Open a journal for writing, made or brought up to date. The run's lock must be held.

    Raises:
        JournalError: it is damaged, of a newer llmflow, or no journal; it is not touched.
        sqlite3.Error: it cannot be written.
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    check_file(path, newest=len(migrations))
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=16
    )
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version < len(migrations):
            _migrate(connection, version, migrations)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -8000")
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a journal that a writer of this process has open, for reading."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=16
    )
    connection.execute("PRAGMA query_only = ON")
    connection.execute("PRAGMA cache_size = -8000")
    return connection


def _migrate(connection: sqlite3.Connection, version: int, migrations: Sequence[Migration]) -> None:
    # In the main file and not in a log beside it, so that its header tells the version.
    connection.execute("PRAGMA journal_mode = DELETE")
    with closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            for migration in migrations[version:]:
                migration(connection)
            cursor.execute(f"PRAGMA application_id = {APPLICATION}")
            cursor.execute(f"PRAGMA user_version = {len(migrations)}")
            cursor.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise


def check_file(path: Path, *, newest: int = len(MIGRATIONS)) -> None:
    """Look at a file before SQLite does, which could change it.

    Raises:
        JournalError: it is no journal, of a newer llmflow, or cut off.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER)
        size = os.fstat(file.fileno()).st_size
    if not head:
        return  # made a moment ago, by a process that was stopped there
    if len(head) < _HEADER or not head.startswith(_MAGIC):
        raise damaged(path, "it is not a database")
    application, version = int.from_bytes(head[68:72]), int.from_bytes(head[60:64])
    if application != APPLICATION and (application or version):
        raise JournalError(f"{path} belongs to another program: name another run or folder")
    if version > newest:
        raise JournalError(
            f"{path} was written by a newer llmflow (version {version} of the file; this one "
            f"knows {newest}): install the newer one, or name another run"
        )
    page = int.from_bytes(head[16:18])
    pages = int.from_bytes(head[28:32])
    if pages * (65_536 if page == 1 else page) > size:
        raise damaged(path, "its end is missing")


def damaged(path: Path, reason: str) -> JournalError:
    """Return the error for a file that cannot be read as what it is."""
    return JournalError(
        f"the journal {path} is damaged ({redact(reason)}). It is left as it is: move the folder "
        f"{path.parent} away to begin anew; `sqlite3 {path.name} .recover` may save its answers"
    )


def explain(path: Path, error: Exception) -> JournalError:
    """Return what is wrong with a journal that SQLite or the system refuses, and what to do."""
    if isinstance(error, JournalError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(error))
    text = redact(str(error.strerror or error) if isinstance(error, OSError) else str(error))
    remedy = "nothing that was written down is lost"
    if primary == sqlite3.SQLITE_FULL or getattr(error, "errno", None) == 28:
        remedy = "make room on the disk and run again; what was written down is kept"
    elif primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) or (
        isinstance(error, OSError)
    ):
        remedy = "name a folder that can be written in LLMFLOW_JOURNAL_DIR, or keep no journal"
    elif primary == sqlite3.SQLITE_IOERR:
        remedy = "see to the disk and run again; what was written down is kept"
    return JournalError(f"the journal {path} cannot be written: {text.lower()}; {remedy}")
