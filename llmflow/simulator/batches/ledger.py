"""What the rows of all jobs have cost: the simulator's own bill, which no fault can change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from llmflow.private_files import private

_TABLE = """
CREATE TABLE IF NOT EXISTS billed (
    job INTEGER, row INTEGER, custom_id TEXT, body INTEGER, input INTEGER, output INTEGER,
    PRIMARY KEY (job, row)
) WITHOUT ROWID
"""
_TWICE = """
SELECT coalesce(sum(jobs - 1), 0)
FROM (SELECT count(DISTINCT job) AS jobs FROM billed GROUP BY {column} HAVING jobs > 1)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """Counts of the batch APIs since their state began, over restarts and all keys.

    Args:
        jobs_created: jobs that came to be, whether or not their creation was answered.
        files_uploaded: uploads taken, answered or not.
        rows_billed: rows answered with success, whatever became of their results.
        rows_billed_twice: those of them whose ``custom_id`` had been billed in another job.
        bodies_billed_twice: those whose request had been, under whatever name.
        input_tokens: tokens of the prompts billed.
        output_tokens: tokens of the answers billed.

    """

    jobs_created: int = 0
    files_uploaded: int = 0
    rows_billed: int = 0
    rows_billed_twice: int = 0
    bodies_billed_twice: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return what ``GET /stats`` serves."""
        return asdict(self)


class Bill(NamedTuple):
    """One row that was answered: its place in its job, its name, its request, what it cost."""

    row: int
    custom_id: str
    body: int
    input_tokens: int
    output_tokens: int


def digest(body: Any) -> int:
    """Return what tells one request from another.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


class Ledger:
    """Keeps the bills on disk. A row of a job is billed once, however often it is computed.

    So a simulator that is killed between an answer and its result, and computes it again
    after its restart, has billed it once.

    Args:
        path: the database.

    """

    def __init__(self, path: Path) -> None:
        # Loaded by those who use batches only.
        import sqlite3

        database: sqlite3.Connection | None = None
        try:
            # SQLite gives the files beside it its mode.
            open(path, "ab", opener=private).close()
            database = sqlite3.connect(path)
            # Enough against a kill; a power failure may cost the last bills.
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=OFF")
            database.execute(_TABLE)
        except sqlite3.Error as error:
            if database is not None:
                database.close()
            raise ValueError(f"{path.name}: {error}") from error
        self._database = database

    def add(self, job: int, bills: Iterable[Bill]) -> None:
        """Bill rows of the job of this number."""
        self._database.executemany(
            "INSERT OR IGNORE INTO billed VALUES (?, ?, ?, ?, ?, ?)",
            [(job, *bill) for bill in bills],
        )
        self._database.commit()

    def counts(self, *, jobs: int, files: int) -> BatchCounts:
        """Return the counts; those of jobs and files are the caller's."""
        sums = "SELECT count(*), coalesce(sum(input), 0), coalesce(sum(output), 0) FROM billed"
        rows, input_tokens, output_tokens = self._database.execute(sums).fetchone()
        return BatchCounts(
            jobs_created=jobs,
            files_uploaded=files,
            rows_billed=rows,
            rows_billed_twice=self._twice("custom_id"),
            bodies_billed_twice=self._twice("body"),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _twice(self, column: str) -> int:
        return int(self._database.execute(_TWICE.format(column=column)).fetchone()[0])
