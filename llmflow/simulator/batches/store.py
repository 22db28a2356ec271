"""Files, jobs and bills of the batch APIs, on disk."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from llmflow.errors import ConfigurationError
from llmflow.private_files import make_private_folder, private

_TABLE = """
CREATE TABLE IF NOT EXISTS billed (
    job INTEGER, row INTEGER, custom_id TEXT, body INTEGER, input INTEGER, output INTEGER,
    PRIMARY KEY (job, row)
) WITHOUT ROWID
"""
_INVALID = """
CREATE TABLE IF NOT EXISTS invalid (job INTEGER, row INTEGER, PRIMARY KEY (job, row)) WITHOUT ROWID
"""
_TWICE = """
SELECT coalesce(sum(jobs - 1), 0)
FROM (SELECT count(DISTINCT job) AS jobs FROM billed GROUP BY {column} HAVING jobs > 1)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounts:
    """Counts of the batch APIs, over restarts and all keys.

    Args:
        jobs_created: jobs that came to be, whether or not their creation was answered.
        files_uploaded: uploads taken, answered or not.
        rows_billed: rows answered with success, whatever became of their results.
        rows_billed_twice: those of them whose ``custom_id`` had been billed in another job.
        bodies_billed_twice: those whose request had been, under whatever name.
        rows_invalid: rows billed whose answer did not fit its schema on purpose; see
            `SimulatorSettings.invalid_answer_rate`.
        input_tokens: tokens of the prompts billed.
        output_tokens: tokens of the answers billed.

    """

    jobs_created: int = 0
    files_uploaded: int = 0
    rows_billed: int = 0
    rows_billed_twice: int = 0
    bodies_billed_twice: int = 0
    rows_invalid: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return what ``GET /stats`` serves."""
        return asdict(self)


class Bill(NamedTuple):
    """One answered row: index, name, digest of its request, tokens."""

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
    """Keeps the bills on disk, one for each row of a job.

    So a simulator that is killed between an answer and its result, and computes it again
    after its restart, has billed it once.
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
            database.execute(_INVALID)
        except sqlite3.Error as error:
            if database is not None:
                database.close()
            raise ValueError(f"{path.name}: {error}") from error
        self._database = database

    def add(self, job: int, bills: Iterable[Bill], *, invalid: Iterable[int] = ()) -> None:
        """Bill rows of a job; `invalid` are those answered wrongly."""
        self._database.executemany(
            "INSERT OR IGNORE INTO billed VALUES (?, ?, ?, ?, ?, ?)",
            [(job, *bill) for bill in bills],
        )
        self._database.executemany(
            "INSERT OR IGNORE INTO invalid VALUES (?, ?)", [(job, row) for row in invalid]
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
            rows_invalid=self._database.execute("SELECT count(*) FROM invalid").fetchone()[0],
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _twice(self, column: str) -> int:
        return int(self._database.execute(_TWICE.format(column=column)).fetchone()[0])


Phase = Literal["validating", "running", "finalizing", "ended"]
Outcome = Literal["failed", "completed", "expired", "cancelled"]


@dataclass(slots=True, kw_only=True)
class FileRecord:
    """A file, whose bytes may be part of an uploaded form.

    Times are seconds since 1970, `owner` a digest of the key.
    """

    id: str
    ordinal: int
    owner: str
    filename: str
    purpose: str
    path: str
    start: int
    size: int
    created: float
    expires: float | None = None


@dataclass(slots=True, kw_only=True)
class JobRecord:
    """All that must be known of a job after a restart.

    `input` and `output` are identifiers of files by OpenAI's rule, names in the folder of
    the data by Anthropic's.
    """

    id: str
    ordinal: int
    owner: str
    created: float
    expires: float
    endpoint: str
    input: str
    metadata: dict[str, str] | None = None
    model: str | None = None
    phase: Phase = "validating"
    outcome: Outcome | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    total: int = 0
    tokens: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    started: float | None = None
    finalizing: float | None = None
    cancel_asked: float | None = None
    ended: float | None = None
    output: str | None = None
    error: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    version: str = "2023-06-01"
    """The version of Anthropic's API that its rows are read by."""
    beta: bool = False
    """Whether its rows may use beta features of that."""


class Store:
    """Keeps records in memory and on disk, and large data on disk.

    Args:
        folder: where; None: in a temporary folder that goes with `close`.
        seed: makes identifiers repeatable.

    Raises:
        ConfigurationError: the folder cannot be used.

    """

    def __init__(self, folder: str | None, *, seed: int) -> None:
        self._temporary: str | None = None
        if folder is None:
            folder = self._temporary = tempfile.mkdtemp(prefix="llmflow-sim-")
        self.folder = Path(folder)
        self._seed = seed
        self._counts: dict[str, int] = {}
        self.files: dict[str, FileRecord] = {}
        self.jobs: dict[str, JobRecord] = {}
        try:
            for name in ("files", "jobs", "data"):
                make_private_folder(self.folder / name)
            self._load()
            self.ledger = Ledger(self.folder / "billed.sqlite")
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(
                f"the simulator cannot use the state in {self.folder}: {error}; "
                "choose another folder, or empty this one"
            ) from error

    def close(self) -> None:
        """Close the ledger, and remove what is temporary."""
        self.ledger.close()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def next(self, kind: str) -> tuple[int, str]:
        """Return the next number of a kind, and a unique identifier."""
        number = self._counts.get(kind, 0) + 1
        self._counts[kind] = number
        self._write(self.folder / "counts.json", self._counts)
        text = f"{self._seed}/{kind}/{number}".encode()
        return number, hashlib.blake2b(text, digest_size=12).hexdigest()

    def counted(self, kind: str) -> int:
        """Return the count of numbers given of a kind."""
        return self._counts.get(kind, 0)

    def data(self, name: str) -> Path:
        """Return the path of data of this name."""
        return self.folder / "data" / name

    def scratch(self) -> Path:
        """Return a path for a body that arrives."""
        return self.data(f"arriving-{self.next('arrival')[0]}")

    def save(self, record: FileRecord | JobRecord) -> None:
        """Keep a record."""
        known, path = self._place(record)
        known[record.id] = record
        self._write(path, asdict(record))

    def remove(self, record: FileRecord | JobRecord) -> None:
        """Forget a record, and the data of a file."""
        known, path = self._place(record)
        del known[record.id]
        path.unlink(missing_ok=True)
        if isinstance(record, FileRecord):
            self.data(record.path).unlink(missing_ok=True)

    def _place(self, record: FileRecord | JobRecord) -> tuple[dict[str, Any], Path]:
        is_file = isinstance(record, FileRecord)
        folder = self.folder / ("files" if is_file else "jobs")
        return self.files if is_file else self.jobs, folder / f"{record.id}.json"

    def newest_jobs(self, owner: str, prefix: str) -> list[JobRecord]:
        """Return the jobs of a customer whose identifiers begin so, newest first."""
        jobs = [j for j in self.jobs.values() if j.owner == owner and j.id.startswith(prefix)]
        return sorted(jobs, key=lambda job: -job.ordinal)

    def _load(self) -> None:
        counts = self.folder / "counts.json"
        if counts.exists():
            self._counts = orjson.loads(counts.read_bytes())
        self.files = {data["id"]: FileRecord(**data) for data in self._records("files")}
        self.jobs = {data["id"]: JobRecord(**data) for data in self._records("jobs")}
        # A job that was killed between its results and its own record makes them again.
        named = {name for job in self.jobs.values() for name in (job.output, job.error)}
        for file in tuple(self.files.values()):
            if file.purpose == "batch_output" and file.id not in named:
                self.remove(file)
        for path in (self.folder / "data").glob("arriving-*"):
            if path.name not in {file.path for file in self.files.values()}:
                path.unlink()

    def _records(self, kind: str) -> Iterator[dict[str, Any]]:
        for path in sorted((self.folder / kind).glob("*.json")):
            yield orjson.loads(path.read_bytes())

    def _write(self, path: Path, data: object) -> None:
        # Replaced as a whole: a simulator that is killed leaves the old record or the new one.
        beside = path.with_suffix(".new")
        with open(beside, "wb", opener=private) as file:
            file.write(orjson.dumps(data))
        beside.replace(path)
