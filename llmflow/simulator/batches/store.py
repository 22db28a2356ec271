"""The files of the batch APIs and the records of them and of the jobs, on disk."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from llmflow.errors import ConfigurationError
from llmflow.private_files import make_private_folder, private
from llmflow.simulator.batches.ledger import Ledger

Phase = Literal["validating", "running", "finalizing", "ended"]
Outcome = Literal["failed", "completed", "expired", "cancelled"]


@dataclass(slots=True, kw_only=True)
class FileRecord:
    """A file. Its bytes may lie within a larger one: the form that brought it.

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
    """A job: all that must be known of it after a restart. Times as in `FileRecord`.

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
    completed: int = 0
    failed: int = 0
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
    """Keeps records in memory and on disk; what is large is on disk only.

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
        """Return the next number of a kind, and an identifier that is never given again."""
        number = self._counts.get(kind, 0) + 1
        self._counts[kind] = number
        self._write(self.folder / "counts.json", self._counts)
        text = f"{self._seed}/{kind}/{number}".encode()
        return number, hashlib.blake2b(text, digest_size=12).hexdigest()

    def counted(self, kind: str) -> int:
        """Return how many numbers of a kind were given since the state began."""
        return self._counts.get(kind, 0)

    def data(self, name: str) -> Path:
        """Return the path of data of this name."""
        return self.folder / "data" / name

    def scratch(self) -> Path:
        """Return a path for a body that arrives."""
        return self.data(f"arriving-{self.next('arrival')[0]}")

    def save(self, record: FileRecord | JobRecord) -> None:
        """Keep a record."""
        if isinstance(record, FileRecord):
            self.files[record.id] = record
            self._write(self.folder / "files" / f"{record.id}.json", asdict(record))
        else:
            self.jobs[record.id] = record
            self._write(self.folder / "jobs" / f"{record.id}.json", asdict(record))

    def remove_file(self, record: FileRecord) -> None:
        """Forget a file."""
        del self.files[record.id]
        (self.folder / "files" / f"{record.id}.json").unlink(missing_ok=True)
        self.data(record.path).unlink(missing_ok=True)

    def remove_job(self, record: JobRecord) -> None:
        """Forget a job."""
        del self.jobs[record.id]
        (self.folder / "jobs" / f"{record.id}.json").unlink(missing_ok=True)

    def newest_jobs(self, owner: str, prefix: str) -> list[JobRecord]:
        """Return the jobs of a customer whose identifiers begin so, newest first."""
        jobs = [j for j in self.jobs.values() if j.owner == owner and j.id.startswith(prefix)]
        return sorted(jobs, key=lambda job: -job.ordinal)

    def _load(self) -> None:
        counts = self.folder / "counts.json"
        if counts.exists():
            self._counts = orjson.loads(counts.read_bytes())
        for data in self._records("files"):
            file = FileRecord(**data)
            self.files[file.id] = file
        for data in self._records("jobs"):
            job = JobRecord(**data)
            self.jobs[job.id] = job
        # A job that was killed between its results and its own record makes them again.
        named = {name for job in self.jobs.values() for name in (job.output, job.error)}
        for file in tuple(self.files.values()):
            if file.purpose == "batch_output" and file.id not in named:
                self.remove_file(file)
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
