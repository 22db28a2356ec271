"""Bytes out, bytes in: one HTTP session per event loop, shared by all providers.

aiohttp, because a request costs a tenth of the CPU it costs through httpx (figures
in ``benchmarks/README.md``). Every way in which it can fail is mapped onto
`llmflow.errors` in one table.
"""

from __future__ import annotations

import asyncio
import functools
import io
import ipaddress
import math
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakKeyDictionary

from llmflow.errors import (
    BadReplyError,
    ConfigurationError,
    ConnectionFailedError,
    LLMFlowError,
    RequestTimeoutError,
    redact,
)
from llmflow.types import WireReply, WireRequest

if TYPE_CHECKING:
    import aiohttp
    import yarl

# aiohttp warns of bodies above a mebibyte that are handed over as plain bytes.
_LARGE_BODY = 2**20
_MOST_CONNECTIONS = 1000
_RESERVED_FILES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeout:
    """How long one attempt may take. An attempt that takes longer is retried.

    >>> Timeout(total=60.0)
    Timeout(connect=10.0, total=60.0)

    Args:
        connect: seconds until a connection stands.
        total: seconds until the whole answer is there; ``math.inf`` waits for ever.

    Raises:
        ConfigurationError: a value is not above zero.
    """

    connect: float = 10.0
    total: float = 300.0

    def __post_init__(self) -> None:
        for name in ("connect", "total"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"timeout {name} must be seconds above 0; got {value!r}")


class _Session:
    """The session of one loop, and the generator by which the loop closes it at its end."""

    __slots__ = ("client", "lifetime")

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client
        self.lifetime = self._live()

    async def _live(self) -> AsyncGenerator[None, None]:
        # A loop closes the asynchronous generators that were begun on it when it shuts
        # down (asyncio.run, Runner, notebooks' kernels do): no session is left open.
        try:
            yield
        finally:
            await self.client.close()


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, _Session] = WeakKeyDictionary()
_changing = threading.Lock()  # loops in several threads begin and end at the same time


async def send(wire: WireRequest, *, timeout: Timeout) -> WireReply:
    """Send one request and return the reply, whatever its status.

    Raises:
        RequestTimeoutError: no whole answer in time.
        ConnectionFailedError: there was no connection, or it broke.
        BadReplyError: what came is not HTTP.
        ConfigurationError: the URL or the server's certificate cannot be used.
    """
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.client.closed:
        session = await _open(loop)
    body: Any = wire.body if len(wire.body) < _LARGE_BODY else io.BytesIO(wire.body)
    url, proxy = _target(wire.url)
    try:
        async with session.client.request(
            wire.method,
            url,
            data=body,
            headers=wire.headers,
            timeout=_client_timeout(timeout),
            allow_redirects=False,
            proxy=proxy,
        ) as reply:
            content = await reply.read()
            return WireReply(reply.status, reply.headers, content, time.time())
    except Exception as error:
        failure = _mapped(error, wire.url, timeout)
        if failure is None:
            raise
    # Neither cause nor context: aiohttp's errors hold the headers, and so the key.
    raise failure


async def aclose() -> None:
    """Close the running loop's session. Not needed where the loop is shut down properly."""
    with _changing:
        session = _sessions.pop(asyncio.get_running_loop(), None)
    if session is not None:
        await session.lifetime.aclose()


def connection_limit() -> int:
    """Return how many connections this process may hold open at once."""
    try:
        import resource
    except ImportError:  # Windows: select() takes 512 sockets
        return 500 - _RESERVED_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(16, min(_MOST_CONNECTIONS, soft - _RESERVED_FILES))


async def _open(loop: asyncio.AbstractEventLoop) -> _Session:
    import aiohttp

    from llmflow import __version__

    client = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"llmflow/{__version__}"},  # some gateways refuse those without
    )
    session = _Session(client)
    with _changing:
        for other in [each for each in _sessions if each.is_closed()]:
            del _sessions[other]
        _sessions[loop] = session
    await session.lifetime.__anext__()
    return session


@functools.lru_cache(maxsize=256)
def _target(url: str) -> tuple[yarl.URL, str | None]:
    """Parse a URL, and find its proxy in the environment, once."""
    import yarl

    try:
        parts, target = urlsplit(url), yarl.URL(url)
    except ValueError as error:
        raise ConfigurationError(f"the URL cannot be called: {redact(str(error))}") from error
    return target, _proxy(parts.scheme, parts.hostname or "", parts.netloc)


def _proxy(scheme: str, host: str, place: str) -> str | None:
    """Return the proxy that the environment names for a host; none on the way to oneself."""
    proxy = getproxies().get(scheme)
    if not proxy or _is_loopback(host) or proxy_bypass(host) or proxy_bypass(place):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    try:
        usable = urlsplit(proxy).scheme in {"http", "https"}
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError(
            f"the proxy for {scheme} must be an address such as http://host:3128; "
            f"got {redact(proxy)!r}: set {scheme.upper()}_PROXY, or NO_PROXY={host}"
        )
    return proxy


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@functools.lru_cache(maxsize=64)
def _client_timeout(timeout: Timeout) -> aiohttp.ClientTimeout:
    import aiohttp

    total, connect = (
        None if math.isinf(seconds) else seconds for seconds in (timeout.total, timeout.connect)
    )
    return aiohttp.ClientTimeout(total=total, sock_connect=connect)


@functools.cache
def _table() -> tuple[tuple[type[Exception], type[LLMFlowError], str], ...]:
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
        (
            aiohttp.ConnectionTimeoutError,
            ConnectionFailedError,
            "{place}: no connection within {connect:g} s",
        ),
        (TimeoutError, RequestTimeoutError, "{place}: no answer within {total:g} s"),
        (aiohttp.ClientResponseError, BadReplyError, "{place}: the reply is not HTTP: {what}"),
        (
            aiohttp.ClientConnectorError,
            ConnectionFailedError,
            "cannot connect to {place}: {what}",
        ),
        (aiohttp.ClientError, ConnectionFailedError, "{place}: the connection broke: {what}"),
        (OSError, ConnectionFailedError, "{place}: the connection broke: {what}"),
    )


def _mapped(error: Exception, url: str, timeout: Timeout) -> LLMFlowError | None:
    """Translate what aiohttp raised; None if it is not a failure of the connection."""
    for kind, ours, text in _table():
        if isinstance(error, kind):
            # The place without a user or password, the reason without control characters.
            place = redact(urlsplit(url).netloc.rpartition("@")[2])
            what = redact(str(error) or type(error).__name__)
            return ours(
                text.format(place=place, what=what, connect=timeout.connect, total=timeout.total)
            )
    return None
