"""Anthropic's Messages API: Claude, with input and output tokens limited apart.

Sources: Anthropic's API reference and its pages on rate limits and on errors
(August 2026), and the wire types of its Python SDK 2.12.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from llmflow import errors
from llmflow.parts import texts
from llmflow.tokens import estimate_tokens
from llmflow.types import (
    Charge,
    MarkedPrefix,
    QuotaSignal,
    Request,
    Response,
    Usage,
    WireReply,
    WireRequest,
)
from llmflow_providers import finish_reasons, words
from llmflow_providers.base import (
    HTTPProvider,
    LimitHeaders,
    count,
    dump_body,
    mapping,
    said,
    tokens,
    told_limits,
    word,
)
from llmflow_providers.error_rules import ANTHROPIC_TEXTS, ErrorTable
from llmflow_providers.schema_asking import SchemaAsking

if TYPE_CHECKING:
    from llmflow_providers.anthropic.anthropic_batch import AnthropicBatch
    from llmflow_providers.anthropic.message_output import MessageOutput

VERSION: Final = "2023-06-01"
DEFAULT_MAX_TOKENS: Final = 4096
"""The bound of an answer where the request has none: the API refuses requests without one."""

FINISH_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
"""Anthropic's `stop_reason` in the words that the other providers use; others stay as they are."""

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})
# Model classes with one bucket for all their versions; elsewhere each version has its own.
_CLASS: Final = re.compile(r"(claude-(?:opus|sonnet)-4)(?:-.*)?")
_VERSION_ENDING: Final = re.compile(r"-(?:\d{8}|latest)$")
_APART: Final = tuple(
    LimitHeaders.named(dimension, f"anthropic-ratelimit-{unit}-{{}}")
    for dimension, unit in (
        ("rpm", "requests"),
        ("itpm", "input-tokens"),
        ("otpm", "output-tokens"),
    )
)
_TOGETHER: Final = LimitHeaders.named("tpm", "anthropic-ratelimit-tokens-{}")
FIELDS: Final = words("""
    cache_control container diagnostics inference_geo metadata output_config service_tier
    speed stop_sequences stream thinking tool_choice tools top_k top_p user_profile_id
    workspace_id
""")
"""The fields of a message that a call may give as keywords (its SDK, 2.14)."""

# A 429 can mean "wait", "grow more slowly" and "pay first", and a 400 "pay first" too.
ERRORS: Final = ErrorTable(
    # `error.details.error_code`.
    by_code={
        "enforced_spend_limit_reached": errors.BillingError,
        "contract_spend_limit_reached": errors.BillingError,
        "ramp_limit_exceeded": errors.RampLimitError,
        "organization_on_hold": errors.AuthenticationError,
        "cmek_key_disabled": errors.AuthenticationError,
        "cmek_key_unreachable": errors.OverloadedError,
        "request_body_timeout": errors.RequestTimeoutError,
    },
    by_text=(
        *ANTHROPIC_TEXTS,
        ("daily rate limit", frozenset({429}), errors.QuotaExhaustedError),
        ("per day", frozenset({429}), errors.QuotaExhaustedError),
    ),
    by_type={
        "authentication_error": errors.AuthenticationError,
        "billing_error": errors.BillingError,
        "budget_exceeded": errors.BillingError,  # LiteLLM's proxy
        "no_db_connection": errors.AuthenticationError,  # LiteLLM's proxy: a key it does not know
        "permission_error": errors.AuthenticationError,
        "not_found_error": errors.ModelNotFoundError,
        "conflict_error": errors.ConflictError,
        "request_too_large": errors.InvalidRequestError,
        "rate_limit_error": errors.RateLimitError,
        "api_error": errors.ServerError,
        "timeout_error": errors.RequestTimeoutError,
        "overloaded_error": errors.OverloadedError,
    },
    by_status={402: errors.BillingError},  # of proxies and Cloudflare, without a type
)


class AnthropicProvider(SchemaAsking, HTTPProvider):
    """Messages at Anthropic, or at a server that speaks its dialect.

    >>> AnthropicProvider("claude-sonnet-5-5", base_url="http://localhost:8000/v1").base_url
    'http://localhost:8000'

    Args:
        model: the model's name there, such as ``claude-sonnet-5-5``.
        base_url: where the API is, with or without ``/v1``; else ``ANTHROPIC_BASE_URL``, else
            Anthropic's own.
        api_key: the key, or "" for none; else ``ANTHROPIC_API_KEY``. Other servers than
            Anthropic's may need none.

    Raises:
        ConfigurationError: the base URL is no HTTP URL, or holds a password.
    """

    name = "anthropic"
    key_variable = "ANTHROPIC_API_KEY"
    url_variable = "ANTHROPIC_BASE_URL"
    official_url = "https://api.anthropic.com"
    path = "/v1/messages"
    answer = "a message"
    error_table = ERRORS
    known_options = FIELDS
    reserves_output = False
    default_max_tokens = DEFAULT_MAX_TOKENS

    @staticmethod
    def address(url: str) -> str:
        """Return a base URL without ``/v1``."""
        return HTTPProvider.address(url).removesuffix("/v1").rstrip("/")

    def own_headers(self) -> Mapping[str, str]:
        """Return the API's version, and the key if there is one."""
        return {"anthropic-version": VERSION, **({"x-api-key": self.key} if self.key else {})}

    @property
    def domain(self) -> Hashable:
        """One quota per server, key digest and class of models."""
        return (self.name, self.base_url, self._key_digest, model_class(self.model))

    def encode(self, request: Request) -> WireRequest:
        """Turn a request into a call of the Messages API.

        Raises:
            ConfigurationError: its option ``cache_system`` is neither ``"5m"`` nor ``"1h"``; or
                the server cannot be told the schema that it wants, or its options speak of the
                answer's form themselves.
        """
        return WireRequest("POST", self._url, self._headers, dump_body(self._body(request)))

    def marked_prefix(self, request: Request) -> MarkedPrefix | None:
        """Return the marked prefix of a prompt, if cacheable, or None."""
        from llmflow_providers.anthropic.prompt_cache import marked_prefix

        return marked_prefix(self._body(request))

    def _body(self, request: Request) -> dict[str, Any]:
        output = self.typed.sent(request) if request.wanted else None
        messages: Sequence[Mapping[str, Any]] = request.messages
        system: Any = request.system
        if output is not None and output.instructions:
            from llmflow.typed.instructions import add_instructions

            messages = list(messages)
            system = add_instructions(output.instructions, system, messages)
        if any(each.get("role") in _SYSTEM_ROLES for each in messages):
            system = _joined_system(system, messages)
            messages = [each for each in messages if each.get("role") not in _SYSTEM_ROLES]
        body: dict[str, Any] = {
            "model": request.model,
            "max_tokens": request.max_tokens or DEFAULT_MAX_TOKENS,
            "messages": messages,
        }
        if system:
            body["system"] = system
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.options:
            body.update(request.options)
            if "cache_system" in body:
                from llmflow_providers.anthropic.prompt_cache import mark_system

                mark_system(body)
        if output is not None:
            body.update(output.fields)
        return body

    def _typed_output(self) -> MessageOutput:
        from llmflow_providers.anthropic.message_output import MessageOutput

        is_official = self.base_url == self.official_url
        return MessageOutput(self.model, is_official=is_official, who=f"{self.name}/{self.model}")

    def understand(self, data: Any, reply: WireReply) -> Response:
        """Turn a message into a response. Arguments as `HTTPProvider.understand`."""
        blocks = data["content"]
        text = "".join([each["text"] for each in blocks if each["type"] == "text"])
        stop_reason = data.get("stop_reason")
        if not isinstance(stop_reason, str):
            stop_reason = None
        if len(blocks) > 1 or not text:
            text, stop_reason = _answer(blocks, text, stop_reason)
        response = Response(
            text=text,
            usage=_usage(mapping(data.get("usage"))),
            finish_reason=FINISH_REASONS.get(stop_reason) or finish_reasons.plain(stop_reason)
            if stop_reason
            else None,
            model=word(data.get("model")) or self.model,
            provider=self.name,
            request_id=reply.headers.get("request-id") or word(data.get("id")),
            raw=data,
        )
        if stop_reason not in finish_reasons.WHOLE or not text:
            self._check_ending(response, stop_reason, reply)
        return response

    def _check_ending(self, response: Response, stop_reason: str | None, reply: WireReply) -> None:
        """Raise the failure of an answer, by finish reason or error."""
        data = response.raw
        is_empty = not data["content"] or (stop_reason is None and not response.text)
        counts = is_empty or finish_reasons.is_failure(stop_reason)
        finish_reasons.check(
            response,
            stop_reason,
            beside=[data.get("error")] if counts else (),
            error_of=lambda each: self.error_beside(each, reply),
            said=mapping(data.get("stop_details")).get("explanation"),
        )

    @property
    def batch(self) -> AnthropicBatch:
        """Its batch API."""
        from llmflow_providers.anthropic.anthropic_batch import AnthropicBatch

        return AnthropicBatch(self)

    def signals(self, reply: WireReply) -> list[QuotaSignal]:
        """Read the ``anthropic-ratelimit-*`` headers."""
        return anthropic_signals(reply.headers, received_at=reply.received_at)

    def reserve(self, request: Request) -> Charge:
        """Return the prompt's estimated tokens, and the answer's upper bound.

        Requests are limited by input and output tokens apart. Input is estimated by the
        server when a request arrives and corrected later; here it is estimated from the
        prompt's bytes and script. Output is charged as it is produced, whatever
        `max_tokens` says: the bound is the most that it can come to, and the limiter
        learns what it does come to. (Guide on rate limits, August 2026.)
        """
        prompt = 0
        for text in texts(request.system):
            prompt += estimate_tokens(text)
        for message in request.messages:
            for text in texts(message.get("content")):
                prompt += estimate_tokens(text)
        if request.wanted:
            prompt += self.typed.tokens(request)
        most = request.max_tokens or count(request.options.get("max_tokens")) or DEFAULT_MAX_TOKENS
        return Charge(1.0, float(prompt + most), float(prompt), float(most))

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Return the real charge; tokens read from the cache are free."""
        if not usage.total_tokens:
            return charge
        used = usage.input_tokens - usage.cached_tokens
        output = usage.output_tokens
        return Charge(charge.requests, float(used + output), float(used), float(output))


def anthropic_signals(headers: Mapping[str, str], *, received_at: float) -> list[QuotaSignal]:
    """Read what Anthropic's headers, with lower-case names, say of the quota.

    The pair ``tokens`` repeats the tightest of the other limits: it counts only where the others
    are missing.
    """
    found = told_limits(_APART, headers, received_at)
    if _TOGETHER.limit in headers and all(each.dimension == "rpm" for each in found):
        found += told_limits([_TOGETHER], headers, received_at)
    return found


def model_class(model: str) -> str:
    """Return what Anthropic counts a model's requests under.

    >>> model_class("claude-sonnet-4-6"), model_class("claude-haiku-4-5-20251001")
    ('claude-sonnet-4', 'claude-haiku-4-5')
    """
    shared = _CLASS.fullmatch(model)
    return shared[1] if shared else _VERSION_ENDING.sub("", model)


def _answer(blocks: Any, text: str, stop_reason: str | None) -> tuple[str, str | None]:
    """Return text and ending of an answer that may be given as a tool call."""
    if all(each["type"] != "tool_use" for each in blocks):
        return text, stop_reason
    from llmflow_providers.anthropic.message_output import answer_in_blocks
    from llmflow_providers.typed_output import ending_of_answer

    answer = answer_in_blocks(blocks)
    return (text, stop_reason) if answer is None else (answer, ending_of_answer(stop_reason))


def _joined_system(system: str | None, messages: Sequence[Mapping[str, Any]]) -> Any:
    """Return all instructions in one: a text, or blocks."""
    parts: list[Any] = [system] if system else []
    parts += [each.get("content") for each in messages if each.get("role") in _SYSTEM_ROLES]
    parts = [each for each in parts if each]
    if all(isinstance(each, str) for each in parts):
        return "\n\n".join(parts)
    blocks: list[Any] = []
    for each in parts:
        if isinstance(each, list | tuple):
            blocks.extend(each)
        else:
            blocks.append({"type": "text", "text": each} if isinstance(each, str) else each)
    return blocks


def _usage(usage: Mapping[str, Any]) -> Usage:
    plain, output = usage.get("input_tokens"), usage.get("output_tokens")
    read = usage.get("cache_read_input_tokens")
    written = usage.get("cache_creation_input_tokens")
    if not said(plain, output, read, written):
        return Usage()
    read, written = count(read), count(written)
    by_duration = mapping(usage.get("cache_creation"))
    details = mapping(usage.get("output_tokens_details"))
    return tokens(
        count(plain) + written + read,
        count(output),
        cached=read,
        reasoning=count(details.get("thinking_tokens")),
        written=written,
        written_1h=count(by_duration.get("ephemeral_1h_input_tokens")),
    )
