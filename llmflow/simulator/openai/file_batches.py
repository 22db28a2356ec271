"""OpenAI's batch API: ``/v1/files`` and ``/v1/batches``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import orjson

from llmflow.simulator.batches.api import (
    BatchAPI,
    BatchReply,
    BatchRequest,
    FilePart,
    LineError,
    ResultFile,
    RowKind,
    say,
)
from llmflow.simulator.batches.bodies import FormError, Part, boundary_of, read_form
from llmflow.simulator.batches.store import FileRecord, JobRecord
from llmflow.simulator.exchange import import_shapes, load_object
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.simulator.openai.chat_wire import ChatRequest, OpenAIError, completion

_SHAPES = "openai.chat_shapes"
_MOST_LISTED = 10_000
_FIELD_BYTES = 1024
_KEPT_SECONDS = 30 * 86_400.0
_UNDONE: dict[RowKind, dict[str, str]] = {
    "expired": {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    },
    "cancelled": {
        "code": "batch_cancelled",
        "message": "This request was not executed because the batch was cancelled.",
    },
}


class OpenAIBatches(BatchAPI):
    """OpenAI's files and jobs."""

    paths = ("/files", "/batches")
    upload_path = "/files"
    root = ("batches",)
    prefix = "batch_"
    most_rows = 50_000
    most_bytes = 209_715_200
    finalizes = True
    error = OpenAIError
    final_phases = ("finalizing", "ended")
    error_file: ClassVar[ResultFile] = "error"
    page_sizes = (20, 100)
    page: ClassVar[Mapping[str, Any]] = {"object": "list"}
    whole = staticmethod(completion)

    @property
    def forgets_cancelled(self) -> bool:
        """True if a cancelled job loses its results."""
        return self._settings.batch.cancelled_results == "drop"

    # --- requests

    def receive_other(self, request: BatchRequest) -> BatchReply:
        """Answer a request for files, or raise the `OpenAIError` that answers it."""
        match request.method, request.parts:
            case "POST", ["files"]:
                return self._upload(request)
            case "GET", ["files"]:
                return self._list(request)
            case "GET", ["files", ident]:
                return say(_shown_file(self._find_file(ident, request)))
            case "DELETE", ["files", ident]:
                file = self._find_file(ident, request)
                self._store.remove(file)
                return say({"id": file.id, "object": "file", "deleted": True})
            case "GET", ["files", ident, "content"]:
                file = self._find_file(ident, request)
                part = FilePart(self._store.data(file.path), file.start, file.size)
                return BatchReply(file=part, kind="application/octet-stream")
        path = request.target.partition("?")[0]
        raise OpenAIError.of("path", method=request.method, path=path)

    def shown(self, job: JobRecord, request: BatchRequest) -> dict[str, Any]:
        """Return a job as it is shown."""
        del request
        outcome = job.outcome
        errors = {"object": "list", "data": job.errors} if job.errors else None
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": job.endpoint,
            "model": job.model,
            "errors": errors,
            "input_file_id": job.input,
            "completion_window": "24h",
            "status": _status(job),
            "output_file_id": job.output,
            "error_file_id": job.error,
            "created_at": int(job.created),
            "in_progress_at": _time(job.started),
            "expires_at": int(job.expires),
            "finalizing_at": _time(job.finalizing),
            "completed_at": _time(job.ended, outcome == "completed"),
            "failed_at": _time(job.ended, outcome == "failed"),
            "expired_at": _time(job.ended, outcome == "expired"),
            "cancelling_at": _time(job.cancel_asked),
            "cancelled_at": _time(job.ended, outcome == "cancelled"),
            "request_counts": {
                "total": job.total,
                "completed": job.counts.get("succeeded", 0),
                "failed": sum(n for kind, n in job.counts.items() if kind != "succeeded"),
            },
            "usage": {
                "input_tokens": job.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": job.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": job.input_tokens + job.output_tokens,
            },
            "metadata": job.metadata,
        }

    def _find_file(self, ident: str, request: BatchRequest) -> FileRecord:
        """Return a file of the customer, or raise a 404."""
        file = self._store.files.get(ident)
        if file is None or file.owner != request.owner or _expired(file, request.now):
            raise OpenAIError(404, f"No such File object: {ident}", param="id")
        return file

    def _upload(self, request: BatchRequest) -> BatchReply:
        path = request.upload
        if path is None:
            raise OpenAIError(400, "'file' is a required property")
        try:
            form = read_form(path, boundary_of(request.headers))
        except FormError as error:
            raise OpenAIError(400, f"Could not parse multipart form: {error}") from None
        fields = {name: _text(path, part) for name, part in form.items() if name != "file"}
        content, purpose = form.get("file"), fields.get("purpose")
        if content is None or content.filename is None:
            raise OpenAIError(400, "'file' is a required property")
        if purpose is None:
            raise OpenAIError(400, "'purpose' is a required property")
        if purpose != "batch":
            raise OpenAIError(400, f"'{purpose}' is not one of ['batch'] - 'purpose'")
        expires = request.now + _kept(fields)
        uploads, _ = self._store.next("upload")
        file = self._new_file(request.owner, content.filename, "batch", now=request.now)
        file.start, file.size, file.expires = content.start, content.size, expires
        # The form stays as it came: a file is a part of it.
        path.replace(self._store.data(file.path))
        self._store.save(file)
        return say(_shown_file(file), lost=uploads in self._settings.batch.lost_uploads)

    def _list(self, request: BatchRequest) -> BatchReply:
        query = request.query
        files = [
            file
            for file in self._store.files.values()
            if file.owner == request.owner
            and not _expired(file, request.now)
            and query.get("purpose", file.purpose) == file.purpose
        ]
        files.sort(key=lambda file: file.ordinal, reverse=query.get("order") != "asc")
        return say(self._page(files, _shown_file, query, _MOST_LISTED, _MOST_LISTED))

    def create(self, request: BatchRequest) -> BatchReply:
        """Create a job of the rows in an uploaded file."""
        shapes = import_shapes(_SHAPES)
        body = load_object(request.body)
        if body is None:
            raise OpenAIError(400, "We could not parse the JSON body of your request.")
        shapes.check_shape(shapes.JOB, body)
        file = self._find_file(body["input_file_id"], request)
        if file.purpose != "batch":
            raise OpenAIError(400, "The input file must have the purpose 'batch'.")
        if file.size > (most := self._most_bytes):
            message = f"The input file has {file.size} bytes, larger than the {most} maximum."
            raise OpenAIError(400, message)
        endpoint, metadata = body["endpoint"], body.get("metadata")
        job = self._new_job(request, endpoint=endpoint, input=file.id, metadata=metadata)
        return self._created(job, request)

    # --- jobs

    def input(self, job: JobRecord) -> FilePart | None:
        """Return where a job's rows are; None if their file was deleted."""
        file = self._store.files.get(job.input)
        if file is None:
            return None
        return FilePart(self._store.data(file.path), file.start, file.size)

    def orphan(self, job: JobRecord) -> None:
        """Let the job have failed."""
        job.outcome = "failed"
        message = f"The input file {job.input} was deleted."
        job.errors = [{"code": "file_not_found", "message": message, "param": None, "line": None}]

    def publish(self, job: JobRecord, file: ResultFile, size: int, now: float) -> str:
        """Register a file of results, and return the name of its data."""
        record = self._new_file(job.owner, f"{job.id}_{file}.jsonl", "batch_output", now=now)
        record.size, record.expires = size, now + _KEPT_SECONDS
        self._store.save(record)
        return record.id

    def _new_file(self, owner: str, filename: str, purpose: str, *, now: float) -> FileRecord:
        ordinal, ident = self._store.next("file")
        name = f"file-{ident}"
        return FileRecord(
            id=name,
            ordinal=ordinal,
            owner=owner,
            filename=filename,
            purpose=purpose,
            path=name,
            start=0,
            size=0,
            created=now,
        )

    def queue_error(self, job: JobRecord, *, others: int) -> LineError | None:
        """Return the error of a job if the queue is full."""
        limit = self._settings.batch.queue_tokens
        if limit is None or others + job.tokens <= float(limit):
            return None
        return LineError(
            "token_limit_exceeded",
            f"Enqueued token limit reached for {job.model} in organization "
            f"{self._settings.organization}. Limit: {int(float(limit)):,} enqueued tokens. "
            "Please try again once some in_progress batches have been completed.",
        )

    # --- rows

    def check(self, job: JobRecord, line: bytes, seen: set[str]) -> int:
        """Return a row's prompt tokens, or fail the job by `LineError`."""
        row = load_object(line)
        if row is None:
            raise LineError("invalid_json_line", "This line is not parseable as valid JSON.")
        problem = import_shapes(_SHAPES).row_problem(row) or self._misfit(job, row, seen)
        if problem is not None:
            code, message, param = problem
            raise LineError(code, message, param=param)
        if self._settings.batch.queue_tokens is None:
            return 0
        try:
            return read_chat(row["body"], self._settings).prompt_tokens
        except OpenAIError:
            return 0  # it fails by itself, when it is done

    def _misfit(
        self, job: JobRecord, row: dict[str, Any], seen: set[str]
    ) -> tuple[str, str, str | None] | None:
        """Return code, message and field if a row does not fit its job."""
        ident, model, models = row["custom_id"], row["body"]["model"], self._settings.models
        if ident in seen:
            message = (
                f"The custom_id '{ident}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch."
            )
            return "duplicate_custom_id", message, "custom_id"
        seen.add(ident)
        if len(seen) > self._most_rows:
            return "too_many_tasks", f"The file has more than {self._most_rows} requests.", None
        if row["url"] != job.endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            return "invalid_url", message, "url"
        if row["body"].get("stream"):
            message = "Streaming is not supported in the Batch API."
            return "streaming_unsupported", message, "body.stream"
        if job.model is None and models and model not in models:
            message = f"The provided model '{model}' is not supported by the Batch API."
            return "model_not_found", message, "body.model"
        if job.model not in (None, model):
            message = (
                f"The model '{model}' is not that of the other requests, '{job.model}': "
                "a batch input file may only contain requests to a single model."
            )
            return "mismatched_model", message, "body.model"
        job.model = model
        return None

    def read(self, job: JobRecord, body: Any, line: bytes, *, now: float) -> ChatRequest:
        """Read the request of a row, or raise an `OpenAIError`."""
        del job, line, now
        return read_chat(body, self._settings)

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
        response = {"status_code": status, "request_id": f"req_{ident}", "body": body}
        return {
            "id": f"batch_req_{ident}",
            "custom_id": row["custom_id"],
            "response": None if body is None else response,
            "error": _UNDONE.get(kind),
        }


def _text(path: Path, part: Part) -> str:
    with path.open("rb") as file:
        file.seek(part.start)
        raw = file.read(min(part.size, _FIELD_BYTES))
    return raw.decode("utf-8", "replace")


def _kept(fields: dict[str, str]) -> float:
    text = fields.get("expires_after[seconds]")
    if text is None:
        return _KEPT_SECONDS
    if not text.isdecimal() or not 3600 <= int(text) <= 2_592_000:
        raise OpenAIError(
            400,
            "Invalid 'expires_after.seconds': expected 3600 to 2592000.",
            param="expires_after.seconds",
        )
    return float(text)


def _expired(file: FileRecord, now: float) -> bool:
    return file.expires is not None and file.expires <= now


def _shown_file(file: FileRecord) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.size,
        "created_at": int(file.created),
        "expires_at": None if file.expires is None else int(file.expires),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def _status(job: JobRecord) -> str:
    if job.phase == "ended":
        return str(job.outcome)
    if job.cancel_asked is not None:
        return "cancelling"
    return "in_progress" if job.phase == "running" else job.phase


def _time(value: float | None, when: bool = True) -> int | None:
    return int(value) if value is not None and when else None
