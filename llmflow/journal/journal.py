"""A run's journal: replays earlier answers and records new ones."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from llmflow._version import __version__
from llmflow.errors import JournalError
from llmflow.journal import schema
from llmflow.journal.lock import Lock
from llmflow.journal.protocol import Durability, Key, Outcome, Recorded, Store, Totals
from llmflow.journal.reading import Reader, jobs_of, read_meta, totals_of
from llmflow.journal.rows import answer_row, failure_row, sealed_answer, sealed_plain, to_json
from llmflow.journal.schema import explain
from llmflow.journal.writer import NO_ROW, Entry, Writer, durable, transaction
from llmflow.private_files import make_private_folder
from llmflow.types import Response

_PUT_JOB: Final = (
    "INSERT INTO jobs (tag, at, record) VALUES (?, ?, ?) "
    "ON CONFLICT (tag) DO UPDATE SET at = excluded.at, record = excluded.record"
)

_T = TypeVar("_T")
_open: weakref.WeakSet[Journal] = weakref.WeakSet()


class Journal:
    """The answers and failures of one run. Use `open`.

    Any number of event loops in threads may use it. One process at a time has it open.
    """

    is_local = True

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
        self.opened_at = wall()
        """When the session began: what is written down later, it has written."""
        self._pid = os.getpid()
        self._is_inherited = self._is_closed = False
        self._meta = read_meta(connection)
        self._over = f"the run {folder.name} is over: its journal is closed"
        self._writer = Writer(
            connection,
            totals_of(self._meta),
            partial(explain, self._path),
            wall=wall,
            closed=self._over,
        )
        self._reading = threading.Lock()
        self._closing = threading.Lock()
        self._reader = Reader(schema.open_reader(self._path), replace=self._writer.replace)
        try:
            if self.totals.failures:
                self._reader.note_failures()
            self.began_empty = self._reader.is_empty()
            """Whether it knows nothing but what this session has written down."""
        except BaseException:  # such as a page that is damaged
            self._reader.connection.close()
            raise
        _open.add(self)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        store: Store = "full",
        durability: Durability = "process",
        wall: Callable[[], float] = time.time,
    ) -> Self:
        """Open a run's journal, made if there is none.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal.open(folder)
        ...     journal.begin({"kind": "python"})
        ...     print(journal.find(b"sixteen bytes...", 0), journal.totals.answers)
        ...     journal.close()
        None 0

        Args:
            folder: the run's folder.
            store: ``"full"`` for whole replies; ``"answers"`` for all but `Response.raw`.
            durability: what an answer survives once it is recorded: ``"process"``, the end of
                the process in any way; ``"power"``, a power cut, too, for a disk's delay in
                every group.
            wall: the time of day, in seconds since 1970.

        Raises:
            JournalBusyError: another process has it open.
            JournalError: it cannot be read or written; the message says what to do.
        """
        folder = Path(folder)
        path = folder / schema.NAME
        with contextlib.ExitStack() as undo:
            try:
                make_private_folder(folder)
                lock = Lock(folder)
                undo.callback(lock.release)
                connection = schema.open_writer(path, durability=durability)
                undo.callback(schema.close_writer, path, connection)
                journal = cls(folder, lock, connection, whole=store == "full", wall=wall)
            except (sqlite3.Error, OSError, ValueError) as error:
                raise explain(path, error, doing="opened") from error
            undo.pop_all()
        return journal

    @property
    def totals(self) -> Totals:
        """Totals over all sessions."""
        return self._writer.totals

    @property
    def altered(self) -> int:
        """The number of rows altered since they were written."""
        return len(self._reader.altered)

    @property
    def sessions(self) -> int:
        """The number of sessions, this one included."""
        return int(self._meta.get("sessions", 0))

    def begin(self, about: Mapping[str, Any]) -> None:
        """Note that a session begins, before anything is recorded in it."""
        self._check()
        now = self._wall()
        self._note(
            id=self._meta.get("id") or secrets.token_hex(8),
            version=__version__,
            created_at=self._meta.get("created_at", now),
            last_used_at=now,
            sessions=self.sessions + 1,
            state="running",
            reason=None,
            about=dict(about),
        )

    def find(self, fingerprint: bytes, nth: int) -> Recorded | None:
        """Return the record of a question's `nth` answer, or None.

        A row that was altered since it was written is not known: what is recorded next for
        its question takes its place.
        """
        self._check()
        try:
            with self._reading:
                if self._is_closed:
                    raise JournalError(self._over)
                return self._reader.find((fingerprint, nth))
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise explain(self._path, error, doing="read") from error

    async def find_many(self, keys: Sequence[Key]) -> dict[Key, Recorded]:
        """Do what `find` does for many questions; it never waits."""
        return self._read(lambda reader: reader.find_many(keys))

    async def find_texts(self, keys: Sequence[Key]) -> dict[Key, str]:
        """Return the texts of answers that have one, uncut."""
        return self._read(lambda reader: reader.find_texts(keys))

    def put(
        self, fingerprint: bytes, nth: int, outcome: Outcome, *, uses: int = 1, paid: bool = True
    ) -> asyncio.Future[None]:
        """Write an outcome down; the future ends when it is durable."""
        self._check()
        return self._writer.put(self._entry(fingerprint, nth, outcome, uses, paid))

    def put_many(self, outcomes: Iterable[tuple[Key, Outcome]]) -> asyncio.Future[None]:
        """Do what `put` does for many outcomes, with one future."""
        self._check()
        *before, last = [self._entry(*key, outcome) for key, outcome in outcomes] or [NO_ROW]
        return self._writer.put(last, before)

    def _entry(
        self, fingerprint: bytes, nth: int, outcome: Outcome, uses: int = 1, paid: bool = True
    ) -> Entry:
        if isinstance(outcome, Response):
            row = answer_row(fingerprint, nth, uses, self._wall(), outcome, whole=self._whole)
            return sealed_answer(row), False, paid
        self._reader.note_failures()
        row = failure_row(fingerprint, nth, uses, self._wall(), outcome)
        return sealed_plain(row, failed=True), True, paid

    async def record(self, fingerprint: bytes, nth: int, outcome: Outcome, **options: Any) -> None:
        """Do what `put` does; returns when the outcome is durable."""
        await self.put(fingerprint, nth, outcome, **options)

    def charge(self, *, cost: float, tokens: float, requests: int = 0) -> None:
        """Count spending without a row, for the budgets of later sessions."""
        if self._pid == os.getpid():
            self._writer.charge(cost, tokens, requests)

    def note(self, name: str, value: Any) -> None:
        """Store a plain value with the run, under the caller's name."""
        self._check()
        self._note(**{f"note.{name}": value})

    def noted(self, name: str) -> Any:
        """Return the value that `note` stored in any session, or None."""
        return self._meta.get(f"note.{name}")

    def put_jobs(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Record batch jobs by tag, at once durable in power cuts, too."""
        self._check()
        now = self._wall()
        rows = [(tag, now, to_json(dict(record))) for tag, record in records.items()]
        with self._writing(durable):
            self._connection.executemany(_PUT_JOB, rows)

    def jobs(self) -> list[dict[str, Any]]:
        """Return the records of all batch jobs, in order of creation."""
        return self._read(lambda reader: jobs_of(reader.connection))

    async def drain(self) -> None:
        """Return once everything that was handed over before is durable."""
        self._check()
        await self._writer.put(NO_ROW)

    def close(self, *, state: str | None = "complete", reason: str | None = None) -> None:
        """Write pending rows, record the session's end, and close the file."""
        if self._pid != os.getpid():
            return
        with self._closing:
            if self._is_closed:
                return
            self._writer.close()
            with self._reading:
                self._is_closed = True
            try:
                if state is not None and self._writer.failure is None:
                    self._note(last_used_at=self._wall(), state=state, reason=reason)
            finally:
                # The writer last, for the last one puts the log into the file.
                self._reader.connection.close()
                schema.close_writer(self._path, self._connection)
                self._lock.release()
                _open.discard(self)

    def _check(self) -> None:
        if self._is_inherited:
            raise JournalError(
                f"the run {self.folder.name} belongs to the process that this one was forked from: "
                "enter a Run in the process that asks"
            )
        if self._is_closed:
            raise JournalError(self._over)

    def _note(self, **values: Any) -> None:
        rows = [(name, to_json(value)) for name, value in values.items()]
        with self._writing(transaction):
            self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
        self._meta.update(values)

    def _read(self, look: Callable[[Reader], _T]) -> _T:
        self._check()
        try:
            with self._reading:
                if self._is_closed:
                    raise JournalError(self._over)
                return look(self._reader)
        except (sqlite3.Error, ValueError, TypeError) as error:
            raise explain(self._path, error, doing="read") from error

    @contextlib.contextmanager
    def _writing(
        self, group: Callable[[sqlite3.Connection], AbstractContextManager[None]]
    ) -> Iterator[None]:
        try:
            with self._writer.using, group(self._connection):
                yield
        except sqlite3.Error as error:
            raise explain(self._path, error) from error


# What a forked process must not close: to SQLite it would be the parent's closing.
_inherited: list[Journal] = []


def _after_fork() -> None:
    for journal in _open:
        journal._is_inherited = True
        _inherited.append(journal)


@atexit.register
def _close_all() -> None:
    for journal in list(_open):
        with contextlib.suppress(JournalError):
            journal.close(state=None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
