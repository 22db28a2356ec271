"""The one thread that writes, with as few commits as there are moments to make them.

SQLite gives the interpreter's lock away at every step and has to wait for it afterwards,
up to a switch interval where the event loop is busy. So a group of rows is one statement.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import orjson

from llmflow.errors import JournalError
from llmflow.journal.rows import ANSWER_COLUMNS, FAILURE_COLUMNS
from llmflow.journal.totals import Totals

# Long enough for a group to form, and short beside any answer of a model.
_LINGER_SECONDS: Final = 0.004
_SIZES: Final = (128, 32, 8, 1)
_MOST_PER_COMMIT: Final = 4096
_COLUMNS: Final = {"answers": ANSWER_COLUMNS, "failures": FAILURE_COLUMNS}


class Entry(NamedTuple):
    """A row on its way, and who waits for it."""

    table: str
    row: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Writer:
    """Writes rows in groups, and tells those who wait when theirs is durable.

    Args:
        connection: the journal's only writing connection; from now on the thread's.
        totals: what the journal holds already.
        explain: makes the error that everybody gets, once nothing can be written any more.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        totals: Totals,
        explain: Callable[[Exception], JournalError],
    ) -> None:
        self.totals = totals
        self.failure: JournalError | None = None
        """Why nothing can be written any more, or None."""
        self._connection = connection
        self._explain = explain
        most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        self._sizes = [each for each in _SIZES if each * len(ANSWER_COLUMNS) <= most]
        self._waiting: deque[Entry] = deque()
        self._news = threading.Event()
        self._told = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def put(self, table: str, row: tuple[Any, ...]) -> asyncio.Future[None]:
        """Have a row written; the future ends when it is durable.

        Raises:
            JournalError: nothing can be written any more.
        """
        if self.failure is not None:
            raise JournalError(str(self.failure))
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        self._waiting.append(Entry(table, row, loop, done))
        if self._thread is None:
            self._start()
        if not self._told:
            self._told = True
            self._news.set()
        return done

    def close(self) -> None:
        """Write what is waiting, and end the thread."""
        self._closing = True
        with self._starting:
            thread = self._thread
        if thread is not None:
            self._news.set()
            thread.join()
        self._write_waiting()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._serve, name="llmflow-journal", daemon=True
                )
                self._thread.start()

    def _serve(self) -> None:
        while not self._closing:
            self._news.wait()
            if not self._closing:
                time.sleep(_LINGER_SECONDS)
            self._news.clear()
            # In this order: whoever sees it untold after this comes with the next group.
            self._told = False
            self._write_waiting()

    def _write_waiting(self) -> None:
        waiting = self._waiting
        while waiting:
            group = [waiting.popleft() for _ in range(min(len(waiting), _MOST_PER_COMMIT))]
            error = self.failure or self._write(group)
            if error is None or len(group) == 1:
                _tell(group, error)
                continue
            # One odd row must not be the others' failure.
            for each in group:
                _tell([each], self.failure or self._write([each]))

    def _write(self, group: Sequence[Entry]) -> JournalError | None:
        """Write a group in one transaction, or nothing of it."""
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            totals = self._insert(group)
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('totals', ?)",
                (orjson.dumps(asdict(totals)).decode(),),
            )
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self._roll_back()
            explained = self._explain(error)
            if isinstance(error, sqlite3.OperationalError | sqlite3.DatabaseError) and not (
                isinstance(error, sqlite3.DataError | sqlite3.InterfaceError)
            ):
                self.failure = explained
            return explained
        self.totals = totals
        return None

    def _insert(self, group: Sequence[Entry]) -> Totals:
        answers = [each.row for each in group if each.table == "answers"]
        failures = [each.row for each in group if each.table == "failures"]
        before = self.totals
        gone = self._forget_failures(answers) if before.failures and answers else 0
        added = self._insert_rows("answers", answers)
        failed = self._insert_rows("failures", failures)
        costs = [row[12] for row in answers if row[12] is not None]
        cost = before.cost
        if costs:
            cost = (cost or 0.0) + sum(costs)
        return Totals(
            answers=before.answers + added,
            failures=before.failures + failed - gone,
            requests=before.requests
            + sum(row[13] for row in answers)
            + sum(row[13] for row in failures),
            input_tokens=before.input_tokens + sum(row[9] for row in answers),
            output_tokens=before.output_tokens + sum(row[10] for row in answers),
            cost=cost,
        )

    def _insert_rows(self, table: str, rows: Sequence[tuple[Any, ...]]) -> int:
        columns = _COLUMNS[table]
        # The first answer stays; a later failure says more than an earlier one.
        verb = "INSERT OR IGNORE" if table == "answers" else "INSERT OR REPLACE"
        head = f"{verb} INTO {table} ({', '.join(columns)}) VALUES "
        one = f"({', '.join('?' * len(columns))})"
        changed = start = 0
        while start < len(rows):
            left = len(rows) - start
            size = next(each for each in self._sizes if each <= left)
            values = [value for row in rows[start : start + size] for value in row]
            cursor = self._connection.execute(head + ", ".join([one] * size), values)
            changed += cursor.rowcount
            start += size
        return changed

    def _forget_failures(self, answers: Iterable[tuple[Any, ...]]) -> int:
        gone = 0
        for row in answers:
            gone += self._connection.execute(
                "DELETE FROM failures WHERE fingerprint = ? AND ordinal = ?", row[:2]
            ).rowcount
        return gone

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # SQLite has rolled back by itself


def _tell(group: Iterable[Entry], error: JournalError | None) -> None:
    """Wake who waits: each event loop once, in its own thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for each in group:
        by_loop.setdefault(each.loop, []).append(each.done)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake, futures, error)
        except RuntimeError:
            continue  # the loop is closed: nobody waits any more


def _wake(futures: Iterable[asyncio.Future[None]], error: JournalError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(JournalError(str(error)))
