"""What the providers that speak HTTP share: addresses, keys, JSON out, odd JSON in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from llmflow.errors import ConfigurationError, redact
from llmflow.surrogates import well_formed_value
from llmflow.types import Usage

EMPTY: Final[Mapping[str, Any]] = {}
_MOST: Final = 10**15


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


def texts(content: Any) -> Iterator[str]:
    """Yield the texts of a message: a string, or a list of parts."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, list | tuple):
        for part in content:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]


def text_of(content: Any) -> str:
    """Return the text of a message in one."""
    return content if isinstance(content, str) else "".join(texts(content))


# An answer that was paid for is not lost because something beside it is odd.


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a JSON object; an empty one where the value is something else."""
    return value if isinstance(value, dict) else EMPTY


def count(value: Any) -> int:
    """Return a number of tokens; 0 where the value is something else, or below zero."""
    if type(value) is int:
        return value if 0 <= value < _MOST else 0
    return int(value) if isinstance(value, float) and 0 <= value < _MOST else 0


def said(*values: Any) -> bool:
    """Whether each value can be a number of tokens, or is not there at all."""
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
    """Return a usage whose parts are no larger than what they are parts of."""
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
    """Return an amount of money; None where the value is something else, or below zero."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < _MOST else None


def _plain(value: Any) -> dict[Any, Any]:
    """Write any mapping as an object; orjson and json know the dict alone."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Type is not JSON serializable: {type(value).__name__}")
