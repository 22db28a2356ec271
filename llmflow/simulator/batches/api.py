"""Protocol between the batch service and a dialect's batch API."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qs, urlsplit

import orjson

from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.settings import SimulatorSettings


class FilePart(NamedTuple):
    """A part of a file."""

    path: Path
    start: int
    size: int


@dataclass(slots=True, kw_only=True)
class BatchRequest:
    """A request to the batch APIs; `upload` holds a large body."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    upload: Path | None
    owner: str
    now: float
    """Seconds since 1970."""

    @property
    def parts(self) -> list[str]:
        """The path below the version."""
        path = urlsplit(self.target).path.strip("/").removeprefix("v1/")
        return path.split("/")

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the address."""
        return {k: v[-1] for k, v in parse_qs(urlsplit(self.target).query).items()}

    @property
    def length(self) -> int:
        """The size of the body, wherever it is."""
        return self.upload.stat().st_size if self.upload is not None else len(self.body)


@dataclass(slots=True, kw_only=True)
class BatchReply:
    """An answer: a body, a part of a file, or (`lost`) none."""

    status: int = 200
    body: bytes = b""
    headers: str = ""
    kind: str = "application/json"
    file: FilePart | None = None
    lost: bool = False


Work: TypeAlias = Generator[None, None, BatchReply]
"""A request whose answer takes long: it is made in steps, between which others are served."""


def say(data: object, *, headers: str = "", lost: bool = False) -> BatchReply:
    """Return an answer of JSON."""
    return BatchReply(body=orjson.dumps(data), headers=headers, lost=lost)


ResultFile = Literal["output", "error"]
Ending = Literal["expired", "cancelled"]


class Row(NamedTuple):
    """The result line of a row: its file, outcome and cost.

    `custom_id` and `body`, the digest of its request, are for the bill of one that succeeded.
    """

    file: ResultFile
    line: bytes
    kind: Literal["succeeded", "errored", "expired", "cancelled"]
    input_tokens: int = 0
    output_tokens: int = 0
    custom_id: str = ""
    body: int = 0


class LineError(Exception):
    """A line of the input that fails the whole job."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class BatchAPI(ABC):
    """One dialect's batch API: its requests, its jobs and its rows.

    Args:
        settings: what the provider is set to.
        store: where files and jobs are.
        carry: called with a job that is new or that was changed.

    """

    root: tuple[str, ...]
    """The path of its jobs, below the version."""
    prefix: str
    """What its jobs' identifiers begin with."""
    finalizes = False
    """Whether a job takes time to end after its last row."""

    def __init__(
        self,
        settings: SimulatorSettings,
        store: Store,
        carry: Callable[[JobRecord], object] = lambda _: None,
    ) -> None:
        self._settings, self._store, self._carry = settings, store, carry

    @property
    def forgets_cancelled(self) -> bool:
        """True if a cancelled job loses its results."""
        return False

    @abstractmethod
    def receive(self, request: BatchRequest) -> BatchReply | Work:
        """Answer a request, at once or in steps; raise a `DialectError`."""

    @abstractmethod
    def unknown(self, ident: str) -> Exception:
        """Return the 404 for a job that does not exist."""

    @abstractmethod
    def input(self, job: JobRecord) -> FilePart | None:
        """Return where a job's rows are; None if they are gone."""

    @abstractmethod
    def orphan(self, job: JobRecord) -> None:
        """Record that a job ended because its rows are gone."""

    @abstractmethod
    def answer(self, job: JobRecord, line: bytes, *, ident: str, fails: bool, now: float) -> Row:
        """Return the result that a live request would get, or an error."""

    @abstractmethod
    def unanswered(self, line: bytes, *, ident: str, why: Ending) -> Row:
        """Return the line of a row that was not executed."""

    @abstractmethod
    def publish(self, job: JobRecord, file: ResultFile, size: int, now: float) -> str:
        """Register a file of results, and return the name of its data."""

    def check(self, job: JobRecord, line: bytes, seen: set[str]) -> int:
        """Return the prompt tokens of a row, or raise a `LineError`."""
        del job, line, seen
        return 0

    def queue_error(self, job: JobRecord, *, others: int) -> LineError | None:
        """Return the error of a job if the queue is full."""
        del job, others
        return None

    def ended(self, job: JobRecord) -> None:
        """Remove what a job needs no more."""
        del job

    def _find(self, ident: str, request: BatchRequest) -> JobRecord:
        """Return a job of the customer, or raise a 404."""
        job = self._store.jobs.get(ident)
        if job is None or job.owner != request.owner or not ident.startswith(self.prefix):
            raise self.unknown(ident)
        return job

    def _new_job(self, request: BatchRequest, **more: Any) -> JobRecord:
        """Return the record of a new job, which `_keep` is to save."""
        ordinal, ident = self._store.next("job")
        return JobRecord(
            id=f"{self.prefix}{ident}",
            ordinal=ordinal,
            owner=request.owner,
            created=request.now,
            expires=request.now + self._settings.batch.expiry_seconds,
            **more,
        )

    def _keep(self, job: JobRecord) -> None:
        self._store.save(job)
        self._carry(job)

    def _ask_to_cancel(self, job: JobRecord, request: BatchRequest) -> None:
        if job.cancel_asked is None:
            job.cancel_asked = request.now
            self._keep(job)
