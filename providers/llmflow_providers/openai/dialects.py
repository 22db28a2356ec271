"""Tables of the servers that speak OpenAI's dialect: rules, fields, headers, errors.

They agree on the body of a chat completion and on little else: when tokens are charged
and which, what the headers of the same name mean, and what a 429 says. What stands here
is from each provider's own pages and the official SDKs (summer and autumn 2026; openai 3.57);
where a provider documents nothing, it has no row, and OpenAI's rules are assumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from llmflow import errors
from llmflow.errors import ConfigurationError
from llmflow.headers import server_delay, server_time
from llmflow.rate_limits import MINUTE
from llmflow.types import WireReply
from llmflow_providers import words
from llmflow_providers.base import LimitHeaders
from llmflow_providers.error_body import ErrorDetails
from llmflow_providers.error_rules import ANTHROPIC_TEXTS, ErrorTable, Kind, as_error

OPENAI_FIELDS: Final = words("""
    audio frequency_penalty function_call functions logit_bias logprobs
    max_completion_tokens metadata modalities moderation n parallel_tool_calls prediction
    presence_penalty prompt_cache_key prompt_cache_options prompt_cache_retention
    reasoning_effort response_format safety_identifier seed service_tier stop store stream
    stream_options tool_choice tools top_logprobs top_p user verbosity web_search_options
""")
"""The fields of OpenAI's chat completions that a call may give as keywords.

Left out is what llmflow sends itself: the model, the messages, the bound of the answer ...
"""
COMPATIBLE_FIELDS: Final = OPENAI_FIELDS.union(
    # OpenRouter
    words("""
        models plugins provider reasoning session_id transforms usage
    """),
    # Mistral
    words("""
        guardrails prompt_mode random_seed safe_prompt
    """),
    # Together and Fireworks
    words("""
        compliance context_length_exceeded_behavior perf_metrics_in_response
        prompt_cache_isolation_key prompt_truncate_len safety_model
    """),
    # Groq, xAI, DeepSeek, Gemini
    words("""
        include_reasoning reasoning_format search_parameters thinking
    """),
    # vLLM, SGLang, llama.cpp and other servers of open models
    words("""
        add_generation_prompt bad_words best_of cache_prompt chat_template chat_template_kwargs
        echo ebnf grammar guided_choice guided_grammar guided_json guided_regex ignore_eos
        include_stop_str_in_output json_schema keep_alive length_penalty min_p min_tokens
        priority prompt_logprobs regex repeat_penalty repetition_penalty skip_special_tokens
        stop_token_ids structured_outputs top_k typical_p use_beam_search
    """),
)
"""Servers that speak OpenAI's dialect with fields of their own, all of them together."""


class Rule(Enum):
    """The rule for charging tokens per minute."""

    LARGER = "larger"
    """On arrival: the larger one of the prompt and ``max_tokens``; never given back."""
    SUM = "sum"
    """On arrival: the prompt and ``max_tokens``; never given back."""
    SUM_THEN_REFUND = "sum, then refund"
    """On arrival: the prompt and ``max_tokens``; what was not used is given back."""
    PROMPT = "prompt"
    """The prompt alone."""
    PRODUCED = "produced"
    """The prompt, and the answer as it is produced."""


def _headers(dimension: str, ending: str) -> LimitHeaders:
    return LimitHeaders.named(dimension, f"x-ratelimit-{{}}-{ending}")


_OPENAI_HEADERS: Final = (
    _headers("rpm", "requests"),
    _headers("tpm", "tokens"),
    _headers("tpm", "project-tokens"),
)
_MISTRAL_HEADERS: Final = (_headers("rpm", "req-minute"), _headers("tpm", "tokens-minute"))
_CEREBRAS_HEADERS: Final = (
    _headers("rpm", "requests-minute"),
    _headers("tpm", "tokens-minute"),
    _headers("rpd", "requests-day"),
    _headers("tpd", "tokens-day"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """The ways of one server, where they are its own.

    Args:
        name: the provider's name, as litellm calls it too.
        hosts: its hosts; one that begins with a dot stands for all hosts below it.
        rule: what counts against the tokens per minute.
        cache_is_free: whether tokens read from a prompt cache do not count.
        max_tokens_field: the name of the bound of an answer; see `bound_field`.
        headers: the limits that its replies tell.
        other_headers: those to look for where a reply has none of `headers`.
        by_status: what a status means that means something else elsewhere.
        fixed_minute: whether the whole quota comes back when the clock's minute is over.
        fields: of a request's body, those that a call may give as keywords.
    """

    name: str
    hosts: tuple[str, ...] = ()
    rule: Rule = Rule.LARGER
    cache_is_free: bool = False
    max_tokens_field: str = "max_tokens"
    headers: tuple[LimitHeaders, ...] = _OPENAI_HEADERS
    other_headers: tuple[LimitHeaders, ...] = ()
    by_status: Mapping[int, Kind] = field(default_factory=dict)
    fixed_minute: bool = False
    fields: frozenset[str] = COMPATIBLE_FIELDS

    @property
    def reserves_output(self) -> bool:
        """True if ``max_tokens`` is charged when a request arrives."""
        return self.rule not in {Rule.PROMPT, Rule.PRODUCED}

    def minute_left(self, headers: Mapping[str, str], *, received_at: float) -> float | None:
        """Return the seconds until the server's next minute, or None."""
        if not self.fixed_minute:
            return None
        return MINUTE - server_time(headers, received_at) % MINUTE


OPENAI: Final = Dialect(
    name="openai",
    hosts=("api.openai.com",),
    max_tokens_field="max_completion_tokens",
    fields=OPENAI_FIELDS,
)
DIALECTS: Final = (
    OPENAI,
    Dialect(
        name="azure",
        hosts=(".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
        rule=Rule.SUM,
    ),
    Dialect(
        name="groq",
        hosts=("api.groq.com",),
        rule=Rule.SUM_THEN_REFUND,
        cache_is_free=True,
        max_tokens_field="max_completion_tokens",
        # The header of the requests tells the day's, that of the tokens the minute's.
        headers=(_headers("rpd", "requests"), _headers("tpm", "tokens")),
    ),
    Dialect(
        name="cerebras",
        hosts=("api.cerebras.ai",),
        rule=Rule.SUM,
        max_tokens_field="max_completion_tokens",
        headers=_CEREBRAS_HEADERS,
    ),
    Dialect(
        name="mistral",
        hosts=("api.mistral.ai",),
        rule=Rule.PRODUCED,
        headers=_MISTRAL_HEADERS,
        fixed_minute=True,
    ),
    Dialect(
        name="fireworks_ai",
        hosts=("api.fireworks.ai",),
        rule=Rule.PRODUCED,
        headers=(
            _headers("rpm", "requests"),
            _headers("itpm", "tokens-prompt"),
            _headers("otpm", "tokens-generated"),
        ),
        by_status={412: errors.BillingError},  # suspended: the spending limit is reached
    ),
    Dialect(
        name="gemini", hosts=("generativelanguage.googleapis.com",), rule=Rule.PROMPT, headers=()
    ),
    Dialect(
        name="deepseek",
        hosts=("api.deepseek.com",),
        headers=(),
        by_status={429: errors.ConcurrencyLimitError},  # the only limit is what is in flight
    ),
)
COMPATIBLE: Final = Dialect(
    name="compatible", other_headers=(_MISTRAL_HEADERS[0], *_CEREBRAS_HEADERS)
)
"""What is assumed of a server that is not in the table: OpenAI's rules."""

_BY_NAME: Final = {each.name: each for each in (*DIALECTS, COMPATIBLE)}
DIALECT_NAMES: Final = frozenset(_BY_NAME)
_BY_HOST: Final = {host: each for each in DIALECTS for host in each.hosts}


def dialect_at(base_url: str) -> Dialect:
    """Return the dialect of the server at an address.

    >>> dialect_at("https://api.groq.com/openai/v1").name
    'groq'
    """
    host = urlsplit(base_url).hostname or ""
    parent = host[host.find(".") :] if "." in host else ""
    return _BY_HOST.get(host) or _BY_HOST.get(parent) or COMPATIBLE


def dialect_named(name: str) -> Dialect:
    """Return a dialect of the table.

    Raises:
        ConfigurationError: there is none of that name.
    """
    if name not in _BY_NAME:
        raise ConfigurationError(
            f"there is no dialect {name!r}; those known are {', '.join(sorted(_BY_NAME))}"
        )
    return _BY_NAME[name]


ERRORS: Final = ErrorTable(
    # The last two are LiteLLM's proxy's, and Z.ai's: no balance.
    unpaid=words("""
        insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded
        project_spend_limit_exceeded organization_usage_limit_exceeded
        billing_hard_limit_reached billing_not_active budget_exceeded 1113
    """),
    by_code={
        "slow_down": errors.RampLimitError,
        "queue_exceeded": errors.ConcurrencyLimitError,  # Cerebras
        "1302": errors.ConcurrencyLimitError,  # Z.ai
        "1308": errors.QuotaExhaustedError,  # Z.ai
        "3505": errors.OverloadedError,  # Mistral
        "context_length_exceeded": errors.ContextLengthError,
        "content_filter": errors.ContentFilterError,
        "content_policy_violation": errors.ContentFilterError,
        "misalignment_policy_violation": errors.ContentFilterError,
        "json_validate_failed": errors.BadGenerationError,  # Groq
        "tool_use_failed": errors.BadGenerationError,  # Groq
        "invalid_api_key": errors.AuthenticationError,
        "no_db_connection": errors.AuthenticationError,  # LiteLLM's proxy: a key it does not know
        "model_not_found": errors.ModelNotFoundError,
        "deploymentnotfound": errors.ModelNotFoundError,  # Azure
        "server_is_overloaded": errors.OverloadedError,
    },
    # What throttles comes before what does not fit: both speak of tokens.
    by_text=(
        ("request too large for", frozenset({413, 429}), errors.TooLargeForLimitError),
        *ANTHROPIC_TEXTS,
        ("weight_exceeds_budget", frozenset({402}), errors.TooLargeForLimitError),  # OpenRouter
        ("in_flight_budget", frozenset({402}), errors.RateLimitError),  # OpenRouter
        ("used all available credits", frozenset({403, 429}), errors.BillingError),  # xAI
        ("purchase credits", frozenset({403, 429}), errors.BillingError),  # xAI
        ("prepayment credits are depleted", frozenset({402, 429}), errors.BillingError),  # Gemini
        ("perday", frozenset({429}), errors.QuotaExhaustedError),  # Gemini's quotaId
        ("/ month", frozenset({429}), errors.QuotaExhaustedError),  # Cohere
        ("per month", frozenset({429}), errors.QuotaExhaustedError),
        ("experiencing high demand", frozenset({429}), errors.OverloadedError),  # Azure
        ("resource unavailable", frozenset({429}), errors.OverloadedError),  # OpenAI, flex tier
        ("maximum context length is", frozenset({400, 413, 422}), errors.ContextLengthError),
        ("input tokens exceed the configured", frozenset({400}), errors.ContextLengthError),
        ("input is too long", frozenset({400}), errors.ContextLengthError),  # Bedrock
        # Gemini
        ("exceeds the maximum number of tokens", frozenset({400}), errors.ContextLengthError),
        ("too many tokens: total number", frozenset({400}), errors.ContextLengthError),  # Cohere
        ("incorrect api key", frozenset({400}), errors.AuthenticationError),  # xAI
        ("api_key_invalid", frozenset({400}), errors.AuthenticationError),  # Gemini
    ),
    by_status={498: errors.RateLimitError},  # Groq, flex tier
)
# A limit of zero: the plan does not include the model (Gemini, xAI).
_ZERO_LIMIT: Final = re.compile(r"\blimit: 0(?![\d.,]*\d)|\(actual/limit\): \d+/0\b")


def classify(
    details: ErrorDetails, reply: WireReply, dialect: Dialect = COMPATIBLE
) -> errors.ProviderError:
    """Return a server's error for a reply. Arguments as `ErrorTable.classify`."""
    status, headers, now = reply.status, reply.headers, reply.received_at
    is_zero = status == 429 and _has_limit_of_zero(details, headers, dialect)
    kind = ERRORS.kind_by_body(details, status, is_late=is_zero)
    if status == 413 and details.code == "rate_limit_exceeded" and kind is not errors.BillingError:
        kind = errors.TooLargeForLimitError  # Groq: one request above the tokens per minute
    if kind is None and status == 402:
        # OpenRouter: with a delay, it is the budget of what is in flight.
        delay = server_delay(headers, details.text, now=now, hint=details.delay)
        kind = errors.BillingError if delay is None else errors.RateLimitError
    kind = kind or dialect.by_status.get(status) or ERRORS.kind_by_status(status)
    error = as_error(kind, details, reply)
    if error.retry_after is None and isinstance(error, errors.RateLimitError):
        error.retry_after = dialect.minute_left(headers, received_at=now)
    return error


def _has_limit_of_zero(details: ErrorDetails, headers: Mapping[str, str], dialect: Dialect) -> bool:
    if _ZERO_LIMIT.search(details.text):
        return True
    return any(headers.get(names.limit) == "0" for names in dialect.headers)
