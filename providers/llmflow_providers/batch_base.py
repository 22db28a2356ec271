"""Base of HTTP batch adapters, and readers of their replies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from llmflow.errors import (
    BadReplyError,
    BatchRowLostError,
    BatchUnsupportedError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QueueLimitError,
    RateLimitError,
)
from llmflow.headers import parse_reset, server_delay
from llmflow.provider import BatchInput, BatchLimits, BatchRow, BatchStatus, Channel
from llmflow.types import WireReply, WireRequest
from llmflow_providers.base import HTTPProvider, mapping, parsed, word
from llmflow_providers.error_body import ErrorDetails, error_details

AT_ONCE: Final = 2**19
"""How much of a file is read at once, in bytes."""

_STATUS_DIGITS: Final = 3
_NO_DATE: Final = 253_402_300_800  # the year 10000
_LOST: Final = {
    "expired": "the batch job expired before this row was run",
    "cancelled": "the batch job was cancelled before this row was run",
}
_PAGE: Final = 100
_MOST_PAGES: Final = 1000


class HTTPBatch(ABC):
    """A batch API over HTTP whose jobs are at one path.

    A subclass adds `line`, `upload`, `create`, `clean_up`, and how to read a job
    (`_read_status`), a row (`_read_row`), a list of jobs (`_is_for`, `_earliest`) and the error of
    a full queue (`_queue_limit`).

    Args:
        provider: whose rows these are: it knows the address, the key and the answers.
        limits: what the server allows.
    """

    path: str
    """Of the jobs, below the base URL."""
    after: str
    """The name of what asks for the jobs after one, in their list."""

    def __init__(self, provider: HTTPProvider, limits: BatchLimits) -> None:
        self.provider = provider
        self.limits = limits

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.provider!r})"

    # --- jobs -----------------------------------------------------------------------------------

    async def find(
        self, rows: BatchInput, known: Collection[str], channel: Channel
    ) -> BatchStatus | None:
        """Find the job of these rows, from newest to oldest."""
        place = ""
        for _ in range(_MOST_PAGES):
            call = self.provider.call("GET", f"{self.path}?limit={_PAGE}{place}")
            reply = await channel.send(call)
            page = self._object(reply, "data")
            earliest = self._earliest(rows, reply)
            last: str | None = None
            for job in map(mapping, page["data"] if isinstance(page["data"], list) else []):
                last = word(job.get("id")) or last
                created = moment(job.get("created_at"))
                if last not in known and self._is_for(rows, job, earliest):
                    return self._read_status(job, reply)
                if created is not None and created < earliest:
                    return None
            cursor = word(mapping(page.get("paging")).get("next_cursor"))  # Groq
            following = f"&cursor={in_path(cursor)}" if cursor else ""
            if not cursor and page.get("has_more") and last:
                following = f"&{self.after}={in_path(last)}"
            if following in ("", place):
                return None
            place = following
        return None

    @abstractmethod
    def _earliest(self, rows: BatchInput, reply: WireReply) -> float:
        """Return the earliest time at which these rows' job was created."""

    @abstractmethod
    def _is_for(self, rows: BatchInput, job: Mapping[str, Any], earliest: float) -> bool:
        """Return whether a listed job is the one of these rows."""

    async def status(self, job: str, channel: Channel) -> BatchStatus:
        """Ask how a job is doing."""
        call = self.provider.call("GET", f"{self.path}/{in_path(job)}")
        return self._status_in(await channel.send(call))

    async def cancel(self, job: str, channel: Channel) -> None:
        """Request a job's cancellation. An ended job is no error."""
        call = self.provider.call("POST", f"{self.path}/{in_path(job)}/cancel")
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
        """Bring the results here."""
        paths = places(folder, len(status.results))
        for result, path in zip(status.results, paths, strict=True):
            reply = await channel.fetch(self._result_call(status, result), path)
            if reply.status != 200:
                raise self._failure(reply)
        return paths

    @abstractmethod
    def _result_call(self, status: BatchStatus, result: str) -> WireRequest:
        """Return the request for one file of results."""

    def _status_in(self, reply: WireReply) -> BatchStatus:
        """Read the job that a reply has to be.

        Raises:
            ProviderError: it is an error, or something else.
        """
        return self._read_status(self._object(reply, "id"), reply)

    @abstractmethod
    def _read_status(self, job: Mapping[str, Any], reply: WireReply) -> BatchStatus:
        """Read a job.

        Raises:
            BadReplyError: it is none.
        """

    # --- rows -----------------------------------------------------------------------------------

    def read(self, line: bytes) -> BatchRow:
        """Read one line of the results.

        Raises:
            ValueError: it is cut off, or no result.
        """
        row = parsed(line)
        found = None
        if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
            found = self._read_row(row["custom_id"], row)
        if found is None:
            raise ValueError("no result of a batch job")
        return found

    @abstractmethod
    def _read_row(self, name: str, row: Mapping[str, Any]) -> BatchRow | None:
        """Read the result of a row; None if it is no result."""

    def _answered(self, name: str, answer: Any, reply: WireReply) -> BatchRow | None:
        """Read the answer of a row; None if it is no answer."""
        try:
            return BatchRow(name, self.provider.understand(answer, reply), None)
        except ProviderError as failed:
            return unanswered_row(name, failed)
        except (LookupError, TypeError, AttributeError):
            return None

    def _unreadable(self, name: str, answer: Any, reply: WireReply) -> BatchRow:
        """Return the row for what is no answer, of one that ran."""
        return unanswered_row(name, self.provider.unusable(self._details(answer), reply, "a row"))

    # --- errors ---------------------------------------------------------------------------------

    def _details(self, data: Any) -> ErrorDetails:
        """Read what an error says, without the key."""
        return error_details(data, secret=self.provider.key)

    def _object(self, reply: WireReply, name: str) -> dict[str, Any]:
        """Return a reply's object, which must have this field.

        Raises:
            ProviderError: it is an error, or something else.
        """
        if not is_success(reply):
            raise self._failure(reply)
        try:
            data = parsed(reply.body)
        except ValueError:
            data = None
        if not isinstance(data, dict) or name not in data:
            raise self._odd(reply)
        return data

    def _failure(self, reply: WireReply) -> ProviderError:
        """Return the error that a reply is."""
        error = self._classified(self.provider.details(reply), reply)
        is_of_model = isinstance(error, ModelNotFoundError) and error.code != "model_not_found"
        if error.status == 404 and is_of_model:  # it is about a job or a file
            return InvalidRequestError(
                error.message, status=404, code=error.code, request_id=error.request_id
            )
        return error

    def _classified(
        self, details: ErrorDetails, reply: WireReply, status: int | None = None
    ) -> ProviderError:
        """Return the error for a reply about a job; of a full queue, a `QueueLimitError`."""
        error = self.provider.classified(details, reply, status)
        limit = self._queue_limit(details, error)
        if limit is None:
            return error
        return QueueLimitError(
            details.message,
            limit=limit or None,
            status=error.status,
            code=error.code,
            request_id=error.request_id,
            retry_after=error.retry_after,
        )

    @abstractmethod
    def _queue_limit(self, details: ErrorDetails, error: ProviderError) -> float | None:
        """Return how much may wait, if an error is of a full queue; 0 where it is not said."""

    def _odd(self, reply: WireReply) -> BadReplyError:
        """Return the error of a reply that a batch API cannot send."""
        said = self.provider.details(reply).message
        message = f"what came is no object of a batch API; it begins: {said}"
        return BadReplyError(message, status=reply.status)

    def _unsupported(self, reply: WireReply) -> BatchUnsupportedError:
        """Return the error of a server without batch jobs."""
        return BatchUnsupportedError(
            f"{self.provider.base_url} has no batch API, or not for this key. "
            f"It said: {self.provider.details(reply).message}",
            status=reply.status,
        )


def is_success(reply: WireReply) -> bool:
    """Return whether a reply's status means success."""
    return 200 <= reply.status < 300


def row_status(value: Any) -> int | None:
    """Return a row's HTTP status from number or text, or None.

    >>> row_status(201), row_status("429"), row_status(None)
    (201, 429, None)
    """
    if isinstance(value, str) and len(value) == _STATUS_DIGITS and value.isdecimal():
        return int(value)
    return whole(value)


def next_look(reply: WireReply) -> float | None:
    """Return a reply's delay until the next poll, in seconds.

    Other headers tell when a quota is full again, which is no matter of the job's.
    """
    names = ("retry-after-ms", "retry-after", "date")
    headers = {name: reply.headers[name] for name in names if name in reply.headers}
    if headers.keys() <= {"date"}:
        return None
    return server_delay(headers, "", now=reply.received_at)


def moment(value: Any) -> float | None:
    """Return Unix time from a number or ISO date, or None.

    >>> moment("2026-09-02T20:08:22Z"), moment(1788379702), moment(None)
    (1788379702.0, 1788379702.0, None)
    """
    found = None
    if isinstance(value, str):
        found = parse_reset(value, now=0.0, longest=math.inf)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found = value
    return float(found) if found is not None and 0 <= found < _NO_DATE else None


def whole(value: Any) -> int | None:
    """Return a count; None where the value is something else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def in_path(name: str) -> str:
    """Return a provider's name of something, escaped for a path."""
    return quote(name, safe="")


def lost_row(code: str) -> BatchRowLostError:
    """Return the error of a row that never ran."""
    return BatchRowLostError(_LOST[code], code=code)


def unanswered_row(name: str, error: ProviderError) -> BatchRow:
    """Return a row whose answer means failure: it may be billed."""
    refused = (RateLimitError, OverloadedError)
    error.may_be_billed = error.transient and not isinstance(error, refused)
    return BatchRow(name, None, error)


def refused_row(name: str, error: ProviderError) -> BatchRow:
    """Return a row that the provider counts as failed, unbilled."""
    error.may_be_billed = False
    return BatchRow(name, None, error)


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield a file piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(AT_ONCE):
            yield piece


def places(folder: Path, number: int) -> Sequence[Path]:
    """Return paths for so many result files, in a created folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / f"{index}.jsonl" for index in range(number)]
