"""A thread that writes to an SQLite file in groups.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar

# Long enough for a group to form, and short beside any answer of a model.
_LINGER_SECONDS: Final = 0.004
# A group takes a few milliseconds if it is let.
_PATIENCE_SECONDS: Final = 0.02
_LENT_SECONDS: Final = 0.025
_PATIENCE_MOST: Final = 0.2
_SIZES: Final = (128, 32, 8, 1)
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

_T = TypeVar("_T")


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

    def _look_up(self, group: Sequence[Any]) -> Mapping[Any, Any]:
        """Return what is known of a group; the journal's thread is asked nothing."""
        raise NotImplementedError(f"{self._name} looks nothing up")

    @abstractmethod
    def _on_death(self, error: BaseException) -> Exception | None:
        """Return what all are told from now on, as the thread has died."""

    def _let_go(self) -> None:  # noqa: B027 - not everybody has anything
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
            # Said first: whoever is told after this can read why.
            problem = self._on_death(error)
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


def pieces(
    connection: sqlite3.Connection, rows: Sequence[_T], columns: int, *, most: int = _SIZES[0]
) -> Iterator[Sequence[_T]]:
    """Yield rows in pieces of few sizes, whose statements are kept."""
    most = min(most, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // columns)
    start = 0
    while start < len(rows):
        left = min(most, len(rows) - start)
        size = next(each for each in _SIZES if each <= left)
        yield rows[start : start + size]
        start += size


def insert(connection: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> int:
    """Insert rows; return how many are new."""
    changed = 0
    columns = len(rows[0]) if rows else 1
    for piece in pieces(connection, rows, columns):
        values = list(chain.from_iterable(piece))
        changed += connection.execute(filled(statement, len(piece), columns), values).rowcount
    return changed


@cache
def filled(statement: str, rows: int, columns: int) -> str:
    """Return a statement with placeholders for so many rows of values."""
    return statement.format(", ".join([f"({', '.join('?' * columns)})"] * rows))
