"""Maps every network failure to an error, in one table."""

from __future__ import annotations

import errno
import functools
import ipaddress
from typing import Final
from urllib.parse import urlsplit

from llmflow.errors import (
    BadReplyError,
    ConfigurationError,
    ConnectionFailedError,
    LLMFlowError,
    RequestTimeoutError,
    redact,
)
from llmflow.transport.connection_limit import how_to_have_more
from llmflow.transport.timeout import Timeout

_NOT_SENT: Final = ("connecting", "sending", "sending stalled")


@functools.cache
def table() -> tuple[tuple[type[Exception], type[LLMFlowError], str], ...]:
    """Return what each exception of aiohttp means; the first that fits counts."""
    import aiohttp

    certificate = "{place}: the TLS certificate cannot be verified: {what}"
    return (
        (aiohttp.ClientConnectorCertificateError, ConfigurationError, certificate),
        (
            aiohttp.ClientSSLError,
            ConfigurationError,
            "{place}: no TLS connection ({what}); a server without TLS is called by http://",
        ),
        (aiohttp.InvalidURL, ConfigurationError, "{place}: the URL cannot be called"),
        (UnicodeError, ConfigurationError, "{place}: the URL cannot be called: {what}"),
        (
            aiohttp.ConnectionTimeoutError,
            ConnectionFailedError,
            "{place}: no connection within {connect:g} s",
        ),
        (TimeoutError, RequestTimeoutError, "{place}: no answer within {total:g} s"),
        (
            aiohttp.ClientHttpProxyError,
            ConnectionFailedError,
            "cannot connect to {place}: its proxy refuses: {what}",
        ),
        (aiohttp.ClientResponseError, BadReplyError, "{place}: the reply is not HTTP: {what}"),
        (
            aiohttp.ClientConnectorError,
            ConnectionFailedError,
            "cannot connect to {place}: {what}",
        ),
        (aiohttp.ClientError, ConnectionFailedError, "{place}: the connection broke: {what}"),
        (OSError, ConnectionFailedError, "{place}: the connection broke: {what}"),
    )


def mapped(error: Exception, url: str, timeout: Timeout) -> LLMFlowError | None:
    """Translate aiohttp's error; None if no connection failed."""
    if isinstance(error, TooLargeError):
        return BadReplyError(f"{place(url)}: the reply is larger than {error.limit / 2**20:g} MiB")
    for kind, ours, text in table():
        if isinstance(error, kind):
            # The reason without control characters, the place without a password.
            what = redact(str(error) or type(error).__name__)
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                what = f"{what}: {how_to_have_more()}"
            failure = ours(
                text.format(
                    place=place(url), what=what, connect=timeout.connect, total=timeout.total
                )
            )
            if isinstance(failure, ConnectionFailedError):
                import aiohttp

                failure.may_be_billed = kind not in (
                    aiohttp.ConnectionTimeoutError,
                    aiohttp.ClientConnectorError,
                    aiohttp.ClientHttpProxyError,
                )
            return failure
    return None


def too_late(url: str, *, seconds: float, phase: str) -> RequestTimeoutError:
    """Return the error for an attempt that exceeded a phase's time."""
    said = {
        "connecting": "no answer within {:g} s: there was no connection yet",
        "sending": "not sent within {:g} s",
        "sending stalled": "nothing more could be sent for {:g} s",
        "first byte": "no answer began within {:g} s",
        "waiting": "no answer within {:g} s: it had not begun",
        "reading": "no answer within {:g} s: it had begun, but did not end",
        "reading stalled": "the answer had begun, and nothing more came for {:g} s",
    }
    failure = RequestTimeoutError(f"{place(url)}: {said[phase].format(seconds)}")
    failure.may_be_billed = phase not in _NOT_SENT
    return failure


def is_this_machine(host: str) -> bool:
    """Return whether a host is an address of this machine.

    >>> is_this_machine("127.0.0.2"), is_this_machine("api.openai.com")
    (True, False)
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def place(url: str) -> str:
    """Return a URL's host and port, without credentials."""
    return redact(urlsplit(url).netloc.rpartition("@")[2])


class TooLargeError(Exception):
    """A reply has more bytes than are read."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit
