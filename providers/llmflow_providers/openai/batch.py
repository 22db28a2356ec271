"""OpenAI's batch API: files of rows, and jobs that read and write them.

Azure, Groq and others have built it after OpenAI's, with words and types of their own: what
is read here is read in each of the forms that were seen.

Sources: OpenAI's API reference and its guide on batches (autumn 2026), Microsoft's pages on
batches at Azure (March to August 2026), Groq's guide, and replies seen.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from llmflow import errors, lenient_json
from llmflow.batch_api import (
    BatchInput,
    BatchLimits,
    BatchProblem,
    BatchRow,
    BatchState,
    BatchStatus,
    Channel,
    Upload,
)
from llmflow.headers import server_delay
from llmflow.types import WireReply, WireRequest, parse_amount
from llmflow_providers.base import mapping
from llmflow_providers.batch_base import (
    in_path,
    is_success,
    lost_row,
    moment,
    next_look,
    not_a_model,
    pieces_of,
    places,
    read_object,
    refused_row,
    row_status,
    unanswered_row,
    whole,
    word,
)
from llmflow_providers.error_body import ErrorDetails, error_details

if TYPE_CHECKING:
    from llmflow_providers.openai import OpenAIProvider

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
_PAGE: Final = 100
_MOST_PAGES: Final = 1000
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


class OpenAIBatch:
    """The batch API at OpenAI, or at a server that has one of the same shape.

    Args:
        provider: whose rows these are: it knows the address, the key and the answers.
        limits: what the server allows.
    """

    def __init__(self, provider: OpenAIProvider, limits: BatchLimits) -> None:
        self._provider = provider
        self.limits = limits

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._provider!r})"

    def line(self, custom_id: str, wire: WireRequest) -> bytes:
        """Return the input's line for a call, without a line break."""
        return b'{"custom_id":"%b","method":"POST","url":"%b","body":%b}' % (
            custom_id.encode(),
            _ENDPOINT.encode(),
            wire.body,
        )

    async def upload(self, rows: BatchInput, channel: Channel) -> str:
        """Bring the file to the provider, in a form, and return its name there.

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
        reply = await channel.send(self._provider.call("POST", "/files", Content_Type=kind), body)
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
        reply = await channel.send(self._provider.call("POST", "/batches", orjson.dumps(body)))
        # A server without jobs does not speak of the file.
        if reply.status in (405, 501) or (
            reply.status == 404 and b"file" not in reply.body.lower()
        ):
            raise self._unsupported(reply)
        return self._status(reply)

    async def find(
        self, rows: BatchInput, known: Collection[str], channel: Channel
    ) -> BatchStatus | None:
        """Look for the job with this tag, from the newest back to before the file was made."""
        place = ""
        for _ in range(_MOST_PAGES):
            call = self._provider.call("GET", f"/batches?limit={_PAGE}{place}")
            reply = await channel.send(call)
            page = self._object(reply, "data")
            jobs = page["data"] if isinstance(page["data"], list) else []
            last: str | None = None
            for job in map(mapping, jobs):
                last = word(job.get("id")) or last
                if last not in known and mapping(job.get("metadata")).get(_TAG) == rows.tag:
                    return self._read_status(job, reply)
                created = moment(job.get("created_at"))
                if created is not None and created < rows.created_at - _CLOCKS_DIFFER:
                    return None
            cursor = word(mapping(page.get("paging")).get("next_cursor"))  # Groq
            following = f"&cursor={in_path(cursor)}" if cursor else f"&after={in_path(last or '')}"
            more = cursor or (page.get("has_more") and last)
            if not more or following == place:
                return None
            place = following
        return None

    async def status(self, job: str, channel: Channel) -> BatchStatus:
        """Ask how a job is doing."""
        return self._status(
            await channel.send(self._provider.call("GET", f"/batches/{in_path(job)}"))
        )

    async def cancel(self, job: str, channel: Channel) -> None:
        """Ask for the end of a job. One that has ended already is no error."""
        call = self._provider.call("POST", f"/batches/{in_path(job)}/cancel")
        reply = await channel.send(call)
        if is_success(reply):
            return
        if reply.status in (400, 409):
            status = await self.status(job, channel)
            ends = status.has_ended or status.state == "cancelling"
            if ends or status.native.lower() == "finalizing":
                return
        raise self._failure(reply)

    async def fetch(self, status: BatchStatus, folder: Path, channel: Channel) -> Sequence[Path]:
        """Bring the file of answers and the file of errors here."""
        paths = places(folder, len(status.results))
        for name, path in zip(status.results, paths, strict=True):
            call = self._provider.call("GET", f"/files/{in_path(name)}/content")
            reply = await channel.fetch(call, path)
            if reply.status != 200:
                raise self._failure(reply)
        return paths

    def read(self, line: bytes) -> BatchRow:
        """Read one line of the results.

        Raises:
            ValueError: it is cut off, or no result.
        """
        row = lenient_json.loads(line)
        try:
            name, response, error = row["custom_id"], row.get("response"), row.get("error")
        except (TypeError, LookupError, AttributeError):
            raise ValueError("no result of a batch job") from None
        if not isinstance(name, str) or (response is None and error is None):
            raise ValueError("no result of a batch job")
        response = mapping(response)
        body = response.get("body")
        if isinstance(body, str):  # Mistral writes what failed as JSON within JSON
            body = _parsed(body)
        status = row_status(response.get("status_code"))
        request_id = response.get("request_id")
        headers = {"x-request-id": request_id} if isinstance(request_id, str) else {}
        reply = WireReply(200, headers, b"", time.time())
        # Where no status is said, the body says whether it is an answer.
        if error or not (status is None or 200 <= status < 300):
            return refused_row(name, self._row_error(error, status, body, reply))
        try:
            return BatchRow(name, self._provider.understand(body, reply), None)
        except errors.ProviderError as failed:
            return unanswered_row(name, failed)
        except (LookupError, TypeError, AttributeError):
            if status is None:
                return refused_row(name, self._row_error(None, None, body, reply))
            return unanswered_row(name, self._no_answer(body, reply))

    async def clean_up(self, status: BatchStatus, channel: Channel) -> None:
        """Delete the input and the results; what has gone already is no error."""
        failed: errors.ProviderError | None = None
        for name in filter(None, (status.uploaded, *status.results)):
            reply = await channel.send(self._provider.call("DELETE", f"/files/{in_path(name)}"))
            if not is_success(reply) and reply.status != 404:
                failed = self._failure(reply)
        if failed is not None:
            raise failed

    # --- jobs -----------------------------------------------------------------------------------

    def _status(self, reply: WireReply) -> BatchStatus:
        return self._read_status(self._object(reply, "id"), reply)

    def _read_status(self, job: Mapping[str, Any], reply: WireReply) -> BatchStatus:
        name = word(job.get("id"))
        if name is None:
            raise self._odd(reply)
        native = str(job.get("status") or "")
        state = _STATES.get(native.lower(), "running")
        counts = mapping(job.get("request_counts"))
        results = (word(job.get("output_file_id")), word(job.get("error_file_id")))
        return BatchStatus(
            id=name,
            state=state,
            native=errors.redact(native),
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
        """Read why a job failed: a list of errors, bare (Groq) or in an object."""
        entries = given.get("data") if isinstance(given, dict) else given
        found = []
        for entry in entries if isinstance(entries, list) else ():
            details = self._details({"error": entry})
            status = 500 if details.code in _SERVER_FAILED else 400
            error = _queue_limit(details, reply, status) or self._provider.classified(
                details, reply, status
            )
            error.status = None  # there was none: the job failed long after its creation
            line = whole(mapping(entry).get("line")) or whole(mapping(entry).get("line_number"))
            found.append(BatchProblem(error, line))
        return tuple(found)

    # --- rows -----------------------------------------------------------------------------------

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
        return self._provider.classified(details, reply, status)

    def _no_answer(self, body: Any, reply: WireReply) -> errors.ProviderError:
        details = self._details(body)
        if details.is_error:
            return self._provider.classified(details, reply, details.status)
        message = f"a row without a chat completion; it begins: {details.message}"
        return errors.BadReplyError(message, status=200)

    # --- refusals -------------------------------------------------------------------------------

    def _details(self, data: Any) -> ErrorDetails:
        return error_details(data, secret=self._provider.key)

    def _object(self, reply: WireReply, *names: str) -> dict[str, Any]:
        """Return the object that a reply has to be.

        Raises:
            ProviderError: it is an error, or something else.
        """
        if not is_success(reply):
            raise self._failure(reply)
        data = read_object(reply, *names)
        if data is None:
            raise self._odd(reply)
        return data

    def _failure(self, reply: WireReply) -> errors.ProviderError:
        details = self._provider.details(reply)
        limit = _queue_limit(details, reply, reply.status)
        return limit or not_a_model(self._provider.classified(details, reply))

    def _odd(self, reply: WireReply) -> errors.ProviderError:
        details = self._provider.details(reply)
        message = f"what came is no object of a batch API; it begins: {details.message}"
        return errors.BadReplyError(message, status=reply.status)

    def _unsupported(self, reply: WireReply) -> errors.ProviderError:
        said = self._provider.details(reply).message
        return errors.BatchUnsupportedError(
            f"{self._provider.base_url} has no batch API, or not for this key. It said: {said}",
            status=reply.status,
        )


def _queue_limit(
    details: ErrorDetails, reply: WireReply, status: int
) -> errors.QueueLimitError | None:
    """Return the error of a job for which there is no room; None if it is another one."""
    full = details.code == "token_limit_exceeded" or "enqueued token" in details.text
    if not full or status not in (400, 429):
        return None
    named = _LIMIT.search(details.text)
    return errors.QueueLimitError(
        details.message,
        limit=parse_amount(named[1]) if named and re.search("[1-9]", named[1]) else None,
        status=status,
        code="token_limit_exceeded",
        request_id=reply.headers.get("x-request-id"),
        retry_after=server_delay(reply.headers, details.text, now=reply.received_at),
    )


def _parsed(text: str) -> Any:
    try:
        return lenient_json.loads(text)
    except ValueError:
        return text
