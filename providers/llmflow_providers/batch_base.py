"""What the adapters of batch APIs share: reading jobs, refusals, and files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from llmflow import lenient_json
from llmflow.batch_api import BatchRow
from llmflow.errors import (
    BatchRowLostError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    RateLimitError,
)
from llmflow.headers import parse_reset, server_delay
from llmflow.types import WireReply

AT_ONCE: Final = 2**19
"""How much of a file is read at once, in bytes."""

_STATUS_DIGITS: Final = 3
_NO_DATE: Final = 253_402_300_800  # the year 10000
_LOST: Final = {
    "expired": "the batch job expired before this row was run",
    "cancelled": "the batch job was cancelled before this row was run",
}


def is_success(reply: WireReply) -> bool:
    """Whether a reply's status says that what was asked for was done."""
    return 200 <= reply.status < 300


def row_status(value: Any) -> int | None:
    """Return the HTTP status of a row, from a number or text; None where it is neither.

    >>> row_status(201), row_status("429"), row_status(None)
    (201, 429, None)
    """
    if isinstance(value, str) and len(value) == _STATUS_DIGITS and value.isdecimal():
        return int(value)
    return whole(value)


def read_object(reply: WireReply, *names: str) -> dict[str, Any] | None:
    """Return the JSON object of a reply, if it has all these names."""
    try:
        data = lenient_json.loads(reply.body)
    except ValueError:
        return None
    return data if isinstance(data, dict) and all(name in data for name in names) else None


def not_a_model(error: ProviderError) -> ProviderError:
    """Return the error for a 404 that is about a job or a file, and so about no model."""
    if error.status != 404 or not isinstance(error, ModelNotFoundError):
        return error
    if error.code == "model_not_found":
        return error
    return InvalidRequestError(
        error.message, status=404, code=error.code, request_id=error.request_id
    )


def next_look(reply: WireReply) -> float | None:
    """Return the seconds until a job should be looked at again, if a reply says so.

    Other headers tell when a quota is full again, which is no matter of the job's.
    """
    names = ("retry-after-ms", "retry-after", "date")
    headers = {name: reply.headers[name] for name in names if name in reply.headers}
    return server_delay(headers, "", now=reply.received_at)


def moment(value: Any) -> float | None:
    """Return a time in seconds since 1970, from that or from an ISO date; None from others.

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


def word(value: Any) -> str | None:
    """Return a name; None where the value is something else, or empty."""
    return value if value and isinstance(value, str) else None


def in_path(name: str) -> str:
    """Return a provider's name of something as a part of a path, whatever it holds."""
    return quote(name, safe="")


def lost_row(code: str) -> BatchRowLostError:
    """Return the error of a row that was never run: ``expired`` or ``cancelled``."""
    return BatchRowLostError(_LOST[code], code=code)


def unanswered_row(name: str, error: ProviderError) -> BatchRow:
    """Return a row that ran, and that only its answer says to have failed: it may be billed."""
    refused = (RateLimitError, OverloadedError)
    error.may_be_billed = error.transient and not isinstance(error, refused)
    return BatchRow(name, None, error)


def refused_row(name: str, error: ProviderError) -> BatchRow:
    """Return a row that the provider counts as failed: it is not billed."""
    error.may_be_billed = False
    return BatchRow(name, None, error)


def pieces_of(path: Path) -> Iterator[bytes]:
    """Yield a file piece by piece."""
    with path.open("rb") as file:
        while piece := file.read(AT_ONCE):
            yield piece


def places(folder: Path, number: int) -> Sequence[Path]:
    """Return where so many files of results go, in a folder that is there then."""
    folder.mkdir(parents=True, exist_ok=True)
    return [folder / f"{index}.jsonl" for index in range(number)]
