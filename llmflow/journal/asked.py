"""How often each question was asked, of any number of questions."""

from __future__ import annotations

import sqlite3
import threading
from typing import Final

_ASK: Final = (
    "INSERT INTO asked VALUES (?, 0) "
    "ON CONFLICT (fingerprint) DO UPDATE SET times = times + 1 RETURNING times"
)


class Asked:
    """Counts, exactly, in 16 MB of memory and beyond that in a file that nobody sees.

    A dictionary would take 1.5 GB for ten million questions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A database without a name is private, and removed when it is closed.
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -16000"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.execute(
            "CREATE TABLE asked (fingerprint BLOB PRIMARY KEY, times INTEGER NOT NULL) "
            "WITHOUT ROWID"
        )
        # Never committed: a commit would write what can stay in memory.
        self._connection.execute("BEGIN")

    def count(self, fingerprint: bytes) -> int:
        """Return how often this was asked before, and count it."""
        with self._lock:
            return int(self._connection.execute(_ASK, (fingerprint,)).fetchall()[0][0])

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._connection.close()
