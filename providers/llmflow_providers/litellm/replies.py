"""Reads replies and exceptions of litellm as the native providers read theirs.

litellm (read: 1.106) decides on an exception's class by words in the message, and drops the
body and some headers on the way. But the reply is still there, on the HTTP client's exception
further down the chain; it is read by the same table that serves the native providers. Only
where there was no reply does litellm's class count.

Replies of success are looked at before litellm reads them: it takes an ending that it does not
know for ``stop``, drops an error beside an answer, and refuses JSON that is not strict and
usage that cannot be. Answers were lost that had been paid for, and failures became answers.
What is odd is put right, or raised as the error that it is; an ordinary reply costs one more
look into its JSON.
"""

from __future__ import annotations

import ast
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import orjson

from llmflow import errors, lenient_json
from llmflow.types import QuotaSignal, WireReply
from llmflow_providers import finish_reasons, words
from llmflow_providers.anthropic import ERRORS as ANTHROPIC_ERRORS
from llmflow_providers.anthropic import AnthropicProvider, anthropic_signals
from llmflow_providers.base import EMPTY, mapping, said
from llmflow_providers.error_body import LIMITED, ErrorDetails, error_details, read_error
from llmflow_providers.error_rules import as_error
from llmflow_providers.litellm.client import Look
from llmflow_providers.openai import OpenAIProvider, told
from llmflow_providers.openai.dialects import (
    COMPATIBLE,
    DIALECT_NAMES,
    Dialect,
    Rule,
    classify,
    dialect_named,
)

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
_BROKEN: Final = words("APIConnectionError TransportError ClientError ConnectError ConnectTimeout")
_SLOW: Final = words("APITimeoutError TimeoutException TimeoutError Timeout")
_NOT_CONNECTED: Final = words(
    "ConnectTimeout ConnectionTimeoutError ConnectError ClientConnectorError"
)
_NOT_HTTP: Final = words("RemoteProtocolError ClientResponseError")
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
_NO_CREDENTIALS: Final = words("""
    CredentialRetrievalError DefaultCredentialsError NoCredentialsError PartialCredentialsError
    ProfileNotFound RefreshError TokenRetrievalError
""")
_ADDITIONS: Final = ("\nTraceback ", "\nThis looks like a bug in LiteLLM")
_DEPTH: Final = 16
_LONGEST_LITERAL: Final = 20_000
# Where the error in the body of a 200 has no code, litellm gives it this status.
_NO_CODE: Final = 422
_STATUSES: Final = frozenset(map(str, range(400, 600)))
_OPENAI_COUNTS: Final[tuple[str, ...]] = ("prompt_tokens", "completion_tokens", "total_tokens")
_ANTHROPIC_COUNTS: Final[tuple[str, ...]] = (
    "input_tokens",
    "output_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
)
# Nobody is there: what reads a reply sends nothing.
_NOWHERE: Final = "http://litellm.invalid/v1"
_ANTHROPIC: Final = Dialect(name="anthropic", rule=Rule.PRODUCED, cache_is_free=True, headers=())


class _Failure(NamedTuple):
    """An exception of litellm, and what is known besides."""

    error: BaseException
    chain: list[BaseException]
    secret: str | None
    model: str
    dialect: Dialect

    def text(self, error: BaseException | None = None) -> str:
        """Return an exception's message, without what litellm appends to it."""
        found = error or self.error
        text = str(getattr(found, "message", None) or found)
        for addition in _ADDITIONS:
            text = text.partition(addition)[0]
        return errors.redact(text.strip(), self.secret)


def translate(
    error: Exception, *, outer: BaseException | None, secret: str | None, model: str
) -> errors.LLMFlowError:
    """Return the error of llmflow that an exception of litellm means.

    `outer` was being handled before the call: there our part of the chain ends.
    """
    if isinstance(error, errors.LLMFlowError):
        return error
    chain = list(_chain(error, outer))
    failure = _Failure(error, chain, secret, model, vendor_dialect(model))
    for each in chain:
        if isinstance(each, errors.LLMFlowError):  # of our own guard, below litellm
            each.__cause__ = each.__context__ = None
            return each.with_traceback(None)
        reply = _reply(each)
        if reply is not None:
            return _from_reply(reply, failure)
    for rule in (_from_setup, _from_success, _from_unread_reply, _from_transport, _from_class):
        found = rule(failure)
        if found is not None:
            return found
    return _from_status(failure)


def error_beside(
    error: Any, headers: Mapping[str, str], *, secret: str | None, model: str
) -> errors.ProviderError:
    """Return the error beside an empty answer, with `secret` masked."""
    details = error_details({"error": error}, secret=secret)
    return _classify(details, _said(details.status, headers), vendor_dialect(model))


def vendor_dialect(model: str) -> Dialect:
    """Return the dialect of the provider that litellm will use."""
    vendor, slash, _ = model.partition("/")
    if vendor == "anthropic":
        return _ANTHROPIC
    found = dialect_named(vendor) if slash and vendor in DIALECT_NAMES else COMPATIBLE
    # OpenAI's own rule is for its own API. Elsewhere nothing is known: what was used counts.
    return replace(found, rule=Rule.SUM_THEN_REFUND) if found.rule is Rule.LARGER else found


def quota_signals(
    headers: Mapping[str, str], *, dialect: Dialect, received_at: float
) -> Sequence[QuotaSignal]:
    """Return a reply's quota signals, in either style of headers."""
    found = anthropic_signals(headers, received_at=received_at)
    return found or told(dialect, headers, received_at=received_at)


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


def _from_reply(reply: WireReply, failure: _Failure) -> errors.ProviderError:
    details = read_error(reply, secret=failure.secret)
    status = reply.status
    if 200 <= status < 300 and details.is_error:
        status = details.status
    reply = reply._replace(status=status)
    found = _classify(details, reply, failure.dialect)
    if type(found) is errors.InvalidRequestError:
        kind = next((BY_CLASS[n] for n in _names(failure.error) if n in _MORE_PRECISE), None)
        if kind is not None:
            return as_error(kind, details, reply)
    return found


def _classify(details: ErrorDetails, reply: WireReply, dialect: Dialect) -> errors.ProviderError:
    """Return the error with what its headers say of the quota."""
    if details.is_anthropic:
        found = ANTHROPIC_ERRORS.classify(details, reply)
    else:
        found = classify(details, reply, dialect)
    found.signals = quota_signals(reply.headers, dialect=dialect, received_at=reply.received_at)
    return found


def _said(status: int, headers: Mapping[str, str] = EMPTY) -> WireReply:
    """Return a reply of which only this is known."""
    return WireReply(status, headers, b"", time.time())


def _from_setup(failure: _Failure) -> errors.LLMFlowError | None:
    """Recognise a missing package, a bad certificate or model name."""
    model = failure.model
    if is_unknown_provider(failure.error):
        return errors.UnknownModelError(f"litellm knows no provider for {model!r}")
    for each in failure.chain[:2]:
        if isinstance(each, ImportError):
            return errors.MissingExtraError(
                f"litellm needs another package for {model!r}: {failure.text(each)}"
            )
    for each in failure.chain:
        if _NO_CREDENTIALS.intersection(_names(each)):
            return errors.AuthenticationError(failure.text(each))
        if isinstance(each, ssl.SSLError) or "ClientSSLError" in _names(each):
            return errors.ConfigurationError(
                f"{model}: the TLS certificate cannot be verified: {failure.text(each)}"
            )
    return None


def _from_success(failure: _Failure) -> errors.ProviderError | None:
    """Recognise an error in the body of a 200."""
    for each in failure.chain:
        found = _written_out(each, failure)
        if found is not None:
            return found
    status = getattr(failure.chain[-1], "status_code", None)
    if type(failure.chain[-1]) is not Exception or not isinstance(status, int):
        return None
    text, code = failure.text(), _code(failure.error)
    if status == _NO_CODE:
        status = 429 if LIMITED.search(text) else 200
    details = ErrorDetails(message=text, code=code, text=text.lower())
    return _classify(details, _said(status), failure.dialect)


def _written_out(error: BaseException, failure: _Failure) -> errors.ProviderError | None:
    """Read the error of a 2xx that is written as Python."""
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
    details = error_details({"type": "error", "error": value}, secret=failure.secret)
    headers = lower_headers(getattr(error, "headers", None))
    return _classify(details, _said(details.status, headers), failure.dialect)


def _from_unread_reply(failure: _Failure) -> errors.ProviderError | None:
    """Recognise a reply or request that litellm could not handle."""
    text, chain = failure.text(), failure.chain
    cause = chain[1] if len(chain) > 1 else failure.error
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


def _from_transport(failure: _Failure) -> errors.ProviderError | None:
    """Recognise time-outs and broken connections by what the HTTP client raised."""
    chain = failure.chain
    names = {name for each in chain for name in _names(each)}
    text = failure.text(chain[-1]) or type(chain[-1]).__name__
    if names & _NOT_CONNECTED:
        failed = errors.ConnectionFailedError(f"cannot connect: {text}")
        failed.may_be_billed = False  # nothing was sent
        return failed
    if names & _SLOW:
        return errors.RequestTimeoutError(f"no answer in time: {text}")
    if names & _NOT_HTTP and "ClientPayloadError" not in names:
        return errors.BadReplyError(f"the reply is not HTTP: {text}")
    if names & _BROKEN - {"APIConnectionError"} or any(isinstance(e, OSError) for e in chain):
        return errors.ConnectionFailedError(f"the connection broke: {text}")
    return None


def _from_class(failure: _Failure) -> errors.ProviderError | None:
    """Take litellm's class at its word where there is nothing better."""
    for name in _names(failure.error):
        if name in BY_CLASS:
            return BY_CLASS[name](failure.text(), code=_code(failure.error))
    return None


def _from_status(failure: _Failure) -> errors.ProviderError:
    """Go by the status that litellm gives, and by the message."""
    error, text, code = failure.error, failure.text(), _code(failure.error)
    status = getattr(error, "status_code", None)
    if not isinstance(status, int):
        if "APIError" not in _names(error):
            return errors.InvalidRequestError(f"{type(error).__name__}: {text}")
        # An error in the body of a 200: its code stands where the status belongs.
        code, status = str(status).lower() if status else code, 200
        if code in _STATUSES:
            status, code = int(code or 0), None
    if status == 429 and _is_out_of_credit(error, text):
        code = "insufficient_quota"
    headers = lower_headers(getattr(error, "litellm_response_headers", None))
    details = ErrorDetails(message=text, code=code)
    return _classify(details, _said(status, headers), failure.dialect)


def _is_out_of_credit(error: BaseException, text: str) -> bool:
    """Tell "pay first" from "wait": Gemini says "current quota" for both."""
    google = str(getattr(error, "llm_provider", "")).startswith(("gemini", "vertex"))
    lower = text.lower()
    return "insufficient_quota" in lower or (
        not google and "exceeded your current quota" in lower and "billing" in lower
    )


def _code(error: BaseException) -> str | None:
    """Return a code that says more than the status."""
    code = getattr(error, "code", None)
    return code.lower() if isinstance(code, str) and not code.isdigit() else None


# --- replies of success ---------------------------------------------------------------------------


def looking(model: str, key: str | None) -> Look:
    """Return what looks at replies to a call, and masks the key."""

    def look(reply: Any) -> None:
        """Put the reply's body right; raise the failure that it is."""
        status = getattr(reply, "status_code", None)
        if not (isinstance(status, int) and 200 <= status < 300):
            return
        body = getattr(reply, "_content", None)  # of httpx, httpx2 and requests
        if not isinstance(body, bytes):
            return  # a stream
        found = _read(body)
        if found is None:
            return
        data, mended = found
        if _is_odd(data):
            _raise_failure(WireReply(status, lower_headers(reply.headers), body, 0.0), model, key)
        if _mend_usage(data) or mended:
            reply._content = orjson.dumps(data)

    return look


def _read(body: bytes) -> tuple[dict[str, Any], bool] | None:
    """Return a body's object, and whether strict readers refuse it."""
    try:
        data = orjson.loads(body)
        is_strict = True
    except orjson.JSONDecodeError:
        try:
            data = lenient_json.loads(body)
            orjson.dumps(data)  # numbers that are too large stay as they are
        except (ValueError, TypeError):
            return None
        is_strict = False
    return (data, not is_strict) if isinstance(data, dict) else None


def _is_odd(data: Mapping[str, Any]) -> bool:
    """Return whether there is an error, or a bad ending."""
    if data.get("error"):
        return True
    ending = data.get("stop_reason")
    if _is_bad(ending):
        return True
    choices = data.get("choices")
    choice = mapping(choices[0]) if isinstance(choices, list) and choices else EMPTY
    return bool(choice.get("error")) or _is_bad(choice.get("finish_reason"))


def _is_bad(ending: Any) -> bool:
    if not isinstance(ending, str) or ending in finish_reasons.WHOLE:
        return False
    return finish_reasons.is_failure(ending) or finish_reasons.is_filtered(ending)


def _raise_failure(reply: WireReply, model: str, key: str | None) -> None:
    """Raise what the native provider finds; its answers are left to litellm."""
    dialect = vendor_dialect(model)
    reply = reply._replace(received_at=time.time())
    native: OpenAIProvider | AnthropicProvider
    if dialect.name == "anthropic":
        native = AnthropicProvider(model, base_url=_NOWHERE, api_key=key or "")
    else:
        native = OpenAIProvider(model, base_url=_NOWHERE, api_key=key or "")
        native.dialect = dialect
    try:
        native.decode(reply)
    except errors.ProviderError as error:
        error.signals = quota_signals(reply.headers, dialect=dialect, received_at=reply.received_at)
        raise error from None


def _mend_usage(data: dict[str, Any]) -> bool:
    """Remove usage that cannot be; return whether there was any."""
    if isinstance(data.get("choices"), list):
        names, others = _OPENAI_COUNTS, ("prompt_tokens_details", "completion_tokens_details")
        is_needed = False
    elif data.get("type") == "message":
        names, others = _ANTHROPIC_COUNTS, ("cache_creation", "server_tool_use")
        is_needed = True  # litellm reads no message without it
    else:
        return False
    usage = data.get("usage")
    if usage is None and not is_needed:
        return False
    if not isinstance(usage, dict) or not said(*[usage.get(each) for each in names]):
        data["usage"] = dict.fromkeys(names, 0)
        return True
    missing = [each for each in names[:2] if usage.get(each) is None] if is_needed else []
    usage.update(dict.fromkeys(missing, 0))
    odd = [each for each in others if each in usage and not _is_sound(usage[each])]
    for each in odd:
        del usage[each]
    return bool(odd or missing)


def _is_sound(details: Any) -> bool:
    if details is None:
        return True
    if not isinstance(details, dict):
        return False
    return said(*[each for each in details.values() if not isinstance(each, dict)])
