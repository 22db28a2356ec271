"""Base of providers with JSON over HTTP, and readers of replies."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import orjson

from llmflow import lenient_json
from llmflow.errors import BadReplyError, ConfigurationError, MissingKeyError, ProviderError, redact
from llmflow.headers import parse_number, parse_reset, server_time
from llmflow.parts import texts
from llmflow.provider import key_digest
from llmflow.retry import Retry
from llmflow.surrogates import well_formed_value
from llmflow.types import Quota, QuotaSignal, Response, Usage, WireReply, WireRequest
from llmflow_providers.error_body import ErrorDetails, error_details, read_error
from llmflow_providers.error_rules import ErrorTable

EMPTY: Final[Mapping[str, Any]] = {}
_MOST: Final = 10**15


class LimitHeaders(NamedTuple):
    """The headers that tell of one limit.

    >>> LimitHeaders.named("rpm", "x-ratelimit-{}-requests").reset
    'x-ratelimit-reset-requests'
    """

    dimension: str
    limit: str
    remaining: str
    reset: str

    @classmethod
    def named(cls, dimension: str, pattern: str) -> LimitHeaders:
        """Return the headers of a dimension whose names differ in one word."""
        return cls(dimension, *map(pattern.format, ("limit", "remaining", "reset")))

    def signal(self, headers: Mapping[str, str], now: float) -> QuotaSignal:
        """Read them, with lower-case names, at the server's time `now`."""
        reset = headers.get(self.reset)
        return QuotaSignal(
            self.dimension,
            parse_number(headers.get(self.limit)),
            parse_number(headers.get(self.remaining)),
            parse_reset(reset, now=now) if reset is not None else None,
        )


def told_limits(
    limits: Iterable[LimitHeaders], headers: Mapping[str, str], received_at: float
) -> list[QuotaSignal]:
    """Read the limits that a reply's headers tell."""
    told = [names for names in limits if names.limit in headers]
    if not told:
        return []
    now = server_time(headers, received_at)
    found: dict[str, QuotaSignal] = {}
    for names in told:
        signal, first = names.signal(headers, now), found.get(names.dimension)
        # Of an organisation's limit and a project's, the smaller one counts.
        if (
            first is None
            or first.limit is None
            or (signal.limit is not None and signal.limit < first.limit)
        ):
            found[names.dimension] = signal
    return list(found.values())


class HTTPProvider(ABC):
    """A chat API over HTTP: address, key, replies and errors.

    A subclass adds `encode`, `understand`, `reserve` and `settle`, and sets what
    stands below without a value.

    Args:
        model: the model's name there.
        base_url: where the API is; else that of `url_variable`, else `official_url`.
        api_key: the key, or "" for none; else that of `key_variable`.

    Raises:
        ConfigurationError: the base URL is no HTTP URL, or holds a password.
    """

    name: str
    key_variable: str
    url_variable: str
    official_url: str
    """The provider's own server, which needs a key."""
    path: str
    """What is called, below the base URL."""
    answer: str
    """What a reply holds, as messages name it."""
    error_table: ErrorTable
    limits: tuple[LimitHeaders, ...] = ()
    """The limits that its headers tell."""
    default_quota: Quota | None = None
    default_retry: Retry | None = None
    known_options: frozenset[str] | None = None
    """The fields of its body that a call may give as keywords."""
    reserves_output = True

    def __init__(
        self, model: str, *, base_url: str | None = None, api_key: str | None = None
    ) -> None:
        self.model = model
        url = base_url or os.environ.get(self.url_variable) or self.official_url
        self.base_url = self.address(url)
        # "" says "no key": the provider's own must not reach a server that asks for none.
        self.key = (os.environ.get(self.key_variable) if api_key is None else api_key) or None
        self._key_digest = key_digest(self.key)
        self._url = f"{self.base_url}{self.path}"
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            **self.own_headers(),
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, base_url={self.base_url!r})"

    @staticmethod
    def address(url: str) -> str:
        """Return a base URL as it is used."""
        return checked_base_url(url)

    def own_headers(self) -> Mapping[str, str]:
        """Return the headers of each request besides those of JSON."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def domain(self) -> Hashable:
        """One quota per server, key digest and model."""
        return (self.name, self.base_url, self._key_digest, self.model)

    endpoint = property(attrgetter("base_url"))  # in C: each call asks for it
    """Its address: what another server answers is another answer."""

    def prepare(self) -> None:
        """Check that a required key exists and can be sent."""
        if self.key is None and self.base_url == self.official_url:
            raise MissingKeyError(
                f"{self.name}/{self.model} needs an API key: set the environment variable "
                f"{self.key_variable} (or, in Python, pass api_key=...)"
            )
        check_key(self.key, name=self.name, variable=self.key_variable)

    def decode(self, reply: WireReply) -> Response:
        """Turn a reply into a response, or raise its error."""
        if not 200 <= reply.status < 300:
            raise self.classified(self.details(reply), reply)
        try:
            return self.understand(parsed(reply.body), reply)
        except (ValueError, LookupError, TypeError, AttributeError):
            raise self.unusable(self.details(reply), reply, f"HTTP {reply.status}") from None

    @abstractmethod
    def understand(self, data: Any, reply: WireReply) -> Response:
        """Turn an answer that was parsed already into a response.

        Args:
            data: the answer.
            reply: what it came with: its headers count, its body does not.

        Raises:
            ProviderError: it is the answer of a failure.
            LookupError, TypeError, AttributeError: it is no answer.
        """

    def classify(self, details: ErrorDetails, reply: WireReply) -> ProviderError:
        """Return a reply's error, with the server's delay.

        Args:
            details: what its body says.
            reply: what it came with; its status may be the one that the body names.
        """
        return self.error_table.classify(details, reply)

    def classified(
        self, details: ErrorDetails, reply: WireReply, status: int | None = None
    ) -> ProviderError:
        """Return the error for a reply, as if of this status."""
        return self.classify(details, reply if status is None else reply._replace(status=status))

    def signals(self, reply: WireReply) -> list[QuotaSignal]:
        """Read what a reply's headers say of the quota."""
        return told_limits(self.limits, reply.headers, reply.received_at)

    def details(self, reply: WireReply) -> ErrorDetails:
        """Read what a reply says of an error, without the key."""
        return read_error(reply, secret=self.key)

    def unusable(self, details: ErrorDetails, reply: WireReply, holder: str) -> ProviderError:
        """Return the error for a success that holds no answer.

        Args:
            details: what is said instead.
            reply: what it came with.
            holder: what should have held the answer, as the message names it.
        """
        if details.is_error:
            return self.classified(details, reply, details.status)
        message = f"{holder} without {self.answer}; it begins: {details.message}"
        return BadReplyError(message, status=reply.status)

    def error_beside(self, error: Any, reply: WireReply) -> ProviderError:
        """Return the error that stands beside an answer, or in its place."""
        details = error_details({"error": error}, secret=self.key)
        return self.classified(details, reply, details.status)

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


def checked_base_url(url: str) -> str:
    """Return a base URL without its last slash.

    Raises:
        ConfigurationError: it is not an HTTP URL, or holds a password.
    """
    url = url.strip()  # a line break at the end of a variable's value
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:  # a port that is no number, a bracket too many
        parts, host = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError(
            f"base_url must be an address such as https://host/v1; got {redact(url)!r}"
        )
    if parts.username or parts.password or "?" in url or "#" in url:
        raise ConfigurationError(
            f"base_url for {host} must hold no user, password, query or fragment: "
            "pass the key as api_key"
        )
    return url.rstrip("/")


def check_key(key: str | None, *, name: str, variable: str) -> None:
    """Check that a key can be sent in a header.

    Raises:
        ConfigurationError: it cannot; the message does not show it.
    """
    if key is not None and (not key.isascii() or not key.isprintable()):
        raise ConfigurationError(
            f"the API key for {name} holds a line break or another character that "
            f"cannot be sent in a header: check {variable}"
        )


def dump_body(body: dict[str, Any]) -> bytes:
    """Write a request's body as JSON.

    Raises:
        ConfigurationError: it holds what JSON cannot say.
    """
    try:
        return orjson.dumps(body, default=_plain)
    except TypeError as error:
        # Half of a surrogate pair (text read with errors="surrogateescape", a cut emoji)
        # becomes U+FFFD. JSON can also say what orjson still refuses then: a key that is a
        # number, a number above 64 bits.
        try:
            body = well_formed_value(body)
            try:
                return orjson.dumps(body, default=_plain)
            except TypeError:
                import json

                return json.dumps(body, ensure_ascii=True, allow_nan=False, default=_plain).encode()
        except (TypeError, ValueError, RecursionError):
            raise ConfigurationError(f"the request cannot be written as JSON: {error}") from error


def parsed(data: bytes | str) -> Any:
    """Parse JSON, with what is odd in it replaced; most is strict.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        return lenient_json.loads(data)


def text_of(content: Any) -> str:
    """Return the text of a message in one."""
    return content if isinstance(content, str) else "".join(texts(content))


# An answer that was paid for is not lost because something beside it is odd.


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object; empty for any other value."""
    return value if isinstance(value, dict) else EMPTY


def word(value: Any) -> str | None:
    """Return a name; None where the value is something else, or empty."""
    return value if value and isinstance(value, str) else None


def count(value: Any) -> int:
    """Return a token count; 0 for any other value."""
    if type(value) is int:
        return value if 0 <= value < _MOST else 0
    return int(value) if isinstance(value, float) and 0 <= value < _MOST else 0


def said(*values: Any) -> bool:
    """Return whether each value is a token count or missing."""
    for value in values:
        if type(value) is int:
            if not 0 <= value < _MOST:
                return False
        elif value is not None and not (isinstance(value, float) and 0 <= value < _MOST):
            return False
    return True


def tokens(
    prompt: int,
    output: int,
    *,
    cached: int = 0,
    reasoning: int = 0,
    written: int = 0,
    written_1h: int = 0,
) -> Usage:
    """Return usage whose parts do not exceed their totals."""
    if not (cached or reasoning or written):
        return Usage(input_tokens=prompt, output_tokens=output)
    cached = min(cached, prompt)
    written = min(written, prompt - cached)
    return Usage(
        input_tokens=prompt,
        output_tokens=output,
        cached_tokens=cached,
        reasoning_tokens=min(reasoning, output),
        cache_write_tokens=written,
        cache_write_1h_tokens=min(written_1h, written),
    )


def dollars(value: Any) -> float | None:
    """Return an amount of money, or None if invalid."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _MOST else None


def _plain(value: Any) -> Any:
    """Write any mapping as an object; orjson knows only the dict."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, orjson.Fragment):  # for the json of the standard library
        return orjson.loads(orjson.dumps(value))
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")
