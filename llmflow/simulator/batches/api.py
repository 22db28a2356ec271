"""Base of a dialect's batch API, which the batch service calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar
from urllib.parse import parse_qs, urlsplit

import orjson

from llmflow.simulator.answer import answer
from llmflow.simulator.batches.store import FileRecord, JobRecord, Phase, Store, digest
from llmflow.simulator.exchange import Answer, DialectError
from llmflow.simulator.settings import SimulatorSettings
from llmflow.simulator.wrong_answer import Mistakes

_Item = TypeVar("_Item", FileRecord, JobRecord)


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
RowKind = Literal["succeeded", "errored"] | Ending


class Row(NamedTuple):
    """The result line of a row: its file, outcome and cost.

    `custom_id` and `body`, the digest of its request, are for the bill of one that succeeded;
    so is `invalid`, an answer that does not fit its schema on purpose.
    """

    file: ResultFile
    line: bytes
    kind: RowKind
    input_tokens: int = 0
    output_tokens: int = 0
    custom_id: str = ""
    body: int = 0
    invalid: bool = False


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

    paths: ClassVar[tuple[str, ...]]
    """Where it is, below the version."""
    upload_path: ClassVar[str | None] = None
    """Where large bodies are sent to, which go to a file."""
    root: ClassVar[tuple[str, ...]]
    """The path of its jobs, below the version."""
    prefix: ClassVar[str]
    """What its jobs' identifiers begin with."""
    most_rows: ClassVar[int]
    most_bytes: ClassVar[int]
    finalizes: ClassVar[bool] = False
    """Whether a job takes time to end after its last row."""
    error: ClassVar[type[DialectError]]
    """The form of its errors."""
    final_phases: ClassVar[tuple[Phase, ...]] = ("ended",)
    """In which a job cannot be cancelled."""
    error_file: ClassVar[ResultFile] = "output"
    """Where rows go that did not succeed."""
    body_field: ClassVar[str] = "body"
    """The field of a row that holds its request."""
    page_sizes: ClassVar[tuple[int, int]]
    """The usual count of jobs on a page of their list, and the most."""
    after: ClassVar[str] = "after"
    """The parameter that names the job before a page; as `before` names the one after it."""
    before: ClassVar[str | None] = None
    page: ClassVar[Mapping[str, Any]] = {}
    """What a page holds beside its jobs."""

    def __init__(
        self,
        settings: SimulatorSettings,
        store: Store,
        carry: Callable[[JobRecord], object] = lambda _: None,
    ) -> None:
        self._settings, self._store, self._carry = settings, store, carry
        self._mistakes = Mistakes(settings.invalid_answer_rate, seed=settings.seed)
        self._most_rows = settings.batch.max_requests or self.most_rows
        self._most_bytes = settings.batch.max_bytes or self.most_bytes

    @property
    def forgets_cancelled(self) -> bool:
        """True if a cancelled job loses its results."""
        return False

    # --- requests

    def receive(self, request: BatchRequest) -> BatchReply | Work:
        """Answer a request, at once or in steps; raise a `DialectError`."""
        below = len(self.root)
        if tuple(request.parts[:below]) != self.root:
            return self.receive_other(request)
        match request.method, request.parts[below:]:
            case "POST", []:
                return self.create(request)
            case "GET", []:
                jobs = self._store.newest_jobs(request.owner, self.prefix)
                shown = partial(self.shown, request=request)
                return say(self._page(jobs, shown, request.query, *self.page_sizes))
            case "GET", [ident]:
                job = self._find(ident, request)
                return say(self.shown(job, request), headers=self.poll_headers(job))
            case "POST", [ident, "cancel"]:
                job = self._find(ident, request)
                if job.phase in self.final_phases:
                    raise self.error.of("cancel", **self.shown(job, request))
                if job.cancel_asked is None:
                    job.cancel_asked = request.now
                    self._keep(job)
                return say(self.shown(job, request))
        return self.receive_other(request)

    @abstractmethod
    def receive_other(self, request: BatchRequest) -> BatchReply:
        """Answer all but to create, show, list and cancel jobs."""

    @abstractmethod
    def create(self, request: BatchRequest) -> BatchReply | Work:
        """Create a job with `_new_job`, and answer with `_created`."""

    @abstractmethod
    def shown(self, job: JobRecord, request: BatchRequest) -> dict[str, Any]:
        """Return a job as it is shown."""

    def poll_headers(self, job: JobRecord) -> str:
        """Return the header lines of an answer that shows a job."""
        del job
        return ""

    # --- jobs

    def input(self, job: JobRecord) -> FilePart | None:
        """Return where a job's rows are; None if they are gone."""
        return self._part(job.input)

    @abstractmethod
    def orphan(self, job: JobRecord) -> None:
        """Record that a job ended because its rows are gone."""

    def publish(self, job: JobRecord, file: ResultFile, size: int, now: float) -> str:
        """Register a file of results, and return the name of its data."""
        del size, now
        return f"{job.id}.{file}.results"

    def check(self, job: JobRecord, line: bytes, seen: set[str]) -> int:
        """Return a row's prompt tokens for the queue, or raise a `LineError`."""
        del job, line, seen
        return 0

    def queue_error(self, job: JobRecord, *, others: int) -> LineError | None:
        """Return the error of a job if the queue is full."""
        del job, others
        return None

    def ended(self, job: JobRecord) -> None:
        """Remove what a job needs no more."""
        del job

    # --- rows

    def answer(self, job: JobRecord, line: bytes, *, ident: str, fails: bool, now: float) -> Row:
        """Return the result that a live request would get, or an error."""
        row = orjson.loads(line)
        try:
            if fails:
                raise self.error.of(self._settings.batch.row_error)
            call = self.read(job, row.get(self.body_field), line, now=now)
        except DialectError as error:
            body = orjson.Fragment(error.body(""))
            result = self.result(row, "errored", ident=ident, status=error.status, body=body)
            return Row(self.error_file, _line(result), "errored")
        style, varied = self._settings.answer, self._settings.varied_values
        said = answer(call, style=style, mistakes=self._mistakes, varied=varied)
        whole = self.whole(call, said, ident=ident, created=int(job.started or job.created))
        result = self.result(row, "succeeded", ident=ident, status=200, body=orjson.Fragment(whole))
        return Row(
            "output",
            _line(result),
            "succeeded",
            input_tokens=call.prompt_tokens,
            output_tokens=said.tokens * call.choices,
            custom_id=row["custom_id"],
            body=digest(row[self.body_field]),
            invalid=said.wrong is not None,
        )

    def unanswered(self, line: bytes, *, ident: str, why: Ending) -> Row:
        """Return the line of a row that was not executed."""
        return Row(self.error_file, _line(self.result(orjson.loads(line), why, ident=ident)), why)

    @abstractmethod
    def read(self, job: JobRecord, body: Any, line: bytes, *, now: float) -> Any:
        """Read a row's request into a `Call`, or raise its refusal."""

    @staticmethod
    @abstractmethod
    def whole(call: Any, said: Answer, *, ident: str, created: int) -> bytes:
        """Return the body of an answer."""

    @abstractmethod
    def result(
        self,
        row: Any,
        kind: RowKind,
        *,
        ident: str,
        status: int = 0,
        body: orjson.Fragment | None = None,
    ) -> dict[str, Any]:
        """Return the result of a row, `body` its answer or error."""

    # --- shared by those above

    def _find(self, ident: str, request: BatchRequest) -> JobRecord:
        """Return a job of the customer, or raise a 404."""
        job = self._store.jobs.get(ident)
        if job is None or job.owner != request.owner or not ident.startswith(self.prefix):
            raise self.error.of("job", ident=ident)
        return job

    def _page(
        self,
        items: list[_Item],
        show: Callable[[_Item], Mapping[str, Any]],
        query: Mapping[str, str],
        usual: int,
        most: int,
    ) -> dict[str, Any]:
        """Return the page of a list that a query asks for."""
        text = query.get("limit", str(usual))
        if not text.isdecimal() or not 1 <= int(text) <= most:
            raise self.error.of("limit", limit=text, most=most)
        limit = int(text)
        places = {item.id: place for place, item in enumerate(items)}
        if self.after in query:
            items = items[places.get(query[self.after], len(items)) + 1 :]
        page = items[:limit]
        if self.before is not None and self.before in query:
            # The page that ends there: its neighbours, not the newest.
            items = items[: places.get(query[self.before], 0)]
            page = items[-limit:]
        return {
            **self.page,
            "data": [show(item) for item in page],
            "has_more": len(items) > len(page),
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }

    def _new_job(self, request: BatchRequest, **more: Any) -> JobRecord:
        """Return the record of a new job, which `_created` is to save."""
        ordinal, ident = self._store.next("job")
        return JobRecord(
            id=f"{self.prefix}{ident}",
            ordinal=ordinal,
            owner=request.owner,
            created=request.now,
            expires=request.now + self._settings.batch.expiry_seconds,
            **more,
        )

    def _part(self, name: str) -> FilePart | None:
        """Return the data of this name, None if there are none."""
        path = self._store.data(name)
        return FilePart(path, 0, path.stat().st_size) if path.exists() else None

    def _created(self, job: JobRecord, request: BatchRequest) -> BatchReply:
        """Save a new job, start it, and answer with it."""
        self._keep(job)
        lost = job.ordinal in self._settings.batch.lost_creates
        return say(self.shown(job, request), lost=lost)

    def _keep(self, job: JobRecord) -> None:
        self._store.save(job)
        self._carry(job)


def _line(result: Mapping[str, Any]) -> bytes:
    return orjson.dumps(result) + b"\n"
