"""Anthropic's Message Batches: one request creates a job with all its rows.

Jobs have no name that one could give them, and so one that nobody heard of is known by the
time at which it was made and by the number of its rows.

Sources: Anthropic's API reference and its guide on batches (August 2026), the wire types of
its Python SDK 2.12, and replies seen.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from llmflow import errors
from llmflow.headers import server_time
from llmflow.provider import (
    BatchInput,
    BatchLimits,
    BatchRow,
    BatchState,
    BatchStatus,
    Channel,
    Upload,
)
from llmflow.types import WireReply, WireRequest
from llmflow_providers.base import HTTPProvider, mapping, word
from llmflow_providers.batch_base import (
    HTTPBatch,
    in_path,
    lost_row,
    moment,
    next_look,
    pieces_of,
    refused_row,
    whole,
)
from llmflow_providers.error_body import STATUS_OF, ErrorDetails

_START: Final = b'{"requests":['
_END: Final = b"]}"
_MOST_BYTES: Final = 256_000_000
_CLOCKS_DIFFER: Final = 60.0
_UNDONE: Final = ("errored", "canceled", "expired")
_QUEUE: Final = re.compile(r"batch.*(?:queue|processing)|(?:queue|processing).*batch")


class AnthropicBatch(HTTPBatch):
    """The batch API of Anthropic and servers of its dialect."""

    path = "/v1/messages/batches"
    after = "after_id"

    def __init__(self, provider: HTTPProvider) -> None:
        size = _MOST_BYTES - len(_START) - len(_END)
        super().__init__(provider, BatchLimits(requests=100_000, size=size, mixed_models=True))

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
        reply = await channel.send(self.provider.call("POST", self.path), body)
        if reply.status in (404, 405, 501):
            raise self._unsupported(reply)
        return self._status_in(reply)

    def _earliest(self, rows: BatchInput, reply: WireReply) -> float:
        # The server's clock is compared with this one as it is now. It may have been another one
        # when the job was made, and so the time begins with the earlier of both readings: a job
        # too many is told by its rows, and one that is not found is made and paid for again.
        clock = server_time(reply.headers, reply.received_at) - reply.received_at
        return rows.created_at + min(clock, 0.0) - _CLOCKS_DIFFER

    def _is_for(self, rows: BatchInput, job: Mapping[str, Any], earliest: float) -> bool:
        created = moment(job.get("created_at"))
        if created is None or created < earliest or not word(job.get("id")):
            return False
        counts = _counts(job)
        return bool(counts) and sum(counts.values()) == rows.requests

    def _result_call(self, status: BatchStatus, result: str) -> WireRequest:
        call = self.provider.call("GET", f"{self.path}/{in_path(status.id)}/results")
        # The key goes to no other place than the provider's own, whatever a reply says.
        is_own = result.startswith(f"{self.provider.base_url}/")
        return call._replace(url=result) if is_own else call

    def _read_row(self, name: str, row: Mapping[str, Any]) -> BatchRow | None:
        result = mapping(row.get("result"))
        kind = result.get("type")
        reply = WireReply(200, {}, b"", time.time())
        if kind == "succeeded":
            message = result.get("message")
            found = self._answered(name, message, reply)
            return found or self._unreadable(name, message, reply)
        if kind == "errored":
            details = self._details(result.get("error"))
            status = STATUS_OF.get(details.type or "", 500)
            return refused_row(name, self.provider.classified(details, reply, status))
        if kind in ("canceled", "expired"):
            return BatchRow(name, None, lost_row("expired" if kind == "expired" else "cancelled"))
        return None

    async def clean_up(self, status: BatchStatus, channel: Channel) -> None:
        """Do nothing: there are no files, and results expire by themselves."""

    def _read_status(self, job: Mapping[str, Any], reply: WireReply) -> BatchStatus:
        name = word(job.get("id"))
        if name is None:
            raise self._odd(reply)
        native = str(job.get("processing_status") or "")
        counts = _counts(job)
        given = bool(counts)
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

    def _queue_limit(self, details: ErrorDetails, error: errors.ProviderError) -> float | None:
        is_limit = type(error) is errors.RateLimitError
        return 0.0 if is_limit and _QUEUE.search(details.text) else None


def _counts(job: Mapping[str, Any]) -> dict[str, int]:
    """Return a job's rows by state; empty if it does not say."""
    given = mapping(job.get("request_counts"))
    if not given:
        return {}
    return {each: whole(given.get(each)) or 0 for each in ("processing", "succeeded", *_UNDONE)}


def _state(native: str, counts: Mapping[str, int]) -> BatchState:
    if native == "canceling":
        return "cancelling"
    if native != "ended":
        return "running"
    total = sum(counts.values())
    if total and counts["canceled"] == total:
        return "cancelled"
    return "expired" if counts.get("expired") else "succeeded"
