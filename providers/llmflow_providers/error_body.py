"""What an error's body says, in whichever form a server says it.

Nested, flat, in a list, a bare string, HTML, or nothing at all: providers, gateways and
proxies all answer in their own way, and a parser must survive each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from llmflow.errors import redact
from llmflow.headers import parse_duration
from llmflow.types import WireReply

_SEARCH_LIMIT: Final = 20_000
_DETAILS_LIMIT: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetails:
    """What a body says, in whichever form it says it.

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
    """

    message: str
    code: str | None = None
    type: str | None = None
    is_error: bool = False
    status: int = 200
    text: str = field(default="", repr=False)
    delay: float | None = None
    is_anthropic: bool = False


def read_error(reply: WireReply, *, secret: str | None) -> ErrorDetails:
    """Read an error body: nested, flat, a bare string, HTML, or nothing at all."""
    try:
        data: Any = orjson.loads(reply.body)
    except ValueError:
        start = reply.body[:200].decode("utf-8", "replace").strip()
        message = redact(start, secret) or "an empty body"
        return ErrorDetails(message=message, text=start.lower())
    return error_details(data, secret=secret)


def error_details(data: Any, *, secret: str | None) -> ErrorDetails:
    """Read the JSON value of an error body.

    Args:
        data: the value.
        secret: the key, to be masked.
    """
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return ErrorDetails(message=redact(str(data)[:_SEARCH_LIMIT], secret))
    error = data.get("error")
    inner: Mapping[str, Any] = error if isinstance(error, dict) else data
    text = error if isinstance(error, str) else inner.get("message") or inner.get("detail")
    text = str(text or orjson.dumps(data)[:200].decode("utf-8", "replace"))
    more, delay = _read_details(inner)
    code = more.get("error_code") or inner.get("code")
    status = inner.get("http_status") or code
    return ErrorDetails(
        message=redact(text, secret),
        code=_word(code),
        type=_word(inner.get("type") or inner.get("error_type") or more.get("error_type")),
        is_error=error is not None or data.get("object") == "error",
        status=status if isinstance(status, int) and 400 <= status < 600 else 200,
        text=f"{text[:_SEARCH_LIMIT]} {' '.join(more.values())}".lower(),
        delay=delay,
        is_anthropic=data.get("type") == "error" and inner is error,
    )


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
    if isinstance(availability, dict) and isinstance(availability.get("retry_after"), int | float):
        delay = float(availability["retry_after"])
    for each in details[:_DETAILS_LIMIT] if isinstance(details, list) else ():
        keep(each, "reason", "quotaId")
        if isinstance(each, dict):
            violations = each.get("violations")
            for one in violations[:_DETAILS_LIMIT] if isinstance(violations, list) else ():
                keep(one, "quotaId")
            wait = each.get("retryDelay")
            delay = parse_duration(wait) if isinstance(wait, str) else delay
    return more, delay


def _word(value: Any) -> str | None:
    """Return a code as a lower-case word; numbers that only repeat the status are none."""
    if value is None or isinstance(value, (dict, list)):
        return None
    word = redact(str(value)).lower()
    return None if word.isdigit() and len(word) == 3 else word or None
