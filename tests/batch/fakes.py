"""A provider with a batch API in memory, which does what a test tells it to."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from llmflow.errors import ProviderError, ServerError
from llmflow.provider import (
    BatchInput,
    BatchLimits,
    BatchProblem,
    BatchRow,
    BatchState,
    BatchStatus,
    Channel,
)
from llmflow.retry import Retry
from llmflow.types import (
    Charge,
    Quota,
    QuotaSignal,
    Request,
    Response,
    Usage,
    WireReply,
    WireRequest,
)

Fate = Callable[[str, int], "str | ProviderError | None"]
"""What becomes of a prompt in the so-manieth job: an answer, an error, or no line at all."""


Problems = Callable[[int, list[tuple[str, str]]], Sequence[BatchProblem]]


def echo(prompt: str, job: int) -> str:
    """Answer with what was asked."""
    return f"batch: {prompt}"


@dataclass
class FakeJob:
    """A job at the provider."""

    id: str
    tag: str
    rows: list[tuple[str, str]]
    state: BatchState = "queued"
    looks: int = 0
    created_at: float = 0.0
    problems: tuple[BatchProblem, ...] = ()
    deleted: bool = False


_servers = itertools.count(1)


@dataclass
class FakeServer:
    """The provider's side, which survives the client.

    Args:
        looks: after how many looks a job has ended.
        fate: what becomes of each row.
        ends: the state in which a job of this number ends, from 1.
        refuses: what `create` does with a job of this number: raise this, or None.
        problems: what a job of this number fails with.
        loses_reply_of: numbers of jobs whose creation is never answered.
        stuck: numbers of jobs that never end by themselves.
    """

    looks: int = 1
    fate: Fate = echo
    ends: Callable[[int], BatchState] = lambda number: "succeeded"
    refuses: Callable[[int, BatchInput], ProviderError | None] = lambda number, rows: None
    problems: Problems = lambda number, rows: ()
    loses_reply_of: Collection[int] = ()
    stuck: Collection[int] = ()
    limits: BatchLimits = field(default_factory=BatchLimits)
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    billed: list[str] = field(default_factory=list)
    creations: Any = field(default_factory=lambda: itertools.count(1))
    number: int = field(default_factory=lambda: next(_servers))
    """Each has a number of its own: what `id` tells may be that of one that is gone."""

    @property
    def sizes(self) -> list[int]:
        """How many rows each job has."""
        return [len(each.rows) for each in self.jobs.values()]


class FakeBatchAPI:
    """The adapter."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self.limits = server.limits

    def line(self, custom_id: str, wire: WireRequest) -> bytes:
        return b'{"custom_id":"%s","body":%s}' % (custom_id.encode(), wire.body)

    async def upload(self, rows: BatchInput, channel: Channel) -> str | None:
        self._server.calls.append("upload")
        return f"file-{rows.tag}"

    async def create(self, rows: BatchInput, uploaded: str | None, channel: Channel) -> BatchStatus:
        server = self._server
        server.calls.append("create")
        number = next(server.creations)
        if (error := server.refuses(number, rows)) is not None:
            raise error
        lines = [orjson.loads(line) for line in rows.path.read_bytes().split(b"\n")]
        assert len(lines) == rows.requests
        assert rows.path.stat().st_size == rows.size
        assert len({each["custom_id"] for each in lines}) == len(lines)
        made = [(each["custom_id"], each["body"]["prompt"]) for each in lines]
        job = FakeJob(f"job-{number}", rows.tag, made, created_at=rows.created_at)
        server.jobs[job.id] = job
        job.problems = tuple(server.problems(number, made))
        if number in server.loses_reply_of:
            raise ServerError("bad gateway", status=502)
        return self._status(job)

    async def find(
        self, rows: BatchInput, known: Collection[str], channel: Channel
    ) -> BatchStatus | None:
        self._server.calls.append("find")
        for job in self._server.jobs.values():
            if job.tag == rows.tag and job.id not in known:
                return self._status(job)
        return None

    async def status(self, job: str, channel: Channel) -> BatchStatus:
        self._server.calls.append("status")
        found = self._server.jobs.get(job)
        if found is None:
            raise ProviderError("no such job", status=404)
        found.looks += 1
        if found.problems:
            found.state = "failed"
        elif found.state == "cancelling":
            found.state = "cancelled"
        elif found.state in ("queued", "running"):
            number = int(job.removeprefix("job-"))
            over = found.looks >= self._server.looks and number not in self._server.stuck
            found.state = self._server.ends(number) if over else "running"
        return self._status(found)

    async def cancel(self, job: str, channel: Channel) -> None:
        self._server.calls.append("cancel")
        found = self._server.jobs[job]
        if found.state in ("queued", "running"):
            found.state = "cancelling"

    async def fetch(self, status: BatchStatus, folder: Path, channel: Channel) -> Sequence[Path]:
        self._server.calls.append("fetch")
        server, job = self._server, self._server.jobs[status.id]
        number = int(job.id.removeprefix("job-"))
        lines = []
        for name, prompt in reversed(job.rows):
            outcome = server.fate(prompt, number)
            if isinstance(outcome, ProviderError):
                code = getattr(outcome, "code", None)
                error: dict[str, Any] = {"kind": type(outcome).__name__, "code": code}
                error["message"] = outcome.message
                error["status"] = outcome.status
                error["usage"] = getattr(outcome, "usage", None)
                lines.append(orjson.dumps({"custom_id": name, "error": error}))
            elif outcome is not None:
                server.billed.append(name)
                lines.append(orjson.dumps({"custom_id": name, "text": outcome}))
        path = folder / "results.jsonl"
        path.write_bytes(b"\n".join(lines))
        return [path]

    def read(self, line: bytes) -> BatchRow:
        import llmflow.errors

        row = orjson.loads(line)
        if "error" in row:
            kind = getattr(llmflow.errors, row["error"]["kind"])
            told = row["error"]
            error = kind(told["message"], code=told["code"], status=told["status"])
            if told["usage"] is not None:
                error.usage = Usage(**told["usage"])
            return BatchRow(row["custom_id"], None, error)
        return BatchRow(row["custom_id"], answer(row["text"]), None)

    async def clean_up(self, status: BatchStatus, channel: Channel) -> None:
        self._server.calls.append("clean_up")
        if status.id:  # else a file of which no job was made
            self._server.jobs[status.id].deleted = True

    def _status(self, job: FakeJob) -> BatchStatus:
        ended = job.state in ("succeeded", "cancelled", "expired")
        return BatchStatus(
            id=job.id,
            state=job.state,
            native=job.state,
            total=len(job.rows),
            tag=job.tag,
            results=("results",) if ended else (),
            problems=job.problems if job.state == "failed" else (),
        )


def answer(text: str) -> Response:
    """Return a response of this text, with 10 tokens in and 5 out."""
    return Response(
        text=text,
        usage=Usage(input_tokens=10, output_tokens=5),
        finish_reason="stop",
        model="model",
        provider="fake",
    )


class FakeProvider:
    """A provider whose live calls are in memory, too: use `llm`."""

    name = "fake"
    default_quota: Quota | None = None
    default_retry: Retry | None = None
    reserves_output = True

    def __init__(self, server: FakeServer, *, model: str = "model", has_batch: bool = True) -> None:
        self.fake = server
        self.model = model
        self.batch = FakeBatchAPI(server) if has_batch else None

    @property
    def domain(self) -> Hashable:
        return (self.name, self.model, self.fake.number)

    def prepare(self) -> None:
        pass

    def reserve(self, request: Request) -> Charge:
        return Charge(1.0, 20.0, 10.0, 10.0)

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        return charge

    def encode(self, request: Request) -> WireRequest:
        body = {
            "prompt": request.messages[-1]["content"],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
        }
        return WireRequest("POST", "http://127.0.0.1:9/", {}, orjson.dumps(body))

    def decode(self, reply: WireReply) -> Response:
        raise AssertionError

    def signals(self, reply: WireReply) -> Sequence[QuotaSignal]:
        return ()

    async def complete(self, request: Request, *, timeout: float) -> Response:
        prompt = str(request.messages[-1]["content"])
        self.fake.live.append(prompt)
        return replace(answer(f"live: {prompt}"), provider=self.name)
