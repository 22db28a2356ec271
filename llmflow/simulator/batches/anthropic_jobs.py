"""Anthropic's batches: ``/v1/messages/batches``."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import orjson

from llmflow.private_files import private
from llmflow.simulator.anthropic_errors import AnthropicError
from llmflow.simulator.anthropic_fields import check_version
from llmflow.simulator.anthropic_headers import format_instant
from llmflow.simulator.batches.json_list import ListError, elements
from llmflow.simulator.batches.reply import BatchReply, BatchRequest, FilePart, Work, say
from llmflow.simulator.batches.settings import BatchSettings
from llmflow.simulator.batches.store import JobRecord, Store

PREFIX = "msgbatch_"
_MOST_ROWS = 100_000
_MOST_BYTES = 256_000_000
_MOST_LISTED = 1000
_USUAL_LISTED = 20
_POLL_SECONDS = 10.0
_IDENT = re.compile(r"[a-zA-Z0-9_-]{1,64}\Z")
# Split from a body in one step: a millisecond's work.
_STEP_BYTES = 65_536
_FIELDS = ("custom_id", "params")


class AnthropicJobs:
    """Creates, shows, lists, cancels and deletes jobs, and gives their results.

    Args:
        store: where they are.
        settings: how jobs go.
        begin: called with a new job.
        wake: called with a job that is to be cancelled.

    """

    def __init__(
        self,
        store: Store,
        settings: BatchSettings,
        *,
        begin: Callable[[JobRecord], None],
        wake: Callable[[JobRecord], None],
    ) -> None:
        self._store, self._settings = store, settings
        self._begin, self._wake = begin, wake
        speed = settings.rows_per_second
        # The real hint, 10 s, as fast as the jobs are; the most where a job's size decides.
        wait = _POLL_SECONDS if speed is not None else min(_POLL_SECONDS, settings.seconds / 10)
        self._hint = f"retry-after: {round(wait)}\r\n"

    def receive(self, request: BatchRequest) -> BatchReply | Work:
        """Answer a request, at once or in steps, or raise the `AnthropicError` that answers it."""
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

    def _find(self, ident: str, request: BatchRequest) -> JobRecord:
        job = self._store.jobs.get(ident)
        if job is None or job.owner != request.owner or not ident.startswith(PREFIX):
            raise unknown(ident)
        return job

    def _create(self, request: BatchRequest) -> Work:
        body = request.upload
        assert body is not None
        most = self._settings.max_bytes or _MOST_BYTES
        if request.length > most:
            raise AnthropicError(413, f"Request exceeds the maximum size of {most} bytes")
        rows = self._store.scratch()
        try:
            total = yield from self._split(body, rows)
            self._check_queue(total, request)
            ordinal, ident = self._store.next("job")
            job = JobRecord(
                id=f"{PREFIX}{ident}",
                ordinal=ordinal,
                owner=request.owner,
                created=request.now,
                expires=request.now + self._settings.expiry_seconds,
                endpoint="/v1/messages",
                input=f"{PREFIX}{ident}.rows",
                phase="running",
                started=request.now,
                total=total,
                version=request.headers["anthropic-version"],
                beta="anthropic-beta" in request.headers,
            )
            rows.replace(self._store.data(job.input))
        finally:
            rows.unlink(missing_ok=True)
        self._store.save(job)
        self._begin(job)
        return say(self._shown(job, request), lost=ordinal in self._settings.lost_creates)

    def _split(self, body: Path, rows: Path) -> Generator[None, None, int]:
        """Write the requests of a body to a file, one to a line, and return how many they are."""
        most = self._settings.max_requests or _MOST_ROWS
        seen, done = set[str](), 0
        with body.open("rb") as source, open(rows, "wb", opener=private) as target:
            try:
                for number, element in enumerate(elements(source, "requests")):
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
        limit = self._settings.queue_requests
        if limit is None:
            return
        jobs = self._store.newest_jobs(request.owner, PREFIX)
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
        jobs = self._store.newest_jobs(request.owner, PREFIX)
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
        if job.cancel_asked is None:
            job.cancel_asked = request.now
            self._store.save(job)
            self._wake(job)
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
        counts = job.counts if ended or self._settings.moving_counts else {}
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


def unknown(ident: str) -> AnthropicError:
    """Return the 404 for a job that does not exist."""
    return AnthropicError(404, f"Batch {ident} was not found.")


def _instant(time: float | None) -> str | None:
    return None if time is None else format_instant(int(time))


def _custom_id(element: bytes, number: int, seen: set[str]) -> str:
    """Return the name of a request, or raise what is wrong with that or with its fields."""
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
