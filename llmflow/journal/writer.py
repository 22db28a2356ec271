"""Threads that write to an SQLite file in groups.

`Writer` is the journal's; the cache has one of the same kind.

SQLite gives the interpreter's lock away at every step and has to get it back afterwards. So
many rows are one statement. An event loop that is never idle gives the lock away, too, for
moments that are too short for another thread to wake up in, and by that keeps the interpreter
from counting the switch interval: the thread could wait for seconds. So a loop whose rows
wait for long stands still for as long as writing them takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from math import isfinite
from typing import Any, Final, NamedTuple, TypeAlias

from llmflow.errors import JournalError
from llmflow.journal.protocol import Totals
from llmflow.journal.rows import (
    ANSWER_ATTEMPTS,
    ANSWER_COLUMNS,
    CHECKSUM,
    COST,
    FAILURE_ATTEMPTS,
    FAILURE_COLUMNS,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Row,
    insert,
    sealed_plain,
    to_json,
)

# Long enough for a group to form, and short beside any answer of a model.
_LINGER_SECONDS: Final = 0.004
# A group takes a few milliseconds if it is let.
_PATIENCE_SECONDS: Final = 0.02
_LENT_SECONDS: Final = 0.025
_PATIENCE_MOST: Final = 0.2
# What SQLite's binding says of values that are odd; everything else is the file's.
ODD_VALUE: Final = (
    UnicodeError,
    OverflowError,
    TypeError,
    ValueError,
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
)

# Plain tuples: making one with names takes as long as putting a row in line.
Waiting: TypeAlias = tuple[Any, asyncio.AbstractEventLoop, asyncio.Future[Any] | None]
"""Something to do, and who waits for it: an event loop, and a future that ends with it."""


class GroupWorker(ABC):
    """A thread that writes in groups, and looks up in between.

    Args:
        name: the thread's name.
        most: how much is written in one transaction.
        too_late: what is raised for what comes after the end; None: nothing comes of it.
        urgent: whether rows that come while others are written are written at once, and an
            event loop stands still for rows that wait for long.
    """

    _look_up: Callable[[Sequence[Any]], Mapping[Any, Any]]
    """Returns what is known of a group; the journal's thread is asked nothing."""

    def __init__(
        self, name: str, *, most: int, too_late: Exception | None = None, urgent: bool = False
    ) -> None:
        self.using = threading.Lock()
        """Held while SQLite is at work."""
        self.failure: Exception | None = None
        """Why nothing can be written any more, or None."""
        self._name = name
        self._most = most
        self._too_late = too_late
        self._urgent = urgent
        self._lookups: list[Waiting] = []
        self._rows: list[Waiting] = []
        self._group: Sequence[Waiting] = ()
        self._gate = threading.Lock()
        self._news = threading.Event()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._progress = threading.Event()
        self._handed = self._done = 0
        self._lenders: set[asyncio.AbstractEventLoop] = set()

    @abstractmethod
    def _write(self, group: Sequence[Any]) -> Exception | None:
        """Write a group in one transaction; return what those who wait are told."""

    @abstractmethod
    def _on_death(self, error: BaseException) -> Exception | None:
        """Return what all are told from now on, as the thread has died."""

    def _let_go(self) -> None:  # noqa: B027 - the journal has opened nothing
        """Let go of what the thread has opened."""

    def close(self) -> None:
        """Do what is waiting, and end the thread."""
        with self._gate:
            self._closing = True
            thread = self._thread
        if thread is not None:
            self._news.set()
            thread.join()

    def _hand(
        self, line: list[Waiting], what: Any, before: Sequence[Any] = ()
    ) -> asyncio.Future[Any]:
        """Put something into a line, after other things; the future ends when all is done."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        with self._gate:
            if self._closing or self.failure is not None:
                if problem := self.failure or self._too_late:
                    raise type(problem)(str(problem))
                done.set_result(None)
                return done
            if self._thread is None:
                self._start()
            is_first = not line
            line.extend([(each, loop, None) for each in before])
            line.append((what, loop, done))
            if self._urgent:
                self._handed += 1 + len(before)
                if loop not in self._lenders:
                    open_ones = {each for each in self._lenders if not each.is_closed()}
                    self._lenders = open_ones | {loop}
                    loop.call_later(_PATIENCE_SECONDS, self._lend, loop, self._handed)
        if is_first:
            self._news.set()
        return done

    def _lend(
        self, loop: asyncio.AbstractEventLoop, number: int, patience: float = _PATIENCE_SECONDS
    ) -> None:
        """Leave the interpreter to the thread for a moment, if it has not come to a row."""
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

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
        thread.start()
        self._thread = thread

    def _serve(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - whoever waits would wait for ever
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        """Tell all who wait, and all who come, that nobody writes any more."""
        problem = None
        try:
            problem = self._on_death(error)  # first: whoever is told after this can read why
        finally:
            with self._gate:
                self.failure = problem
                self._closing = True
                waiting = [*self._group, *self._lookups, *self._rows]
                self._lookups.clear()
                self._rows.clear()
                self._done = self._handed
            self._progress.set()
            _tell(waiting, problem)
        with self.using, contextlib.suppress(Exception):
            self._let_go()

    def _work(self) -> None:
        due: float | None = None
        while True:
            closing = self._closing
            if not closing:
                self._news.wait(None if due is None else max(0.0, due - time.monotonic()))
            self._news.clear()
            self._look_up_waiting()
            now = time.monotonic()
            if due is None and self._rows and not closing:
                due = now + _LINGER_SECONDS
            elif closing or (due is not None and now >= due):
                due = None
                self._write_waiting()
            if closing and not self._lookups and not self._rows:
                break
        with self.using:
            self._let_go()

    def _look_up_waiting(self) -> None:
        while group := self._take(self._lookups):
            _tell(group, None, self._look_up(list({what for what, _, _ in group})))

    def _write_waiting(self) -> None:
        goes_on = True
        while (goes_on or self._closing) and (group := self._take(self._rows)):
            _tell(group, self.failure or self._write([what for what, _, _ in group]))
            self._group = ()
            self._done += len(group)
            self._progress.set()
            # Else what came meanwhile is few, and the next group's.
            goes_on = self._urgent or len(group) == self._most
            # Whoever looks something up is not to wait for all that is written.
            self._look_up_waiting()

    def _take(self, line: list[Waiting]) -> list[Waiting]:
        with self._gate:
            taken, line[:] = line[: self._most], line[self._most :]
            self._group = taken
        return taken


def _tell(
    group: Iterable[Waiting], problem: Exception | None, found: Mapping[Any, Any] | None = None
) -> None:
    """Wake who waits: each event loop once, in its own thread."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}
    for each in group:
        if each[2] is not None:
            by_loop.setdefault(each[1], []).append(each)
    for loop, waiting in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_wake, waiting, problem, found)


def _wake(
    waiting: Iterable[Waiting], problem: Exception | None, found: Mapping[Any, Any] | None
) -> None:
    for what, _, done in waiting:
        if done is None or done.done():
            continue
        if problem is None:
            done.set_result(None if found is None else found.get(what))
        else:
            done.set_exception(type(problem)(str(problem)))


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction: all of it, or nothing."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def durable(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block in one transaction that survives a power cut."""
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    try:
        connection.execute("PRAGMA synchronous = FULL")
        with transaction(connection):
            yield
    finally:
        connection.execute(f"PRAGMA synchronous = {level}")


# --- the journal's thread -----------------------------------------------------------------------

_MOST_PER_COMMIT: Final = 4096
# The first answer stays: it is what a caller was given.
_ANSWERS: Final = f"""\
INSERT INTO answers ({", ".join(ANSWER_COLUMNS)}, {CHECKSUM}) VALUES {{}}
ON CONFLICT (fingerprint, ordinal) DO NOTHING"""  # noqa: S608 - all names are ours
# What was answered has not failed.
_FAILURES: Final = f"""\
INSERT INTO failures ({", ".join(FAILURE_COLUMNS)}, {CHECKSUM})
SELECT * FROM (VALUES {{}}) AS new
WHERE coalesce((SELECT ordinal + uses FROM answers WHERE fingerprint = new.column1
    AND ordinal <= new.column2 ORDER BY ordinal DESC LIMIT 1), 0) <= new.column2
ON CONFLICT (fingerprint, ordinal) DO UPDATE SET {
    ", ".join(f"{name} = excluded.{name}" for name in (*FAILURE_COLUMNS[2:], CHECKSUM))
}"""  # noqa: S608
_ANSWERED: Final = """
DELETE FROM failures WHERE id IN (
    SELECT failures.id FROM answers CROSS JOIN failures
    ON failures.fingerprint = answers.fingerprint
    AND failures.ordinal >= answers.ordinal
    AND failures.ordinal < answers.ordinal + answers.uses
    WHERE answers.id > ?
)"""
_NOTE: Final = "INSERT OR REPLACE INTO meta VALUES ('totals', ?), ('last_used_at', ?)"

Entry: TypeAlias = tuple[Row, bool, bool]
"""A row to write, whether it is a failure's, and whether it counts as spent."""
NO_ROW: Final[Entry] = (), False, False


class Altered(NamedTuple):
    """A row that was altered since it was written."""

    fingerprint: bytes
    table: str
    id: int


class Writer(GroupWorker):
    """Writes rows in groups and notifies waiters when they are durable.

    What cannot be written is an error for all who wait, and nothing is written ever after.

    Args:
        connection: the journal's only writing connection; to use it, hold `using`.
        explain: makes the error that everybody gets, once nothing can be written any more.
        closed: the error's text after the end.
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
        too_late = JournalError(closed)
        super().__init__("llmflow-journal", most=_MOST_PER_COMMIT, too_late=too_late, urgent=True)
        self.totals = totals
        self._connection = connection
        self._explain = explain
        self._wall = wall
        self._charges: deque[tuple[float, float, int]] = deque()
        self._altered: defaultdict[bytes, set[Altered]] = defaultdict(set)

    def put(self, entry: Entry, before: Sequence[Entry] = ()) -> asyncio.Future[None]:
        """Write a row after others; the future ends when all are durable.

        Raises:
            JournalError: nothing can be written any more.
        """
        return self._hand(self._rows, entry, before)

    def charge(self, cost: float, tokens: float, requests: int) -> None:
        """Add to the totals with the next group; lock-free, never fails."""
        self._charges.append((cost, tokens, requests))

    def replace(self, altered: Altered) -> None:
        """Let the question's next row replace an altered one.

        Until then that one stays: somebody may want to look at it.
        """
        with self._gate:
            self._altered[altered.fingerprint].add(altered)

    def close(self) -> None:
        """Write what is waiting, and end the thread."""
        super().close()
        if self._charges and self.failure is None:
            self._write(())

    def _start(self) -> None:
        try:
            super()._start()
        except (RuntimeError, MemoryError) as error:  # no more threads, or no memory for one
            self.failure = self._on_death(error)
            raise JournalError(str(self.failure)) from error

    def _on_death(self, error: BaseException) -> Exception:
        if self.failure is not None:
            return self.failure
        try:
            return self._explain(error)
        except Exception:  # noqa: BLE001 - without memory for its words, too, it must be told
            return JournalError(f"the journal cannot be written: {type(error).__name__}")

    def _write(self, group: Sequence[Entry]) -> Exception | None:
        """Write a group in one transaction, or nothing of it and nothing ever after."""
        try:
            rows = [each for each in group if each[0]]
            with self.using:
                try:
                    self._commit(rows)
                except ODD_VALUE:  # one odd row must not be the others' failure
                    self._commit([(sealed_plain(it, failed=no), no, paid) for it, no, paid in rows])
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self.failure = self._explain(error)
        return self.failure

    def _commit(self, rows: Sequence[Entry]) -> None:
        charges = list(self._charges)
        if not rows and not charges:
            return
        altered = self._altered_before(rows) if self._altered else []
        with transaction(self._connection):
            counts = self._insert(rows, self._remove(altered))
            totals = replace(self._spent(rows, charges), **counts)
            self._connection.execute(_NOTE, (to_json(asdict(totals)), to_json(self._wall())))
        self.totals = totals
        for _ in charges:
            self._charges.popleft()
        with self._gate:
            for each in altered:
                self._altered[each.fingerprint].discard(each)

    def _altered_before(self, rows: Sequence[Entry]) -> list[Altered]:
        """Return the altered rows that some new ones take the place of."""
        with self._gate:
            asked = self._altered.keys() & {row[0] for row, _, _ in rows}
            return [each for fingerprint in asked for each in self._altered[fingerprint]]

    def _remove(self, altered: Iterable[Altered]) -> Counter[str]:
        """Remove altered rows; return how many of each table."""
        removed = Counter[str]()
        for _, table, number in altered:
            statement = f"DELETE FROM {table} WHERE id = ?"  # noqa: S608
            removed[table] += self._connection.execute(statement, (number,)).rowcount
        return removed

    def _insert(self, rows: Sequence[Entry], removed: Counter[str]) -> dict[str, int]:
        """Insert rows; return how many of each table there are."""
        answers = [row for row, failed, _ in rows if not failed]
        failures = [row for row, failed, _ in rows if failed]
        failed = self.totals.failures - removed["failures"]
        if failures:
            last = self._last("failures")
            insert(self._connection, _FAILURES, failures)
            failed += self._last("failures") - last
        last = self._last("answers") if failed else 0
        answered = self.totals.answers - removed["answers"]
        answered += insert(self._connection, _ANSWERS, answers)
        if failed and answers:
            failed -= self._connection.execute(_ANSWERED, (last,)).rowcount
        return {"answers": answered, "failures": failed}

    def _spent(self, rows: Sequence[Entry], charges: Sequence[tuple[float, float, int]]) -> Totals:
        """Return what has been spent, with these rows and charges."""
        before = self.totals
        answers = [row for row, failed, paid in rows if paid and not failed]
        failures = [row for row, failed, paid in rows if paid and failed]
        usd, tokens, requests = map(sum, zip((0.0, 0.0, 0), *charges, strict=True))
        requests += sum([row[ANSWER_ATTEMPTS] for row in answers])
        requests += sum([row[FAILURE_ATTEMPTS] for row in failures])
        costs = [row[COST] for row in answers if row[COST] is not None and isfinite(row[COST])]
        # A provider's own numbers: nothing that it says makes a budget larger.
        paid_cost = sum([max(0.0, cost) for cost in costs])
        read = sum([max(0, row[INPUT_TOKENS]) for row in answers])
        written = sum([max(0, row[OUTPUT_TOKENS]) for row in answers])
        return Totals(
            requests=before.requests + requests,
            input_tokens=before.input_tokens + read,
            output_tokens=before.output_tokens + written,
            cost=(before.cost or 0.0) + paid_cost if costs else before.cost,
            unsaid_cost=before.unsaid_cost + usd,
            unsaid_tokens=before.unsaid_tokens + tokens,
        )

    def _last(self, table: str) -> int:
        row = self._connection.execute(f"SELECT max(id) FROM {table}").fetchone()  # noqa: S608
        return int(row[0] or 0)
