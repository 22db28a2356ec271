"""The OpenAI chat dialect: ``/chat/completions``, charged by ``max_tokens`` on arrival."""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable, Mapping

import orjson

from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.dialect import Answer, DialectError
from llmflow.simulator.openai.chat_request import parse_chat
from llmflow.simulator.openai.chat_wire import (
    BROKEN,
    GARBAGE,
    ChatRequest,
    OpenAIError,
    chunks,
    completion,
    format_duration,
)
from llmflow.simulator.openai.file_batches import OpenAIBatches
from llmflow.simulator.quota import Bucket, Charge, Decision, Domain
from llmflow.simulator.settings import SimulatorSettings

_VERSION = "2020-10-01"
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


class OpenAIDialect:
    """Speaks and charges as OpenAI does.

    Args:
        settings: what the provider is set to.
        wall: the time of day when the engine's clock is at 0, in seconds since 1970.

    """

    path = "/chat/completions"
    batch_paths: tuple[str, ...] = ("/files", "/batches")
    upload_path = "/files"

    def __init__(self, settings: SimulatorSettings, *, wall: float) -> None:
        self.broken: Mapping[str, DialectError] = BROKEN
        self.garbage: tuple[tuple[str, bytes], ...] = GARBAGE
        self._settings = settings
        self._wall = wall
        self.rejections_cost = settings.rejections_cost
        self._about = f"openai-organization: {settings.organization}\r\nopenai-processing-ms: "

    @staticmethod
    def claims(path: str, headers: Mapping[str, str]) -> bool:
        """Return True: what no other dialect claims is in this one."""
        del path, headers
        return True

    def key(self, headers: Mapping[str, str]) -> str:
        """Return the authorization."""
        return headers.get("authorization", "")

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Raise the 401 for a missing or wrong key."""
        if self._settings.api_key is None:
            return
        scheme, _, key = self.key(headers).partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise OpenAIError(
                401,
                "You didn't provide an API key. You need to provide your API key in an "
                "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        if hmac.compare_digest(key.encode("utf-8", "replace"), self._settings.api_key.encode()):
            return
        masked = f"{key[:3]}{'*' * 8}{key[-4:]}" if len(key) >= 16 else "*" * 8
        raise OpenAIError(
            401,
            f"Incorrect API key provided: {masked}. "
            "You can find your API key at https://platform.openai.com/account/api-keys.",
            code="invalid_api_key",
        )

    def read(self, headers: Mapping[str, str], body: bytes, *, now: float) -> ChatRequest:
        """Read a chat completion request, or raise an `OpenAIError`."""
        del headers, now
        return parse_chat(body, self._settings)

    def headers(self, ident: str, latency: float) -> str:
        """Return the header lines of every answer."""
        return (
            f"x-request-id: req_{ident}\r\n{self._about}{round(latency * 1000)}\r\n"
            f"openai-version: {_VERSION}\r\n"
        )

    def quota_headers(self, domain: Domain, *, now: float) -> str:
        """Return the x-ratelimit headers that show the state of a quota."""
        del now
        if self._settings.quota_headers == "off":
            return ""
        shown = domain.shown
        requests = shown.get("rpm") or shown.get("rpd")
        tokens = shown.get("tpm") or shown.get("tpd")
        text = _header_pair("requests", requests) if requests is not None else ""
        return text + _header_pair("tokens", tokens) if tokens is not None else text

    def rejection(self, decision: Decision, call: ChatRequest, *, now: float) -> OpenAIError:
        """Return the 429 that tells of a decision against a request."""
        del now
        settings = self._settings
        if decision.reason == "insufficient_quota":
            kind, text = "insufficient_quota", _NOT_PAID_FOR[settings.credit_error]
            return OpenAIError(429, text[1], kind=kind, code=text[0])
        subject = f"{call.model} in organization {settings.organization}"
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

    def whole(self, call: ChatRequest, said: Answer, *, ident: str, now: float) -> bytes:
        """Return the body of a chat completion."""
        return completion(call, said, ident=ident, created=int(self._wall + now))

    def events(self, call: ChatRequest, said: Answer, *, ident: str, now: float) -> list[bytes]:
        """Return the chunks of a streamed chat completion."""
        return chunks(call, said, ident=ident, created=int(self._wall + now))

    def produced(self, said: Answer) -> int:
        """Return 0: all is charged on arrival."""
        del said
        return 0

    def used(self, call: ChatRequest, said: Answer) -> Charge | None:
        """Return what was really used, if this provider refunds."""
        if not self._settings.refund:
            return None
        output = said.tokens * call.choices
        return Charge(call.prompt_tokens + output, call.prompt_tokens, output)

    def answered(self, call: ChatRequest, *, now: float) -> None:
        """Do nothing: no prompt is kept."""

    def model(self, headers: Mapping[str, str], name: str, *, now: float) -> bytes:
        """Return a model, or the list of all models without a name."""
        del headers
        created, names = int(self._wall + now), self._settings.models
        if name and names and name not in names:
            raise OpenAIError(
                404,
                f"The model '{name}' does not exist",
                param="model",
                code="model_not_found",
            )
        models = [
            {"id": one, "object": "model", "created": created, "owned_by": "llmflow-simulator"}
            for one in ((name,) if name else names or ("simulated",))
        ]
        return orjson.dumps(models[0] if name else {"object": "list", "data": models})

    def batch_api(self, store: Store, carry: Callable[[JobRecord], object]) -> OpenAIBatches:
        """Return the batch API, with its files and jobs in a store."""
        return OpenAIBatches(self._settings, store, carry)

    def unknown(self, method: str, path: str) -> OpenAIError:
        """Return the 404 for a path that does not exist."""
        return OpenAIError(404, f"Invalid URL ({method} {path})")

    def not_allowed(self, allowed: str) -> OpenAIError:
        """Return the 405."""
        message = f"Only {allowed} requests are accepted."
        return OpenAIError(405, message, code="method_not_supported")

    def unreadable(self, status: int, message: str) -> OpenAIError:
        """Return the error for a request refused before it was read."""
        kind = "server_error" if status >= 500 else "invalid_request_error"
        return OpenAIError(status, message, kind=kind)


def _header_pair(unit: str, bucket: Bucket) -> str:
    return (
        f"x-ratelimit-limit-{unit}: {int(bucket.limit)}\r\n"
        f"x-ratelimit-remaining-{unit}: {max(0, math.floor(bucket.level + 1e-6))}\r\n"
        f"x-ratelimit-reset-{unit}: {format_duration(bucket.reset)}\r\n"
    )
