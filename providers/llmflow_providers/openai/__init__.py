"""OpenAI's chat completions, and every server that speaks the same dialect.

What other servers do differently is in `llmflow_providers.openai.dialects`.

Sources: OpenAI's API reference, its guides on rate limits and on error codes
(autumn 2026), and error bodies seen of compatible servers (vLLM, Groq, Azure,
OpenRouter, DeepSeek, xAI).
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final

from llmflow import lenient_json
from llmflow.errors import BadReplyError, MissingKeyError, ProviderError
from llmflow.provider import key_digest
from llmflow.retry import Retry
from llmflow.types import (
    Charge,
    Quota,
    QuotaSignal,
    Request,
    Response,
    Usage,
    WireReply,
    WireRequest,
)
from llmflow_providers import error_patterns as endings
from llmflow_providers.base import (
    EMPTY,
    check_key,
    checked_base_url,
    count,
    dollars,
    dump_body,
    mapping,
    said,
    text_of,
    tokens,
)
from llmflow_providers.error_body import ErrorDetails, error_details, read_error
from llmflow_providers.fields import COMPATIBLE, OPENAI
from llmflow_providers.openai.dialects import dialect_at, dialect_named
from llmflow_providers.openai.errors import classify

if TYPE_CHECKING:
    from llmflow_providers.openai.batch import OpenAIBatch

BASE_URL: Final = "https://api.openai.com/v1"
KEY_VARIABLE: Final = "OPENAI_API_KEY"
_URL_VARIABLE: Final = "OPENAI_BASE_URL"
_TICKS_PER_DOLLAR: Final = 1e10
_CHARACTERS_PER_TOKEN: Final = 4


class OpenAIProvider:
    """Chat completions at OpenAI or a compatible server.

    Args:
        model: the model's name there, such as ``gpt-6-luna``.
        base_url: where the API is, up to and with ``/v1``; else ``OPENAI_BASE_URL``, else
            OpenAI's own.
        api_key: the key, or "" for none; else ``OPENAI_API_KEY``. Other servers than OpenAI's
            may need none.
        dialect: whose rules the server at `base_url` follows, such as ``groq`` for a gateway
            to Groq; by default its host decides.

    Raises:
        ConfigurationError: the base URL is no HTTP URL, or holds a password; or there is no
            such dialect.
    """

    name = "openai"
    key_variable = KEY_VARIABLE
    default_quota: Quota | None = None
    default_retry: Retry | None = None
    reserves_output = True

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        dialect: str | None = None,
    ) -> None:
        self.model = model
        self.base_url = checked_base_url(base_url or self._default_base_url())
        self.dialect = dialect_named(dialect) if dialect else dialect_at(self.base_url)
        self.reserves_output = self.dialect.reserves_output
        # "" says "no key": OpenAI's own must not reach a server that asks for none.
        self._key = (os.environ.get(KEY_VARIABLE) if api_key is None else api_key) or None
        self._official = self.base_url == BASE_URL
        self._url = f"{self.base_url}/chat/completions"
        self._key_digest = key_digest(self._key)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"

    @staticmethod
    def _default_base_url() -> str:
        return os.environ.get(_URL_VARIABLE) or BASE_URL

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, base_url={self.base_url!r})"

    @property
    def domain(self) -> Hashable:
        """One quota per server, key and model; the key is there as a digest only."""
        return (self.name, self.base_url, self._key_digest, self.model)

    @property
    def endpoint(self) -> str:
        """Where it is: what another server answers is another answer."""
        return self.base_url

    @property
    def known_options(self) -> frozenset[str]:
        """The fields of its body that a call may give as keywords."""
        return OPENAI if self.dialect.name == "openai" else COMPATIBLE

    def prepare(self) -> None:
        """Check that there is a key where one is needed, and that it can be sent."""
        if self._key is None and self._official:
            raise MissingKeyError(
                f"{self.name}/{self.model} needs an API key: set the environment variable "
                f"{KEY_VARIABLE} (or, in Python, pass api_key=...)"
            )
        check_key(self._key, name=self.name, variable=KEY_VARIABLE)

    def encode(self, request: Request) -> WireRequest:
        """Turn a request into a chat completion call."""
        messages: list[Mapping[str, Any]] = list(request.messages)
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": request.system})
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        if request.max_tokens is not None:
            body[self.dialect.bound_of(request.model)] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.options:
            body.update(request.options)
        return WireRequest("POST", self._url, self._headers, dump_body(body))

    def decode(self, reply: WireReply) -> Response:
        """Turn a chat completion into a response, or raise the error that it is."""
        if not 200 <= reply.status < 300:
            raise self._error(reply)
        try:
            return self.understand(lenient_json.loads(reply.body), reply)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self._unusable(reply) from None

    def understand(self, data: Any, reply: WireReply) -> Response:
        """Turn a chat completion that was parsed already into a response.

        Args:
            data: the completion.
            reply: what it came with: its headers count, its body does not.

        Raises:
            ProviderError: it is the answer of a failure.
            LookupError, TypeError, AttributeError: it is no chat completion.
        """
        choice = data["choices"][0]
        message: Any = choice.get("message")
        if message is None:
            message = _no_message(choice)
        text = text_of(message.get("content")) or text_of(message.get("refusal"))
        finish_reason = choice.get("finish_reason")
        if not isinstance(finish_reason, str):
            finish_reason = None
        elif finish_reason != "stop":
            finish_reason = endings.plain(finish_reason)
        usage = mapping(data.get("usage"))
        model = data.get("model")
        response = Response(
            text=text,
            usage=_usage(usage),
            finish_reason=finish_reason,
            model=model if model and isinstance(model, str) else self.model,
            provider=self.name,
            request_id=reply.headers.get("x-request-id") or data.get("id"),
            cost=_cost(usage),
            raw=data,
        )
        if finish_reason not in endings.WHOLE or not text:
            self._check_ending(response, choice, reply)
        return response

    @property
    def batch(self) -> OpenAIBatch | None:
        """Its batch API; None where the server is known to have none of this kind."""
        from llmflow_providers.openai.batch import BATCH_LIMITS, OpenAIBatch

        limits = BATCH_LIMITS.get(self.dialect.name)
        return None if limits is None else OpenAIBatch(self, limits)

    @property
    def key(self) -> str | None:
        """The key, to be masked in what others write."""
        return self._key

    def call(self, method: str, path: str, body: bytes = b"", **headers: str) -> WireRequest:
        """Return a request to another part of the same API.

        Args:
            method: of HTTP.
            path: below the base URL.
            body: what to send.
            **headers: in place of those that go with JSON, with ``_`` for ``-``.
        """
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return WireRequest(method, f"{self.base_url}{path}", {**self._headers, **given}, body)

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
        return classify(
            details,
            status=reply.status if status is None else status,
            headers=reply.headers,
            now=reply.received_at,
            dialect=self.dialect,
        )

    def signals(self, reply: WireReply) -> list[QuotaSignal]:
        """Read the ``x-ratelimit-*`` headers."""
        return self.dialect.signals(reply.headers, received_at=reply.received_at)

    def reserve(self, request: Request) -> Charge:
        """Return what arrives at the limiter, by the server's rule.

        OpenAI's own is max(max_tokens, characters / 4) (guide on rate limits, autumn
        2026): tokens per minute are charged when the request arrives, from max_tokens
        and the number of characters, whatever the answer turns out to be.
        """
        characters = len(request.system or "")
        for message in request.messages:
            characters += _characters(message.get("content"))
        prompt = math.ceil(characters / _CHARACTERS_PER_TOKEN)
        most = request.max_tokens or count(request.options.get("max_completion_tokens"))
        return self.dialect.reserve(float(prompt), float(most))

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Return what was charged in the end: at OpenAI the reserve, elsewhere what was used."""
        return self.dialect.settle(charge, usage)

    def _error(self, reply: WireReply) -> ProviderError:
        return self.classified(self.details(reply), reply)

    def _unusable(self, reply: WireReply) -> ProviderError:
        """Return the error for a 200 that holds no answer."""
        details = self.details(reply)
        if details.is_error:
            return self.classified(details, reply, details.status)
        message = f"HTTP {reply.status} without a chat completion; it begins: {details.message}"
        return BadReplyError(message, status=reply.status)

    def _check_ending(
        self, response: Response, choice: Mapping[str, Any], reply: WireReply
    ) -> None:
        """Raise the failure that an answer is: by its ending, or an error beside it."""
        ending = response.finish_reason
        if endings.is_filtered(ending):
            assert ending is not None
            raise endings.filtered(
                ending,
                text=response.text,
                usage=response.usage,
                cost=response.cost,
                request_id=response.request_id,
            )
        failed = endings.is_failure(ending)
        has_content = response.text or mapping(choice.get("message")).get("tool_calls")
        if has_content and ending is not None and not failed:
            return
        for error in (choice.get("error"), response.raw.get("error")):
            if not error:
                continue
            details = error_details({"error": error}, secret=self._key)
            if details.status == 200 and failed:
                continue  # the ending says more
            raise self.classified(details, reply, details.status)
        if failed:
            assert ending is not None
            raise endings.failed(ending)


def _no_message(choice: Mapping[str, Any]) -> Mapping[str, Any]:
    if choice.get("error"):
        return EMPTY
    raise TypeError("a choice without a message")


def _characters(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    return len(text_of(content))


def _cost(usage: Mapping[str, Any]) -> float | None:
    """Return what the server says that it charges: OpenRouter in dollars, xAI in 1e-10 of one."""
    if "cost" not in usage and "cost_in_usd_ticks" not in usage:
        return None
    ticks = dollars(usage.get("cost_in_usd_ticks"))
    return dollars(usage.get("cost")) if ticks is None else ticks / _TICKS_PER_DOLLAR


def _usage(usage: Mapping[str, Any]) -> Usage:
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not said(read, written):
        return Usage()
    prompt = mapping(usage.get("prompt_tokens_details"))
    cached = (
        prompt.get("cached_tokens")
        or usage.get("prompt_cache_hit_tokens")  # DeepSeek
        or usage.get("cached_tokens")  # Together
    )
    kept = prompt.get("cache_write_tokens")
    reasoned = mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")
    prompt_tokens, output = count(read), count(written)
    if not (cached or kept or reasoned):
        return Usage(input_tokens=prompt_tokens, output_tokens=output)
    reasoning = count(reasoned)
    if reasoning and prompt_tokens + output + reasoning == count(usage.get("total_tokens")):
        output += reasoning  # xAI counts them beside the completion, not within
    return tokens(
        prompt_tokens, output, cached=count(cached), reasoning=reasoning, written=count(kept)
    )
