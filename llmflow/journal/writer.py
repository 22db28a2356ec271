"""The writing of a journal's rows, its totals and charges."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from math import isfinite
from typing import Final, NamedTuple, TypeAlias

from llmflow.errors import JournalError
from llmflow.journal.group_commit import ODD_VALUE, GroupWorker, insert, transaction
from llmflow.journal.reading import Altered
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
    sealed_plain,
    to_json,
)
from llmflow.journal.values import Totals

_MOST_PER_COMMIT: Final = 4096

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


Entry: TypeAlias = tuple[Row, bool, bool]
"""A row to write, whether it is a failure's, and whether it counts as spent."""
NO_ROW: Final[Entry] = (), False, False


class Charged(NamedTuple):
    """A budget charge that belongs to no row."""

    cost: float
    tokens: float
    requests: int


class Writer(GroupWorker):
    """Writes rows in groups and notifies waiters when they are durable.

    What cannot be written is an error for all who wait, and nothing is written ever after.

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
        too_late = JournalError(closed)
        super().__init__("llmflow-journal", most=_MOST_PER_COMMIT, too_late=too_late, urgent=True)
        self.totals = totals
        self._connection = connection
        self._explain = explain
        self._wall = wall
        self._charges: deque[Charged] = deque()
        self._altered: defaultdict[bytes, set[Altered]] = defaultdict(set)

    def put(self, entry: Entry, before: Sequence[Entry] = ()) -> asyncio.Future[None]:
        """Write rows; the future ends when they and earlier ones are durable.

        Args:
            entry: a row; an empty one only waits for those before it.
            before: rows that come before it.

        Raises:
            JournalError: nothing can be written any more.
        """
        return self._hand(self._rows, entry, before)

    def charge(self, charged: Charged) -> None:
        """Add to the totals with the next group; lock-free, never fails."""
        self._charges.append(charged)

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
                except ODD_VALUE:
                    # One odd row must not be the others' failure.
                    self._commit([_plain(*each) for each in rows])
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            self.failure = self._explain(error)
        return self.failure

    def _commit(self, rows: Sequence[Entry]) -> None:
        charges = list(self._charges)
        if not rows and not charges:
            return
        altered = self._altered_before(rows) if self._altered else []
        with transaction(self._connection):
            totals = self._insert(rows, charges, self._remove(altered))
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

    def _remove(self, altered: Sequence[Altered]) -> Counter[str]:
        """Remove altered rows; return how many of each table."""
        removed = Counter[str]()
        for _, table, number in altered:
            statement = f"DELETE FROM {table} WHERE id = ?"  # noqa: S608
            removed[table] += self._connection.execute(statement, (number,)).rowcount
        return removed

    def _insert(
        self, rows: Sequence[Entry], charges: Sequence[Charged], removed: Counter[str]
    ) -> Totals:
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
        return replace(self._spent(rows, charges), answers=answered, failures=failed)

    def _spent(self, rows: Sequence[Entry], charges: Sequence[Charged]) -> Totals:
        """Return what has been spent, with these rows and charges."""
        before = self.totals
        answers = [row for row, failed, paid in rows if paid and not failed]
        failures = [row for row, failed, paid in rows if paid and failed]
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

    def _last(self, table: str) -> int:
        row = self._connection.execute(f"SELECT max(id) FROM {table}").fetchone()  # noqa: S608
        return int(row[0] or 0)


def _plain(row: Row, failed: bool, paid: bool) -> Entry:
    return sealed_plain(row, failed=failed), failed, paid
