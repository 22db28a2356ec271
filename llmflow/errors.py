"""Every error that llmflow raises, in one tree.

::

    LLMFlowError
    ├── UsageError (ValueError)        the caller's mistake: fix the call, the input or the settings
    │   ├── ConfigurationError         a setting is wrong
    │   │   ├── MissingKeyError        no API key where one is needed
    │   │   ├── MissingExtraError      an optional dependency is not installed
    │   │   ├── UnknownModelError      no provider knows this model name
    │   │   └── UnknownArgumentError (TypeError)   no such argument here
    │   └── InputError                 the input or the prompt template is wrong
    ├── ProviderError                  the provider, or the way to it, said no
    │   ├── RateLimitError             over a short limit: wait, then send again
    │   │   ├── RampLimitError         traffic grew too fast
    │   │   ├── ConcurrencyLimitError  too many requests in flight
    │   │   └── QueueLimitError        too much is waiting in batch jobs
    │   ├── QuotaExhaustedError        a daily or monthly quota is used up
    │   ├── BillingError               no credit, spend limit reached
    │   ├── TooLargeForLimitError      one request above the whole limit
    │   ├── ContextLengthError         the prompt does not fit the model
    │   ├── ContentFilterError         refused because of its content
    │   │   └── RefusalError           the model itself refused to answer
    │   ├── AuthenticationError        the key is wrong or may not do this
    │   ├── ModelNotFoundError         the provider has no such model
    │   ├── InvalidRequestError        the provider cannot read the request
    │   │   └── BadGenerationError     what the model wrote is not of the wanted form
    │   ├── ConflictError              HTTP 409
    │   ├── OverloadedError            the provider has no capacity now
    │   ├── OutageError                nothing but failures for minutes
    │   ├── ServerError                the provider failed
    │   ├── BadReplyError              the reply is not what the provider documents
    │   ├── RequestTimeoutError        no answer in time
    │   ├── BatchRowLostError          a batch job ended without this row
    │   ├── ResultsTooLargeError       results of a batch job larger than answers can be
    │   ├── BatchCancelledError        the batch job was cancelled from outside
    │   ├── BatchUnsupportedError      the provider has no batch API
    │   └── ConnectionFailedError      no connection, or it broke
    ├── InvalidAnswerError             an answer is not accepted, and neither is the next
    ├── JournalError                   a run's journal cannot be read or written
    │   └── JournalBusyError           another process works on this run
    ├── BudgetExceededError            the next call does not fit into the run's budget
    │   └── TooLargeForBudgetError     one call alone is above the whole budget
    └── FlowError                      a flow cannot go on
        ├── AsyncRunError (RuntimeError)   an async node was run in the sync way
        ├── ActionError (TypeError)        what a node returned cannot choose the next one
        └── StepLimitError             more steps than ``max_steps``

Errors carry data (provider, model, status, ...), can be pickled, and hold no
secret: text that a provider sent is passed through `redact` first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

_SECRET = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|nvapi|fw|tgp)[-_][A-Za-z0-9*_\-]{6,}"
    r"|\bAIza[A-Za-z0-9*_\-]{8,}"
    r"|(?i:(?<=bearer ))[^\s\"')>]{8,}"
    # The user and password of an address, with or without its scheme.
    r"|(?<=//)[^/@\s]+(?=@)|(?<![^\s'\"])[^/@\s:]+:[^/@\s]+(?=@)"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_MESSAGE_LIMIT = 500
_SEARCH_LIMIT = 20_000


def redact(text: str, *secrets: str | None) -> str:
    r"""Make foreign text safe for a log, an error or a terminal.

    Given secrets and anything that looks like a key are masked, control
    characters (terminal escapes among them) are dropped, and the text is cut
    at 500 characters.

    >>> redact("Incorrect API key provided: sk-abcdef123456. \x1b[31m")
    'Incorrect API key provided: ***. [31m'
    """
    text = text[:_SEARCH_LIMIT]  # a body of megabytes would take a second
    for secret in secrets:
        if secret and len(secret) >= 4:
            text = text.replace(secret, "***")
    text = _CONTROL.sub("", _SECRET.sub("***", text.replace("\n", " ")))
    return text if len(text) <= _MESSAGE_LIMIT else text[: _MESSAGE_LIMIT - 1] + "…"


class LLMFlowError(Exception):
    """The root of all errors of llmflow."""

    fatal: ClassVar[bool] = False
    """Whether every other request of the same run must fail in the same way."""


class UsageError(LLMFlowError, ValueError):
    """The caller's mistake: the call, the input or the settings must change."""


class ConfigurationError(UsageError):
    """A setting is wrong; the message names it and the remedy."""


class MissingKeyError(ConfigurationError):
    """There is no API key where the provider needs one."""


class MissingExtraError(ConfigurationError):
    """An optional dependency is needed; the message names the extra to install."""


class UnknownModelError(ConfigurationError):
    """No installed provider knows this model name."""


class UnknownArgumentError(ConfigurationError, TypeError):
    """A call got an unknown argument; the message suggests the right place.

    Args:
        message: what is wrong, and what to write.
        name: the argument's name; None where a value was given without one.
        nearest: the name that was probably meant; None if there is none.
    """

    def __init__(
        self, message: str = "", *, name: str | None = None, nearest: str | None = None
    ) -> None:
        super().__init__(message)
        self.name = name
        self.nearest = nearest


class InputError(UsageError):
    """The input, or the prompt template for it, is wrong."""


class InvalidAnswerError(LLMFlowError):
    """The answer was not accepted, nor those to further requests.

    Args:
        message: what is wrong with the last one.
        response: that answer as it came, with what all of them took; they were paid for.
        cause: what the function that looked at it has raised.
    """

    asked: int = 1
    """How often the call was asked."""

    def __init__(self, message: str, *, response: Any = None, cause: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.response = response
        self.__cause__ = cause

    def __str__(self) -> str:
        return f"the answer is not accepted: {self.message}"


class JournalError(LLMFlowError):
    """A run's journal is unusable; the message says what to do.

    Attributes:
        response: the answer that could not be written down, which was paid for; else None.
    """

    fatal = True
    response: Any = None


class JournalBusyError(JournalError):
    """Another process works on this run at the moment."""


class BudgetExceededError(LLMFlowError):
    """The next call does not fit into the rest of the budget."""

    fatal = True


class TooLargeForBudgetError(BudgetExceededError):
    """One call alone may exceed the whole budget; others go on.

    Args:
        message: what it may come to, and what to do.
        dimension: what of the budget is too small, as a field of `Budget` names it.
        needed: what the call may come to.
        limit: what the budget allows in all.
    """

    fatal = False

    def __init__(
        self, message: str, *, dimension: str = "usd", needed: float = 0.0, limit: float = 0.0
    ) -> None:
        super().__init__(message)
        self.dimension = dimension
        self.needed = needed
        self.limit = limit


class FlowError(LLMFlowError):
    """A flow cannot go on."""


class AsyncRunError(FlowError, RuntimeError):
    """An async node or flow was run in the sync way."""


class ActionError(FlowError, TypeError):
    """A node returned something that cannot choose the next node."""


class StepLimitError(FlowError):
    """A flow made more steps than its ``max_steps``: probably an endless cycle."""


def _rebuild(cls: type[ProviderError], message: str, data: dict[str, Any]) -> ProviderError:
    return cls(message, **data)


class ProviderError(LLMFlowError):
    """The provider, or the way to it, said no.

    Args:
        message: what the provider said, already passed through `redact`.
        provider: the provider's name, such as ``"openai"``.
        model: the model's name at the provider.
        status: HTTP status, where there was one.
        code: the provider's own error code.
        request_id: the provider's id of this request, for its support.
        retry_after: seconds that the server asked to wait, or None.
        dimension: what of the quota was used up, as a field of `Quota` names it, such as
            ``"tpm"``; None where that is not said or not the matter.
        attempts: how often the request was sent and counted.

    """

    signals: Sequence[Any] = ()
    """What the reply said of the quota, from a provider with a client of its own."""

    is_page: bool = False
    """Whether the reply was an HTML page, which no provider sends."""

    source: str = "provider"
    """Where it is known from: ``journal`` if it was met in an earlier session of the run."""

    may_be_billed: bool = False
    """Whether the request may have run all the same, as far as is known."""

    transient: ClassVar[bool] = False
    """Whether sending the same request again later can succeed."""
    remedy: ClassVar[str] = ""
    _pickled: ClassVar[tuple[str, ...]] = (
        *("provider", "model", "status", "code", "request_id"),
        *("retry_after", "dimension", "attempts"),
    )

    def __init__(
        self,
        message: str,
        *,
        provider: str | None = None,
        model: str | None = None,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        dimension: str | None = None,
        attempts: int = 1,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.model = model
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after = retry_after
        self.dimension = dimension
        self.attempts = attempts

    def redact(self) -> None:
        """Remove keys from it: foreign providers may have left them in."""
        self.message = redact(self.message)
        self.code = redact(self.code) if isinstance(self.code, str) else self.code
        if isinstance(self.request_id, str):
            self.request_id = redact(self.request_id)
        self.args = tuple(redact(each) if isinstance(each, str) else each for each in self.args)

    def __str__(self) -> str:
        where = "/".join(part for part in (self.provider, self.model) if part)
        facts = [f"HTTP {self.status}" if self.status else None, self.code]
        if self.attempts > 1:
            facts.append(f"{self.attempts} attempts")
        detail = ", ".join(fact for fact in facts if fact)
        text = f"{where}: {self.message}" if where else self.message
        if detail:
            text = f"{text} ({detail})"
        if not self.remedy:
            return text
        stop = "" if text.endswith((".", "!", "?")) else "."
        return f"{text}{stop} {self.remedy}"

    def __reduce__(self) -> tuple[Any, ...]:
        data = {name: getattr(self, name) for name in self._pickled}
        return _rebuild, (type(self), self.message, data)


class RateLimitError(ProviderError):
    """Over a limit that refills soon; the request itself is fine."""

    transient = True


class RampLimitError(RateLimitError):
    """Traffic grew faster than the provider allows."""


class ConcurrencyLimitError(RateLimitError):
    """Too many requests are in flight at once."""


class QueueLimitError(RateLimitError):
    """Too many rows are enqueued already; the job fits later.

    Args:
        message: what the provider said, already passed through `redact`.
        limit: prompt tokens that may wait at once, where the provider says so.
        **facts: as those of `ProviderError`.
    """

    _pickled = (*ProviderError._pickled, "limit")

    def __init__(self, message: str, *, limit: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.limit = limit


class QuotaExhaustedError(ProviderError):
    """A daily or monthly quota is used up until its reset."""

    fatal = True
    remedy = "Run again after the quota's reset, or raise the quota at the provider."


class BillingError(ProviderError):
    """There is no credit, or a spend limit is reached."""

    fatal = True
    remedy = "Add credit or raise the spend limit at the provider, then run again."


class TooLargeForLimitError(ProviderError):
    """One request needs more than the whole limit and never fits."""

    remedy = "Shorten the prompt, lower max_tokens, or get a higher limit."


class ContextLengthError(ProviderError):
    """The prompt and max_tokens do not fit the model's context."""

    remedy = "Shorten the prompt or use a model with a longer context."


class ContentFilterError(ProviderError):
    """The provider refused because of the content.

    Args:
        message: what the provider said, already passed through `redact`.
        partial_text: what the model had written when its answer was stopped; "" if nothing.
            Untrusted, and as long as an answer.
        usage: the `Usage` of what was written, where the provider says so; else None.
        cost: US dollars that the provider says it charges for them, or None.
        **facts: as those of `ProviderError`.
    """

    _pickled = (*ProviderError._pickled, "partial_text", "usage", "cost")

    def __init__(
        self,
        message: str,
        *,
        partial_text: str = "",
        usage: Any = None,
        cost: float | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.partial_text = partial_text
        self.usage = usage
        self.cost = cost


class RefusalError(ContentFilterError):
    """The model refused to answer; `partial_text` holds what it said."""


class AuthenticationError(ProviderError):
    """The key is missing, wrong, or may not do this."""

    fatal = True
    remedy = "Check the API key and its permissions."


class ModelNotFoundError(ProviderError):
    """The provider has no such model, or not for this key."""

    fatal = True
    remedy = "Check the model's name, and that the base URL ends where the API begins (/v1)."


class InvalidRequestError(ProviderError):
    """The provider cannot read the request; sending it again changes nothing."""


class BadGenerationError(InvalidRequestError):
    """The provider rejects what the model wrote: not of the wanted form.

    Args:
        message: what the provider said, already passed through `redact`.
        partial_text: what the model wrote. Untrusted, and as long as an answer.
        **facts: as those of `ProviderError`.
    """

    _pickled = (*ProviderError._pickled, "partial_text")

    def __init__(self, message: str, *, partial_text: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.partial_text = partial_text


class ConflictError(ProviderError):
    """HTTP 409: the provider asks to send the request again."""

    transient = True


class OverloadedError(ProviderError):
    """The provider has no capacity at the moment (503, 529)."""

    transient = True


class OutageError(ProviderError):
    """Nothing but failures for minutes: the provider or network is down."""

    fatal = True
    remedy = "See the provider's status page, and run again when it is up."


class ServerError(ProviderError):
    """The provider failed (500, 502, 520 to 524)."""

    transient = True


class BadReplyError(ProviderError):
    """The reply is malformed: cut off, HTML, or without an answer."""

    may_be_billed = transient = True


class RequestTimeoutError(ProviderError):
    """No answer within the time-out; the request may be billed."""

    may_be_billed = transient = True


class ConnectionFailedError(ProviderError):
    """The connection failed, or broke before the answer was complete."""

    may_be_billed = transient = True


class BatchRowLostError(ProviderError):
    """The batch job ended without this row: expired, cut or missing.

    `code` says which: ``expired``, ``cancelled`` or ``missing``. It was not billed, unless the
    provider counts more rows as answered than came.
    """

    transient = True


class ResultsTooLargeError(ProviderError):
    """The results of a batch job or row are too large."""


class BatchCancelledError(ProviderError):
    """The batch job was cancelled; its open rows can be asked again."""

    fatal = True
    remedy = "Run again to ask what is missing."


class BatchUnsupportedError(ProviderError):
    """The provider, or this server, has no batch API."""

    fatal = True
    remedy = 'Use mode="parallel", or fallback="parallel".'
