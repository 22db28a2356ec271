"""What an error of an OpenAI-compatible server means: one table of codes, texts and statuses.

Servers nest and name their errors differently, and a status says less than the
body: OpenAI sends 429 for "wait a second", "never" and "pay first" alike. So
codes are looked at before texts, and texts before the status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from llmflow import errors
from llmflow.headers import DAY, LONGEST_QUOTA, parse_duration, server_delay
from llmflow.types import WireReply
from llmflow_providers.dimensions import dimension_of

_BILLING: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "1113",  # Z.ai: no balance
    }
)
_BY_CODE: Final[dict[str, type[errors.ProviderError]]] = {
    "slow_down": errors.RampLimitError,
    "queue_exceeded": errors.ConcurrencyLimitError,  # Cerebras
    "1302": errors.ConcurrencyLimitError,  # Z.ai
    "1308": errors.QuotaExhaustedError,  # Z.ai
    "context_length_exceeded": errors.ContextLengthError,
    "content_filter": errors.ContentFilterError,
    "content_policy_violation": errors.ContentFilterError,
    "misalignment_policy_violation": errors.ContentFilterError,
    "invalid_api_key": errors.AuthenticationError,
    "model_not_found": errors.ModelNotFoundError,
    "deploymentnotfound": errors.ModelNotFoundError,  # Azure
    "server_is_overloaded": errors.OverloadedError,
}
# Looked for in the message in lower case, in this order, for these statuses only.
_BY_TEXT: Final[tuple[tuple[str, frozenset[int], type[errors.ProviderError]], ...]] = (
    ("request too large for", frozenset({413, 429}), errors.TooLargeForLimitError),
    ("(rpd)", frozenset({429}), errors.QuotaExhaustedError),
    ("(tpd)", frozenset({429}), errors.QuotaExhaustedError),
    ("used all available credits", frozenset({403, 429}), errors.BillingError),
    ("maximum context length is", frozenset({400, 413, 422}), errors.ContextLengthError),
    ("input tokens exceed the configured", frozenset({400}), errors.ContextLengthError),
    ("incorrect api key", frozenset({400}), errors.AuthenticationError),
)
_BY_STATUS: Final[dict[int, type[errors.ProviderError]]] = {
    401: errors.AuthenticationError,
    402: errors.BillingError,
    403: errors.AuthenticationError,
    404: errors.ModelNotFoundError,
    408: errors.RequestTimeoutError,
    409: errors.ConflictError,
    429: errors.RateLimitError,
    498: errors.RateLimitError,  # Groq, flex tier
    503: errors.OverloadedError,
    504: errors.RequestTimeoutError,
    529: errors.OverloadedError,
}
# Answers that are failures although the status is 200 (DeepSeek, OpenRouter).
FAILED_FINISH: Final[dict[str, type[errors.ProviderError]]] = {
    "insufficient_system_resource": errors.OverloadedError,
    "error": errors.ServerError,
}


_SEARCH_LIMIT: Final = 20_000
_DETAILS_LIMIT: Final = 16
# Errors about a limit, which may say which one.
_ABOUT_A_LIMIT: Final = (
    errors.RateLimitError,
    errors.QuotaExhaustedError,
    errors.TooLargeForLimitError,
)


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
    """

    message: str
    code: str | None = None
    type: str | None = None
    is_error: bool = False
    status: int = 200
    text: str = field(default="", repr=False)
    delay: float | None = None


def read_error(reply: WireReply, *, secret: str | None) -> ErrorDetails:
    """Read an error body: nested, flat, a bare string, HTML, or nothing at all."""
    try:
        data: Any = orjson.loads(reply.body)
    except ValueError:
        start = reply.body[:200].decode("utf-8", "replace").strip()
        message = errors.redact(start, secret) or "an empty body"
        return ErrorDetails(message=message, text=start.lower())
    if isinstance(data, list) and data:
        data = data[0]
    if not isinstance(data, dict):
        return ErrorDetails(message=errors.redact(str(data), secret))
    error = data.get("error")
    inner: Mapping[str, Any] = error if isinstance(error, dict) else data
    text = error if isinstance(error, str) else inner.get("message") or inner.get("detail")
    text = str(text or reply.body[:200].decode("utf-8", "replace"))
    more, delay = _read_details(inner)
    code = more.get("error_code") or inner.get("code")
    status = inner.get("http_status") or code
    return ErrorDetails(
        message=errors.redact(text, secret),
        code=_word(code),
        type=_word(inner.get("type") or inner.get("error_type") or more.get("error_type")),
        is_error=error is not None or data.get("object") == "error",
        status=status if isinstance(status, int) and 400 <= status < 600 else 200,
        text=f"{text[:_SEARCH_LIMIT]} {' '.join(more.values())}".lower(),
        delay=delay,
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


def check_finish(finish_reason: object) -> None:
    """Raise the failure that a finish reason stands for, if it stands for one."""
    kind = FAILED_FINISH.get(finish_reason) if isinstance(finish_reason, str) else None
    if kind is not None:
        raise kind(f"the answer ended with finish_reason {finish_reason!r}", status=200)


def classify(
    details: ErrorDetails, *, status: int, headers: Mapping[str, str], now: float
) -> errors.ProviderError:
    """Return the error that a reply means, with the delay that the server asked for."""
    delay = server_delay(headers, details.text, now=now, hint=details.delay)
    return as_error(_kind(details, status, delay), details, status=status, headers=headers, now=now)


def as_error(
    kind: type[errors.ProviderError],
    details: ErrorDetails,
    *,
    status: int,
    headers: Mapping[str, str],
    now: float,
) -> errors.ProviderError:
    """Return an error of a class with all that a reply says of it."""
    long = issubclass(kind, errors.QuotaExhaustedError | errors.BillingError)
    message = details.message
    if 300 <= status < 400:
        message = f"the server redirects elsewhere; check the base URL. It said: {message}"
    return kind(
        message,
        status=status,
        code=details.code or details.type,
        request_id=headers.get("x-request-id") or headers.get("request-id"),
        retry_after=server_delay(
            headers,
            details.text,
            now=now,
            hint=details.delay,
            longest=LONGEST_QUOTA if long else DAY,
        ),
        dimension=dimension_of(details.text, details.code, details.type)
        if issubclass(kind, _ABOUT_A_LIMIT)
        else None,
    )


def _kind(details: ErrorDetails, status: int, delay: float | None) -> type[errors.ProviderError]:
    words = {details.code, details.type}
    if words & _BILLING:
        return errors.BillingError
    if status == 413 and details.code == "rate_limit_exceeded":
        return errors.TooLargeForLimitError  # Groq: one request above the tokens per minute
    if status == 402 and delay is not None:
        return errors.RateLimitError  # OpenRouter: the budget of what is in flight
    for word in (details.code, details.type):
        if word is not None and word in _BY_CODE:
            return _BY_CODE[word]
    text = details.text
    for fragment, statuses, kind in _BY_TEXT:
        if status in statuses and fragment in text:
            return kind
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status == 200:
        return errors.BadReplyError
    return errors.ServerError if status >= 500 else errors.InvalidRequestError


def _word(value: Any) -> str | None:
    """Return a code as a lower-case word; numbers that only repeat the status are none."""
    if value is None or isinstance(value, (dict, list)):
        return None
    word = errors.redact(str(value)).lower()
    return None if word.isdigit() and len(word) == 3 else word or None
