"""The writer thread, which groups records into few commits.

SQLite gives the interpreter's lock away at every step and has to get it back afterwards. So
many rows are one statement. An event loop that is never idle gives the lock away, too, for
moments that are too short for another thread to wake up in, and by that keeps the interpreter
from counting the switch interval: the writer could wait for seconds. So a loop whose rows
wait for long stands still for as long as writing them takes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from itertools import chain
from math import isfinite
from typing import Final, NamedTuple

from llmflow.errors import JournalError
from llmflow.journal.checksums import CHECKSUM, sealed_plain
from llmflow.journal.rows import (
    ANSWER_ATTEMPTS,
    ANSWER_COLUMNS,
    COST,
    FAILURE_ATTEMPTS,
    FAILURE_COLUMNS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Row,
    to_json,
)
from llmflow.journal.schema import roll_back
from llmflow.journal.values import Totals

# Long enough for a group to form, and short beside any answer of a model.
_LINGER_SECONDS: Final = 0.004
# A group takes a few milliseconds if it is let.
_PATIENCE_SECONDS: Final = 0.02
_LENT_SECONDS: Final = 0.025
_PATIENCE_MOST: Final = 0.2
_SIZES: Final = (128, 32, 8, 1)
_MOST_PER_COMMIT: Final = 4096
# What SQLite's binding says of values that are odd; everything else is the disk's.
_ODD: Final = (
    UnicodeError,
    OverflowError,
    TypeError,
    ValueError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)

_ANSWER_COLUMNS: Final = (*ANSWER_COLUMNS, CHECKSUM)
_FAILURE_COLUMNS: Final = (*FAILURE_COLUMNS, CHECKSUM)
_ANSWERS: Final = (  # noqa: S608 - all names are ours
    "INSERT INTO answers ({}) VALUES {} "
    # The first answer stays: it is what a caller was given.
    "ON CONFLICT (fingerprint, ordinal) DO NOTHING"
).format(", ".join(_ANSWER_COLUMNS), "{}")
_FAILURES: Final = (  # noqa: S608
    "INSERT INTO failures ({}) SELECT * FROM (VALUES {}) AS new "
    # What was answered has not failed.
    "WHERE coalesce((SELECT ordinal + uses FROM answers WHERE fingerprint = new.column1 "
    "AND ordinal <= new.column2 ORDER BY ordinal DESC LIMIT 1), 0) <= new.column2 "
    "ON CONFLICT (fingerprint, ordinal) DO UPDATE SET {}"
).format(
    ", ".join(_FAILURE_COLUMNS),
    "{}",
    ", ".join(f"{name} = excluded.{name}" for name in _FAILURE_COLUMNS[2:]),
)
_ANSWERED: Final = """
DELETE FROM failures WHERE id IN (
    SELECT failures.id FROM answers CROSS JOIN failures
    ON failures.fingerprint = answers.fingerprint
    AND failures.ordinal >= answers.ordinal
    AND failures.ordinal < answers.ordinal + answers.uses
    WHERE answers.id > ?
)"""
_NONE_LESS: Final = partial(max, 0.0)
_NOTE: Final = "INSERT OR REPLACE INTO meta VALUES ('totals', ?), ('last_used_at', ?)"


class Entry(NamedTuple):
    """A row to write, or a marker, and its waiters."""

    row: Row
    failed: bool
    paid: bool
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Charged(NamedTuple):
    """A budget charge that belongs to no row."""

    cost: float
    tokens: float
    requests: int


class Writer:
    """Writes rows in groups and notifies waiters when they are durable.

    Args:
        connection: the journal's only writing connection; to use it, hold `using`.
        totals: what the journal holds already.
        explain: makes the error that everybody gets, once nothing can be written any more.
        wall: the time of day, in seconds since 1970.
        closed: what is said when it is too late.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        totals: Totals,
        explain: Callable[[BaseException], JournalError],
        *,
        wall: Callable[[], float],
        closed: str,
    ) -> None:
        self.totals = totals
        self.failure: JournalError | None = None
        """Why nothing can be written any more, or None."""
        self.using = threading.Lock()
        self._connection = connection
        self._explain = explain
        self._wall = wall
        self._closed = closed
        most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        self._sizes = [each for each in _SIZES if each * len(_ANSWER_COLUMNS) <= most]
        self._waiting: deque[Entry] = deque()
        self._group: Sequence[Entry] = ()
        self._charges: deque[Charged] = deque()
        self._altered: dict[bytes, list[tuple[str, int]]] = {}
        self._news = threading.Event()
        self._told = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._gate = threading.Lock()
        self._progress = threading.Event()
        self._handed = self._done = 0
        self._lenders: set[asyncio.AbstractEventLoop] = set()

    def put(self, row: Row, *, failed: bool = False, paid: bool = True) -> asyncio.Future[None]:
        """Write a row; the future ends when earlier ones are durable, too.

        Args:
            row: the row; an empty one only waits for those before it.
            failed: whether it is of the failures' table.
            paid: whether it counts as spent.

        Raises:
            JournalError: nothing can be written any more.
        """
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        with self._gate:
            if self.failure is not None:
                raise JournalError(str(self.failure))
            if self._closing:
                raise JournalError(self._closed)
            if self._thread is None:
                self._start()
            self._waiting.append(Entry(row, failed, paid, loop, done))
            self._handed += 1
            if not self._told:
                self._told = True
                self._news.set()
            if loop not in self._lenders:
                self._lenders = {each for each in self._lenders if not each.is_closed()} | {loop}
                loop.call_later(_PATIENCE_SECONDS, self._lend, loop, self._handed)
        return done

    def charge(self, charged: Charged) -> None:
        """Add to the totals with the next group; lock-free, never fails."""
        self._charges.append(charged)

    def replace(self, fingerprint: bytes, table: str, number: int) -> None:
        """Let the question's next row replace an altered one.

        Until then that one stays: somebody may want to look at it.

        Args:
            fingerprint: the question.
            table: ``answers`` or ``failures``.
            number: the row's id there.
        """
        with self._gate:
            self._altered.setdefault(fingerprint, []).append((table, number))

    def _lend(
        self, loop: asyncio.AbstractEventLoop, number: int, patience: float = _PATIENCE_SECONDS
    ) -> None:
        """Leave the interpreter to the writer for a moment, if it has not come to a row."""
        if self._done < number:
            self._progress.clear()
            if self._done < number:
                self._progress.wait(_LENT_SECONDS)
        if self._done >= number:
            with self._gate:
                self._lenders.discard(loop)
        else:  # it waits for the disk: standing still does not help
            patience = min(_PATIENCE_MOST, patience * 2)
            loop.call_later(patience, self._lend, loop, number, patience)

    def close(self) -> None:
        """Write what is waiting, and end the thread."""
        with self._gate:
            self._closing = True
            thread = self._thread
        if thread is not None:
            self._news.set()
            thread.join()
        if self._charges and self.failure is None:
            self._write(())

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name="llmflow-journal", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # no more threads, or no memory for one
            self.failure = self._said_of(error)
            raise JournalError(str(self.failure)) from error
        self._thread = thread

    def _serve(self) -> None:
        try:
            self._write_until_closed()
        except BaseException as error:  # noqa: BLE001 - whoever waits would wait for ever
            self._die(error)

    def _die(self, error: BaseException) -> None:
        """Have all who wait fail, and all who come: nobody writes any more."""
        with self._gate:
            if self.failure is None:
                self.failure = self._said_of(error)
            waiting = [*self._group, *self._waiting]
            self._waiting.clear()
            self._done = self._handed
        self._progress.set()
        _tell(waiting, self.failure)

    def _said_of(self, error: BaseException) -> JournalError:
        try:
            return self._explain(error)
        except Exception:  # noqa: BLE001 - without memory for its words, too, it must be told
            return JournalError(f"the journal cannot be written: {type(error).__name__}")

    def _write_until_closed(self) -> None:
        while True:
            self._news.wait()
            if not self._closing:
                time.sleep(_LINGER_SECONDS)
            with self._gate:
                closing = self._closing
                self._told = False
                if not closing:
                    self._news.clear()
            self._write_waiting()
            if closing:
                return

    def _write_waiting(self) -> None:
        waiting = self._waiting
        while waiting:
            group: list[Entry] = []
            self._group = group  # before its first entry: none is lost, whatever happens
            group.extend(waiting.popleft() for _ in range(min(len(waiting), _MOST_PER_COMMIT)))
            _tell(group, self.failure or self._write(group))
            self._group = ()
            self._done += len(group)
            self._progress.set()

    def _write(self, group: Sequence[Entry]) -> JournalError | None:
        """Write a group in one transaction, or nothing of it and nothing ever after."""
        try:
            rows = [each for each in group if each.row]
            with self.using:
                try:
                    self._commit(rows)
                except _ODD:
                    # One odd row must not be the others' failure.
                    self._commit([_plain(each) for each in rows])
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self.failure = self._explain(error)
        return self.failure

    def _commit(self, rows: Sequence[Entry]) -> None:
        charges = list(self._charges)
        if not rows and not charges:
            return
        execute = self._connection.execute
        altered = self._altered_before(rows) if self._altered else {}
        try:
            execute("BEGIN IMMEDIATE")
            totals = self._insert(rows, charges, self._remove(altered))
            execute(_NOTE, (to_json(asdict(totals)), to_json(self._wall())))
            execute("COMMIT")
        except BaseException:
            roll_back(self._connection)
            raise
        self.totals = totals
        for _ in charges:
            self._charges.popleft()
        if altered:
            self._forget(altered)

    def _altered_before(self, rows: Sequence[Entry]) -> dict[bytes, list[tuple[str, int]]]:
        """Return the altered rows that some new ones take the place of."""
        with self._gate:
            asked = self._altered.keys() & {each.row[0] for each in rows}
            return {fingerprint: list(self._altered[fingerprint]) for fingerprint in asked}

    def _forget(self, altered: Mapping[bytes, Sequence[tuple[str, int]]]) -> None:
        with self._gate:
            for fingerprint, rows in altered.items():
                left = [each for each in self._altered.pop(fingerprint) if each not in rows]
                if left:  # found while the others were removed
                    self._altered[fingerprint] = left

    def _remove(self, altered: dict[bytes, list[tuple[str, int]]]) -> dict[str, int]:
        """Remove altered rows; return how many of each table."""
        removed = {"answers": 0, "failures": 0}
        for table, number in chain.from_iterable(altered.values()):
            statement = f"DELETE FROM {table} WHERE id = ?"  # noqa: S608
            removed[table] += self._connection.execute(statement, (number,)).rowcount
        return removed

    def _insert(
        self, rows: Sequence[Entry], charges: Sequence[Charged], removed: Mapping[str, int]
    ) -> Totals:
        answers = [each.row for each in rows if not each.failed]
        failures = [each.row for each in rows if each.failed]
        failed = self.totals.failures - removed["failures"]
        if failures:
            last = self._last("failures")
            self._insert_rows(_FAILURES, failures)
            failed += self._last("failures") - last
        last = self._last("answers") if failed else 0
        answered = self.totals.answers - removed["answers"]
        answered += self._insert_rows(_ANSWERS, answers)
        if failed and answers:
            failed -= self._connection.execute(_ANSWERED, (last,)).rowcount
        return replace(self._spent(rows, charges), answers=answered, failures=failed)

    def _spent(self, rows: Sequence[Entry], charges: Sequence[Charged]) -> Totals:
        """Return what has been spent, with these rows and charges."""
        before = self.totals
        answers = [each.row for each in rows if each.paid and not each.failed]
        failures = [each.row for each in rows if each.paid and each.failed]
        requests = sum([row[ANSWER_ATTEMPTS] for row in answers])
        costs = [row[COST] for row in answers if row[COST] is not None and isfinite(row[COST])]
        requests += sum([row[FAILURE_ATTEMPTS] for row in failures])
        # A provider's own numbers: nothing that it says makes a budget larger.
        return Totals(
            requests=before.requests + requests + sum([each.requests for each in charges]),
            input_tokens=before.input_tokens + sum([max(0, row[INPUT_TOKENS]) for row in answers]),
            output_tokens=before.output_tokens
            + sum([max(0, row[OUTPUT_TOKENS]) for row in answers]),
            cost=(before.cost or 0.0) + sum(map(_NONE_LESS, costs)) if costs else before.cost,
            unsaid_cost=before.unsaid_cost + sum([each.cost for each in charges]),
            unsaid_tokens=before.unsaid_tokens + sum([each.tokens for each in charges]),
        )

    def _insert_rows(self, statement: str, rows: Sequence[Row]) -> int:
        changed = start = 0
        while start < len(rows):
            left = len(rows) - start
            size = next(each for each in self._sizes if each <= left)
            values = [value for row in rows[start : start + size] for value in row]
            cursor = self._connection.execute(_sized(statement, size, len(rows[0])), values)
            changed += cursor.rowcount
            start += size
        return changed

    def _last(self, table: str) -> int:
        row = self._connection.execute(f"SELECT max(id) FROM {table}").fetchone()  # noqa: S608
        return int(row[0] or 0)


def _plain(entry: Entry) -> Entry:
    return entry._replace(row=sealed_plain(entry.row, failed=entry.failed))


@cache
def _sized(statement: str, rows: int, columns: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return statement.format(", ".join([one] * rows))


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
