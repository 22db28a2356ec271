"""A run's journal: what was asked before is answered from it, what is new is added."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import orjson

from llmflow.errors import JournalError, ProviderError
from llmflow.journal import schema
from llmflow.journal.lock import Lock
from llmflow.journal.rows import (
    ANSWER_COLUMNS,
    FAILURE_COLUMNS,
    RecordedFailure,
    answer_row,
    failure_of,
    failure_row,
    response_of,
)
from llmflow.journal.summary import read_meta, totals_of
from llmflow.journal.totals import Totals
from llmflow.journal.writer import Writer
from llmflow.types import Response

_BY_KEY: Final = "WHERE fingerprint = ? AND ordinal <= ? ORDER BY ordinal DESC LIMIT 1"
_ANSWER: Final = f"SELECT ordinal + uses, {', '.join(ANSWER_COLUMNS[4:])} FROM answers {_BY_KEY}"  # noqa: S608
_FAILURE: Final = f"SELECT ordinal + uses, {', '.join(FAILURE_COLUMNS[4:])} FROM failures {_BY_KEY}"  # noqa: S608
_ASK: Final = (
    "INSERT INTO asked VALUES (?, 1) "
    "ON CONFLICT (fingerprint) DO UPDATE SET times = times + 1 RETURNING times"
)


class Journal:
    """The answers and failures of one run, in a folder of its own. Use `open`.

    Any number of event loops in threads may use it. One process at a time has it open.
    """

    def __init__(
        self,
        folder: Path,
        lock: Lock,
        connection: sqlite3.Connection,
        *,
        whole: bool,
        wall: Callable[[], float],
    ) -> None:
        self.folder = folder
        self._path = folder / schema.NAME
        self._lock = lock
        self._connection = connection
        self._whole = whole
        self._wall = wall
        self._pid = os.getpid()
        self._meta = read_meta(connection)
        self._writer = Writer(connection, totals_of(self._meta), self._explain)
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = schema.open_reader(self._path)
        self._asked = _counts()
        # With nothing there, nothing has to be looked up.
        self._has_failures = bool(self.totals.failures)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        store: str = "full",
        wall: Callable[[], float] = time.time,
    ) -> Self:
        """Open a run's journal, made if there is none.

        Args:
            folder: the run's folder.
            store: ``"full"`` for whole replies; ``"answers"`` for all but `Response.raw`.
            wall: the time of day, in seconds since 1970.

        Raises:
            JournalBusyError: another process has it open.
            JournalError: it cannot be read or written; the message says what to do.
        """
        folder = Path(folder)
        path = folder / schema.NAME
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = Lock(folder)
        except OSError as error:
            raise schema.explain(path, error) from error
        try:
            return cls(folder, lock, schema.open_writer(path), whole=store == "full", wall=wall)
        except (sqlite3.Error, OSError, ValueError) as error:
            lock.release()
            raise schema.explain(path, error) from error
        except BaseException:
            lock.release()
            raise

    @property
    def totals(self) -> Totals:
        """What it holds, over all sessions."""
        return self._writer.totals

    @property
    def sessions(self) -> int:
        """How many sessions there were, this one among them."""
        return int(self._meta.get("sessions", 0))

    def begin(self, about: Mapping[str, Any]) -> None:
        """Note that a session begins.

        Args:
            about: what to keep with the run: plain values, no secrets.

        Raises:
            JournalError: it cannot be written.
        """
        now = self._wall()
        self._note(
            created_at=self._meta.get("created_at", now),
            last_used_at=now,
            sessions=self.sessions + 1,
            state="running",
            reason=None,
            about=dict(about),
        )

    def ask(self, fingerprint: bytes) -> int:
        """Return how often this was asked before in this session, and count it."""
        with self._reading:
            rows = self._asked.execute(_ASK, (fingerprint,)).fetchall()
        return int(rows[0][0]) - 1

    def find(self, fingerprint: bytes, nth: int) -> Response | RecordedFailure | None:
        """Return what is known of a question that was asked `nth` times before.

        Raises:
            JournalError: the journal is damaged or closed.
        """
        if self._pid != os.getpid():
            raise JournalError(
                f"the run {self.folder.name} belongs to the process that this one was forked from: "
                "enter a Run in the process that asks"
            )
        key = (fingerprint, nth)
        try:
            with self._reading:
                if self._reader is None:
                    raise JournalError(f"the run {self.folder.name} is over: its journal is closed")
                rows = self._reader.execute(_ANSWER, key).fetchall()
                if rows and rows[0][0] > nth:
                    return response_of(rows[0][1:])
                if not self._has_failures:
                    return None
                rows = self._reader.execute(_FAILURE, key).fetchall()
        except (sqlite3.Error, ValueError) as error:
            raise self._explain(error) from error
        return failure_of(rows[0][1:]) if rows and rows[0][0] > nth else None

    async def record(
        self, fingerprint: bytes, nth: int, response: Response, *, uses: int = 1
    ) -> None:
        """Write an answer down; returns when it is durable.

        Cancelled, it is written all the same.

        Args:
            fingerprint: what was asked.
            nth: how often it was asked before in this session.
            response: the answer.
            uses: how many equal calls it is for.

        Raises:
            JournalError: it cannot be written; nothing that was written before is lost.
        """
        at = self._wall()
        row = answer_row(fingerprint, nth, uses, at, response, whole=self._whole)
        await self._writer.put("answers", row)

    async def record_failure(
        self, fingerprint: bytes, nth: int, error: ProviderError, *, uses: int = 1
    ) -> None:
        """Write down that a call failed for good. Arguments as in `record`."""
        row = failure_row(fingerprint, nth, uses, self._wall(), error)
        await self._writer.put("failures", row)
        self._has_failures = True

    def close(self, *, state: str = "complete", reason: str | None = None) -> None:
        """Write what is waiting, note how the session ended, and let go of the file.

        Doing so twice is fine.

        Args:
            state: how it ended: ``complete``, ``interrupted`` or ``stopped``.
            reason: why it ended before its end, or None.

        Raises:
            JournalError: what was waiting could not be written.
        """
        if self._reader is None or self._pid != os.getpid():
            return
        self._writer.close()
        with self._reading:
            reader, self._reader = self._reader, None
        try:
            if self._writer.failure is None:
                self._note(last_used_at=self._wall(), state=state, reason=reason)
        finally:
            for each in (reader, self._asked, self._connection):
                each.close()
            self._lock.release()

    def _note(self, **values: Any) -> None:
        self._meta.update(values)
        rows = [(name, orjson.dumps(value).decode()) for name, value in values.items()]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> JournalError:
        return schema.explain(self._path, error)


def _counts() -> sqlite3.Connection:
    """Return a table of how often what was asked: in memory, and on disk where it grows."""
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA cache_size = -16000")
    connection.execute(
        "CREATE TABLE asked (fingerprint BLOB PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID"
    )
    connection.execute("BEGIN")
    return connection
