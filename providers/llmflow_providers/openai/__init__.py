"""OpenAI's chat completions, and every server that speaks the same dialect.

What other servers do differently is in `llmflow_providers.openai.dialects`.

Sources: OpenAI's API reference, its guides on rate limits and on error codes
(autumn 2026), and error bodies seen of compatible servers (vLLM, Groq, Azure,
OpenRouter, DeepSeek, xAI).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from llmflow.errors import ProviderError
from llmflow.types import Charge, QuotaSignal, Request, Response, Usage, WireReply, WireRequest
from llmflow_providers import finish_reasons
from llmflow_providers.base import (
    EMPTY,
    HTTPProvider,
    count,
    dollars,
    dump_body,
    mapping,
    said,
    text_of,
    tokens,
    told_limits,
    word,
)
from llmflow_providers.error_body import ErrorDetails
from llmflow_providers.openai.dialects import (
    ERRORS,
    Dialect,
    Rule,
    classify,
    dialect_at,
    dialect_named,
)
from llmflow_providers.schema_asking import SchemaAsking

if TYPE_CHECKING:
    from llmflow_providers.openai.chat_output import ChatOutput
    from llmflow_providers.openai.openai_batch import OpenAIBatch

_TICKS_PER_DOLLAR: Final = 1e10
_CHARACTERS_PER_TOKEN: Final = 4
# OpenAI's models that refuse "max_tokens", also behind a gateway that passes it on.
_REASONING_MODEL: Final = re.compile(r"(?:o\d|gpt-(?:[5-9]|\d\d))(?:$|[.-])")
# Mistral's models on Azure, which refuse "max_completion_tokens".
_MISTRAL_MODEL: Final = re.compile(r"[sx]tral", re.IGNORECASE)  # Codestral, Pixtral ...


class OpenAIProvider(SchemaAsking, HTTPProvider):
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
    key_variable = "OPENAI_API_KEY"
    url_variable = "OPENAI_BASE_URL"
    official_url = "https://api.openai.com/v1"
    path = "/chat/completions"
    answer = "a chat completion"
    error_table = ERRORS

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        dialect: str | None = None,
    ) -> None:
        super().__init__(model, base_url=base_url, api_key=api_key)
        self.dialect = dialect_named(dialect) if dialect else dialect_at(self.base_url)
        self.reserves_output = self.dialect.reserves_output
        self.known_options = self.dialect.fields

    def encode(self, request: Request) -> WireRequest:
        """Turn a request into a chat completion call.

        Raises:
            ConfigurationError: the server cannot be told the schema that it wants, or its options
                speak of the answer's form themselves.
        """
        output = self.typed.sent(request) if request.wanted else None
        messages: list[Mapping[str, Any]] = list(request.messages)
        system = request.system
        if output is not None and output.instructions:
            from llmflow.typed.instructions import add_instructions

            system = add_instructions(output.instructions, system, messages)
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        body: dict[str, Any] = {"model": request.model, "messages": messages}
        if request.max_tokens is not None:
            dialect = self.dialect
            bound = bound_field(dialect.name, dialect.max_tokens_field, request.model)
            body[bound] = request.max_tokens
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.options:
            body.update(request.options)
        if output is not None:
            body.update(output.fields)
        return WireRequest("POST", self._url, self._headers, dump_body(body))

    def understand(self, data: Any, reply: WireReply) -> Response:
        """Turn a chat completion into a response. Arguments as `HTTPProvider.understand`."""
        choice = data["choices"][0]
        message: Any = choice.get("message")
        if message is None:
            if not choice.get("error"):
                raise TypeError("a choice without a message")
            message = EMPTY
        text = text_of(message.get("content"))
        finish_reason = choice.get("finish_reason")
        if not isinstance(finish_reason, str):
            finish_reason = None
        elif finish_reason != "stop":
            finish_reason = finish_reasons.plain(finish_reason)
        if message.get("tool_calls"):
            text, finish_reason = _answer(message["tool_calls"], text, finish_reason)
        usage = mapping(data.get("usage"))
        response = Response(
            text=text,
            usage=_usage(usage),
            finish_reason=finish_reason,
            model=word(data.get("model")) or self.model,
            provider=self.name,
            request_id=reply.headers.get("x-request-id") or word(data.get("id")),
            cost=_cost(usage),
            raw=data,
        )
        if finish_reason not in finish_reasons.WHOLE or not text:
            if not text and (refusal := text_of(message.get("refusal"))):
                raise finish_reasons.refused(response, refusal)
            self._check_ending(response, choice, reply)
        return response

    @property
    def batch(self) -> OpenAIBatch | None:
        """Its batch API; None where the server has none."""
        from llmflow_providers.openai.openai_batch import BATCH_LIMITS, OpenAIBatch

        limits = BATCH_LIMITS.get(self.dialect.name)
        return None if limits is None else OpenAIBatch(self, limits)

    def classify(self, details: ErrorDetails, reply: WireReply) -> ProviderError:
        """Return the error that a reply means, by the server's own rules."""
        return classify(details, reply, self.dialect)

    def signals(self, reply: WireReply) -> list[QuotaSignal]:
        """Read the ``x-ratelimit-*`` headers."""
        return told(self.dialect, reply.headers, received_at=reply.received_at)

    def reserve(self, request: Request) -> Charge:
        """Return what arrives at the limiter, by the server's rule.

        OpenAI's own is max(max_tokens, characters / 4) (guide on rate limits, autumn
        2026): tokens per minute are charged when the request arrives, from max_tokens
        and the number of characters, whatever the answer turns out to be.
        """
        characters = len(request.system or "")
        for message in request.messages:
            characters += len(text_of(message.get("content")))
        prompt = math.ceil(characters / _CHARACTERS_PER_TOKEN)
        if request.wanted:
            prompt += self.typed.tokens(request)
        most = request.max_tokens or count(request.options.get("max_completion_tokens"))
        return reserved(self.dialect, float(prompt), float(most))

    def settle(self, charge: Charge, usage: Usage) -> Charge:
        """Return the final charge: OpenAI's reserve, else the usage."""
        return settled(self.dialect, charge, usage)

    def _typed_output(self) -> ChatOutput:
        from llmflow_providers.openai.chat_output import ChatOutput

        who = f"{self.name}/{self.model}"
        return ChatOutput(self.dialect, self.model, self.base_url, who=who)

    def _check_ending(
        self, response: Response, choice: Mapping[str, Any], reply: WireReply
    ) -> None:
        """Raise the failure of an answer, by finish reason or error."""
        ending = response.finish_reason
        has_content = response.text or mapping(choice.get("message")).get("tool_calls")
        is_answer = has_content and ending is not None and not finish_reasons.is_failure(ending)
        beside = () if is_answer else (choice.get("error"), response.raw.get("error"))
        finish_reasons.check(
            response, ending, beside=beside, error_of=lambda each: self.error_beside(each, reply)
        )


def reserved(dialect: Dialect, prompt: float, most: float) -> Charge:
    """Return what a request is charged on arrival, or at most.

    `most` is the bound of the answer's tokens, 0 where there is none.
    """
    tokens = prompt + most
    if dialect.rule is Rule.LARGER:
        tokens = most if most > prompt else prompt
    elif dialect.rule is Rule.PROMPT:
        tokens, most = prompt, 0.0
    return Charge(1.0, tokens, prompt, most)


def settled(dialect: Dialect, charge: Charge, usage: Usage) -> Charge:
    """Return what a request was charged in the end."""
    if dialect.rule in {Rule.LARGER, Rule.SUM} or not usage.total_tokens:
        return charge
    read = usage.input_tokens - (usage.cached_tokens if dialect.cache_is_free else 0)
    output = 0 if dialect.rule is Rule.PROMPT else usage.output_tokens
    return Charge(charge.requests, float(read + output), float(read), float(output))


def told(dialect: Dialect, headers: Mapping[str, str], *, received_at: float) -> list[QuotaSignal]:
    """Read what a reply's headers, with lower-case names, say of the quota."""
    found = told_limits(dialect.headers, headers, received_at)
    found = found or told_limits(dialect.other_headers, headers, received_at)
    if not dialect.fixed_minute:
        return found
    left = dialect.minute_left(headers, received_at=received_at)
    return [each if each.reset is not None else each._replace(reset=left) for each in found]


@lru_cache(maxsize=1024)
def bound_field(dialect: str, field: str, model: str) -> str:
    """Return the field that bounds an answer of a model.

    Whoever sends the wrong one is refused, or not bounded. `field` is what the dialect of that
    name calls it elsewhere.
    """
    name = model.rpartition("/")[2]
    if dialect == "azure":  # a deployment has any name; most are of OpenAI's models
        return "max_tokens" if _MISTRAL_MODEL.search(name) else "max_completion_tokens"
    if dialect == "compatible" and _REASONING_MODEL.match(name):
        return "max_completion_tokens"
    return field


def _answer(calls: Any, text: str, finish_reason: str | None) -> tuple[str, str | None]:
    """Return text and ending of an answer that may be given as a tool call."""
    from llmflow_providers.typed_output import answer_in, ending_of_answer

    answer = answer_in(calls)
    if answer is None:
        return text, finish_reason
    return answer, ending_of_answer(finish_reason)


def _cost(usage: Mapping[str, Any]) -> float | None:
    """Return the server's price: OpenRouter in dollars, xAI in 1e-10 dollars."""
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
