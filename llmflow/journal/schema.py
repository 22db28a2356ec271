"""The journal's file: its tables, its versions, its opening, and its errors.

::

    answers    what was answered. One row serves the calls `ordinal` to `ordinal + uses - 1`
               of its fingerprint. `raw` is the provider's whole reply as JSON, where it is kept;
               of an answer with outputs beside its text, a list of these and of the reply.
    failures   what failed for good and has not been answered since, likewise; `partial_text`
               is what was written of an answer that was stopped because of its content.
               Both have a `checksum` (CRC-32)
    meta       what is known of the run: names, and values as JSON
    jobs       the batch jobs of the run, in the order in which they were made, as JSON

``sqlite3 journal.db "SELECT text, cost FROM answers"`` shows the answers. Times are seconds
since 1970, `cost` is in US dollars. Text, also in `raw`, that is no Unicode, such as half
a surrogate pair, is a blob of UTF-8 with surrogates.

Rows are appended, and a separate index finds them: of two million rows of random
fingerprints, writing one costs 24 µs and finding one 9 µs; in a table that is its own index
(WITHOUT ROWID) 61 µs and 70 µs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from llmflow.errors import JournalError, redact
from llmflow.journal.protocol import Durability
from llmflow.journal.rows import ANSWERS, CHECKSUM, FAILURES
from llmflow.journal.writer import transaction

NAME: Final = "journal.db"
APPLICATION: Final = 0x6C6C6D66  # "llmf"
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER: Final = 100
_TABLES: Final = frozenset({"answers", "failures", "meta"})
# Others hold the file only for moments, unless somebody works on it by hand.
_PATIENCE_SECONDS: Final = 10.0
# Pages of 4 KiB: a longer log writes a page of the index once for more rows.
_CHECKPOINT_PAGES: Final = 4000
_LOG_LIMIT: Final = _CHECKPOINT_PAGES * 4096 * 2

_META: Final = "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
_JOBS: Final = {"tag": "TEXT NOT NULL UNIQUE", "at": "REAL NOT NULL", "record": "TEXT NOT NULL"}

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_FOLDER: Final = (errno.ENOTDIR, errno.EEXIST)
_DENIED: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_TAKEN: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_KEPT: Final = "what was written down is kept"
_ELSEWHERE: Final = "name a folder that can be written in LLMFLOW_JOURNAL_DIR, or keep no journal"

_looking = threading.Lock()
_in_use: Final[set[tuple[int, int]]] = set()
"""The files that this process writes."""

Migration = Callable[[sqlite3.Connection], None]


def _create(connection: sqlite3.Connection) -> None:
    for name, columns in (("answers", ANSWERS), ("failures", FAILURES)):
        connection.execute(_table(name, columns | {CHECKSUM: "INTEGER"}))
        connection.execute(f"CREATE UNIQUE INDEX {name}_key ON {name} (fingerprint, ordinal)")
    connection.execute(_META)
    connection.execute(_table("jobs", _JOBS))


def _table(name: str, columns: Mapping[str, str]) -> str:
    lines = ["id INTEGER PRIMARY KEY", *map(" ".join, columns.items())]
    return f"CREATE TABLE {name} (\n    " + ",\n    ".join(lines) + "\n)"


# Fingerprints of versions before were of encoded bodies: their answers would not be found, and
# bought again.
OLDEST: Final = 5
MIGRATIONS: Final[tuple[Migration, ...]] = (_create,)
"""The step from each version to the next, from `OLDEST` on; the first makes the tables."""
VERSION: Final = OLDEST + len(MIGRATIONS) - 1
"""The version of the files that are written."""


def open_writer(
    path: Path,
    *,
    durability: Durability = "process",
    migrations: Sequence[Migration] = MIGRATIONS,
) -> sqlite3.Connection:
    """Open a journal for writing, created or migrated; needs the lock.

    Raises:
        JournalError: it is damaged, of an older or newer llmflow, or no journal; it is not touched.
        OSError: it cannot be opened.
        sqlite3.Error: it cannot be written.
    """
    _make(path)
    newest = OLDEST + len(migrations) - 1
    check_file(path, newest=newest)
    with _looking:
        _in_use.add(_identity(path))
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version < newest:
            _migrate(connection, version, migrations)
        _check_tables(path, connection)
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise sqlite3.OperationalError("its file system cannot share memory between processes")
        level = {"process": "NORMAL", "power": "FULL"}[durability]
        connection.execute(f"PRAGMA synchronous = {level}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT}")
    except BaseException:
        close_writer(path, connection)
        raise
    return connection


def close_writer(path: Path, connection: sqlite3.Connection) -> None:
    """Close what `open_writer` has opened."""
    with contextlib.suppress(sqlite3.Error):
        connection.close()
    with _looking:
        _in_use.discard(_identity(path))


def open_reader(path: Path) -> sqlite3.Connection:
    """Open a journal for reading beside a writer of this process."""
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
    connection.execute("PRAGMA query_only = ON")
    # Two connections that write to the file at once have damaged it in SQLite before 3.51.3.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def open_to_look(path: Path) -> sqlite3.Connection:
    """Open another process's journal read-only, without any writes."""
    address = f"{path.absolute().as_uri()}?mode=ro"
    if path.with_name(f"{path.name}-wal").exists():
        connection = _connect(address)
        try:
            connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
        except sqlite3.OperationalError:
            connection.close()  # in a folder where not even shared memory can be made
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    # All is in the one file: there is nothing to share, and no file has to be made beside it.
    return _connect(f"{address}&immutable=1")


def check_file(path: Path, *, newest: int = VERSION) -> None:
    """Check a file before SQLite opens it, which could change it.

    A file that this process writes is left alone: it has been looked at, and closing it would
    take SQLite's locks from all of the process, as POSIX has it. Another program could then
    take itself for the last one that uses the file, and remove the log that is written to.

    Raises:
        JournalError: it is no journal, of an older or newer llmflow, or cut off.
        OSError: it cannot be read.
    """
    with _looking:
        if _identity(path) in _in_use:
            return
        with path.open("rb") as file:
            head = file.read(_HEADER)
            size = os.fstat(file.fileno()).st_size
    if not head:
        return  # made a moment ago, by a process that was stopped there
    if len(head) < _HEADER or not head.startswith(_MAGIC):
        raise _damaged(path, "it is not a database")
    application, version = int.from_bytes(head[68:72]), int.from_bytes(head[60:64])
    if path.with_name(f"{path.name}-journal").exists():
        return  # its making was cut off, and SQLite undoes that
    logged = path.with_name(f"{path.name}-wal").exists()
    if logged or application != APPLICATION:
        with closing(open_to_look(path)) as connection:
            application, version = (
                int(connection.execute(f"PRAGMA {name}").fetchone()[0])
                for name in ("application_id", "user_version")
            )
            filled = connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        if application != APPLICATION and (application or filled):
            raise JournalError(
                f"{path} is a database of another program. It is left as it is: name another run "
                "or folder"
            )
    if version > newest or (application == APPLICATION and version < OLDEST):
        raise _of_other_version(path, version, newest)
    page, pages = int.from_bytes(head[16:18]), int.from_bytes(head[28:32])
    # After a kill the end may still be in the log.
    if not logged and pages * (65_536 if page == 1 else page) > size:
        raise _damaged(path, "its end is missing")


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0  # opening it says why
    return found.st_dev, found.st_ino


def _make(path: Path) -> None:
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # SQLite opens what it may only read without a word.
        os.close(os.open(path, os.O_RDWR))
        return
    try:
        restrict(file)
    finally:
        os.close(file)


def restrict(file: int) -> None:
    """Restrict an open file to its owner, whatever the umask.

    SQLite gives its other files the mode of the first.
    """
    if hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):
            os.fchmod(file, 0o600)


def _connect(address: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address,
        uri=True,
        timeout=_PATIENCE_SECONDS,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=16,
    )
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA cache_size = -8000")
        # What it takes to undo one statement: beside a full temporary folder, too.
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:  # such as a file that is no database
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, version: int, migrations: Sequence[Migration]) -> None:
    # In the main file and not in a log beside it, so that its header tells the version.
    connection.execute("PRAGMA journal_mode = DELETE")
    with transaction(connection):
        for migration in migrations[max(0, version - OLDEST + 1) :]:
            migration(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {OLDEST + len(migrations) - 1}")


def _check_tables(path: Path, connection: sqlite3.Connection) -> None:
    """Look where a look costs little: whether the tables are there, and at the last rows."""
    found = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    if missing := sorted(_TABLES - found):
        raise _damaged(path, f"it has no table {', '.join(missing)}")
    for table in ("answers", "failures"):
        connection.execute(f"SELECT * FROM {table} ORDER BY id DESC LIMIT 1").fetchall()  # noqa: S608


def _damaged(path: Path, reason: str) -> JournalError:
    """Return the error for a file that is not a journal."""
    return JournalError(
        f"the journal {path} is damaged ({redact(reason)}). It is left as it is: move the folder "
        f"{path.parent} away to begin anew; `sqlite3 {path.name} .recover` may save its answers"
    )


def _of_other_version(path: Path, version: int, newest: int) -> JournalError:
    """Return the error for a file of a newer llmflow, or of one before 0.1.0."""
    if version > newest:
        known = f"up to {newest}: install a newer llmflow, or name another run"
    else:
        known = (
            f"from {OLDEST} on: its answers would not be found, and bought again. It is left as it "
            "is: name another run, or go on with the llmflow that wrote it"
        )
    return JournalError(
        f"the journal {path} has version {version}, and this llmflow knows versions {known}"
    )


def explain(path: Path, error: BaseException, *, doing: str = "written") -> JournalError:
    """Return the error and remedy for a journal that cannot be used."""
    if isinstance(error, JournalError):
        return error
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, str(error))
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    number = error.errno if isinstance(error, OSError) else None
    reason = redact(text).rstrip(".").lower() or type(error).__name__
    remedy = _remedy(path, primary, number)
    return JournalError(f"the journal {path} cannot be {doing}: {reason}; {remedy}")


def _remedy(path: Path, primary: int | None, number: int | None) -> str:
    if primary == sqlite3.SQLITE_FULL or number in _NO_ROOM:
        return f"make room on the disk and run again; {_KEPT}"
    if number in _NO_FOLDER:
        return f"{path.parent} must be a folder: name another run, or move what is there away"
    if primary in _DENIED or number is not None:
        return _ELSEWHERE
    if primary in _TAKEN:
        return f"another program holds it: close what has it open, and run again; {_KEPT}"
    if primary == sqlite3.SQLITE_IOERR:
        return f"see to the disk and the room on it, and run again; {_KEPT}"
    return _KEPT


def _after_fork() -> None:
    """Begin anew: nothing is this process's, and a thread may have been looking."""
    global _looking  # noqa: PLW0603
    _looking = threading.Lock()
    _in_use.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
