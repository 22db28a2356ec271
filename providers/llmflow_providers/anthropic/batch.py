"""Anthropic's Message Batches: one request creates a job with all its rows.

Jobs have no name that one could give them, and so one that nobody heard of is known by the
time at which it was made and by the number of its rows.

Sources: Anthropic's API reference and its guide on batches (August 2026), the wire types of
its Python SDK 2.12, and replies seen.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llmflow import errors, lenient_json
from llmflow.batch_api import (
    BatchInput,
    BatchLimits,
    BatchRow,
    BatchState,
    BatchStatus,
    Channel,
    Upload,
)
from llmflow.headers import server_time
from llmflow.types import WireReply, WireRequest
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
    unanswered_row,
    whole,
    word,
)
from llmflow_providers.error_body import ErrorDetails, error_details

if TYPE_CHECKING:
    from llmflow_providers.anthropic import AnthropicProvider

_BATCHES: Final = "/v1/messages/batches"
_START: Final = b'{"requests":['
_END: Final = b"]}"
_MOST_BYTES: Final = 256_000_000
_CLOCKS_DIFFER: Final = 60.0
_PAGE: Final = 100
_MOST_PAGES: Final = 1000
_UNDONE: Final = ("errored", "canceled", "expired")
_QUEUE: Final = re.compile(r"batch.*(?:queue|processing)|(?:queue|processing).*batch")
# Rows have no HTTP status; these are their types' own.
_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBatch:
    """The batch API at Anthropic, or at a server that speaks its dialect.

    Args:
        provider: whose rows these are: it knows the address, the key and the answers.
    """

    limits = BatchLimits(
        requests=100_000, size=_MOST_BYTES - len(_START) - len(_END), mixed_models=True
    )

    def __init__(self, provider: AnthropicProvider) -> None:
        self._provider = provider

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._provider!r})"

    def line(self, custom_id: str, wire: WireRequest) -> bytes:
        """Return the input's line for a call, without a line break."""
        return b'{"custom_id":"%b","params":%b}' % (custom_id.encode(), wire.body)

    async def upload(self, rows: BatchInput, channel: Channel) -> None:
        """Do nothing: `create` brings the rows."""

    async def create(self, rows: BatchInput, uploaded: str | None, channel: Channel) -> BatchStatus:  # noqa: ARG002
        """Create the job of the rows in the file.

        Raises:
            BatchUnsupportedError: the server has no batches.
        """

        def pieces() -> Iterator[bytes]:
            yield _START
            for piece in pieces_of(rows.path):
                # JSON has no line breaks inside: each one stands between two rows.
                yield piece.replace(b"\n", b",")
            yield _END

        body = Upload(pieces, len(_START) + rows.size + len(_END))
        reply = await channel.send(self._provider.call("POST", _BATCHES), body)
        if reply.status in (404, 405, 501):
            raise errors.BatchUnsupportedError(
                f"{self._provider.base_url} has no batch API. "
                f"It said: {self._provider.details(reply).message}",
                status=reply.status,
            )
        return self._status(reply)

    async def find(
        self, rows: BatchInput, known: Collection[str], channel: Channel
    ) -> BatchStatus | None:
        """Look for the newest job of so many rows that was made at the time, and is unknown.

        The server's clock is compared with this one as it is now. It may have been another one
        when the job was made, and so the time begins with the earlier of both readings: a job
        too many is told by its rows, and one that is not found is made and paid for again.
        """
        place = ""
        for _ in range(_MOST_PAGES):
            call = self._provider.call("GET", f"{_BATCHES}?limit={_PAGE}{place}")
            reply = await channel.send(call)
            page = self._object(reply, "data")
            clock = server_time(reply.headers, reply.received_at) - reply.received_at
            earliest = rows.created_at + min(clock, 0.0) - _CLOCKS_DIFFER
            last: str | None = None
            for job in map(mapping, page["data"] if isinstance(page["data"], list) else []):
                last = word(job.get("id")) or last
                created = moment(job.get("created_at"))
                if created is not None and created < earliest:
                    return None
                if last is None or last in known or created is None:
                    continue
                status = self._read_status(job, reply)
                if status.total == rows.requests:
                    return status
            following = f"&after_id={in_path(last or '')}"
            if not page.get("has_more") or last is None or following == place:
                return None
            place = following
        return None

    async def status(self, job: str, channel: Channel) -> BatchStatus:
        """Ask how a job is doing."""
        call = self._provider.call("GET", f"{_BATCHES}/{in_path(job)}")
        return self._status(await channel.send(call))

    async def cancel(self, job: str, channel: Channel) -> None:
        """Ask for the end of a job. One that has ended already is no error."""
        call = self._provider.call("POST", f"{_BATCHES}/{in_path(job)}/cancel")
        reply = await channel.send(call)
        if is_success(reply):
            return
        if reply.status in (400, 409):
            status = await self.status(job, channel)
            if status.has_ended or status.state == "cancelling":
                return
        raise self._failure(reply)

    async def fetch(self, status: BatchStatus, folder: Path, channel: Channel) -> Sequence[Path]:
        """Bring the results here."""
        paths = places(folder, len(status.results))
        for url, path in zip(status.results, paths, strict=True):
            call = self._provider.call("GET", f"{_BATCHES}/{in_path(status.id)}/results")
            # The key goes to no other place than the provider's own, whatever a reply says.
            if url.startswith(f"{self._provider.base_url}/"):
                call = call._replace(url=url)
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
            name, result = row["custom_id"], row["result"]
            kind = result["type"]
        except (TypeError, LookupError):
            raise ValueError("no result of a batch job") from None
        if not isinstance(name, str):
            raise ValueError("no result of a batch job")
        reply = WireReply(200, {}, b"", time.time())
        if kind == "succeeded":
            message = result.get("message")
            try:
                return BatchRow(name, self._provider.understand(message, reply), None)
            except errors.ProviderError as failed:
                return unanswered_row(name, failed)
            except (LookupError, TypeError, AttributeError):
                return unanswered_row(name, self._no_answer(message, reply))
        if kind == "errored":
            return refused_row(name, self._row_error(result.get("error"), reply))
        if kind in ("canceled", "expired"):
            return BatchRow(name, None, lost_row("expired" if kind == "expired" else "cancelled"))
        raise ValueError("no result of a batch job")

    async def clean_up(self, status: BatchStatus, channel: Channel) -> None:
        """Do nothing: there are no files, and the provider forgets results after 29 days."""

    def _status(self, reply: WireReply) -> BatchStatus:
        return self._read_status(self._object(reply, "id"), reply)

    def _read_status(self, job: Mapping[str, Any], reply: WireReply) -> BatchStatus:
        name = word(job.get("id"))
        if name is None:
            raise self._odd(reply)
        native = str(job.get("processing_status") or "")
        given = mapping(job.get("request_counts"))
        counts = {
            each: whole(given.get(each)) or 0 for each in ("processing", "succeeded", *_UNDONE)
        }
        results = word(job.get("results_url"))
        return BatchStatus(
            id=name,
            state=_state(native, counts),
            native=errors.redact(native),
            total=sum(counts.values()) if given else None,
            succeeded=counts["succeeded"] if given else None,
            failed=sum(counts[each] for each in _UNDONE) if given else None,
            created_at=moment(job.get("created_at")),
            expires_at=moment(job.get("expires_at")),
            results=(results,) if results else (),
            retry_after=next_look(reply),
        )

    def _no_answer(self, message: Any, reply: WireReply) -> errors.ProviderError:
        details = self._details(message)
        if details.is_error:
            return self._provider.classified(details, reply, details.status)
        text = f"a row without a message; it begins: {details.message}"
        return errors.BadReplyError(text, status=200)

    def _row_error(self, error: Any, reply: WireReply) -> errors.ProviderError:
        details = self._details(error)
        status = _STATUS.get(details.type or "", 500)
        return self._provider.classified(details, reply, status)

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
        error = not_a_model(self._provider.classified(details, reply))
        if type(error) is errors.RateLimitError and _QUEUE.search(details.text):
            return errors.QueueLimitError(
                error.message,
                status=error.status,
                code=error.code,
                request_id=error.request_id,
                retry_after=error.retry_after,
            )
        return error

    def _odd(self, reply: WireReply) -> errors.ProviderError:
        said = self._provider.details(reply).message
        message = f"what came is no object of a batch API; it begins: {said}"
        return errors.BadReplyError(message, status=reply.status)


def _state(native: str, counts: Mapping[str, int]) -> BatchState:
    if native == "canceling":
        return "cancelling"
    if native != "ended":
        return "running"
    total = sum(counts.values())
    if total and counts["canceled"] == total:
        return "cancelled"
    return "expired" if counts["expired"] else "succeeded"
