"""What an error of Anthropic's API means: its codes, texts, types and statuses.

Sources: Anthropic's pages on errors and on rate limits (August 2026), the error types
of its Python SDK 2.12, and bodies seen. A 429 can mean "wait", "grow more slowly" and
"pay first", and a 400 "pay first" too: so codes are looked at before texts, texts
before types, and types before the status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmflow import errors
from llmflow_providers.error_body import ErrorDetails
from llmflow_providers.openai.errors import as_error, is_daily
from llmflow_providers.refused import PASSING_STATUS, is_passing, names_content, names_model

# `error.details.error_code`.
_BY_CODE: Final[dict[str, type[errors.ProviderError]]] = {
    "enforced_spend_limit_reached": errors.BillingError,
    "contract_spend_limit_reached": errors.BillingError,
    "ramp_limit_exceeded": errors.RampLimitError,
    "organization_on_hold": errors.AuthenticationError,
    "cmek_key_disabled": errors.AuthenticationError,
    "cmek_key_unreachable": errors.OverloadedError,
    "request_body_timeout": errors.RequestTimeoutError,
}
# Looked for in the message in lower case, in this order, for these statuses only. What
# throttles comes before what does not fit: both speak of tokens.
_BY_TEXT: Final[tuple[tuple[str, frozenset[int], type[errors.ProviderError]], ...]] = (
    ("api usage limits", frozenset({400, 403, 429}), errors.BillingError),
    ("credit balance is too low", frozenset({400, 402, 403}), errors.BillingError),
    ("acceleration limit", frozenset({429}), errors.RampLimitError),
    ("usage increase rate", frozenset({429}), errors.RampLimitError),
    ("concurrent connections", frozenset({429}), errors.ConcurrencyLimitError),
    ("concurrent requests", frozenset({429}), errors.ConcurrencyLimitError),
    ("daily rate limit", frozenset({429}), errors.QuotaExhaustedError),
    ("per day", frozenset({429}), errors.QuotaExhaustedError),
    ("prompt is too long", frozenset({400, 413}), errors.ContextLengthError),
    ("exceed context limit", frozenset({400}), errors.ContextLengthError),
)
_BY_TYPE: Final[dict[str, type[errors.ProviderError]]] = {
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
}
# Proxies and Cloudflare answer without a type.
_BY_STATUS: Final[dict[int, type[errors.ProviderError]]] = {
    401: errors.AuthenticationError,
    402: errors.BillingError,
    403: errors.AuthenticationError,
    404: errors.ModelNotFoundError,
    **PASSING_STATUS,
    429: errors.RateLimitError,
    503: errors.OverloadedError,
    504: errors.RequestTimeoutError,
    529: errors.OverloadedError,
}


def classify_anthropic(
    details: ErrorDetails, *, status: int, headers: Mapping[str, str], now: float
) -> errors.ProviderError:
    """Return the error that a reply means, with the delay that the server asked for.

    Args:
        details: what the body says.
        status: the reply's HTTP status.
        headers: its headers, with lower-case names.
        now: when it came, in seconds since 1970.
    """
    return as_error(_kind(details, status), details, status=status, headers=headers, now=now)


def _kind(details: ErrorDetails, status: int) -> type[errors.ProviderError]:
    if details.code in _BY_CODE:
        return _BY_CODE[details.code]
    # In a 200, the status is that of the type.
    meant = details.status if 200 <= status < 300 else status
    for fragment, statuses, kind in _BY_TEXT:
        if meant in statuses and fragment in details.text:
            return kind
    if names_content(details, meant):
        return errors.ContentFilterError
    if names_model(details, meant):
        return errors.ModelNotFoundError
    if meant == 429 and is_daily(details):
        return errors.QuotaExhaustedError
    if is_passing(details, meant):
        return errors.ServerError
    if details.type in _BY_TYPE:
        return _BY_TYPE[details.type]
    if meant in _BY_STATUS:
        return _BY_STATUS[meant]
    if meant == 200:
        return errors.BadReplyError
    return errors.ServerError if meant >= 500 else errors.InvalidRequestError
