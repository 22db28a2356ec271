"""OpenAI's rules for the rows of a batch: one bad line fails the job, the others themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from llmflow.simulator.answer import answer
from llmflow.simulator.batches.ledger import digest
from llmflow.simulator.batches.speaker import Ending, LineError, Row
from llmflow.simulator.batches.store import FileRecord, JobRecord, Store
from llmflow.simulator.openai_errors import BROKEN, OpenAIError
from llmflow.simulator.openai_reply import completion
from llmflow.simulator.openai_request import read_chat
from llmflow.simulator.settings import SimulatorSettings

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


class OpenAISpeaker:
    """The rules of OpenAI's batches.

    Args:
        settings: what the provider is set to.
        store: where files of results are registered.

    """

    def __init__(self, settings: SimulatorSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self.finalizes = True
        self.forgets_cancelled = settings.batch.cancelled_results == "drop"
        failed = "server_error" if settings.batch.row_error == "server_error" else ""
        error = BROKEN.get(failed, _REFUSED)
        self._failure = error.status, error.body("")

    def check(self, job: JobRecord, line: bytes, seen: set[str]) -> int:
        """Return the prompt tokens of a row, or raise the `LineError` that fails the job."""
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
        """Return what the same request would get live, or an error that is not its own."""
        del now
        row = orjson.loads(line)
        if fails:
            return _responded(row, ident, *self._failure)
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
        """Return the error of a job for which the queue has no room; None if it has."""
        limit = self._settings.batch.queue_tokens
        if limit is None or others + job.tokens <= float(limit):
            return None
        return LineError(
            "token_limit_exceeded",
            f"Enqueued token limit reached for {job.model} in organization "
            f"{self._settings.organization}. Limit: {int(float(limit)):,} enqueued tokens. "
            "Please try again once some in_progress batches have been completed.",
        )

    def publish(
        self, job: JobRecord, file: Literal["output", "error"], size: int, now: float
    ) -> str:
        """Register a file of results, and return its name, which its data is to have."""
        ordinal, ident = self._store.next("file")
        record = FileRecord(
            id=f"file-{ident}",
            ordinal=ordinal,
            owner=job.owner,
            filename=f"{job.id}_{file}.jsonl",
            purpose="batch_output",
            path=f"file-{ident}",
            start=0,
            size=size,
            created=now,
            expires=now + KEPT_SECONDS,
        )
        self._store.save(record)
        return record.id


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
    response = {
        "status_code": status,
        "request_id": f"req_{ident}",
        "body": orjson.Fragment(body),
    }
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
