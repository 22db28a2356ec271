"""Rules that classify error replies, for the tables of all providers.

Status and type say too little: a 429 can mean "wait a second", "never" and "pay first"; a 400
or 403 about what one prompt says concerns this prompt, one about the model's name concerns all
of them. So codes are looked at before texts, and texts before the status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from llmflow import errors
from llmflow.headers import LONGEST_QUOTA, clock_time, server_delay, server_time
from llmflow.rate_limits import DAY, RATE_LIMITS
from llmflow.types import WireReply
from llmflow_providers import words
from llmflow_providers.error_body import ErrorDetails

Kind = type[errors.ProviderError]

_MAY_BE_CONTENT: Final = frozenset({200, 400, 403, 422, 451})
_MAY_BE_MODEL: Final = frozenset({200, 400, 404, 422})
_BEGINNING: Final = 1000  # further on, messages repeat the prompt
_CONTENT_CODE: Final = re.compile(
    r"content[_ -]?(?:filter|polic|moderat|violat|block|safety|inspect)|moderat|flagged"
    r"|responsible_?ai|data_?inspection|guardrail|sensitive_(?:word|content)|prohibited_content"
    r"|(?:usage|misalignment|safety)_policy|safety_(?:violation|block|error|check)|unsafe_content"
)
_CONTENT_CODES: Final = words("1301 invalid_prompt safety")  # Z.ai; OpenAI of reasoning models
_CONTENT_TEXT: Final = re.compile(
    r"content (?:management|filter(?:ing)?|moderation|usage) polic"  # Azure, Anthropic
    r"|violat\w{1,4} (?:\w{1,20} ){0,4}(?:usage|content|safety) (?:polic|guideline)"  # OpenAI, xAI
    r"|(?:input|prompt|content|request|message)s? (?:was|were|is|has been|have been) flagged"
    r"|requires moderation on|content exists risk"  # OpenRouter, DeepSeek
    r"|inappropriate content|(?:rejected|blocked) (?:by|as a result of) (?:\w{1,20} ){0,3}"
    r"(?:safety|content|guardrail|moderation)"  # Qwen, OpenAI
    r"|safety_check_type"  # xAI
)
_MODEL_CODES: Final = words("""
    1211 invalid_model invalid_model_name model_not_available model_not_exist model_not_found
    model_not_found_error modelnotfound no_such_model unknown_model
""")  # the number is Z.ai's
_QUOTED_NAME: Final = r"[`'\"]?[\w./:@+-]{1,200}[`'\"]?"
_MODEL_TEXT: Final = re.compile(
    r"invalid model(?:[ _](?:name|id|identifier))?(?: passed in model=|[:=]| [`'\"]|\s*$|\.)"
    r"|\b(?:unknown|unsupported|no such|nonexistent) model\b"
    r"|(?:could ?not|cannot|can't|unable to) find (?:the )?model\b"
    rf"|\bmodel(?:[ _](?:name|id))?(?:[:=]? {{0,2}}{_QUOTED_NAME})?,? "
    r"(?:(?:was |is |could )?not (?:be )?(?:found|exist\b|available on|a valid model)"
    r"|(?:does not|doesn't|do not) exist|is (?:invalid|unknown|not a known))"
    rf"|{_QUOTED_NAME} is not a valid model"  # OpenRouter
    r"|no healthy deployments?\b|no deployments? (?:found|available) for"  # LiteLLM's proxy
    r"|no (?:allowed )?(?:endpoints?|providers?) (?:found|available) for (?:the )?"
    rf"(?:model|{_QUOTED_NAME}[/:])"
    r"|llm provider not provided"  # LiteLLM
)
_PASSING_CAUSE: Final = re.compile(
    r"time[d_ -]*out|unavailable|overload|busy|temporar|capacity|upstream|not_?ready"
    r"|warm|loading|throttl|connection|server_error|internal_error"
)
_LONG_QUOTA: Final = re.compile(
    r"\b(?:daily|weekly|monthly)(?: \w{1,20}){0,2} (?:quota|limit|cap|allowance|usage)\b"
    r"|\b(?:quota|limit|requests|tokens) (?:for|per|of) (?:the |a )?(?:day|today|24 ?h)"
    r"|\bper[- ]24[- ]?h|\b(?:requests?|tokens?) ?/ ?(?:day|24 ?h)"
)
_LONG_CODE: Final = re.compile(r"\b(?:daily|weekly|monthly)|per_?(?:day|month)|_(?:rpd|tpd)\b")
_LONGEST_LIMIT: Final = 32 * DAY
# Errors about a limit, which may say which one.
_ABOUT_A_LIMIT: Final = (
    errors.RateLimitError,
    errors.QuotaExhaustedError,
    errors.TooLargeForLimitError,
)
# A search of a few kilobytes for each of a storm of rejections: one pass, not twenty.
_PERIOD: Final = r"(?:\s+per\s+|\s*/\s*)(second|sec|minute|min|day)"
_IN_WORDS: Final = re.compile(
    r"\((?P<short>(?:[io]?t|r)p[md])\)"  # OpenAI, Groq: "tokens per min (TPM)"
    rf"|(?P<side>input |output |prompt |generated )?(?P<unit>tokens?|requests?|calls)"
    rf"{_PERIOD}"  # Anthropic: "input tokens per minute"; xAI: "Requests per Second"
    r"|(?P<rate>token|call|request) rate limit"  # Azure
    r"|per[ -]minute (?P<each>request|token)"  # Cohere
    r"|(?P<daily>daily (?:request|token|rate))"
    r"|free-models-per-(?P<free>day|min)"  # OpenRouter
)
# Gemini: GenerateRequestsPerDayPerProjectPerModel, GenerateContentInputTokensPerModelPerMinute
_QUOTA_ID: Final = re.compile(r"(requests|inputtokens|tokens)\w*?per(minute|day)")
_BY_CODE: Final = {
    "requests": "rpm",
    "tokens": "tpm",
    "dynamic_request_limited": "rpm",  # Together
    "dynamic_token_limited": "tpm",
}
_SIDES: Final = {"input ": "i", "prompt ": "i", "output ": "o", "generated ": "o"}

BY_STATUS: Final[Mapping[int, Kind]] = {
    401: errors.AuthenticationError,
    403: errors.AuthenticationError,
    404: errors.ModelNotFoundError,
    # Of 4xx, those that say nothing against the request: it is sent again.
    408: errors.RequestTimeoutError,
    409: errors.ConflictError,
    421: errors.ServerError,
    425: errors.ServerError,
    499: errors.RequestTimeoutError,
    429: errors.RateLimitError,
    503: errors.OverloadedError,
    504: errors.RequestTimeoutError,
    529: errors.OverloadedError,
}
"""Statuses that mean the same at every provider."""

TextRule = tuple[str, frozenset[int], Kind]

# What throttles comes before what does not fit: both speak of tokens.
ANTHROPIC_TEXTS: Final[tuple[TextRule, ...]] = (
    ("api usage limits", frozenset({400, 403, 429}), errors.BillingError),
    ("credit balance is too low", frozenset({400, 402, 403}), errors.BillingError),
    ("acceleration limit", frozenset({429}), errors.RampLimitError),
    ("usage increase rate", frozenset({429}), errors.RampLimitError),
    ("concurrent connections", frozenset({429}), errors.ConcurrencyLimitError),
    ("concurrent requests", frozenset({429}), errors.ConcurrencyLimitError),
    ("prompt is too long", frozenset({400, 413}), errors.ContextLengthError),
    ("exceed context limit", frozenset({400}), errors.ContextLengthError),
)
"""Texts of Anthropic's errors, which gateways pass on in every dialect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorTable:
    """The codes, texts, types and statuses of one API's errors.

    Args:
        unpaid: codes and types that say "pay first"; they count before all others.
        by_code: by the code, or else by the type.
        by_text: by a part of what the body says, in lower case, for these statuses only; in
            this order.
        by_type: by the type, where nothing else says more.
        by_status: by the status, besides `BY_STATUS`.
    """

    unpaid: frozenset[str] = frozenset()
    by_code: Mapping[str, Kind] = field(default_factory=dict)
    by_text: tuple[TextRule, ...] = ()
    by_type: Mapping[str, Kind] = field(default_factory=dict)
    by_status: Mapping[int, Kind] = field(default_factory=dict)

    def classify(self, details: ErrorDetails, reply: WireReply) -> errors.ProviderError:
        """Return a reply's error, with the server's delay. Arguments as `HTTPProvider.classify`."""
        kind = self.kind_by_body(details, reply.status) or self.kind_by_status(reply.status)
        return as_error(kind, details, reply)

    def kind_by_body(
        self, details: ErrorDetails, status: int, *, is_late: bool = False
    ) -> Kind | None:
        """Return the error kind that the body names, or None.

        `is_late`: the quota of a 429 comes back in a day at the earliest.
        """
        if {details.code, details.type} & self.unpaid:
            return errors.BillingError
        for word in (details.code, details.type):
            if word is not None and word in self.by_code:
                return self.by_code[word]
        for fragment, statuses, kind in self.by_text:
            if status in statuses and fragment in details.text:
                return kind
        if names_content(details, status):
            return errors.ContentFilterError
        if names_model(details, status):
            return errors.ModelNotFoundError
        if is_passing(details, status):
            return errors.ServerError
        if status == 429 and (is_late or is_daily(details)):
            return errors.QuotaExhaustedError
        return self.by_type.get(details.type or "")

    def kind_by_status(self, status: int) -> Kind:
        """Return what a status means where the body says nothing."""
        for table in (self.by_status, BY_STATUS):
            if status in table:
                return table[status]
        if status == 200:
            return errors.BadReplyError
        return errors.ServerError if status >= 500 else errors.InvalidRequestError


def as_error(kind: Kind, details: ErrorDetails, reply: WireReply) -> errors.ProviderError:
    """Return a class's error with all details of a reply."""
    headers, now = reply.headers, reply.received_at
    if details.headers:
        # A plain dict, whose names are not found in whatever case the server has sent them.
        headers = {**details.headers, **{name.lower(): value for name, value in headers.items()}}
    message = details.message
    if 300 <= reply.status < 400:
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
    error = kind(
        message,
        status=reply.status,
        code=details.code or details.type,
        request_id=headers.get("x-request-id") or headers.get("request-id"),
        retry_after=delay,
        dimension=dimension_of(details.text, details.code, details.type)
        if issubclass(kind, _ABOUT_A_LIMIT)
        else None,
    )
    if isinstance(error, errors.BadGenerationError):
        error.partial_text = details.generated
    return error


def is_daily(details: ErrorDetails) -> bool:
    """Return whether a rejection concerns a daily or longer limit."""
    text = details.text
    if dimension_of(text) in {"rpd", "tpd"} or _LONG_QUOTA.search(text):
        return True
    return any(word and _LONG_CODE.search(word) for word in (details.code, details.type))


def names_content(details: ErrorDetails, status: int) -> bool:
    """Return whether an error concerns the content of prompt or answer."""
    if status not in _MAY_BE_CONTENT:
        return False
    if details.names_content:
        return True
    for word in (details.code, details.type):
        if word and (word in _CONTENT_CODES or _CONTENT_CODE.search(word)):
            return True
    return bool(_CONTENT_TEXT.search(details.text[:_BEGINNING]))


def names_model(details: ErrorDetails, status: int) -> bool:
    """Return whether an error says that the model is unknown."""
    if status not in _MAY_BE_MODEL:
        return False
    if details.code in _MODEL_CODES or details.type in _MODEL_CODES:
        return True
    return bool(_MODEL_TEXT.search(details.text[:_BEGINNING]))


def is_passing(details: ErrorDetails, status: int) -> bool:
    """Return whether a 424 names a temporary cause."""
    if status != 424:
        return False
    return any(word and _PASSING_CAUSE.search(word) for word in (details.code, details.type))


def dimension_of(text: str, *codes: str | None) -> str | None:
    """Return the field of `Quota` that a rejection names, or None.

    All is in lower case: what the server said, and the codes and types beside it.

    >>> dimension_of("rate limit of 50,000 input tokens per minute")
    'itpm'
    >>> dimension_of("Slow down.", "rate_limit_exceeded", "requests")
    'rpm'
    """
    found = _IN_WORDS.search(text)
    name = _named(found) if found else None
    if name is None:
        quota_id = _QUOTA_ID.search(text)
        if quota_id:
            unit = {"requests": "r", "inputtokens": "it", "tokens": "t"}[quota_id[1]]
            name = f"{unit}p{quota_id[2][0]}"
    if name in RATE_LIMITS:
        return name
    return next((_BY_CODE[code] for code in codes if code in _BY_CODE), None)


def _named(found: re.Match[str]) -> str:
    parts = found.groupdict()
    if parts["short"]:
        return parts["short"]
    if parts["free"]:
        return "rpd" if parts["free"] == "day" else "rpm"
    if parts["daily"]:
        return "tpd" if "token" in found.string else "rpd"
    word = parts["unit"] or parts["rate"] or parts["each"]
    unit = "t" if word.startswith("token") else "r"
    period = "d" if found[0].endswith("day") else "m"
    return f"{_SIDES.get(parts['side'] or '', '') if unit == 't' else ''}{unit}p{period}"
