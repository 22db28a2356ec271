"""What an error of an OpenAI-compatible server means: one table of codes, texts and statuses.

A status says less than the body: OpenAI sends 429 for "wait a second", "never" and "pay
first" alike. So codes are looked at before texts, and texts before the status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from llmflow import errors
from llmflow.headers import DAY, LONGEST_QUOTA, clock_time, server_delay, server_time
from llmflow_providers.dimensions import dimension_of
from llmflow_providers.error_body import ErrorDetails
from llmflow_providers.openai.dialects import COMPATIBLE, Dialect
from llmflow_providers.refused import PASSING_STATUS, is_passing, names_content, names_model

_BILLING: Final = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "billing_not_active",
        "budget_exceeded",  # LiteLLM's proxy
        "1113",  # Z.ai: no balance
    }
)
_BY_CODE: Final[dict[str, type[errors.ProviderError]]] = {
    "slow_down": errors.RampLimitError,
    "queue_exceeded": errors.ConcurrencyLimitError,  # Cerebras
    "1302": errors.ConcurrencyLimitError,  # Z.ai
    "1308": errors.QuotaExhaustedError,  # Z.ai
    "3505": errors.OverloadedError,  # Mistral
    "context_length_exceeded": errors.ContextLengthError,
    "content_filter": errors.ContentFilterError,
    "content_policy_violation": errors.ContentFilterError,
    "misalignment_policy_violation": errors.ContentFilterError,
    "invalid_api_key": errors.AuthenticationError,
    "no_db_connection": errors.AuthenticationError,  # LiteLLM's proxy: a key it does not know
    "model_not_found": errors.ModelNotFoundError,
    "deploymentnotfound": errors.ModelNotFoundError,  # Azure
    "server_is_overloaded": errors.OverloadedError,
}
# Looked for in what the body says, in lower case, in this order, for these statuses only.
# What throttles comes before what does not fit: both speak of tokens.
_BY_TEXT: Final[tuple[tuple[str, frozenset[int], type[errors.ProviderError]], ...]] = (
    ("request too large for", frozenset({413, 429}), errors.TooLargeForLimitError),
    ("concurrent requests", frozenset({429}), errors.ConcurrencyLimitError),
    ("weight_exceeds_budget", frozenset({402}), errors.TooLargeForLimitError),  # OpenRouter
    ("in_flight_budget", frozenset({402}), errors.RateLimitError),  # OpenRouter
    ("used all available credits", frozenset({403, 429}), errors.BillingError),  # xAI
    ("purchase credits", frozenset({403, 429}), errors.BillingError),  # xAI
    ("prepayment credits are depleted", frozenset({402, 429}), errors.BillingError),  # Gemini
    ("credit balance is too low", frozenset({400}), errors.BillingError),  # Anthropic
    ("api usage limits", frozenset({400, 429}), errors.BillingError),  # Anthropic
    ("perday", frozenset({429}), errors.QuotaExhaustedError),  # Gemini's quotaId
    ("/ month", frozenset({429}), errors.QuotaExhaustedError),  # Cohere
    ("per month", frozenset({429}), errors.QuotaExhaustedError),
    ("acceleration limit", frozenset({429}), errors.RampLimitError),  # Anthropic
    ("usage increase rate", frozenset({429}), errors.RampLimitError),
    ("experiencing high demand", frozenset({429}), errors.OverloadedError),  # Azure
    ("resource unavailable", frozenset({429}), errors.OverloadedError),  # OpenAI, flex tier
    ("maximum context length is", frozenset({400, 413, 422}), errors.ContextLengthError),
    ("input tokens exceed the configured", frozenset({400}), errors.ContextLengthError),
    ("prompt is too long", frozenset({400}), errors.ContextLengthError),  # Anthropic
    ("exceed context limit", frozenset({400}), errors.ContextLengthError),
    ("input is too long", frozenset({400}), errors.ContextLengthError),  # Bedrock
    ("exceeds the maximum number of tokens", frozenset({400}), errors.ContextLengthError),  # Gemini
    ("too many tokens: total number", frozenset({400}), errors.ContextLengthError),  # Cohere
    ("incorrect api key", frozenset({400}), errors.AuthenticationError),  # xAI
    ("api_key_invalid", frozenset({400}), errors.AuthenticationError),  # Gemini
)
# A limit of zero: the plan does not include the model (Gemini, xAI).
_ZERO_LIMIT: Final = re.compile(r"\blimit: 0(?![\d.,]*\d)|\(actual/limit\): \d+/0\b")
_LONG_QUOTA: Final = re.compile(
    r"\b(?:daily|weekly|monthly)(?: \w{1,20}){0,2} (?:quota|limit|cap|allowance|usage)\b"
    r"|\b(?:quota|limit|requests|tokens) (?:for|per|of) (?:the |a )?(?:day|today|24 ?h)"
    r"|\bper[- ]24[- ]?h|\b(?:requests?|tokens?) ?/ ?(?:day|24 ?h)"
)
_LONG_CODE: Final = re.compile(r"\b(?:daily|weekly|monthly)|per_?(?:day|month)|_(?:rpd|tpd)\b")
_BY_STATUS: Final[dict[int, type[errors.ProviderError]]] = {
    401: errors.AuthenticationError,
    403: errors.AuthenticationError,
    404: errors.ModelNotFoundError,
    **PASSING_STATUS,
    429: errors.RateLimitError,
    498: errors.RateLimitError,  # Groq, flex tier
    503: errors.OverloadedError,
    504: errors.RequestTimeoutError,
    529: errors.OverloadedError,
}
_LONGEST_LIMIT: Final = 32 * DAY
# Errors about a limit, which may say which one.
_ABOUT_A_LIMIT: Final = (
    errors.RateLimitError,
    errors.QuotaExhaustedError,
    errors.TooLargeForLimitError,
)


def classify(
    details: ErrorDetails,
    *,
    status: int,
    headers: Mapping[str, str],
    now: float,
    dialect: Dialect = COMPATIBLE,
) -> errors.ProviderError:
    """Return the error that a reply means, with the delay that the server asked for.

    Args:
        details: what the body says.
        status: the reply's HTTP status, or the one that its body names.
        headers: its headers, with lower-case names.
        now: when it came, in seconds since 1970.
        dialect: what this server does in its own way.
    """
    kind = _kind(details, status, headers, dialect)
    if kind is None and status == 402:
        # OpenRouter: with a delay, it is the budget of what is in flight.
        delay = server_delay(headers, details.text, now=now, hint=details.delay)
        kind = errors.BillingError if delay is None else errors.RateLimitError
    kind = kind or _by_status(status, dialect)
    error = as_error(kind, details, status=status, headers=headers, now=now)
    if error.retry_after is None and isinstance(error, errors.RateLimitError):
        error.retry_after = dialect.minute_left(headers, received_at=now)
    return error


def as_error(
    kind: type[errors.ProviderError],
    details: ErrorDetails,
    *,
    status: int,
    headers: Mapping[str, str],
    now: float,
) -> errors.ProviderError:
    """Return an error of a class with all that a reply says of it."""
    if details.headers:
        # A plain dict, whose names are not found in whatever case the server has sent them.
        headers = {**details.headers, **{name.lower(): value for name, value in headers.items()}}
    message = details.message
    if 300 <= status < 400:
        message = f"the server redirects elsewhere; check the base URL. It said: {message}"
    delay = server_delay(headers, details.text, now=now, hint=details.delay, longest=LONGEST_QUOTA)
    long = issubclass(kind, errors.QuotaExhaustedError | errors.BillingError)
    if delay is not None and delay > DAY and not long:
        if kind is errors.RateLimitError and delay <= _LONGEST_LIMIT:
            kind = errors.QuotaExhaustedError  # no limit of a minute or an hour
        else:
            delay = None
    if delay is not None and kind is errors.QuotaExhaustedError:
        stop = "" if message.endswith((".", "!", "?")) else "."
        back = clock_time(server_time(headers, now) + delay)
        message = f"{message}{stop} The quota is back at {back}."
    return kind(
        message,
        status=status,
        code=details.code or details.type,
        request_id=headers.get("x-request-id") or headers.get("request-id"),
        retry_after=delay,
        dimension=dimension_of(details.text, details.code, details.type)
        if issubclass(kind, _ABOUT_A_LIMIT)
        else None,
    )


def _kind(
    details: ErrorDetails, status: int, headers: Mapping[str, str], dialect: Dialect
) -> type[errors.ProviderError] | None:
    """Return what the body says that an error is; None where it says nothing."""
    if {details.code, details.type} & _BILLING:
        return errors.BillingError
    if status == 413 and details.code == "rate_limit_exceeded":
        return errors.TooLargeForLimitError  # Groq: one request above the tokens per minute
    for word in (details.code, details.type):
        if word is not None and word in _BY_CODE:
            return _BY_CODE[word]
    text = details.text
    for fragment, statuses, kind in _BY_TEXT:
        if status in statuses and fragment in text:
            return kind
    if names_content(details, status):
        return errors.ContentFilterError
    if names_model(details, status):
        return errors.ModelNotFoundError
    if is_passing(details, status):
        return errors.ServerError
    if status == 429 and _comes_back_late(details, headers, dialect):
        return errors.QuotaExhaustedError
    return None


def _by_status(status: int, dialect: Dialect) -> type[errors.ProviderError]:
    for table in (dialect.by_status, _BY_STATUS):
        if status in table:
            return table[status]
    if status == 200:
        return errors.BadReplyError
    return errors.ServerError if status >= 500 else errors.InvalidRequestError


def is_daily(details: ErrorDetails) -> bool:
    """Whether a rejection says that what a day, or longer, allows is used up."""
    text = details.text
    if dimension_of(text) in {"rpd", "tpd"} or _LONG_QUOTA.search(text):
        return True
    return any(word and _LONG_CODE.search(word) for word in (details.code, details.type))


def _comes_back_late(details: ErrorDetails, headers: Mapping[str, str], dialect: Dialect) -> bool:
    """Whether a rejection is about the day, or about a limit of zero."""
    if is_daily(details) or _ZERO_LIMIT.search(details.text):
        return True
    return any(headers.get(names.limit) == "0" for names in dialect.headers)
