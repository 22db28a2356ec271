"""What an exception of litellm means: the provider's own reply, read as everywhere else.

litellm decides on an exception's class by words in the message, and drops the body
and some headers on the way (read: 1.106). But the reply is still there, on the HTTP
client's exception further down the chain; it is read by the same table that serves
the native providers. Only where there was no reply does litellm's class count.
"""

from __future__ import annotations

import ast
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from llmflow import errors
from llmflow.types import QuotaSignal, WireReply
from llmflow_providers.anthropic import anthropic_signals
from llmflow_providers.anthropic.errors import classify_anthropic
from llmflow_providers.error_body import ErrorDetails, error_details, read_error
from llmflow_providers.openai.dialects import (
    COMPATIBLE,
    DIALECT_NAMES,
    Dialect,
    Rule,
    dialect_named,
)
from llmflow_providers.openai.errors import as_error, classify

# litellm's classes whose meaning no status tells. Looked up by name along the class's
# bases, so that neither litellm nor openai is imported here.
BY_CLASS: Final[dict[str, type[errors.ProviderError]]] = {
    "APIConnectionError": errors.ConnectionFailedError,
    "APIResponseValidationError": errors.BadReplyError,
    "BlockedPiiEntityError": errors.ContentFilterError,
    "BudgetExceededError": errors.BillingError,
    "ContentPolicyViolationError": errors.ContentFilterError,
    "ContextWindowExceededError": errors.ContextLengthError,
    "GuardrailRaisedException": errors.ContentFilterError,
    "ModifyResponseException": errors.ContentFilterError,
    "RejectedRequestError": errors.ContentFilterError,
    "SensitiveDataRouteException": errors.ContentFilterError,
}
# Of these, the ones that may correct what a reply's status and body seem to say.
_MORE_PRECISE: Final = ("ContentPolicyViolationError", "ContextWindowExceededError")
_BROKEN: Final = frozenset(
    {"APIConnectionError", "TransportError", "ClientError", "ConnectError", "ConnectTimeout"}
)
_SLOW: Final = frozenset({"APITimeoutError", "TimeoutException", "TimeoutError", "Timeout"})
_NOT_CONNECTED: Final = frozenset(
    {"ConnectTimeout", "ConnectionTimeoutError", "ConnectError", "ClientConnectorError"}
)
_NOT_HTTP: Final = frozenset({"RemoteProtocolError", "ClientResponseError"})
# How litellm says that a 200 holds no answer.
_UNREADABLE: Final = (
    "empty or invalid response from llm endpoint",
    "unable to get json response",
    "error converting to valid response block",
    "unexpected string response",
    "invalid response object",
    "expecting value: line",
)
# What the clouds' own libraries raise before anything is sent.
_NO_CREDENTIALS: Final = frozenset(
    {
        "CredentialRetrievalError",
        "DefaultCredentialsError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "RefreshError",
        "TokenRetrievalError",
    }
)
_ADDITIONS: Final = ("\nTraceback ", "\nThis looks like a bug in LiteLLM")
_DEPTH: Final = 16
_LONGEST_LITERAL: Final = 20_000
# Where the error in the body of a 200 has no code, litellm gives it this status.
_NO_CODE: Final = 422
_STATUSES: Final = frozenset(map(str, range(400, 600)))
_LIMITED: Final = re.compile(r"\brate[ -]?limit|too many requests", re.IGNORECASE)
_ANTHROPIC: Final = Dialect(name="anthropic", rule=Rule.PRODUCED, cache_is_free=True, headers=())


class _Where(NamedTuple):
    """What is known besides the exception itself."""

    secret: str | None
    model: str
    dialect: Dialect


def translate(
    error: Exception, *, outer: BaseException | None, secret: str | None, model: str
) -> errors.LLMFlowError:
    """Return the error of llmflow that an exception of litellm means.

    Args:
        error: what litellm raised.
        outer: what was being handled before the call: where our part of the chain ends.
        secret: the key, to be masked.
        model: the model's name, for messages.

    """
    if isinstance(error, errors.LLMFlowError):
        return error
    chain = list(_chain(error, outer))
    where = _Where(secret, model, vendor_dialect(model))
    for each in chain:
        if isinstance(each, errors.LLMFlowError):  # of our own guard, below litellm
            each.__cause__ = each.__context__ = None
            return each.with_traceback(None)
        reply = _reply(each)
        if reply is not None:
            return _from_reply(reply, error, where)
    for rule in (_from_setup, _from_success, _from_unread_reply, _from_transport, _from_class):
        found = rule(error, chain, where)
        if found is not None:
            return found
    return _from_status(error, where)


def error_beside(
    error: Any, headers: Mapping[str, str], *, secret: str | None, model: str
) -> errors.ProviderError:
    """Return the error that stands beside an empty answer.

    Args:
        error: the value of the field.
        headers: the reply's headers, with lower-case names.
        secret: the key, to be masked.
        model: the model's name.
    """
    details = error_details({"error": error}, secret=secret)
    where = _Where(secret, model, vendor_dialect(model))
    return _classify(details, details.status, headers, time.time(), where)


def vendor_dialect(model: str) -> Dialect:
    """Return what is known of the provider that litellm will ask for a model."""
    vendor, slash, _ = model.partition("/")
    if vendor == "anthropic":
        return _ANTHROPIC
    found = dialect_named(vendor) if slash and vendor in DIALECT_NAMES else COMPATIBLE
    # OpenAI's own rule is for its own API. Elsewhere nothing is known: what was used counts.
    return replace(found, rule=Rule.SUM_THEN_REFUND) if found.rule is Rule.LARGER else found


def quota_signals(
    headers: Mapping[str, str], *, dialect: Dialect, received_at: float
) -> Sequence[QuotaSignal]:
    """Return what a reply's headers say of the quota, in the vendor's way or Anthropic's.

    Args:
        headers: the reply's headers, with lower-case names.
        dialect: the vendor's dialect.
        received_at: when it came, in seconds since 1970.
    """
    found = anthropic_signals(headers, received_at=received_at)
    return found or dialect.signals(headers, received_at=received_at)


def lower_headers(headers: Any) -> Mapping[str, str]:
    """Return headers, of whatever client, with lower-case names."""
    items: Callable[[], Any] | None = getattr(headers, "items", None)
    if items is None:
        return {}
    return {str(name).lower(): str(value) for name, value in items()}


def is_unknown_provider(error: BaseException) -> bool:
    """Return whether litellm says that it does not know a model's provider."""
    return "LiteLLMUnknownProvider" in _names(error) or "LLM Provider NOT provided" in str(error)


def _chain(error: BaseException, outer: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those it came from, nearest first."""
    each: BaseException | None = error
    for _ in range(_DEPTH):
        if each is None or each is outer:
            return
        yield each
        each = each.__cause__ or each.__context__


def _names(error: BaseException) -> list[str]:
    return [each.__name__ for each in type(error).__mro__]


def _reply(error: BaseException) -> WireReply | None:
    """Return the reply that an exception carries; litellm's own stand-ins are empty."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if response is None or not isinstance(status, int):
        return None
    try:
        body: bytes = response.content
    except Exception:  # noqa: BLE001 - a reply that was not read, of whatever client
        return None
    if not isinstance(body, bytes) or not (body or "HTTPStatusError" in _names(error)):
        return None
    return WireReply(status, lower_headers(response.headers), body, time.time())


def _from_reply(reply: WireReply, error: Exception, where: _Where) -> errors.ProviderError:
    details = read_error(reply, secret=where.secret)
    status = reply.status
    if 200 <= status < 300 and details.is_error:
        status = details.status
    found = _classify(details, status, reply.headers, reply.received_at, where)
    if type(found) is errors.InvalidRequestError:
        kind = next((BY_CLASS[n] for n in _names(error) if n in _MORE_PRECISE), None)
        if kind is not None:
            headers, now = reply.headers, reply.received_at
            return as_error(kind, details, status=status, headers=headers, now=now)
    return found


def _classify(
    details: ErrorDetails, status: int, headers: Mapping[str, str], now: float, where: _Where
) -> errors.ProviderError:
    """Return the error with what its headers say of the quota."""
    if details.is_anthropic:
        found = classify_anthropic(details, status=status, headers=headers, now=now)
    else:
        dialect = where.dialect
        found = classify(details, status=status, headers=headers, now=now, dialect=dialect)
    found.signals = quota_signals(headers, dialect=where.dialect, received_at=now)
    return found


def _from_setup(
    error: Exception, chain: list[BaseException], where: _Where
) -> errors.LLMFlowError | None:
    """Recognise what is wrong on this side: a package, a certificate, the model's name."""
    if is_unknown_provider(error):
        return errors.UnknownModelError(f"litellm knows no provider for {where.model!r}")
    for each in chain[:2]:
        if isinstance(each, ImportError):
            return errors.MissingExtraError(
                f"litellm needs another package for {where.model!r}: {_text(each, where)}"
            )
    for each in chain:
        if _NO_CREDENTIALS.intersection(_names(each)):
            return errors.AuthenticationError(_text(each, where))
        if isinstance(each, ssl.SSLError) or "ClientSSLError" in _names(each):
            return errors.ConfigurationError(
                f"{where.model}: the TLS certificate cannot be verified: {_text(each, where)}"
            )
    return None


def _from_success(
    error: Exception, chain: list[BaseException], where: _Where
) -> errors.ProviderError | None:
    """Recognise an error in the body of a 200: litellm raises a bare exception with its code."""
    for each in chain:
        found = _written_out(each, where)
        if found is not None:
            return found
    status = getattr(chain[-1], "status_code", None)
    if type(chain[-1]) is not Exception or not isinstance(status, int):
        return None
    text, code = _text(error, where), _code(error)
    if status == _NO_CODE:
        status = 429 if _LIMITED.search(text) else 200
    return _classify(
        ErrorDetails(message=text, code=code, text=text.lower()), status, {}, time.time(), where
    )


def _written_out(error: BaseException, where: _Where) -> errors.ProviderError | None:
    """Read the error in the body of a 2xx that litellm has written as Python does."""
    status = getattr(error, "status_code", None)
    text = getattr(error, "message", None)
    if not (isinstance(status, int) and 200 <= status < 300 and isinstance(text, str)):
        return None
    if not text.startswith("{") or len(text) > _LONGEST_LITERAL:
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(value, dict) or "message" not in value:
        return None
    details = error_details({"type": "error", "error": value}, secret=where.secret)
    headers = lower_headers(getattr(error, "headers", None))
    return _classify(details, details.status, headers, time.time(), where)


def _from_unread_reply(
    error: Exception, chain: list[BaseException], where: _Where
) -> errors.ProviderError | None:
    """Recognise a 200 that litellm could not read, or a request that it could not write."""
    text = _text(error, where)
    cause = chain[1] if len(chain) > 1 else error
    if (
        any(fragment in text.lower() for fragment in _UNREADABLE)
        or any(isinstance(each, json.JSONDecodeError) for each in chain)
        or isinstance(cause, LookupError | AttributeError | TypeError)
        or "ValidationError" in _names(cause)
    ):
        return errors.BadReplyError(f"litellm cannot read the reply: {text}", status=200)
    if isinstance(cause, ValueError):  # an argument that litellm refuses
        return errors.InvalidRequestError(text)
    return None


def _from_transport(
    error: Exception,  # noqa: ARG001 - every rule takes the same
    chain: list[BaseException],
    where: _Where,
) -> errors.ProviderError | None:
    """Recognise time-outs and broken connections by what the HTTP client raised."""
    names = {name for each in chain for name in _names(each)}
    text = _text(chain[-1], where) or type(chain[-1]).__name__
    if names & _NOT_CONNECTED:
        failure = errors.ConnectionFailedError(f"cannot connect: {text}")
        failure.may_be_billed = False  # nothing was sent
        return failure
    if names & _SLOW:
        return errors.RequestTimeoutError(f"no answer in time: {text}")
    if names & _NOT_HTTP and "ClientPayloadError" not in names:
        return errors.BadReplyError(f"the reply is not HTTP: {text}")
    if names & _BROKEN - {"APIConnectionError"} or any(isinstance(e, OSError) for e in chain):
        return errors.ConnectionFailedError(f"the connection broke: {text}")
    return None


def _from_class(
    error: Exception,
    chain: list[BaseException],  # noqa: ARG001
    where: _Where,
) -> errors.ProviderError | None:
    """Take litellm's class at its word where there is nothing better."""
    for name in _names(error):
        if name in BY_CLASS:
            return BY_CLASS[name](_text(error, where), code=_code(error))
    return None


def _from_status(error: Exception, where: _Where) -> errors.ProviderError:
    """Go by the status that litellm gives, and by the message."""
    status = getattr(error, "status_code", None)
    text = _text(error, where)
    code = _code(error)
    if not isinstance(status, int):
        if "APIError" not in _names(error):
            return errors.InvalidRequestError(f"{type(error).__name__}: {text}")
        # An error in the body of a 200: its code stands where the status belongs.
        code, status = str(status).lower() if status else code, 200
        if code in _STATUSES:
            status, code = int(code or 0), None
    if status == 429 and _is_out_of_credit(error, text):
        code = "insufficient_quota"
    details = ErrorDetails(message=text, code=code)
    headers = lower_headers(getattr(error, "litellm_response_headers", None) or {})
    return _classify(details, status, headers, time.time(), where)


def _is_out_of_credit(error: Exception, text: str) -> bool:
    """Tell "pay first" from "wait": Gemini says "current quota" for both."""
    google = str(getattr(error, "llm_provider", "")).startswith(("gemini", "vertex"))
    lower = text.lower()
    return "insufficient_quota" in lower or (
        not google and "exceeded your current quota" in lower and "billing" in lower
    )


def _code(error: Exception) -> str | None:
    """Return a code that says more than the status."""
    code = getattr(error, "code", None)
    return code.lower() if isinstance(code, str) and not code.isdigit() else None


def _text(error: BaseException, where: _Where) -> str:
    """Return an exception's message, without what litellm appends to it."""
    text = str(getattr(error, "message", None) or error)
    for addition in _ADDITIONS:
        text = text.partition(addition)[0]
    return errors.redact(text.strip(), where.secret)
