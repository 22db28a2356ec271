"""Anthropic's batch API: ``/v1/messages/batches``."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from llmflow.private_files import private
from llmflow.simulator.anthropic.message_request import check_version, read_messages
from llmflow.simulator.anthropic.message_wire import (
    AnthropicError,
    MessagesRequest,
    PromptCache,
    format_instant,
    message,
)
from llmflow.simulator.batches.api import (
    BatchAPI,
    BatchReply,
    BatchRequest,
    RowKind,
    Work,
    say,
)
from llmflow.simulator.batches.bodies import ListError, elements, mapped
from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.exchange import import_shapes
from llmflow.simulator.settings import SimulatorSettings

_POLL_SECONDS = 10.0
# Split from a body in one step: a millisecond's work.
_STEP_BYTES = 65_536


class AnthropicBatches(BatchAPI):
    """Anthropic's jobs."""

    paths = ("/messages/batches",)
    upload_path = "/messages/batches"
    root = ("messages", "batches")
    prefix = "msgbatch_"
    most_rows = 100_000
    most_bytes = 256_000_000
    error = AnthropicError
    body_field = "params"
    page_sizes = (20, 1000)
    after = "after_id"
    before = "before_id"
    whole = staticmethod(partial(message, tier="batch"))

    def __init__(
        self,
        settings: SimulatorSettings,
        store: Store,
        carry: Callable[[JobRecord], object] = lambda _: None,
    ) -> None:
        super().__init__(settings, store, carry)
        self._cache = PromptCache()
        # The real hint, 10 s, as fast as the jobs are; the most where a job's size decides.
        fast = _POLL_SECONDS if settings.batch.rows_per_second else settings.batch.seconds / 10
        self._hint = f"retry-after: {round(min(_POLL_SECONDS, fast))}\r\n"

    # --- requests

    def receive(self, request: BatchRequest) -> BatchReply | Work:
        """Answer a request, at once or in steps; raise `AnthropicError`."""
        check_version(request.headers)
        return super().receive(request)

    def receive_other(self, request: BatchRequest) -> BatchReply:
        """Answer a request for results, or to delete a job."""
        match request.method, request.parts[2:]:
            case "DELETE", [ident]:
                return self._delete(self._find(ident, request))
            case "GET", [ident, "results"]:
                return self._results(self._find(ident, request))
        raise AnthropicError.of("path")

    def poll_headers(self, job: JobRecord) -> str:
        """Return the hint when to ask again."""
        return "" if job.phase == "ended" else self._hint

    def create(self, request: BatchRequest) -> Work:
        """Create a job of the rows in a body."""
        body = request.upload
        assert body is not None
        if request.length > (most := self._most_bytes):
            raise AnthropicError(413, f"Request exceeds the maximum size of {most} bytes")
        rows = self._store.scratch()
        try:
            total = yield from self._split(body, rows)
            self._check_queue(total, request)
            job = self._new_job(
                request,
                endpoint="/v1/messages",
                input="",
                phase="running",
                started=request.now,
                total=total,
                version=request.headers["anthropic-version"],
                beta="anthropic-beta" in request.headers,
            )
            job.input = f"{job.id}.rows"
            rows.replace(self._store.data(job.input))
        finally:
            rows.unlink(missing_ok=True)
        return self._created(job, request)

    def _split(self, body: Path, rows: Path) -> Generator[None, None, int]:
        """Write the requests of a body to lines; return their count."""
        most = self._most_rows
        seen, done = set[str](), 0
        with mapped(body) as data, open(rows, "wb", opener=private) as target:
            try:
                for number, element in enumerate(elements(data, "requests")):
                    if number >= most:
                        raise AnthropicError(
                            400,
                            f"requests: List should have at most {most} items after validation",
                        )
                    seen.add(_custom_id(element, number, seen))
                    # JSON has no line breaks but between its parts.
                    line = element.replace(b"\n", b" ").replace(b"\r", b" ")
                    target.write(line + b"\n")
                    done += len(line)
                    if done >= _STEP_BYTES:
                        done = 0
                        yield
            except ListError as error:
                raise AnthropicError(
                    400, f"The request body is not valid JSON with a list of requests: {error}"
                ) from None
        if not seen:
            raise AnthropicError(
                400, "requests: List should have at least 1 item after validation, not 0"
            )
        return len(seen)

    def _check_queue(self, total: int, request: BatchRequest) -> None:
        limit = self._settings.batch.queue_requests
        if limit is None:
            return
        jobs = self._store.newest_jobs(request.owner, self.prefix)
        waiting = sum(job.total for job in jobs if job.phase != "ended")
        if waiting + total > limit:
            raise AnthropicError(
                429,
                f"This request would exceed your organization's rate limit of {limit:,} batch "
                "requests in the processing queue. Please try again once some of them have ended.",
            )

    def _results(self, job: JobRecord) -> BatchReply:
        if job.phase != "ended":
            raise AnthropicError(404, f"Batch {job.id} has no available results.")
        file = self._part(job.output) if job.output is not None else None
        return BatchReply(file=file, kind="application/x-jsonl")

    def _delete(self, job: JobRecord) -> BatchReply:
        if job.phase != "ended":
            raise AnthropicError(
                400, f"Batch {job.id} cannot be deleted while it is being processed. Cancel it."
            )
        self._store.remove(job)
        if job.output is not None:
            self._store.data(job.output).unlink(missing_ok=True)
        return say({"id": job.id, "type": "message_batch_deleted"})

    def shown(self, job: JobRecord, request: BatchRequest) -> dict[str, Any]:
        """Return a job as it is shown."""
        ended = job.phase == "ended"
        running = "in_progress" if job.cancel_asked is None else "canceling"
        counts = job.counts if ended or self._settings.batch.moving_counts else {}
        host = request.headers.get("host", "localhost")
        return {
            "id": job.id,
            "type": "message_batch",
            "processing_status": "ended" if ended else running,
            "request_counts": {
                "processing": job.total - sum(counts.values()),
                "succeeded": counts.get("succeeded", 0),
                "errored": counts.get("errored", 0),
                "canceled": counts.get("cancelled", 0),
                "expired": counts.get("expired", 0),
            },
            "created_at": format_instant(int(job.created)),
            "expires_at": format_instant(int(job.expires)),
            "ended_at": _instant(job.ended),
            "cancel_initiated_at": _instant(job.cancel_asked),
            "archived_at": None,
            "results_url": f"http://{host}/v1/messages/batches/{job.id}/results" if ended else None,
        }

    # --- jobs

    def orphan(self, job: JobRecord) -> None:
        """Let all rows have expired: the job itself cannot fail."""
        job.outcome, job.counts = "expired", {"expired": job.total}

    def ended(self, job: JobRecord) -> None:
        """Remove the rows, which nobody can ask for."""
        self._store.data(job.input).unlink(missing_ok=True)

    # --- rows

    def read(self, job: JobRecord, body: Any, line: bytes, *, now: float) -> MessagesRequest:
        """Read a row's request; what is only allowed live is wrong.

        What the prompt cache held when the job began is read from it. Rows of one job have
        nothing of each other: they are worked on at the same time.
        """
        if body.get("stream"):
            raise AnthropicError(400, "stream: Streaming is not supported in batches")
        if "speed" in body:
            raise AnthropicError(400, "speed: Extra inputs are not permitted")
        caching = b'"cache_control"' in line
        call = read_messages(
            body, self._settings, caching=caching, version=job.version, beta=job.beta
        )
        if not call.max_tokens:
            raise AnthropicError(400, "max_tokens: Input should be greater than or equal to 1")
        if call.marks:
            call.cached = self._cache.read(call.marks, now=now, before=job.started)
            self._cache.write(call.marks, now=now)
        return call

    def result(
        self,
        row: Any,
        kind: RowKind,
        *,
        ident: str,
        status: int = 0,
        body: orjson.Fragment | None = None,
    ) -> dict[str, Any]:
        """Return the result of a row."""
        del ident, status
        result: dict[str, Any] = {"type": "canceled" if kind == "cancelled" else kind}
        if body is not None:
            result["message" if kind == "succeeded" else "error"] = body
        return {"custom_id": row["custom_id"], "result": result}


def _instant(time: float | None) -> str | None:
    return None if time is None else format_instant(int(time))


def _custom_id(element: bytes, number: int, seen: set[str]) -> str:
    """Return the ``custom_id`` of a row, or raise its refusal."""
    shapes = import_shapes("anthropic.message_shapes")
    try:
        row = orjson.loads(element)
    except orjson.JSONDecodeError as error:
        raise AnthropicError(400, f"The request body is not valid JSON: {error}") from None
    shapes.check_shape(shapes.ROW, row, "requests", str(number))
    ident = str(row["custom_id"])
    if ident in seen:
        place = f"requests.{number}.custom_id"
        raise AnthropicError(400, f"{place}: '{ident}' is a duplicate of another request")
    return ident
