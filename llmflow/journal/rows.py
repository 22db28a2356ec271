"""Answers and failures as rows of a table, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import orjson

from llmflow import errors
from llmflow.errors import ProviderError
from llmflow.types import Response, Usage

ANSWER_COLUMNS: Final = (
    "fingerprint",
    "ordinal",
    "uses",
    "at",
    "text",
    "finish_reason",
    "model",
    "provider",
    "request_id",
    "input_tokens",
    "output_tokens",
    "usage",
    "cost",
    "attempts",
    "waited",
    "raw",
)
FAILURE_COLUMNS: Final = (
    "fingerprint",
    "ordinal",
    "uses",
    "at",
    "error",
    "message",
    "provider",
    "model",
    "status",
    "code",
    "request_id",
    "retry_after",
    "dimension",
    "attempts",
)
_USAGE: Final = frozenset(each.name for each in fields(Usage))
_LARGEST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedFailure:
    """A call that failed for good.

    Args:
        kind: the name of the error's class.
        message: what the provider said.
        data: the error's other attributes.
    """

    kind: str
    message: str
    data: Mapping[str, Any]

    def error(self) -> ProviderError:
        """Return the error anew, as an object of its class."""
        kind = getattr(errors, self.kind, None)
        if not (isinstance(kind, type) and issubclass(kind, ProviderError)):
            kind = ProviderError
        return kind(self.message, **self.data)


def answer_row(
    fingerprint: bytes, ordinal: int, uses: int, at: float, response: Response, *, whole: bool
) -> tuple[Any, ...]:
    """Return the row of an answer; `whole`: with the provider's whole reply."""
    usage = response.usage
    return (
        fingerprint,
        ordinal,
        uses,
        at,
        _text(response.text),
        _text(response.finish_reason),
        _text(response.model),
        _text(response.provider),
        _text(response.request_id),
        _whole(usage.input_tokens),
        _whole(usage.output_tokens),
        orjson.dumps(usage).decode() if _has_details(usage) else None,
        response.cost,
        _whole(response.attempts),
        response.waited,
        _json(response.raw) if whole and response.raw else None,
    )


def response_of(row: Sequence[Any]) -> Response:
    """Return the answer that a row holds; its columns begin with ``text``."""
    (
        text,
        finish_reason,
        model,
        provider,
        request_id,
        input_tokens,
        output_tokens,
        usage,
        cost,
        attempts,
        waited,
        raw,
    ) = row
    if usage is None:
        used = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    else:
        # A later version may know of kinds of tokens that this one does not.
        details = {name: value for name, value in json.loads(usage).items() if name in _USAGE}
        used = Usage(**details)
    return Response(
        text=_str(text) or "",
        usage=used,
        finish_reason=_str(finish_reason),
        model=_str(model) or "",
        provider=_str(provider) or "",
        request_id=_str(request_id),
        cost=cost,
        attempts=attempts,
        waited=waited,
        source="journal",
        raw={} if raw is None else _loads(raw),
    )


def failure_row(
    fingerprint: bytes, ordinal: int, uses: int, at: float, error: ProviderError
) -> tuple[Any, ...]:
    """Return the row of a failure."""
    return (
        fingerprint,
        ordinal,
        uses,
        at,
        type(error).__name__,
        _text(error.message),
        _text(error.provider),
        _text(error.model),
        None if error.status is None else _whole(error.status),
        None if error.code is None else _text(str(error.code)),
        _text(error.request_id),
        error.retry_after,
        _text(error.dimension),
        _whole(error.attempts),
    )


def failure_of(row: Sequence[Any]) -> RecordedFailure:
    """Return the failure that a row holds; its columns begin with ``error``."""
    kind, message, provider, model, status, code, request_id, retry_after, dimension, attempts = row
    return RecordedFailure(
        kind=kind,
        message=_str(message) or "",
        data={
            "provider": _str(provider),
            "model": _str(model),
            "status": status,
            "code": _str(code),
            "request_id": _str(request_id),
            "retry_after": retry_after,
            "dimension": _str(dimension),
            "attempts": attempts,
        },
    )


def _has_details(usage: Usage) -> bool:
    return any(
        getattr(usage, name) for name in _USAGE if name not in ("input_tokens", "output_tokens")
    )


def _text(value: str | None) -> str | bytes | None:
    """Return text as SQLite takes it: what is not Unicode, such as half a pair, as bytes."""
    if value is None or value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def _str(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _whole(number: int) -> int:
    return max(-_LARGEST, min(_LARGEST, int(number)))


def _json(value: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(value, default=_plain)
    except TypeError:  # what orjson refuses, such as half a pair or a large number
        return json.dumps(value, default=str).encode()


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:
        return json.loads(raw)


def _plain(value: Any) -> Any:
    """Return what stands for an object in a client's reply."""
    if isinstance(value, Mapping):
        return dict(value)
    dump = getattr(value, "model_dump", None)
    return str(value) if dump is None else dump(mode="json")
