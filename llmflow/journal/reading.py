"""Reads a journal: recorded outcomes, and the summary of a run.

`Reader` is for the process that writes the journal. `Lookup` and `read_summary` take no lock
and write nothing, while another process works.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple, Self, TypeVar

from llmflow.errors import JournalError
from llmflow.journal import schema
from llmflow.journal.lock import holder
from llmflow.journal.protocol import Key, Recorded, Totals
from llmflow.journal.rows import (
    ANSWER_COLUMNS,
    CHECKSUM,
    FAILURE_COLUMNS,
    KEY_COLUMNS,
    Row,
    answer_checksum,
    checksum,
    failure_of,
    filled,
    from_json,
    pieces,
    plain_text_of,
    response_of,
)
from llmflow.journal.schema import explain
from llmflow.journal.writer import Altered

_T = TypeVar("_T")

# Only the nearest row below is looked at: of a question that is asked ten thousand times,
# all the rows would be.
_BY_KEY: Final = "WHERE fingerprint = ? AND ordinal <= ? ORDER BY ordinal DESC LIMIT 1"
_ONE: Final = f"SELECT {{others}}, id FROM {{table}} {_BY_KEY}"  # noqa: S608 - names of ours
_IDS: Final = f"SELECT id FROM {{table}} {_BY_KEY}"  # noqa: S608
_MANY: Final = """
WITH asked (key, nth) AS (VALUES {{}})
SELECT {columns}, id, nth FROM asked CROSS JOIN {table} ON id = (
    SELECT id FROM {table} WHERE fingerprint = key AND ordinal <= nth
    ORDER BY ordinal DESC LIMIT 1)"""
_AFTER: Final = "SELECT {columns}, id, ordinal FROM {table} WHERE id > ? ORDER BY id LIMIT ?"
# Rows that are read ahead, and after how many in their order.
_AHEAD, _MOST_AHEAD = 32, 1024
_NEAR: Final = 2 * _AHEAD
_SURE: Final = 4
# After rows that were not the next ones, so often it is tried again.
_SELDOM: Final = 16
# More rows at once do not stay in the processor's cache until they are values.
_MOST_AT_ONCE: Final = 32


class _Table:
    """Statements for a table, and what its rows become."""

    def __init__(
        self,
        name: str,
        columns: Sequence[str],
        checksum_of: Callable[[Row], int],
        value_of: Callable[[Row], Any],
    ) -> None:
        named = {
            "table": name,
            "columns": ", ".join((*columns, CHECKSUM)),
            "others": ", ".join((*columns[1:], CHECKSUM)),
        }
        self.name = name
        self.one, self.many, self.ids, self.after = (
            each.format(**named) for each in (_ONE, _MANY, _IDS, _AFTER)
        )
        self.width = len(columns)
        self.checksum_of = checksum_of
        self.value_of = value_of


_ANSWERED: Final = _Table("answers", ANSWER_COLUMNS, answer_checksum, response_of)
_TEXTS: Final = _Table("answers", ANSWER_COLUMNS, answer_checksum, plain_text_of)
_FAILED: Final = _Table("failures", FAILURE_COLUMNS, checksum, failure_of)
_KNOWN_ANSWER: Final = f"SELECT ordinal + uses, input_tokens, output_tokens FROM answers {_BY_KEY}"  # noqa: S608
_KNOWN_FAILURE: Final = f"SELECT ordinal + uses FROM failures {_BY_KEY}"  # noqa: S608
_TOTALS: Final = frozenset(each.name for each in fields(Totals))
_OF_META: Final = ("reason", "id", "version", "created_at", "last_used_at", "sessions")


class Reader:
    """Finds recorded outcomes. One thread at a time may use it.

    It gives each row that was altered to `replace`, once.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, replace: Callable[[Altered], None]
    ) -> None:
        self.connection = connection
        self._replace = replace
        # Where nothing has failed, nothing has to be looked up.
        self._tables: tuple[_Table, ...] = (_ANSWERED,)
        self._ahead: dict[Key, Row] = {}
        self._last = self._in_order = self._at = self._misses = 0
        self.altered: set[Altered] = set()
        """The rows that fail their checksum."""

    def note_failures(self) -> None:
        """Look among failures, too, from now on."""
        self._tables = (_ANSWERED, _FAILED)

    def is_empty(self) -> bool:
        """Return whether it has no row and no pending batch job."""
        tables = ("answers", "failures", "jobs")
        found = (self.connection.execute(f"SELECT 1 FROM {name} LIMIT 1") for name in tables)  # noqa: S608
        return not any(each.fetchall() for each in found)

    def find(self, key: Key) -> Recorded | None:
        """Return the record of a question's answer, or None."""
        found: Recorded | None = None
        if self._ahead and (row := self._ahead.pop(key, None)) is not None:
            found = self._value(_ANSWERED, row)
        for table in self._tables if found is None else ():
            if found is None and (row := self._nearest(table, key)) is not None:
                found = self._value(table, row)
                if table is _ANSWERED and found is not None:
                    self._read_ahead(row[-2])
        return found

    def _read_ahead(self, number: int) -> None:
        """Read the answers after this one, if they are asked for in their order.

        A run that is resumed does so, and twenty rows in order cost less than two by their keys.
        """
        was_in_order = 0 < number - self._last <= _NEAR and len(self._ahead) <= _AHEAD // 2
        self._last = number
        self._in_order = self._in_order + 1 if was_in_order else 0
        if self._in_order >= _SURE:
            with suppress(sqlite3.Error):  # whoever needs such a row meets it again
                rows = self.connection.execute(_ANSWERED.after, (number, _AHEAD)).fetchall()
                # With its own ordinal a row is certainly the nearest one.
                self._ahead = {(row[0], row[1]): row for row in rows}

    def find_many(self, keys: Sequence[Key]) -> dict[Key, Recorded]:
        """Return the records of the questions that have one."""
        found: dict[Key, Recorded] = {}
        for table in self._tables:
            found |= self._find_in(table, [each for each in keys if each not in found])
        return found

    def find_texts(self, keys: Sequence[Key]) -> dict[Key, str]:
        """Return the texts of answers that ended as most do."""
        return self._find_in(_TEXTS, keys)

    def _find_in(self, table: _Table, keys: Sequence[Key]) -> dict[Key, Any]:
        found = {} if table is _FAILED else self._next_ones(table, keys)
        left = [each for each in keys if each not in found]
        for piece in pieces(self.connection, left, 2, most=_MOST_AT_ONCE):
            for row in self._all_nearest(table, piece):
                if (value := self._value(table, row)) is not None:
                    found[row[0], row[-1]] = value
                    if table is not _FAILED:
                        self._at = row[-2]
        return found

    def _next_ones(self, table: _Table, keys: Sequence[Key]) -> dict[Key, Any]:
        """Return the answers that come next, if many are asked for in their order."""
        found: dict[Key, Any] = {}
        if not _AHEAD <= len(keys) <= _MOST_AHEAD or self._misses % _SELDOM:
            self._misses += 1
            return found
        wanted = set(keys)
        with suppress(sqlite3.Error):  # whoever needs such a row meets it again
            for row in self.connection.execute(table.after, (self._at, len(keys))).fetchall():
                key = row[:2]
                if key in wanted and (value := self._value(table, row)) is not None:
                    found[key], self._at = value, row[-2]
        self._misses = 0 if len(found) > len(keys) // 2 else 1
        return found

    def _value(self, table: _Table, row: Row) -> Any:
        width = table.width
        columns = row[:width]
        if row[width] != table.checksum_of(columns):
            self._give_up(Altered(row[0], table.name, row[width + 1]))
        elif row[1] + row[2] > row[-1]:
            return table.value_of(columns[KEY_COLUMNS:])
        return None

    def _nearest(self, table: _Table, key: Key) -> Row | None:
        """Return the row that is nearest to a question, if it can be read."""
        execute = self.connection.execute
        try:
            rows = execute(table.one, key).fetchall()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) is not None:
                raise
            # Python's, not SQLite's: text that is no UTF-8, which is never written as text.
            for (number,) in execute(table.ids, key).fetchall():
                self._give_up(Altered(key[0], table.name, number))
            return None
        return (key[0], *rows[0], key[1]) if rows else None

    def _all_nearest(self, table: _Table, keys: Sequence[Key]) -> Iterable[Row]:
        """Do what `_nearest` does, for many questions."""
        values = list(chain.from_iterable(keys))
        try:
            statement = filled(table.many, len(keys), 2)
            return self.connection.execute(statement, values).fetchall()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) is not None:
                raise
        return filter(None, [self._nearest(table, key) for key in keys])

    def _give_up(self, row: Altered) -> None:
        # Once only: its id may be another row's by now.
        if row not in self.altered:
            self.altered.add(row)
            self._replace(row)


class Known(NamedTuple):
    """The outcome of a question: its answer's tokens, or its final failure."""

    answered: bool
    input_tokens: int = 0
    output_tokens: int = 0


class Lookup:
    """Finds questions that a run asked before, while another process works.

    What is written while it looks is seen, or not.

    >>> lookup = Lookup.open(folder)  # doctest: +SKIP
    >>> lookup.find(fingerprint, 0)  # doctest: +SKIP
    Known(answered=True, input_tokens=12, output_tokens=40)
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = schema.open_to_look(path)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self | None:
        """Open the journal of a run's folder; None if there is none."""
        path = Path(folder) / schema.NAME
        try:
            if not path.stat().st_size:
                return None
            schema.check_file(path)
            return cls(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (sqlite3.Error, OSError, ValueError) as error:
            raise explain(path, error, doing="read") from error

    def find(self, fingerprint: bytes, nth: int) -> Known | None:
        """Return the record of a question's `nth` answer."""
        try:
            try:
                return self._find((fingerprint, nth))
            except sqlite3.Error:
                # Somebody has begun to write, or has put the log away, since it was opened.
                self._connection.close()
                self._connection = schema.open_to_look(self._path)
                return self._find((fingerprint, nth))
        except (sqlite3.Error, OSError) as error:
            raise explain(self._path, error, doing="read") from error

    def close(self) -> None:
        """Let go of the file. Doing so twice is fine."""
        self._connection.close()

    def _find(self, key: tuple[bytes, int]) -> Known | None:
        rows = self._connection.execute(_KNOWN_ANSWER, key).fetchall()
        if rows and rows[0][0] > key[1]:
            return Known(True, rows[0][1], rows[0][2])
        rows = self._connection.execute(_KNOWN_FAILURE, key).fetchall()
        return Known(False) if rows and rows[0][0] > key[1] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Facts about a run.

    Args:
        state: ``running``; ``complete``; ``waiting`` for batch jobs, which go on without it;
            ``interrupted``, also by a crash; ``stopped``; or ``unreadable``.
        reason: why it stopped, or cannot be read; else None.
        id: a random name that no other run has.
        version: the llmflow that used it last.
        created_at: when it was first entered, in seconds since 1970.
        last_used_at: when something was last written down.
        about: what was kept with it.
        pid: the process that works on it now, where it is known.
        bytes: the size of its files.
    """

    name: str
    folder: Path
    state: str
    reason: str | None = None
    id: str = ""
    version: str = ""
    created_at: float = 0.0
    last_used_at: float = 0.0
    sessions: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    busy: bool = False
    pid: int | None = None
    bytes: int = 0


def read_summary(folder: str | os.PathLike[str]) -> RunSummary | None:
    """Return the summary of a folder's run, or None.

    Nothing is written and no lock is kept. A journal that cannot be read is a summary that
    says so.
    """
    folder = Path(folder)
    path = folder / schema.NAME
    try:
        found = path.stat()
    except OSError:
        return None
    if not found.st_size:
        return None
    busy, pid = holder(folder)
    try:
        meta = _look(path, read_meta)
    except (sqlite3.Error, OSError, ValueError, JournalError) as error:
        reason = str(explain(path, error, doing="read"))
        meta = {"state": "unreadable", "reason": reason, "last_used_at": found.st_mtime}
    state = str(meta.get("state", "interrupted"))
    return RunSummary(
        name=folder.name,
        folder=folder,
        # Nobody works on it, and nobody said how it ended: its process died.
        state="interrupted" if state == "running" and not busy else state,
        about=meta.get("about") or {},
        totals=totals_of(meta),
        busy=busy,
        pid=pid,
        bytes=_size(path) + _size(path.with_name(f"{path.name}-wal")),
        **{name: meta[name] for name in _OF_META if name in meta},
    )


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """Return what the file says of its run."""
    return {name: from_json(value) for name, value in connection.execute("SELECT * FROM meta")}


def jobs_of(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return the records of all batch jobs, in order of creation."""
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'jobs'").fetchall():
        return []  # its making was cut off
    records = connection.execute("SELECT record FROM jobs ORDER BY id")
    return [from_json(record) for (record,) in records]


def read_jobs(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the batch jobs of a folder's run, without disturbing it."""
    path = Path(folder) / schema.NAME
    try:
        return _look(path, jobs_of)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise explain(path, error, doing="read") from error


def totals_of(meta: Mapping[str, Any]) -> Totals:
    """Return the sums that the file keeps."""
    known = meta.get("totals") or {}
    return Totals(**{name: value for name, value in known.items() if name in _TOTALS})


def _look(path: Path, read: Callable[[sqlite3.Connection], _T], *, again: bool = True) -> _T:
    schema.check_file(path)
    try:
        with closing(schema.open_to_look(path)) as connection:
            return read(connection)
    except sqlite3.Error:
        if not again:
            raise
    # A process may have begun to write, or have put its log away, in between.
    return _look(path, read, again=False)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
