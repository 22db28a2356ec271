"""Anthropic's Messages API: Claude, with input and output tokens limited apart.

Sources: Anthropic's API reference and its pages on rate limits and on errors
(August 2026), and the wire types of its Python SDK 2.12.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from llmflow import lenient_json
from llmflow.errors import BadReplyError, MissingKeyError, ProviderError
from llmflow.headers import parse_number, parse_reset, server_time
from llmflow.provider import key_digest
from llmflow.retry import Retry
from llmflow.tokens import estimate_tokens
from llmflow.types import (
    Charge,
    MarkedPrefix,
    Quota,
    QuotaSignal,
    Request,
    Response,
    Usage,
    WireReply,
    WireRequest,
)
from llmflow_providers import error_patterns as endings
from llmflow_providers.anthropic.errors import classify_anthropic
from llmflow_providers.base import (
    check_key,
    checked_base_url,
    count,
    dump_body,
    mapping,
    said,
    texts,
    tokens,
)
from llmflow_providers.error_body import ErrorDetails, error_details, read_error
from llmflow_providers.fields import ANTHROPIC

if TYPE_CHECKING:
    from llmflow_providers.anthropic.batch import AnthropicBatch

BASE_URL: Final = "https://api.anthropic.com"
KEY_VARIABLE: Final = "ANTHROPIC_API_KEY"
URL_VARIABLE: Final = "ANTHROPIC_BASE_URL"
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


def _header_names(unit: str) -> tuple[str, str, str]:
    limit, remaining, reset = (
        f"anthropic-ratelimit-{unit}-{each}" for each in ("limit", "remaining", "reset")
    )
    return limit, remaining, reset


_APART: Final = tuple(
    (dimension, *_header_names(unit))
    for dimension, unit in (
        ("rpm", "requests"),
        ("itpm", "input-tokens"),
        ("otpm", "output-tokens"),
    )
)
_TOGETHER: Final = ("tpm", *_header_names("tokens"))


class AnthropicProvider:
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
    key_variable = KEY_VARIABLE
    default_quota: Quota | None = None
    default_retry: Retry | None = None
    reserves_output = False

    def __init__(
        self, model: str, *, base_url: str | None = None, api_key: str | None = None
    ) -> None:
        self.model = model
        url = checked_base_url(base_url or os.environ.get(URL_VARIABLE) or BASE_URL)
        self.base_url = url.removesuffix("/v1").rstrip("/")
        # "" says "no key": Anthropic's own must not reach a server that asks for none.
        self._key = (os.environ.get(KEY_VARIABLE) if api_key is None else api_key) or None
        self._url = f"{self.base_url}/v1/messages"
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "anthropic-version": VERSION,
        }
        self._key_digest = key_digest(self._key)
        if self._key:
            self._headers["x-api-key"] = self._key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, base_url={self.base_url!r})"

    @property
    def domain(self) -> Hashable:
        """One quota per server, key and class of models; the key is there as a digest only."""
        return (self.name, self.base_url, self._key_digest, model_class(self.model))

    @property
    def endpoint(self) -> str:
        """Where it is: what another server answers is another answer."""
        return self.base_url

    @property
    def known_options(self) -> frozenset[str]:
        """The fields of its body that a call may give as keywords."""
        return ANTHROPIC

    def prepare(self) -> None:
        """Check that there is a key where one is needed, and that it can be sent."""
        if self._key is None and self.base_url == BASE_URL:
            raise MissingKeyError(
                f"{self.name}/{self.model} needs an API key: set the environment variable "
                f"{KEY_VARIABLE} (or, in Python, pass api_key=...)"
            )
        check_key(self._key, name=self.name, variable=KEY_VARIABLE)

    def encode(self, request: Request) -> WireRequest:
        """Turn a request into a call of the Messages API.

        Raises:
            ConfigurationError: its option ``cache_system`` is neither ``"5m"`` nor ``"1h"``.
        """
        return WireRequest("POST", self._url, self._headers, dump_body(self._body(request)))

    def marked_prefix(self, request: Request) -> MarkedPrefix | None:
        """Return the marked beginning of a prompt; None if there is none that the cache keeps."""
        from llmflow_providers.anthropic.prompt_cache import marked_prefix

        return marked_prefix(self._body(request))

    @staticmethod
    def _body(request: Request) -> dict[str, Any]:
        messages: Sequence[Mapping[str, Any]] = request.messages
        system: Any = request.system
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
        return body

    def decode(self, reply: WireReply) -> Response:
        """Turn a message into a response, or raise the error that it is."""
        if not 200 <= reply.status < 300:
            raise self._error(reply)
        try:
            return self.understand(lenient_json.loads(reply.body), reply)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self._unusable(reply) from None

    def understand(self, data: Any, reply: WireReply) -> Response:
        """Turn a message that was parsed already into a response.

        Args:
            data: the message.
            reply: what it came with: its headers count, its body does not.

        Raises:
            LookupError, TypeError, AttributeError: it is no message.
        """
        blocks = data["content"]
        text = "".join([each["text"] for each in blocks if each["type"] == "text"])
        stop_reason = data.get("stop_reason")
        if not isinstance(stop_reason, str):
            stop_reason = None
        model = data.get("model")
        response = Response(
            text=text,
            usage=_usage(mapping(data.get("usage"))),
            finish_reason=_finish_reason(stop_reason) if stop_reason else None,
            model=model if isinstance(model, str) else self.model,
            provider=self.name,
            request_id=reply.headers.get("request-id") or data.get("id"),
            raw=data,
        )
        if stop_reason not in endings.WHOLE or not text:
            self._check_ending(response, stop_reason, reply)
        return response

    def _check_ending(self, response: Response, stop_reason: str | None, reply: WireReply) -> None:
        """Raise the failure that an answer is: by its ending, or an error beside it."""
        data = response.raw
        if endings.is_filtered(stop_reason):
            assert stop_reason is not None
            why = mapping(data.get("stop_details")).get("explanation")
            raise endings.filtered(
                stop_reason,
                text=response.text,
                usage=response.usage,
                request_id=response.request_id,
                said=why if isinstance(why, str) else "",
            )
        failed = endings.is_failure(stop_reason)
        error = data.get("error")
        if error and (failed or not data["content"] or (stop_reason is None and not response.text)):
            details = error_details({"type": "error", "error": error}, secret=self._key)
            if not failed or details.status != 200:
                raise self.classified(details, reply, details.status)
        if failed:
            assert stop_reason is not None
            raise endings.failed(stop_reason)

    @property
    def batch(self) -> AnthropicBatch:
        """Its batch API."""
        from llmflow_providers.anthropic.batch import AnthropicBatch

        return AnthropicBatch(self)

    @property
    def key(self) -> str | None:
        """The key, to be masked in what others write."""
        return self._key

    def call(self, method: str, path: str, body: bytes = b"") -> WireRequest:
        """Return a request to another part of the same API.

        Args:
            method: of HTTP.
            path: below the base URL.
            body: what to send.
        """
        return WireRequest(method, f"{self.base_url}{path}", self._headers, body)

    def details(self, reply: WireReply) -> ErrorDetails:
        """Read what a reply says of an error, without the key."""
        return read_error(reply, secret=self._key)

    def classified(
        self, details: ErrorDetails, reply: WireReply, status: int | None = None
    ) -> ProviderError:
        """Return the error that a reply means.

        Args:
            details: what is said of it.
            reply: what it came with.
            status: in place of the reply's.
        """
        return classify_anthropic(
            details,
            status=reply.status if status is None else status,
            headers=reply.headers,
            now=reply.received_at,
        )

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
        most = request.max_tokens or count(request.options.get("max_tokens")) or DEFAULT_MAX_TOKENS
        return Charge(1.0, float(prompt + most), float(prompt), float(most))

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Return what was used; what was read from the prompt cache is free."""
        if not usage.total_tokens:
            return charge
        used = usage.input_tokens - usage.cached_tokens
        output = usage.output_tokens
        return Charge(charge.requests, float(used + output), float(used), float(output))

    def _error(self, reply: WireReply) -> ProviderError:
        return self.classified(self.details(reply), reply)

    def _unusable(self, reply: WireReply) -> ProviderError:
        """Return the error for a 200 that holds no message."""
        details = self.details(reply)
        if details.is_error:
            return self.classified(details, reply, details.status)
        return BadReplyError(
            f"HTTP {reply.status} without a message; it begins: {details.message}",
            status=reply.status,
        )


def anthropic_signals(headers: Mapping[str, str], *, received_at: float) -> list[QuotaSignal]:
    """Read what Anthropic's headers say of the quota.

    The pair ``tokens`` repeats the tightest of the other limits: it counts only where the
    others are missing.

    Args:
        headers: a reply's headers, with lower-case names.
        received_at: when it came, in seconds since 1970.
    """
    found: list[QuotaSignal] = []
    now: float | None = None
    for dimension, limit, remaining, reset in _APART:
        if limit in headers:
            if now is None:
                now = server_time(headers, received_at)
            found.append(_signal(headers, dimension, limit, remaining, reset, now))
    has_tokens = any(each.dimension != "rpm" for each in found)
    if not has_tokens and _TOGETHER[1] in headers:
        found.append(_signal(headers, *_TOGETHER, now or server_time(headers, received_at)))
    return found


def model_class(model: str) -> str:
    """Return what Anthropic counts a model's requests under.

    >>> model_class("claude-sonnet-4-6"), model_class("claude-haiku-4-5-20251001")
    ('claude-sonnet-4', 'claude-haiku-4-5')
    """
    shared = _CLASS.fullmatch(model)
    return shared[1] if shared else _VERSION_ENDING.sub("", model)


def _signal(
    headers: Mapping[str, str], dimension: str, limit: str, remaining: str, reset: str, now: float
) -> QuotaSignal:
    moment = headers.get(reset)
    return QuotaSignal(
        dimension,
        parse_number(headers.get(limit)),
        parse_number(headers.get(remaining)),
        parse_reset(moment, now=now) if moment is not None else None,
    )


def _finish_reason(stop_reason: str) -> str:
    return FINISH_REASONS.get(stop_reason) or endings.plain(stop_reason)


def _joined_system(system: str | None, messages: Sequence[Mapping[str, Any]]) -> Any:
    """Return the instructions in one: a text, or blocks where a message has blocks."""
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
