"""The Anthropic dialect: ``/v1/messages``, with separate quotas of input and output.

Input is charged on arrival by an estimate and settled to what it was, without
what the cache held; output is charged while it is produced, whatever
``max_tokens`` says, and may go into debt: no request is let in before that is paid.
"""

from __future__ import annotations

import hmac
import math
import time
from collections.abc import Callable, Mapping

import orjson

from llmflow.simulator.anthropic.message_batches import AnthropicBatches
from llmflow.simulator.anthropic.message_fields import check_version
from llmflow.simulator.anthropic.message_request import parse_messages
from llmflow.simulator.anthropic.message_wire import (
    BROKEN,
    GARBAGE,
    AnthropicError,
    MessagesRequest,
    PromptCache,
    events,
    format_instant,
    message,
)
from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.dialect import Answer, DialectError
from llmflow.simulator.quota import Bucket, Charge, Decision, Domain
from llmflow.simulator.settings import SimulatorSettings

_THOUSAND = 1000
_UNITS = {
    "rpm": "requests per minute",
    "rpd": "requests per day",
    "tpm": "tokens per minute",
    "tpd": "tokens per day",
    "itpm": "input tokens per minute",
    "otpm": "output tokens per minute",
}


class AnthropicDialect:
    """Speaks and charges as Anthropic does.

    Args:
        settings: what the provider is set to.
        wall: the time of day when the engine's clock is at 0, in seconds since 1970.

    """

    path = "/messages"
    batch_paths: tuple[str, ...] = ("/messages/batches",)
    upload_path = "/messages/batches"

    def __init__(self, settings: SimulatorSettings, *, wall: float) -> None:
        self.broken: Mapping[str, DialectError] = BROKEN
        self.garbage: tuple[tuple[str, bytes], ...] = GARBAGE
        self._settings = settings
        self._wall = wall
        self.rejections_cost = False
        self._cache = PromptCache()

    @staticmethod
    def claims(path: str, headers: Mapping[str, str]) -> bool:
        """Return whether a request for something else is in this dialect."""
        return path.startswith("/messages") or "anthropic-version" in headers

    def key(self, headers: Mapping[str, str]) -> str:
        """Return the key of a request, or an empty text."""
        key = headers.get("x-api-key", "")
        if key:
            return key
        scheme, _, token = headers.get("authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Raise the 401 for a missing or wrong key."""
        if self._settings.api_key is None:
            return
        key = self.key(headers)
        if not key:
            raise AnthropicError(401, "x-api-key header is required")
        if hmac.compare_digest(key.encode("utf-8", "replace"), self._settings.api_key.encode()):
            return
        raise AnthropicError(401, "invalid x-api-key")

    def read(self, headers: Mapping[str, str], body: bytes, *, now: float) -> MessagesRequest:
        """Read a request for a message, or raise an `AnthropicError`."""
        version = check_version(headers)
        beta = "anthropic-beta" in headers
        call = parse_messages(body, self._settings, version=version, beta=beta)
        if call.marks:
            call.cached = self._cache.read(call.marks, now=now)
            uncached = max(0, call.estimate - call.cached)
            call.charge = Charge(uncached, uncached)
        return call

    def headers(self, ident: str, latency: float) -> str:
        """Return the header lines of every answer."""
        del latency
        return (
            f"request-id: req_{ident}\r\n"
            f"anthropic-organization-id: {self._settings.organization}\r\n"
        )

    def quota_headers(self, domain: Domain, *, now: float) -> str:
        """Return the anthropic-ratelimit headers that show the state of a quota."""
        settings, wall = self._settings, self._wall + now
        if settings.quota_headers == "off":
            return ""
        shown, text = domain.shown, ""
        requests = shown.get("rpm") or shown.get("rpd")
        if requests is not None:
            left = max(0, math.floor(requests.level + 1e-6))
            text = _header_lines("requests", requests.limit, left, requests.reset, wall)
        for unit, name in (("input-tokens", "itpm"), ("output-tokens", "otpm")):
            if name in shown:
                text += _token_lines(unit, (shown[name],), wall)
        # Of all tokens: the limit on their sum if there is one, else the sum of their limits.
        total = shown.get("tpm") or shown.get("tpd")
        parts = (total,) if total else tuple(shown[n] for n in ("itpm", "otpm") if n in shown)
        return text + _token_lines("tokens", parts, wall) if parts else text

    def rejection(self, decision: Decision, call: MessagesRequest, *, now: float) -> AnthropicError:
        """Return the refusal that tells of a decision against a request."""
        settings = self._settings
        if decision.reason == "insufficient_quota":
            return self._not_paid_for(self._wall + now)
        if decision.reason == "ramp":
            return AnthropicError(
                429,
                f"This request would exceed your organization's ({settings.organization}) maximum "
                "usage increase rate for input tokens per minute. Raise your usage gradually.",
                code="ramp_limit_exceeded",
            )
        subject = f"(org: {settings.organization}, model: {call.model})"
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

    def _not_paid_for(self, wall: float) -> AnthropicError:
        if self._settings.credit_error == "balance":
            return AnthropicError(
                402,
                "Your credit balance is too low to access the Anthropic API. "
                "Please go to Plans & Billing to upgrade or purchase credits.",
            )
        now = time.gmtime(wall)
        year, month = (now.tm_year + 1, 1) if now.tm_mon == 12 else (now.tm_year, now.tm_mon + 1)
        regain = f"You will regain access on {year}-{month:02}-01 at 00:00 UTC."
        if self._settings.credit_error == "spend_limit":
            return AnthropicError(
                400, f"You have reached your specified API usage limits. {regain}"
            )
        message = f"You have reached your API usage limits. {regain}"
        return AnthropicError(429, message, code="enforced_spend_limit_reached")

    def whole(self, call: MessagesRequest, said: Answer, *, ident: str, now: float) -> bytes:
        """Return the body of a message."""
        del now
        return message(call, said, ident=ident)

    def events(self, call: MessagesRequest, said: Answer, *, ident: str, now: float) -> list[bytes]:
        """Return the events of a streamed message."""
        del now
        return events(call, said, ident=ident)

    def produced(self, said: Answer) -> int:
        """Return the answer's tokens."""
        return said.tokens

    def used(self, call: MessagesRequest, said: Answer) -> Charge:
        """Return what was really used; what the cache held is free."""
        uncached = call.prompt_tokens - call.cached
        return Charge(uncached + said.tokens, uncached, said.tokens)

    def answered(self, call: MessagesRequest, *, now: float) -> None:
        """Keep the marked beginnings of the prompt."""
        if call.marks:
            self._cache.write(call.marks, now=now)

    def model(self, headers: Mapping[str, str], name: str, *, now: float) -> bytes:
        """Return a model, or the list of all models without a name."""
        check_version(headers)
        created, names = format_instant(int(self._wall + now)), self._settings.models
        if name and names and name not in names:
            raise AnthropicError(404, f"model: {name}")
        models = [
            {
                "type": "model",
                "id": one,
                "display_name": one,
                "created_at": created,
                "lifecycle": "active",
                "max_input_tokens": self._settings.context_tokens,
                "max_tokens": self._settings.context_tokens,
            }
            for one in ((name,) if name else names or ("simulated",))
        ]
        if name:
            return orjson.dumps(models[0])
        ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]}
        return orjson.dumps({"data": models, "has_more": False, **ends})

    def batch_api(self, store: Store, carry: Callable[[JobRecord], object]) -> AnthropicBatches:
        """Return the batch API, with its files and jobs in a store."""
        return AnthropicBatches(self._settings, store, carry)

    def unknown(self, method: str, path: str) -> AnthropicError:
        """Return the 404 for a path that does not exist."""
        del method, path
        return AnthropicError(404, "Not Found")

    def not_allowed(self, allowed: str) -> AnthropicError:
        """Return the 405."""
        del allowed
        return AnthropicError(405, "Method Not Allowed")

    def unreadable(self, status: int, message: str) -> AnthropicError:
        """Return the error for a request refused before it was read."""
        return AnthropicError(status, message)


def _header_lines(unit: str, limit: float, remaining: int, reset: float, wall: float) -> str:
    instant = format_instant(math.ceil(wall + reset - 1e-6))
    return (
        f"anthropic-ratelimit-{unit}-limit: {int(limit)}\r\n"
        f"anthropic-ratelimit-{unit}-remaining: {remaining}\r\n"
        f"anthropic-ratelimit-{unit}-reset: {instant}\r\n"
    )


def _thousands(level: float) -> int:
    """Round what is left to thousands, as the real service does."""
    return _THOUSAND * math.floor(max(0.0, level) / _THOUSAND + 0.5)


def _token_lines(unit: str, buckets: tuple[Bucket, ...], wall: float) -> str:
    limit = sum(bucket.limit for bucket in buckets)
    left = sum(max(0.0, bucket.level) for bucket in buckets)
    reset = max(bucket.reset for bucket in buckets)
    return _header_lines(unit, limit, _thousands(left), reset, wall)
