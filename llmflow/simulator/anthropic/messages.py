"""The Anthropic dialect: ``/v1/messages``, with separate quotas of input and output.

Input is charged on arrival by an estimate and settled to what it was, without
what the cache held; output is charged while it is produced, whatever
``max_tokens`` says, and may go into debt: no request is let in before that is paid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from llmflow.simulator.anthropic.message_batches import AnthropicBatches
from llmflow.simulator.anthropic.message_request import check_version, parse_messages
from llmflow.simulator.anthropic.message_wire import (
    AnthropicError,
    MessagesRequest,
    PromptCache,
    events,
    format_instant,
    message,
)
from llmflow.simulator.dialect import Dialect
from llmflow.simulator.exchange import Answer, bearer
from llmflow.simulator.quota import Bucket, Charge, Decision
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


class AnthropicDialect(Dialect):
    """Speaks and charges as Anthropic does."""

    path = "/messages"
    own_header = "anthropic-version"
    error = AnthropicError
    batch_api = AnthropicBatches
    charges_rejections = False
    cut_body = b'{"id":"msg_0","type":"message","role":"assistant","content":[{"type":'
    header_lines = "request-id: req_{ident}\r\nanthropic-organization-id: {organization}\r\n"
    quota_names = "anthropic-ratelimit-{unit}-{what}"
    quota_units: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "requests": ("rpm", "rpd"),
        "input-tokens": ("itpm",),
        "output-tokens": ("otpm",),
        "tokens": ("tpm", "tpd"),
    }
    whole = staticmethod(message)
    events = staticmethod(events)

    def __init__(self, settings: SimulatorSettings, *, wall: float) -> None:
        super().__init__(settings, wall=wall)
        self._cache = PromptCache()

    def key(self, headers: Mapping[str, str]) -> str:
        """Return the key of a request, or an empty text."""
        return headers.get("x-api-key", "") or bearer(headers)

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

    def shown_buckets(self, unit: str, shown: Mapping[str, Bucket]) -> tuple[Bucket, ...]:
        """Return the limit on all tokens, or those of its parts."""
        buckets = super().shown_buckets(unit, shown)
        if buckets or unit != "tokens":
            return buckets
        return tuple(shown[name] for name in ("itpm", "otpm") if name in shown)

    def shown_rest(self, unit: str, level: float) -> int:
        """Return what is left; tokens are rounded to thousands."""
        if unit == "requests":
            return super().shown_rest(unit, level)
        return _THOUSAND * math.floor(level / _THOUSAND + 0.5)

    def shown_reset(self, seconds: float, *, now: float) -> str:
        """Return the moment of a full bucket."""
        return format_instant(math.ceil(self._wall + now + seconds - 1e-6))

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
        return super().model(headers, name, now=now)

    def shown_model(self, name: str, created: int) -> dict[str, Any]:
        """Return a model as it is shown."""
        return {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": format_instant(created),
            "lifecycle": "active",
            "max_input_tokens": self._settings.context_tokens,
            "max_tokens": self._settings.context_tokens,
        }

    def model_list(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the list of all models as it is shown."""
        ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]}
        return {"data": models, "has_more": False, **ends}
