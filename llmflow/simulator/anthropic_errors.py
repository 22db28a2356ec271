"""Errors of the Anthropic dialect, in the real service's words and types.

Clients match on these texts, so they are kept verbatim as far as they are known.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping

import orjson

from llmflow.simulator.dialect import DialectError
from llmflow.simulator.quota import Decision
from llmflow.simulator.settings import SimulatorSettings

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}
_UNITS = {
    "rpm": "requests per minute",
    "rpd": "requests per day",
    "tpm": "tokens per minute",
    "tpd": "tokens per day",
    "itpm": "input tokens per minute",
    "otpm": "output tokens per minute",
}


class AnthropicError(DialectError):
    """A reply that is an error; its type follows from the status.

    Args:
        status: HTTP status.
        message: what went wrong.
        code: the ``error_code`` of its details, if it has any.

    """

    def __init__(self, status: int, message: str, *, code: str | None = None) -> None:
        super().__init__(status, message)
        self.code = code

    def body(self, ident: str) -> bytes:
        """Return the error envelope."""
        unnamed = "api_error" if self.status >= 500 else "invalid_request_error"
        error: dict[str, object] = {
            "type": _KINDS.get(self.status, unnamed),
            "message": str(self),
        }
        if self.code is not None:
            error["details"] = {"error_code": self.code}
        ident = f"req_{ident}" if ident else ""
        return orjson.dumps({"type": "error", "error": error, "request_id": ident or None})


def rejection(
    decision: Decision, model: str, settings: SimulatorSettings, *, wall: float
) -> AnthropicError:
    """Return the refusal that tells of a decision against a request at a time of day."""
    if decision.reason == "insufficient_quota":
        return _not_paid_for(settings, wall)
    if decision.reason == "ramp":
        return AnthropicError(
            429,
            f"This request would exceed your organization's ({settings.organization}) maximum "
            "usage increase rate for input tokens per minute. Raise your usage gradually.",
            code="ramp_limit_exceeded",
        )
    subject = f"(org: {settings.organization}, model: {model})"
    limit = "your organization's rate limit"
    if settings.blind:
        return AnthropicError(429, f"This request would exceed {limit} {subject}.")
    if decision.dimension is None:
        return AnthropicError(
            429,
            "Number of concurrent connections has exceeded your rate limit. "
            "Please try again later.",
        )
    amount = f"{int(decision.limit):,} {_UNITS[decision.dimension]}"
    return AnthropicError(429, f"This request would exceed {limit} of {amount} {subject}.")


def _not_paid_for(settings: SimulatorSettings, wall: float) -> AnthropicError:
    if settings.credit_error == "balance":
        return AnthropicError(
            402,
            "Your credit balance is too low to access the Anthropic API. "
            "Please go to Plans & Billing to upgrade or purchase credits.",
        )
    now = time.gmtime(wall)
    year, month = (now.tm_year + 1, 1) if now.tm_mon == 12 else (now.tm_year, now.tm_mon + 1)
    regain = f"You will regain access on {year}-{month:02}-01 at 00:00 UTC."
    if settings.credit_error == "spend_limit":
        return AnthropicError(400, f"You have reached your specified API usage limits. {regain}")
    message = f"You have reached your API usage limits. {regain}"
    return AnthropicError(429, message, code="enforced_spend_limit_reached")


def given_key(headers: Mapping[str, str]) -> str:
    """Return the key of a request, or an empty text."""
    key = headers.get("x-api-key", "")
    if key:
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def bad_key(headers: Mapping[str, str], settings: SimulatorSettings) -> AnthropicError | None:
    """Return the 401 for a missing or wrong key; None if it is right, or none is asked for."""
    if settings.api_key is None:
        return None
    key = given_key(headers)
    if not key:
        return AnthropicError(401, "x-api-key header is required")
    if hmac.compare_digest(key.encode("utf-8", "replace"), settings.api_key.encode()):
        return None
    return AnthropicError(401, "invalid x-api-key")


BROKEN = {
    "server_error": AnthropicError(500, "Internal server error"),
    "overloaded": AnthropicError(529, "Overloaded"),
}
GARBAGE = (
    ("text/html", b"<html><head><title>502 Bad Gateway</title></head><body></body></html>"),
    ("application/json", b'{"id":"msg_0","type":"message","role":"assistant","content":[{"type":'),
    ("text/plain", b"upstream connect error or disconnect/reset before headers"),
)
