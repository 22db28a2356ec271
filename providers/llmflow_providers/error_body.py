"""Reads error bodies in every form that servers send.

Nested, flat, in a list, a bare string, HTML, or nothing at all: providers, gateways and
proxies all answer in their own way, and a parser must survive each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from llmflow import lenient_json
from llmflow.errors import redact
from llmflow.headers import parse_duration
from llmflow.types import WireReply
from llmflow_providers import words

_SEARCH_LIMIT: Final = 20_000
_START: Final = 200
_DETAILS_LIMIT: Final = 16
_LONGEST: Final = 10**15
STATUS_OF: Final = {
    word: status
    for status, text in (
        (400, "invalid_argument invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (409, "conflict_error"),
        (413, "request_too_large"),
        (429, "insufficient_quota rate_limit rate_limit_error rate_limit_exceeded rate_limited"),
        (429, "resource_exhausted too_many_requests"),
        (500, "internal internal_error internal_server_error server_error"),
        (503, "service_unavailable unavailable"),
        (504, "timeout timeout_error"),
        (529, "overloaded_error"),
    )
    for word in words(text)
}
"""The status that a word means where the status itself says nothing, as with a 200."""
LIMITED: Final = re.compile(r"\brate[ -]?limit|too many requests", re.IGNORECASE)
_REPEATED: Final = ("x-ratelimit-", "ratelimit-", "retry-after", "anthropic-rate")
_DELAY_FIELDS: Final = {
    "retry_after": "retry-after",
    "retryAfter": "retry-after",
    "retry-after": "retry-after",
    "retry_after_seconds": "retry-after",
    "retry_after_ms": "retry-after-ms",
    "retryAfterMs": "retry-after-ms",
    "reset_at": "x-ratelimit-reset",
    "resets_at": "x-ratelimit-reset",
    "reset_time": "x-ratelimit-reset",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """An error's body, read.

    Args:
        message: the text, masked and cut.
        code: the provider's code or type, or None.
        type: the provider's type, or None.
        is_error: whether the body is an error at all.
        status: a status that the body names, else 200.
        text: all that it says, in lower case and neither masked nor cut: to be searched,
            never to be shown.
        delay: seconds to wait by a field of the body, or None.
        is_anthropic: whether it has the form of Anthropic's errors.
        names_content: whether a field beside the message says what content it is about.
        headers: headers of another server that a gateway repeats in its body, and delays
            in fields of their names; with lower-case names.
        generated: what the model had written when its answer was rejected (Groq).
    """

    message: str
    code: str | None = None
    type: str | None = None
    is_error: bool = False
    status: int = 200
    text: str = field(default="", repr=False)
    delay: float | None = None
    is_anthropic: bool = False
    names_content: bool = False
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    generated: str = field(default="", repr=False)


def read_error(reply: WireReply, *, secret: str | None) -> ErrorDetails:
    """Read an error body: nested, flat, plain text, HTML or empty."""
    try:
        data: Any = lenient_json.loads(reply.body)
    except ValueError:
        said = reply.body[:_SEARCH_LIMIT].decode("utf-8", "replace").strip()
        # Cut only once the key is masked: a part of it would not be found.
        message = redact(said, secret)[:_START] or "an empty body"
        return ErrorDetails(message=message, text=said[:_START].lower())
    return error_details(data, secret=secret)


def error_details(data: Any, *, secret: str | None) -> ErrorDetails:
    """Read the JSON value of an error body, and mask the secret."""
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        said = data if isinstance(data, str) else _written(data)
        return ErrorDetails(message=redact(said, secret), text=said[:_SEARCH_LIMIT].lower())
    error = data.get("error")
    inner: Mapping[str, Any] = error if isinstance(error, dict) else data
    text = error if isinstance(error, str) else inner.get("message") or inner.get("detail")
    most = _SEARCH_LIMIT
    if not isinstance(text, str) or not text:
        text, most = (_written(text), most) if text else (_written(data), _START)
    more, delay = _read_details(inner)
    code = more.get("error_code") or inner.get("code")
    kind = inner.get("type") or inner.get("error_type") or more.get("error_type")
    return ErrorDetails(
        message=redact(text, secret)[:most],
        code=_word(code),
        type=_word(kind),
        is_error=bool(error) or data.get("object") == "error",
        status=_status(inner, code, kind, text[:most]) if error else _number_of(code),
        text=f"{text[:most]} {' '.join(more.values())}".lower(),
        delay=delay,
        is_anthropic=data.get("type") == "error" and inner is error,
        names_content=_is_about_content(inner),
        headers=_repeated_headers(data, inner),
        generated=_text(inner.get("failed_generation")),
    )


def _status(error: Mapping[str, Any], code: Any, kind: Any, text: str) -> int:
    """Return the status that an error names; 200 if it names none."""
    for value in (error.get("http_status"), code, error.get("status"), error.get("status_code")):
        number = _number_of(value)
        if number != 200:
            return number
    for value in (code, kind, error.get("status")):
        if isinstance(value, str) and value.lower() in STATUS_OF:
            return STATUS_OF[value.lower()]
    return 429 if LIMITED.search(text) else 200


def _number_of(value: Any) -> int:
    """Return an error's status; 200 for anything else."""
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and 400 <= value < 600 else 200


def _is_about_content(error: Mapping[str, Any]) -> bool:
    """Return whether fields tell of a content filter (OpenRouter, Azure)."""
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and (metadata.get("reasons") or "flagged_input" in metadata):
        return True
    inner = error.get("innererror")
    if isinstance(inner, dict) and (
        "content_filter_result" in inner or "responsibleai" in str(inner.get("code")).lower()
    ):
        return True
    return any(name in error for name in ("content_filter_result", "content_filter_results"))


def _repeated_headers(data: Mapping[str, Any], error: Mapping[str, Any]) -> dict[str, str]:
    """Read the headers that a body repeats, such as OpenRouter's metadata."""
    found: dict[str, str] = {}
    metadata = error.get("metadata")
    holders = [data, error, metadata if isinstance(metadata, dict) else {}]
    for holder in holders:
        for field_name, header in _DELAY_FIELDS.items():
            value = holder.get(field_name)
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                found[header] = str(value)
    for holder in holders:
        headers = holder.get("headers")
        for name, value in headers.items() if isinstance(headers, dict) else ():
            low = str(name).lower()
            is_plain = isinstance(value, str | int | float)
            if is_plain and low.startswith(_REPEATED):
                found[low] = str(value)
    return found


def _read_details(error: Mapping[str, Any]) -> tuple[dict[str, str], float | None]:
    """Read what stands beside the message: Anthropic's, Gemini's and OpenRouter's details."""
    more: dict[str, str] = {}
    delay: float | None = None

    def keep(holder: Any, *names: str) -> None:
        for name in names:
            value = holder.get(name) if isinstance(holder, dict) else None
            if isinstance(value, str):
                more[name] = f"{more[name]} {value}" if name in more else value

    details = error.get("details")
    keep(details, "error_code")
    keep(error.get("metadata"), "error_type", "reason", "limit_source")
    availability = error.get("availability")
    if isinstance(availability, dict):
        wait: Any = availability.get("retry_after")
        delay = float(wait) if type(wait) in (int, float) and 0 <= wait < _LONGEST else None
    for each in details[:_DETAILS_LIMIT] if isinstance(details, list) else ():
        keep(each, "reason", "quotaId")
        if isinstance(each, dict):
            violations = each.get("violations")
            for one in violations[:_DETAILS_LIMIT] if isinstance(violations, list) else ():
                keep(one, "quotaId")
            wait = each.get("retryDelay")
            delay = parse_duration(wait) if isinstance(wait, str) else delay
    return more, delay


def _written(value: Any) -> str:
    """Return any JSON value as text."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # nested too deeply, or a number above 64 bits
        pass
    try:
        return json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that cannot be shown"


def _text(value: Any) -> str:
    """Return a text, or any other JSON value as text; "" for none."""
    return value if isinstance(value, str) else _written(value) if value else ""


def _word(value: Any) -> str | None:
    """Return a code as a lower-case word; a status is none."""
    if value is None or isinstance(value, (dict, list)):
        return None
    word = redact(str(value)).lower()
    return None if word.isdigit() and len(word) == 3 else word or None
