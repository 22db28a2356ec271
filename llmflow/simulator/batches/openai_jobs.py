"""OpenAI's batches: ``/v1/batches``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from llmflow.simulator.batches.openai_files import OpenAIFiles, page
from llmflow.simulator.batches.reply import BatchReply, BatchRequest, say
from llmflow.simulator.batches.settings import BatchSettings
from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.openai_errors import OpenAIError

PREFIX = "batch_"
_ENDPOINTS = ("/v1/chat/completions",)
_MOST_BYTES = 209_715_200
_MOST_PAIRS = 16


class OpenAIJobs:
    """Creates, shows, lists and cancels jobs.

    Args:
        store: where they are.
        files: the files they read.
        settings: how jobs go.
        begin: called with a new job.
        wake: called with a job that is to be cancelled.

    """

    def __init__(
        self,
        store: Store,
        files: OpenAIFiles,
        settings: BatchSettings,
        *,
        begin: Callable[[JobRecord], None],
        wake: Callable[[JobRecord], None],
    ) -> None:
        self._store, self._files, self._settings = store, files, settings
        self._begin, self._wake = begin, wake

    def receive(self, request: BatchRequest) -> BatchReply:
        """Answer a request, or raise the `OpenAIError` that answers it."""
        match request.method, request.parts[1:]:
            case "POST", []:
                return self._create(request)
            case "GET", []:
                jobs = self._store.newest_jobs(request.owner, PREFIX)
                shown = [_shown(job) for job in jobs]
                return say(page(shown, request.query, after="after", most=100, usual=20))
            case "GET", [ident]:
                return say(_shown(self._find(ident, request)))
            case "POST", [ident, "cancel"]:
                return self._cancel(self._find(ident, request), request)
        raise OpenAIError(404, f"Invalid URL ({request.method} {request.target.split('?')[0]})")

    def _find(self, ident: str, request: BatchRequest) -> JobRecord:
        job = self._store.jobs.get(ident)
        if job is None or job.owner != request.owner or not ident.startswith(PREFIX):
            raise unknown(ident)
        return job

    def _create(self, request: BatchRequest) -> BatchReply:
        body = _load(request.body)
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
        file = self._files.find(body["input_file_id"], request)
        if file.purpose != "batch":
            raise OpenAIError(400, "The input file must have the purpose 'batch'.")
        most = self._settings.max_bytes or _MOST_BYTES
        if file.size > most:
            raise OpenAIError(
                400, f"The input file has {file.size} bytes, larger than the {most} maximum."
            )
        ordinal, ident = self._store.next("job")
        job = JobRecord(
            id=f"{PREFIX}{ident}",
            ordinal=ordinal,
            owner=request.owner,
            created=request.now,
            expires=request.now + self._settings.expiry_seconds,
            endpoint=body["endpoint"],
            input=file.id,
            metadata=metadata,
        )
        self._store.save(job)
        self._begin(job)
        return say(_shown(job), lost=ordinal in self._settings.lost_creates)

    def _cancel(self, job: JobRecord, request: BatchRequest) -> BatchReply:
        if job.phase in ("ended", "finalizing"):
            raise OpenAIError(409, f"Cannot cancel a batch with status '{_status(job)}'.")
        if job.cancel_asked is None:
            job.cancel_asked = request.now
            self._store.save(job)
            self._wake(job)
        return say(_shown(job))


def unknown(ident: str) -> OpenAIError:
    """Return the 404 for a job that does not exist."""
    return OpenAIError(404, f"No batch found with id '{ident}'.")


def _load(raw: bytes) -> dict[str, Any]:
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
    right = (
        isinstance(value, dict)
        and len(value) <= _MOST_PAIRS
        and all(
            isinstance(text, str) and len(key) <= 64 and len(text) <= 512
            for key, text in value.items()
        )
    )
    if not right or not isinstance(value, dict):
        raise OpenAIError(
            400,
            "Invalid 'metadata': expected at most 16 pairs of strings, "
            "keys of up to 64 characters and values of up to 512.",
            param="metadata",
        )
    return value


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
