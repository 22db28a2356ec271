"""Errors and headers of the OpenAI dialect, in the real service's words and formats.

Clients match on these texts, so they are kept verbatim as far as they are known.
"""

from __future__ import annotations

import hmac
import math

import orjson

from llmflow.simulator.quota import Bucket, Decision, Domain
from llmflow.simulator.settings import SimulatorSettings

_LIMITS_URL = "Visit https://platform.openai.com/account/rate-limits to learn more."
_UNITS = {
    "rpm": ("requests per min (RPM)", "requests"),
    "rpd": ("requests per day (RPD)", "requests"),
    "tpm": ("tokens per min (TPM)", "tokens"),
    "tpd": ("tokens per day (TPD)", "tokens"),
}


class DialectError(Exception):
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
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code

    @property
    def body(self) -> bytes:
        """The error envelope."""
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
    requests = domain.shown_rpm or domain.rpd
    tokens = domain.shown_tpm or domain.tpd
    text = _pair("requests", requests) if requests is not None else ""
    return text + _pair("tokens", tokens) if tokens is not None else text


def retry_headers(wait: float | None, settings: SimulatorSettings) -> str:
    """Return the headers that say when to come again."""
    if wait is None:
        return ""
    text = f"retry-after: {max(1, math.ceil(wait - 1e-6))}\r\n" if settings.retry_after else ""
    if settings.retry_after_ms:
        text += f"retry-after-ms: {max(1, math.ceil(wait * 1000 - 1e-6))}\r\n"
    return text


def rejection(decision: Decision, model: str, settings: SimulatorSettings) -> DialectError:
    """Return the 429 that tells of a decision against a request."""
    if decision.reason == "insufficient_quota":
        return DialectError(
            429,
            "You exceeded your current quota, please check your plan and billing details.",
            kind="insufficient_quota",
            code="insufficient_quota",
        )
    subject = f"{model} in organization {settings.organization}"
    limit, requested = int(decision.limit), math.ceil(decision.requested)
    unit, kind = _UNITS.get(decision.dimension, ("concurrent requests", "requests"))
    if decision.reason == "too_large":
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
    return DialectError(429, f"{message} {_LIMITS_URL}", kind=kind, code="rate_limit_exceeded")


def bad_key(authorization: str, settings: SimulatorSettings) -> DialectError | None:
    """Return the 401 for a missing or wrong key; None if it is right, or none is asked for."""
    if settings.api_key is None:
        return None
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        return DialectError(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization "
            "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
        )
    if hmac.compare_digest(key.encode("utf-8", "replace"), settings.api_key.encode()):
        return None
    masked = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) >= 16 else "*" * 8
    return DialectError(
        401,
        f"Incorrect API key provided: {masked}. "
        "You can find your API key at https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


SERVER_ERROR = DialectError(
    500,
    "The server had an error while processing your request. Sorry about that!",
    kind="server_error",
)
OVERLOADED = DialectError(
    503,
    "The server is currently overloaded with other requests. Please try again later.",
    kind="service_unavailable_error",
    code="server_is_overloaded",
)
GARBAGE = (
    ("text/html", b"<html><head><title>502 Bad Gateway</title></head><body></body></html>"),
    ("application/json", b'{"id":"chatcmpl-0","object":"chat.completion","choices":[{"index":0,'),
    ("text/plain", b"upstream connect error or disconnect/reset before headers"),
)
