"""Counts how often each question was asked, in bounded memory."""

from __future__ import annotations

import sqlite3
import threading
from typing import Final

from llmflow.errors import JournalError

_ASK: Final = (
    "INSERT INTO asked VALUES (?, 0) "
    "ON CONFLICT (fingerprint) DO UPDATE SET times = times + 1 RETURNING times"
)

_IN_MEMORY: Final = 100_000
"""Questions that are counted in a dictionary, of some 110 bytes each."""

_PAGES: Final = -8000
"""How much of the file stays in memory: SQLite's `cache_size`, here in KiB."""


class Asked:
    """Exact counts, in 20 MB of memory, then in a file.

    A dictionary alone would take 1.5 GB for ten million questions. A small one comes first:
    it is twenty times as fast, and most runs need no more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[bytes, int] = {}
        self._beyond: sqlite3.Connection | None = None

    def count(self, fingerprint: bytes) -> int:
        """Return how often this was asked before, and count it.

        Raises:
            JournalError: there is no room in the temporary folder.
        """
        first = self._first
        with self._lock:
            times = first.get(fingerprint)
            if times is not None:
                first[fingerprint] = times = times + 1
                return times
            # Once it is full nothing new is put in: a question is in one of the two.
            if len(first) < _IN_MEMORY:
                first[fingerprint] = 0
                return 0
            try:
                if self._beyond is None:
                    self._beyond = _database()
                return int(self._beyond.execute(_ASK, (fingerprint,)).fetchall()[0][0])
            except sqlite3.Error as error:
                raise _no_room(error) from error

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._first.clear()
            if self._beyond is not None:
                self._beyond.close()
                self._beyond = None


def _no_room(error: sqlite3.Error) -> JournalError:
    return JournalError(
        f"questions of this run cannot be counted in the temporary folder: {error}; make room "
        "there, or name another folder in TMPDIR, and run again; what was answered is kept"
    )


def _database() -> sqlite3.Connection:
    # A database without a name is private, and removed when it is closed.
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = {_PAGES}"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(
        "CREATE TABLE asked (fingerprint BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID"
    )
    # Never committed: a commit would write what can stay in memory.
    connection.execute("BEGIN")
    return connection
