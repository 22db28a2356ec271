"""The OpenAI chat dialect: ``/chat/completions``, charged by ``max_tokens`` on arrival."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from llmflow.simulator.dialect import Dialect
from llmflow.simulator.openai.chat_request import parse_chat
from llmflow.simulator.openai.chat_wire import (
    ChatRequest,
    OpenAIError,
    chunks,
    completion,
    format_duration,
)
from llmflow.simulator.openai.file_batches import OpenAIBatches
from llmflow.simulator.quota import Decision

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


class OpenAIDialect(Dialect):
    """Speaks and charges as OpenAI does."""

    path = "/chat/completions"
    error = OpenAIError
    batch_api = OpenAIBatches
    cut_body = b'{"id":"chatcmpl-0","object":"chat.completion","choices":[{"index":0,'
    header_lines = (
        "x-request-id: req_{ident}\r\nopenai-organization: {organization}\r\n"
        "openai-processing-ms: {milliseconds}\r\nopenai-version: 2020-10-01\r\n"
    )
    quota_names = "x-ratelimit-{what}-{unit}"
    whole = staticmethod(completion)
    events = staticmethod(chunks)

    def read(self, headers: Mapping[str, str], body: bytes, *, now: float) -> ChatRequest:
        """Read a chat completion request, or raise an `OpenAIError`."""
        del headers, now
        return parse_chat(body, self._settings)

    def shown_reset(self, seconds: float, *, now: float) -> str:
        """Return the time until a bucket is full."""
        del now
        return format_duration(seconds)

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

    def shown_model(self, name: str, created: int) -> dict[str, Any]:
        """Return a model as it is shown."""
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "llmflow-simulator",
        }

    def model_list(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the list of all models as it is shown."""
        return {"object": "list", "data": models}
