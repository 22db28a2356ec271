"""OpenAI's batch API: ``/v1/files`` and ``/v1/batches``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from llmflow.simulator.answer import answer
from llmflow.simulator.batches.api import (
    BatchAPI,
    BatchReply,
    BatchRequest,
    Ending,
    FilePart,
    LineError,
    ResultFile,
    Row,
    say,
)
from llmflow.simulator.batches.bodies import FormError, Part, boundary_of, read_form
from llmflow.simulator.batches.store import FileRecord, JobRecord, digest
from llmflow.simulator.openai.chat_request import read_chat
from llmflow.simulator.openai.chat_wire import BROKEN, OpenAIError, completion

_MOST_LISTED = 10_000
_FIELD_BYTES = 1024


_ENDPOINTS = ("/v1/chat/completions",)
_MOST_BYTES = 209_715_200
_MOST_PAIRS = 16
KEPT_SECONDS = 30 * 86_400.0
MOST_ROWS = 50_000
_UNDONE: dict[Ending, dict[str, str]] = {
    "expired": {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    },
    "cancelled": {
        "code": "batch_cancelled",
        "message": "This request was not executed because the batch was cancelled.",
    },
}
_REFUSED = OpenAIError(400, "The request was refused by the simulator.", code="invalid_value")


class OpenAIBatches(BatchAPI):
    """OpenAI's files and jobs."""

    prefix = "batch_"
    root = ("batches",)
    finalizes = True

    @property
    def forgets_cancelled(self) -> bool:
        """True if a cancelled job loses its results."""
        return self._settings.batch.cancelled_results == "drop"

    def receive(self, request: BatchRequest) -> BatchReply:
        """Answer a request, or raise the `OpenAIError` that answers it."""
        match request.method, request.parts:
            case "POST", ["files"]:
                return self._upload(request)
            case "GET", ["files"]:
                return self._list(request)
            case "GET", ["files", ident]:
                return say(_shown_file(self._find_file(ident, request)))
            case "DELETE", ["files", ident]:
                file = self._find_file(ident, request)
                self._store.remove_file(file)
                return say({"id": file.id, "object": "file", "deleted": True})
            case "GET", ["files", ident, "content"]:
                file = self._find_file(ident, request)
                part = FilePart(self._store.data(file.path), file.start, file.size)
                return BatchReply(file=part, kind="application/octet-stream")
            case "POST", ["batches"]:
                return self._create(request)
            case "GET", ["batches"]:
                jobs = self._store.newest_jobs(request.owner, self.prefix)
                shown = [_shown(job) for job in jobs]
                return say(_page(shown, request.query, most=100, usual=20))
            case "GET", ["batches", ident]:
                return say(_shown(self._find(ident, request)))
            case "POST", ["batches", ident, "cancel"]:
                return self._cancel(self._find(ident, request), request)
        raise OpenAIError(404, f"Invalid URL ({request.method} {request.target.split('?')[0]})")

    def unknown(self, ident: str) -> OpenAIError:
        """Return the 404 for a job that does not exist."""
        return OpenAIError(404, f"No batch found with id '{ident}'.")

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
        content = form.get("file")
        if content is None or content.filename is None:
            raise OpenAIError(400, "'file' is a required property")
        if fields.get("purpose") != "batch":
            given = fields.get("purpose")
            raise OpenAIError(
                400,
                "'purpose' is a required property"
                if given is None
                else f"'{given}' is not one of ['batch'] - 'purpose'",
            )
        expires = request.now + _kept(fields)
        uploads, _ = self._store.next("upload")
        file = self._add_file(request.owner, content.filename, "batch", now=request.now)
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
        shown = [_shown_file(file) for file in files]
        return say(_page(shown, query, most=_MOST_LISTED, usual=_MOST_LISTED))

    def _create(self, request: BatchRequest) -> BatchReply:
        body = _load_body(request.body)
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not isinstance(body.get(name), str):
                raise OpenAIError(
                    400,
                    f"Missing required parameter: '{name}'.",
                    param=name,
                    code="missing_required_parameter",
                )
        if body["endpoint"] not in _ENDPOINTS:
            raise _bad_value("endpoint", body["endpoint"], _ENDPOINTS)
        if body["completion_window"] != "24h":
            raise _bad_value("completion_window", body["completion_window"], ("24h",))
        metadata = _metadata(body.get("metadata"))
        file = self._find_file(body["input_file_id"], request)
        if file.purpose != "batch":
            raise OpenAIError(400, "The input file must have the purpose 'batch'.")
        most = self._settings.batch.max_bytes or _MOST_BYTES
        if file.size > most:
            raise OpenAIError(
                400, f"The input file has {file.size} bytes, larger than the {most} maximum."
            )
        job = self._new_job(request, endpoint=body["endpoint"], input=file.id, metadata=metadata)
        self._keep(job)
        return say(_shown(job), lost=job.ordinal in self._settings.batch.lost_creates)

    def _cancel(self, job: JobRecord, request: BatchRequest) -> BatchReply:
        if job.phase in ("ended", "finalizing"):
            raise OpenAIError(409, f"Cannot cancel a batch with status '{_status(job)}'.")
        self._ask_to_cancel(job, request)
        return say(_shown(job))

    def check(self, job: JobRecord, line: bytes, seen: set[str]) -> int:
        """Return a row's prompt tokens, or fail the job by `LineError`."""
        row = _load(line)
        for name in ("custom_id", "method", "url", "body"):
            if row.get(name) is None:
                raise _missing(name)
        ident, body = row["custom_id"], row["body"]
        if not isinstance(ident, str) or not ident:
            raise LineError("invalid_request", "custom_id must be a string.", param="custom_id")
        if ident in seen:
            raise LineError(
                "duplicate_custom_id",
                f"The custom_id '{ident}' for this request is a duplicate of another request. "
                "The custom_id parameter must be unique for each request in a batch.",
                param="custom_id",
            )
        seen.add(ident)
        limit = self._settings.batch.max_requests or MOST_ROWS
        if len(seen) > limit:
            raise LineError("too_many_tasks", f"The file has more than {limit} requests.")
        _check_target(row, job.endpoint)
        self._check_body(job, body)
        try:
            return read_chat(body, self._settings).prompt_tokens
        except OpenAIError:
            return 0  # it fails by itself, when it is done

    def _check_body(self, job: JobRecord, body: Any) -> None:
        if not isinstance(body, dict):
            raise LineError("invalid_request", "body must be an object.", param="body")
        if body.get("stream"):
            raise LineError(
                "streaming_unsupported",
                "Streaming is not supported in the Batch API.",
                param="body.stream",
            )
        model = body.get("model")
        if model is None:
            raise _missing("body.model")
        if not isinstance(model, str):
            raise LineError("invalid_request", "model must be a string.", param="body.model")
        if job.model is None:
            models = self._settings.models
            if models and model not in models:
                raise LineError(
                    "model_not_found",
                    f"The provided model '{model}' is not supported by the Batch API.",
                    param="body.model",
                )
            job.model = model
        if model != job.model:
            raise LineError(
                "mismatched_model",
                f"The model '{model}' is not that of the other requests, '{job.model}': "
                "a batch input file may only contain requests to a single model.",
                param="body.model",
            )

    def answer(self, job: JobRecord, line: bytes, *, ident: str, fails: bool, now: float) -> Row:
        """Return the result that a live request would get, or an error."""
        del now
        row = orjson.loads(line)
        if fails:
            right = self._settings.batch.row_error == "server_error"
            error = BROKEN["server_error"] if right else _REFUSED
            return _responded(row, ident, error.status, error.body(""))
        try:
            chat = read_chat(row["body"], self._settings)
        except OpenAIError as error:
            return _responded(row, ident, error.status, error.body(""))
        said = answer(chat, style=self._settings.answer)
        body = completion(chat, said, ident=ident, created=int(job.started or job.created))
        tokens = chat.prompt_tokens, said.tokens * chat.choices
        return _responded(row, ident, 200, body, tokens)

    def unanswered(self, line: bytes, *, ident: str, why: Ending) -> Row:
        """Return what a row ends with that was not done."""
        return Row("error", _line(orjson.loads(line), ident, None, _UNDONE[why]), why)

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

    def publish(self, job: JobRecord, file: ResultFile, size: int, now: float) -> str:
        """Register a file of results, and return the name of its data."""
        record = self._add_file(job.owner, f"{job.id}_{file}.jsonl", "batch_output", now=now)
        record.size, record.expires = size, now + KEPT_SECONDS
        self._store.save(record)
        return record.id

    def _add_file(self, owner: str, filename: str, purpose: str, *, now: float) -> FileRecord:
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


def _page(
    items: list[dict[str, Any]], query: dict[str, str], *, most: int, usual: int
) -> dict[str, Any]:
    """Return a page of a list, as OpenAI's lists are.

    Raises:
        OpenAIError: the limit is wrong.

    """
    text = query.get("limit", str(usual))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise OpenAIError(400, f"Invalid 'limit': expected 1 to {most}, got {text}.", param="limit")
    if "after" in query:
        places = [n for n, item in enumerate(items) if item["id"] == query["after"]]
        items = items[places[0] + 1 :] if places else []
    shown = items[: int(text)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(items) > len(shown),
    }


def _text(path: Any, part: Part) -> str:
    with path.open("rb") as file:
        file.seek(part.start)
        raw: bytes = file.read(min(part.size, _FIELD_BYTES))
    return raw.decode("utf-8", "replace")


def _kept(fields: dict[str, str]) -> float:
    text = fields.get("expires_after[seconds]")
    if text is None:
        return KEPT_SECONDS
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


def _load_body(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise OpenAIError(400, "We could not parse the JSON body of your request.")
    return body


def _bad_value(name: str, value: str, allowed: tuple[str, ...]) -> OpenAIError:
    supported = ", ".join(f"'{text}'" for text in allowed)
    message = f"Invalid value: '{value}'. Supported values are: {supported}."
    return OpenAIError(400, message, param=name, code="invalid_value")


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if isinstance(value, dict) and len(value) <= _MOST_PAIRS:
        pairs = value.items()
        if all(isinstance(v, str) and len(k) <= 64 and len(v) <= 512 for k, v in pairs):
            return value
    raise OpenAIError(
        400,
        "Invalid 'metadata': expected at most 16 pairs of strings, "
        "keys of up to 64 characters and values of up to 512.",
        param="metadata",
    )


def _status(job: JobRecord) -> str:
    if job.phase == "ended":
        return str(job.outcome)
    if job.cancel_asked is not None:
        return "cancelling"
    return "in_progress" if job.phase == "running" else job.phase


def _time(value: float | None, when: bool = True) -> int | None:
    return int(value) if value is not None and when else None


def _shown(job: JobRecord) -> dict[str, Any]:
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
            "completed": job.completed,
            "failed": job.failed + sum(job.counts.get(k, 0) for k in ("expired", "cancelled")),
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


def _load(line: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = None
    if not isinstance(row, dict):
        raise LineError("invalid_json_line", "This line is not parseable as valid JSON.")
    return row


def _missing(name: str) -> LineError:
    return LineError(
        "missing_required_parameter", f"Missing required parameter: '{name}'.", param=name
    )


def _check_target(row: Mapping[str, Any], endpoint: str) -> None:
    if row["method"] != "POST":
        raise LineError("invalid_request", "The method must be POST.", param="method")
    if row["url"] != endpoint:
        raise LineError(
            "invalid_url",
            "The URL provided for this request does not match the batch endpoint.",
            param="url",
        )


def _responded(
    row: Mapping[str, Any], ident: str, status: int, body: bytes, tokens: tuple[int, int] = (0, 0)
) -> Row:
    fragment = orjson.Fragment(body)
    response = {"status_code": status, "request_id": f"req_{ident}", "body": fragment}
    line = _line(row, ident, response, None)
    if status == 200:
        body_digest = digest(row["body"])
        return Row("output", line, "succeeded", *tokens, row["custom_id"], body_digest)
    return Row("error", line, "errored")


def _line(
    row: Mapping[str, Any], ident: str, response: dict[str, Any] | None, error: object
) -> bytes:
    data = {
        "id": f"batch_req_{ident}",
        "custom_id": row["custom_id"],
        "response": response,
        "error": error,
    }
    return orjson.dumps(data) + b"\n"
