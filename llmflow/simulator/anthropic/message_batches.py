"""Anthropic's batch API: ``/v1/messages/batches``."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import orjson

from llmflow.private_files import private
from llmflow.simulator.answer import answer
from llmflow.simulator.anthropic.message_fields import check_version
from llmflow.simulator.anthropic.message_request import read_messages
from llmflow.simulator.anthropic.message_wire import (
    BROKEN,
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
    Ending,
    FilePart,
    ResultFile,
    Row,
    Work,
    say,
)
from llmflow.simulator.batches.bodies import ListError, elements, mapped
from llmflow.simulator.batches.store import JobRecord, Store, digest
from llmflow.simulator.settings import SimulatorSettings

_MOST_ROWS = 100_000
_MOST_BYTES = 256_000_000
_MOST_LISTED = 1000
_USUAL_LISTED = 20
_POLL_SECONDS = 10.0
_IDENT = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
# Split from a body in one step: a millisecond's work.
_STEP_BYTES = 65_536
_FIELDS = ("custom_id", "params")


_UNDONE: dict[Ending, str] = {"expired": "expired", "cancelled": "canceled"}
_REFUSED = AnthropicError(400, "The request was refused by the simulator.")


class AnthropicBatches(BatchAPI):
    """Anthropic's jobs."""

    prefix = "msgbatch_"
    root = ("messages", "batches")

    def __init__(
        self,
        settings: SimulatorSettings,
        store: Store,
        carry: Callable[[JobRecord], object] = lambda _: None,
    ) -> None:
        super().__init__(settings, store, carry)
        self._cache = PromptCache()
        failed = settings.batch.row_error == "server_error"
        self._failure: AnthropicError = BROKEN["server_error"] if failed else _REFUSED
        speed = settings.batch.rows_per_second
        # The real hint, 10 s, as fast as the jobs are; the most where a job's size decides.
        wait = (
            _POLL_SECONDS if speed is not None else min(_POLL_SECONDS, settings.batch.seconds / 10)
        )
        self._hint = f"retry-after: {round(wait)}\r\n"

    def receive(self, request: BatchRequest) -> BatchReply | Work:
        """Answer a request, at once or in steps; raise `AnthropicError`."""
        check_version(request.headers)
        match request.method, request.parts[2:]:
            case "POST", []:
                return self._create(request)
            case "GET", []:
                return say(self._page(request))
            case "GET", [ident]:
                job = self._find(ident, request)
                return say(
                    self._shown(job, request), headers="" if job.phase == "ended" else self._hint
                )
            case "DELETE", [ident]:
                return self._delete(self._find(ident, request))
            case "GET", [ident, "results"]:
                return self._results(self._find(ident, request))
            case "POST", [ident, "cancel"]:
                return self._cancel(self._find(ident, request), request)
        raise AnthropicError(404, "Not Found")

    def unknown(self, ident: str) -> AnthropicError:
        """Return the 404 for a job that does not exist."""
        return AnthropicError(404, f"Batch {ident} was not found.")

    def _create(self, request: BatchRequest) -> Work:
        body = request.upload
        assert body is not None
        most = self._settings.batch.max_bytes or _MOST_BYTES
        if request.length > most:
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
        self._keep(job)
        return say(self._shown(job, request), lost=job.ordinal in self._settings.batch.lost_creates)

    def _split(self, body: Path, rows: Path) -> Generator[None, None, int]:
        """Write the requests of a body to lines; return their count."""
        most = self._settings.batch.max_requests or _MOST_ROWS
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

    def _page(self, request: BatchRequest) -> dict[str, Any]:
        query = request.query
        text = query.get("limit", str(_USUAL_LISTED))
        if not text.isdecimal() or not 1 <= int(text) <= _MOST_LISTED:
            raise AnthropicError(400, f"limit: Input should be from 1 to {_MOST_LISTED}")
        limit = int(text)
        jobs = self._store.newest_jobs(request.owner, self.prefix)
        places = {job.id: place for place, job in enumerate(jobs)}
        if "after_id" in query:
            jobs = jobs[places.get(query["after_id"], len(jobs)) + 1 :]
        if "before_id" in query:
            # The page that ends there: its neighbours, not the newest.
            jobs = jobs[: places.get(query["before_id"], 0)]
            shown = jobs[-limit:]
        else:
            shown = jobs[:limit]
        return {
            "data": [self._shown(job, request) for job in shown],
            "has_more": len(jobs) > len(shown),
            "first_id": shown[0].id if shown else None,
            "last_id": shown[-1].id if shown else None,
        }

    def _results(self, job: JobRecord) -> BatchReply:
        if job.phase != "ended":
            raise AnthropicError(404, f"Batch {job.id} has no available results.")
        kind = "application/x-jsonl"
        if job.output is None:
            return BatchReply(kind=kind)
        path = self._store.data(job.output)
        return BatchReply(file=FilePart(path, 0, path.stat().st_size), kind=kind)

    def _cancel(self, job: JobRecord, request: BatchRequest) -> BatchReply:
        if job.phase == "ended":
            raise AnthropicError(400, f"Batch {job.id} has ended and cannot be canceled.")
        self._ask_to_cancel(job, request)
        return say(self._shown(job, request))

    def _delete(self, job: JobRecord) -> BatchReply:
        if job.phase != "ended":
            raise AnthropicError(
                400, f"Batch {job.id} cannot be deleted while it is being processed. Cancel it."
            )
        self._store.remove_job(job)
        if job.output is not None:
            self._store.data(job.output).unlink(missing_ok=True)
        return say({"id": job.id, "type": "message_batch_deleted"})

    def _shown(self, job: JobRecord, request: BatchRequest) -> dict[str, Any]:
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

    def answer(self, job: JobRecord, line: bytes, *, ident: str, fails: bool, now: float) -> Row:
        """Return the result that a live request would get, or an error.

        What the prompt cache held when the job began is read from it. Rows of one job have
        nothing of each other: they are worked on at the same time.
        """
        row = orjson.loads(line)
        try:
            if fails:
                raise self._failure
            call = self._read(job, row["params"], caching=b'"cache_control"' in line)
        except AnthropicError as error:
            # The error of a row belongs to no request.
            body = orjson.Fragment(error.body(""))
            return Row("output", _line(row, {"type": "errored", "error": body}), "errored")
        if call.marks:
            call.cached = self._cache.read(call.marks, now=now, before=job.started)
            self._cache.write(call.marks, now=now)
        said = answer(call, style=self._settings.answer)
        body = orjson.Fragment(message(call, said, ident=ident, tier="batch"))
        return Row(
            "output",
            _line(row, {"type": "succeeded", "message": body}),
            "succeeded",
            input_tokens=call.prompt_tokens,
            output_tokens=said.tokens,
            custom_id=row["custom_id"],
            body=digest(row["params"]),
        )

    def unanswered(self, line: bytes, *, ident: str, why: Ending) -> Row:
        """Return what a row ends with that was not done."""
        del ident
        return Row("output", _line(orjson.loads(line), {"type": _UNDONE[why]}), why)

    def publish(self, job: JobRecord, file: ResultFile, size: int, now: float) -> str:
        """Return the name of the results' data."""
        del file, size, now
        return f"{job.id}.results"

    def _read(self, job: JobRecord, params: Mapping[str, Any], *, caching: bool) -> MessagesRequest:
        """Read a request, with what is allowed live only taken as wrong."""
        if params.get("stream"):
            raise AnthropicError(400, "stream: Streaming is not supported in batches")
        if "speed" in params:
            raise AnthropicError(400, "speed: Extra inputs are not permitted")
        call = read_messages(
            params, self._settings, caching=caching, version=job.version, beta=job.beta
        )
        if not call.max_tokens:
            raise AnthropicError(400, "max_tokens: Input should be greater than or equal to 1")
        return call

    def input(self, job: JobRecord) -> FilePart | None:
        """Return where a job's rows are; None if they are gone."""
        path = self._store.data(job.input)
        return FilePart(path, 0, path.stat().st_size) if path.exists() else None

    def orphan(self, job: JobRecord) -> None:
        """Let all rows have expired: the job itself cannot fail."""
        job.outcome, job.counts = "expired", {"expired": job.total}

    def ended(self, job: JobRecord) -> None:
        """Remove the rows, which nobody can ask for."""
        self._store.data(job.input).unlink(missing_ok=True)


def _instant(time: float | None) -> str | None:
    return None if time is None else format_instant(int(time))


def _custom_id(element: bytes, number: int, seen: set[str]) -> str:
    """Return the ``custom_id`` of a row, or raise its refusal."""
    place = f"requests.{number}"
    try:
        row: dict[str, Any] = orjson.loads(element)
    except orjson.JSONDecodeError as error:
        raise AnthropicError(400, f"The request body is not valid JSON: {error}") from None
    for name in _FIELDS:
        if name not in row:
            raise AnthropicError(400, f"{place}.{name}: Field required")
    for name in row:
        if name not in _FIELDS:
            raise AnthropicError(400, f"{place}.{name}: Extra inputs are not permitted")
    ident = row["custom_id"]
    if not isinstance(ident, str) or not _IDENT.match(ident):
        pattern = "^[a-zA-Z0-9_-]{1,64}$"
        raise AnthropicError(
            400, f"{place}.custom_id: String should be a text that matches the pattern '{pattern}'"
        )
    if ident in seen:
        raise AnthropicError(400, f"{place}.custom_id: '{ident}' is a duplicate of another request")
    if not isinstance(row["params"], dict):
        raise AnthropicError(400, f"{place}.params: Input should be a valid dictionary")
    return ident


def _line(row: Mapping[str, Any], result: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"custom_id": row["custom_id"], "result": result}) + b"\n"
