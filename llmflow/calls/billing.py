"""Failed requests that may have run all the same, and be billed."""

from __future__ import annotations

from typing import Final

from llmflow.errors import (
    AuthenticationError,
    BillingError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    TooLargeForLimitError,
)

# A gateway has given up, or has lost its connection; whoever is behind it may not have.
_GIVEN_UP: Final = (408, 499, 504, 520, 524)
_NEVER_RUN: Final = (RateLimitError, QuotaExhaustedError)
# What says that nothing has run, also with a status that says that all is well.
_REFUSED: Final = (
    AuthenticationError,
    BillingError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    QuotaExhaustedError,
    RateLimitError,
    TooLargeForLimitError,
)


def may_be_billed(error: ProviderError, status: int) -> bool:
    """Return whether a request with an error reply may have run.

    >>> may_be_billed(RateLimitError("later"), 200), may_be_billed(OverloadedError("no"), 504)
    (False, True)

    Args:
        error: what its reply says.
        status: the HTTP status of the reply, whatever is said inside.
    """
    if isinstance(error, _NEVER_RUN):
        return False  # whatever the status: it waits, and goes on with what is kept back for it
    if status in _GIVEN_UP:
        return True
    if isinstance(error, ContentFilterError) and error.usage is not None:
        return False  # what it has used is known, and need not be guessed
    return 200 <= status < 300 and not isinstance(error, _REFUSED)
