"""Reads rows back and verifies each one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Final

from llmflow.journal.checksums import CHECKSUM, answer_checksum, checksum
from llmflow.journal.rows import (
    ANSWER_COLUMNS,
    FAILURE_COLUMNS,
    KEY_COLUMNS,
    Row,
    failure_of,
    response_of,
)
from llmflow.journal.values import Recorded, RecordedFailure

# Only the nearest row below is looked at: of a question that is asked ten thousand times,
# all the rows would be.
_FIND: Final = (
    "SELECT id, {} FROM {} WHERE fingerprint = ? AND ordinal <= ? ORDER BY ordinal DESC LIMIT 1"
)
_ID: Final = {table: _FIND.replace(", {}", "").format(table) for table in ("answers", "failures")}


def _statement(table: str, columns: Sequence[str]) -> str:
    """Return what selects the nearest row: its id for its fingerprint, and its checksum last."""
    return _FIND.format(", ".join((*columns[1:], CHECKSUM)), table)


_ANSWER: Final = _statement("answers", ANSWER_COLUMNS)
_FAILURE: Final = _statement("failures", FAILURE_COLUMNS)


class Reader:
    """Finds recorded outcomes. One thread at a time may use it.

    Args:
        connection: the journal, for reading.
        replace: is told of each row that was altered: its fingerprint, table and id.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, replace: Callable[[bytes, str, int], None]
    ) -> None:
        self._connection = connection
        self._replace = replace
        self._altered: set[tuple[str, int]] = set()

    @property
    def altered(self) -> int:
        """The number of rows that fail their checksum."""
        return len(self._altered)

    @property
    def connection(self) -> sqlite3.Connection:
        """The journal, for reading."""
        return self._connection

    def is_empty(self) -> bool:
        """Return whether it has no row and no pending batch job."""
        tables = ("answers", "failures", "jobs")
        found = (self._connection.execute(f"SELECT 1 FROM {name} LIMIT 1") for name in tables)  # noqa: S608
        return not any(each.fetchall() for each in found)

    def find(self, fingerprint: bytes, nth: int, *, failures: bool) -> Recorded | None:
        """Return the record of a question's `nth` answer.

        Args:
            fingerprint: what was asked.
            nth: how often it was asked before.
            failures: whether to look among failures, too.
        """
        row = self._row(_ANSWER, "answers", fingerprint, nth)
        if row is not None:
            if row[-1] != answer_checksum(fingerprint, row[1:-1]):
                self._give_up(fingerprint, "answers", row[0])
            elif row[1] + row[2] > nth:
                return response_of(row[KEY_COLUMNS:-1])
        return self._failure(fingerprint, nth) if failures else None

    def _failure(self, fingerprint: bytes, nth: int) -> RecordedFailure | None:
        row = self._row(_FAILURE, "failures", fingerprint, nth)
        if row is None:
            return None
        if row[-1] == checksum((fingerprint, *row[1:-1])):
            return failure_of(row[KEY_COLUMNS:-1]) if row[1] + row[2] > nth else None
        self._give_up(fingerprint, "failures", row[0])
        return None

    def _row(self, query: str, table: str, fingerprint: bytes, nth: int) -> Row | None:
        """Return the row that is nearest to a question, if it can be read."""
        try:
            rows = self._connection.execute(query, (fingerprint, nth)).fetchall()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", None) is not None:
                raise
            # Python's, not SQLite's: text that is no UTF-8, which is never written as text.
            for (number,) in self._connection.execute(_ID[table], (fingerprint, nth)).fetchall():
                self._give_up(fingerprint, table, number)
            return None
        return rows[0] if rows else None

    def _give_up(self, fingerprint: bytes, table: str, number: int) -> None:
        # Once only: its id may be another row's by now.
        if (table, number) not in self._altered:
            self._altered.add((table, number))
            self._replace(fingerprint, table, number)
