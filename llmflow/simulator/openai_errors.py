"""Errors and headers of the OpenAI dialect, in the real service's words and formats.

Clients match on these texts, so they are kept verbatim as far as they are known.
"""

from __future__ import annotations

import hmac
import math

import orjson

from llmflow.simulator.bucket import Bucket
from llmflow.simulator.dialect import DialectError
from llmflow.simulator.quota import Decision, Domain
from llmflow.simulator.settings import SimulatorSettings

_LIMITS_URL = "Visit https://platform.openai.com/account/rate-limits to learn more."
_UNITS = {
    "rpm": ("requests per min (RPM)", "requests"),
    "rpd": ("requests per day (RPD)", "requests"),
    "tpm": ("tokens per min (TPM)", "tokens"),
    "tpd": ("tokens per day (TPD)", "tokens"),
    "itpm": ("input tokens per min (ITPM)", "tokens"),
    "otpm": ("output tokens per min (OTPM)", "tokens"),
}
_NOT_PAID_FOR = {
    "quota": (
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    "spend_limit": (
        "organization_spend_limit_exceeded",
        "Your organization has reached its spend limit; raise it in your billing settings.",
    ),
    "balance": (
        "credit_balance_exhausted",
        "Your credit balance is exhausted; add credits in your billing settings.",
    ),
}
_TOO_STEEP = (
    "Slow down: your traffic has grown too fast. "
    "Reduce it to its former rate, and raise it gradually from there."
)


class OpenAIError(DialectError):
    """A reply that is an error: its status and what its envelope holds."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(status, message)
        self.kind = kind
        self.param = param
        self.code = code

    def body(self, ident: str) -> bytes:
        """Return the error envelope, which does not name the request."""
        del ident
        error = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})


def format_duration(seconds: float) -> str:
    """Return a time as Go prints durations, rounded up to a millisecond.

    >>> [format_duration(s) for s in (0, 0.012, 1.5, 83.4, 360, 3723)]
    ['0s', '12ms', '1.5s', '1m23.4s', '6m0s', '1h2m3s']
    """
    # Down by a trifle first: 0.057 * 1000 is a little above 57.
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _pair(unit: str, bucket: Bucket) -> str:
    return (
        f"x-ratelimit-limit-{unit}: {int(bucket.limit)}\r\n"
        f"x-ratelimit-remaining-{unit}: {max(0, math.floor(bucket.level + 1e-6))}\r\n"
        f"x-ratelimit-reset-{unit}: {format_duration(bucket.reset)}\r\n"
    )


def quota_headers(domain: Domain, settings: SimulatorSettings) -> str:
    """Return the x-ratelimit headers that show the state of a quota."""
    if settings.quota_headers == "off":
        return ""
    shown = domain.shown
    requests = shown.get("rpm") or shown.get("rpd")
    tokens = shown.get("tpm") or shown.get("tpd")
    text = _pair("requests", requests) if requests is not None else ""
    return text + _pair("tokens", tokens) if tokens is not None else text


def rejection(decision: Decision, model: str, settings: SimulatorSettings) -> OpenAIError:
    """Return the 429 that tells of a decision against a request."""
    if decision.reason == "insufficient_quota":
        kind, text = "insufficient_quota", _NOT_PAID_FOR[settings.credit_error]
        return OpenAIError(429, text[1], kind=kind, code=text[0])
    subject = f"{model} in organization {settings.organization}"
    if decision.reason == "ramp":
        return OpenAIError(429, _TOO_STEEP, kind="rate_limit_error", code="slow_down")
    too_large = decision.reason == "too_large"
    if settings.blind:
        what = "Request too large for" if too_large else "Rate limit reached for"
        message = f"{what} {subject}."
        return OpenAIError(429, message, kind="rate_limit_error", code="rate_limit_exceeded")
    limit, requested = int(decision.limit), math.ceil(decision.requested)
    unit, kind = _UNITS.get(decision.dimension or "", ("concurrent requests", "requests"))
    if too_large:
        message = (
            f"Request too large for {subject} on {unit}: Limit {limit}, Requested {requested}. "
            "The input or output tokens must be reduced in order to run successfully."
        )
    else:
        used = math.ceil(decision.used - 1e-6)
        message = (
            f"Rate limit reached for {subject} on {unit}: "
            f"Limit {limit}, Used {used}, Requested {requested}."
        )
        if settings.retry_text and decision.retry_after is not None:
            message += f" Please try again in {format_duration(decision.retry_after)}."
    return OpenAIError(429, f"{message} {_LIMITS_URL}", kind=kind, code="rate_limit_exceeded")


def bad_key(authorization: str, settings: SimulatorSettings) -> OpenAIError | None:
    """Return the 401 for a missing or wrong key; None if it is right, or none is asked for."""
    if settings.api_key is None:
        return None
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        return OpenAIError(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization "
            "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        )
    if hmac.compare_digest(key.encode("utf-8", "replace"), settings.api_key.encode()):
        return None
    masked = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) >= 16 else "*" * 8
    return OpenAIError(
        401,
        f"Incorrect API key provided: {masked}. "
        "You can find your API key at https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


BROKEN = {
    "server_error": OpenAIError(
        500,
        "The server had an error while processing your request. Sorry about that!",
        kind="server_error",
    ),
    "overloaded": OpenAIError(
        503,
        "The server is currently overloaded with other requests. Please try again later.",
        kind="service_unavailable_error",
        code="server_is_overloaded",
    ),
}
GARBAGE = (
    ("text/html", b"<html><head><title>502 Bad Gateway</title></head><body></body></html>"),
    ("application/json", b'{"id":"chatcmpl-0","object":"chat.completion","choices":[{"index":0,'),
    ("text/plain", b"upstream connect error or disconnect/reset before headers"),
)
