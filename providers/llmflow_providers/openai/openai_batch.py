"""OpenAI's batch API: files of rows, and jobs on them.

Azure, Groq and others have built it after OpenAI's, with words and types of their own: what
is read here is read in each of the forms that were seen.

Sources: OpenAI's API reference and its guide on batches (autumn 2026), Microsoft's pages on
batches at Azure (March to August 2026), Groq's guide, and replies seen.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from llmflow import errors
from llmflow.provider import (
    BatchInput,
    BatchLimits,
    BatchProblem,
    BatchRow,
    BatchState,
    BatchStatus,
    Channel,
    Upload,
)
from llmflow.types import WireReply, WireRequest, parse_amount
from llmflow_providers.base import mapping, parsed, word
from llmflow_providers.batch_base import (
    HTTPBatch,
    in_path,
    is_success,
    lost_row,
    moment,
    next_look,
    pieces_of,
    refused_row,
    row_status,
    whole,
)
from llmflow_providers.error_body import ErrorDetails

BATCH_LIMITS: Final[Mapping[str, BatchLimits]] = {
    "openai": BatchLimits(),
    "azure": BatchLimits(requests=100_000, size=200_000_000, seconds=math.inf),
    "groq": BatchLimits(size=100_000_000, mixed_models=True),  # or 200: its pages disagree
    "cerebras": BatchLimits(size=200_000_000),
    "compatible": BatchLimits(),
}
"""The dialects whose servers have, or may have, a batch API of this kind."""

_ENDPOINT: Final = "/v1/chat/completions"  # in a row, wherever the API is
_TAG: Final = "llmflow"
_CLOCKS_DIFFER: Final = 600.0
_STATES: Final[Mapping[str, BatchState]] = {
    "validating": "queued",
    "queued": "queued",
    "pending": "queued",
    "in_progress": "running",
    "finalizing": "running",
    "cancelling": "cancelling",
    "canceling": "cancelling",
    "completed": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "expired": "expired",
}
# A row begins with a brace and JSON has no line breaks inside, so no row can end the form.
_BOUNDARY: Final = "llmflow-rows"
_FORM: Final = (
    "--{boundary}\r\n"
    'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    "--{boundary}\r\n"
    'Content-Disposition: form-data; name="file"; filename="{tag}.jsonl"\r\n'
    "Content-Type: application/jsonl\r\n\r\n"
)
_FORM_END: Final = f"\r\n--{_BOUNDARY}--\r\n".encode()
_LIMIT: Final = re.compile(r"limit(?: of|:) (\d[\d,_]{0,20}(?:\.\d{1,6})?[kmb]?)\b")
_SERVER_FAILED: Final = frozenset({"server_error", "internal_error", "internal_server_error"})


class OpenAIBatch(HTTPBatch):
    """The batch API of OpenAI and servers of its shape."""

    path = "/batches"
    after = "after"

    def line(self, custom_id: str, wire: WireRequest) -> bytes:
        """Return the input's line for a call, without a line break."""
        return b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}' % (
            custom_id.encode(),
            _ENDPOINT.encode(),
            wire.body,
        )

    async def upload(self, rows: BatchInput, channel: Channel) -> str:
        """Upload the file as a form, and return its name.

        Raises:
            BatchUnsupportedError: the server takes no files.
        """
        start = _FORM.format(boundary=_BOUNDARY, tag=rows.tag).encode()

        def pieces() -> Iterator[bytes]:
            yield start
            yield from pieces_of(rows.path)
            yield _FORM_END

        body = Upload(pieces, len(start) + rows.size + len(_FORM_END))
        kind = f"multipart/form-data; boundary={_BOUNDARY}"
        reply = await channel.send(self.provider.call("POST", "/files", Content_Type=kind), body)
        if reply.status in (404, 405, 501):
            raise self._unsupported(reply)
        name = word(self._object(reply, "id")["id"])
        if name is None:
            raise self._odd(reply)
        return name

    async def create(self, rows: BatchInput, uploaded: str | None, channel: Channel) -> BatchStatus:
        """Create the job, with its tag among the metadata."""
        body = {
            "input_file_id": uploaded,
            "endpoint": _ENDPOINT,
            "completion_window": "24h",
            "metadata": {_TAG: rows.tag},
        }
        reply = await channel.send(self.provider.call("POST", self.path, orjson.dumps(body)))
        # A server without jobs does not speak of the file.
        if reply.status in (405, 501) or (
            reply.status == 404 and b"file" not in reply.body.lower()
        ):
            raise self._unsupported(reply)
        return self._status_in(reply)

    def _earliest(self, rows: BatchInput, reply: WireReply) -> float:  # noqa: ARG002
        return rows.created_at - _CLOCKS_DIFFER

    def _is_for(self, rows: BatchInput, job: Mapping[str, Any], earliest: float) -> bool:  # noqa: ARG002
        return mapping(job.get("metadata")).get(_TAG) == rows.tag

    def _result_call(self, status: BatchStatus, result: str) -> WireRequest:  # noqa: ARG002
        return self.provider.call("GET", f"/files/{in_path(result)}/content")

    def _read_row(self, name: str, row: Mapping[str, Any]) -> BatchRow | None:
        response, error = row.get("response"), row.get("error")
        if response is None and error is None:
            return None
        response = mapping(response)
        body = response.get("body")
        if isinstance(body, str):  # Mistral writes what failed as JSON within JSON
            with contextlib.suppress(ValueError):
                body = parsed(body)
        status = row_status(response.get("status_code"))
        request_id = response.get("request_id")
        headers = {"x-request-id": request_id} if isinstance(request_id, str) else {}
        reply = WireReply(200, headers, b"", time.time())
        # Where no status is said, the body says whether it is an answer.
        if error or not (status is None or 200 <= status < 300):
            return refused_row(name, self._row_error(error, status, body, reply))
        found = self._answered(name, body, reply)
        if found is None and status is None:
            return refused_row(name, self._row_error(None, None, body, reply))
        return found or self._unreadable(name, body, reply)

    async def clean_up(self, status: BatchStatus, channel: Channel) -> None:
        """Delete input and results; missing files are no error."""
        failed: errors.ProviderError | None = None
        for name in filter(None, (status.uploaded, *status.results)):
            reply = await channel.send(self.provider.call("DELETE", f"/files/{in_path(name)}"))
            if not is_success(reply) and reply.status != 404:
                failed = self._failure(reply)
        if failed is not None:
            raise failed

    def _read_status(self, job: Mapping[str, Any], reply: WireReply) -> BatchStatus:
        name = word(job.get("id"))
        if name is None:
            raise self._odd(reply)
        native = str(job.get("status") or "")
        state = _STATES.get(native.lower())
        counts = mapping(job.get("request_counts"))
        results = (word(job.get("output_file_id")), word(job.get("error_file_id")))
        return BatchStatus(
            id=name,
            state=state or "running",
            native=native if state else errors.redact(native),
            total=whole(counts.get("total")),
            succeeded=whole(counts.get("completed")),
            failed=whole(counts.get("failed")),
            created_at=moment(job.get("created_at")),
            expires_at=moment(job.get("expires_at")),
            tag=word(mapping(job.get("metadata")).get(_TAG)),
            uploaded=word(job.get("input_file_id")),
            results=tuple(each for each in results if each),
            problems=self._problems(job.get("errors"), reply) if state == "failed" else (),
            retry_after=next_look(reply),
        )

    def _problems(self, given: Any, reply: WireReply) -> tuple[BatchProblem, ...]:
        """Read a failed job's errors: a list, bare (Groq) or in an object."""
        entries = given.get("data") if isinstance(given, dict) else given
        found = []
        for entry in entries if isinstance(entries, list) else ():
            details = self._details({"error": entry})
            status = 500 if details.code in _SERVER_FAILED else 400
            error = self._classified(details, reply, status)
            error.status = None  # there was none: the job failed long after its creation
            line = whole(mapping(entry).get("line")) or whole(mapping(entry).get("line_number"))
            found.append(BatchProblem(error, line))
        return tuple(found)

    def _row_error(
        self, error: Any, status: int | None, body: Any, reply: WireReply
    ) -> errors.ProviderError:
        if error:
            details = self._details({"error": error})
            code = details.code or ""
            if "expired" in code:
                return lost_row("expired")
            if "cancel" in code:
                return lost_row("cancelled")
        else:
            details = self._details(body)
        if status is None or status < 300:
            given = f"{details.code} {details.type}"
            status = 400 if "invalid" in given else 500
        return self.provider.classified(details, reply, status)

    def _queue_limit(self, details: ErrorDetails, error: errors.ProviderError) -> float | None:
        is_full = details.code == "token_limit_exceeded" or "enqueued token" in details.text
        if not is_full or error.status not in (400, 429):
            return None
        named = _LIMIT.search(details.text)
        return parse_amount(named[1]) if named and re.search("[1-9]", named[1]) else 0.0
