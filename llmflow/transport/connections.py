"""Opens connections, keeps them while idle, and closes those kept too long.

HTTP/1.1 matches replies to requests by their order alone. What a server sends on a
connection on which nothing is asked would be taken for the answer to the next request, and
every later answer for that of the one after. So a connection on which anything has come
meanwhile is given up before a request goes out on it: at no cost, for nothing was sent.

A request that goes out while the server closes the connection may have been read or not, and
is not sent again from here. So a connection that was idle for as long as the server may keep
it is not used. Nobody knows that time at first; 4 s are shorter than what servers have, the
shortest common one being 5 s (uvicorn, and so vLLM; Node). After that it is known

- from the header ``Keep-Alive: timeout=N`` (RFC 2068, 19.7.1.1), where there is one;
- from a connection that the server has closed while it was idle;
- from one that is still open: a few that are older than what is known are left open, and not
  used, to see how long they last.

What is seen last counts: another server may have taken the address over.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import select
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yarl
from aiohttp.client_proto import ResponseHandler

from llmflow.errors import ConfigurationError, redact
from llmflow.transport.failures import is_this_machine

if TYPE_CHECKING:
    from aiohttp import ClientRequest
    from aiohttp.connector import Connection

_READ_AT_ONCE: Final = 2**16
_TLS_BUFFER: Final = 2**14
_MOST_HOSTS: Final = 64
# Whoever refuses a request may do so before its body is read, and hang up without saying so
# (hyper does, and with it many gateways written in Rust); the next request on the connection
# would fail. A smaller body comes with its head: ten segments (RFC 6928).
_SURELY_READ: Final = 2**14
# Gateways add headers by the hundred, and long ones; aiohttp's own limits are 128 and 8 KiB.
_LIMITS: Final[dict[str, Any]] = {
    name: value
    for name, value in (
        ("max_line_size", 2**17),
        ("max_field_size", 2**17),
        ("max_headers", 2000),
    )
    if name in inspect.signature(ResponseHandler.set_response_params).parameters
}
UNKNOWN_IDLE: Final = 4.0
# Gateways of networks forget a silent connection after some minutes, and tell nobody (Azure's
# after 4); what is sent on it then is lost until the time-out.
LONGEST_IDLE: Final = 120.0
# A request is on its way, and so is the news that the connection was closed.
_MARGIN: Final = 0.5
_MARGIN_SHARE: Final = 0.1
_MOST_WATCHED: Final = 2
_KEEP_ALIVE: Final = re.compile(r"(?:^|[,;\s])timeout\s*=\s*\"?(\d+)", re.IGNORECASE)

FEWEST_TURNS: Final = 64
MOST_TURNS: Final = 512
# An opening that takes twice the quickest one's time waits for others half of its own.
_CROWDED: Final = 2.0
_GROWTH: Final = 0.25


class Line(ResponseHandler):
    """One connection's protocol: it notes what comes while nothing is asked."""

    asks = 0
    """The number of the request that is out on it and whose reply is not whole; 0 if none is."""
    used = 0
    spoke = False
    host: Host | None = None
    _look: Callable[[], Any] | None = None
    _heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the connection stands, its TLS handshake is over."""
        super().connection_made(transport)
        self._heard = self._loop.time()
        _lighten(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End; learn the server's idle time if it closed."""
        ours = self.transport is None or self.should_close
        if self.used and not self.asks and not ours and self.host is not None:
            self.host.saw_end(self.idle_seconds())
        super().connection_lost(exc)

    def idle_seconds(self) -> float:
        """Return for how long nothing has come, while nothing is asked."""
        return self._loop.time() - self._heard

    def expect_reply(self, method: str, *, decompressed: bool = True) -> int:
        """Begin reading a reply before its request; return its number."""
        self.used += 1
        self.asks = self.used
        self.set_response_params(
            skip_payload=method == "HEAD",
            read_until_eof=True,
            auto_decompress=decompressed,
            read_bufsize=_READ_AT_ONCE,
            **_LIMITS,
        )
        return self.asks

    def replied(self, number: int) -> None:
        """Note that a reply is complete; another may follow already."""
        if self.asks == number:
            self.asks = 0

    def part_if_refused(self, status: int, sent: int) -> None:
        """Let no other request follow one refused, maybe before it was read."""
        if status >= 400 and sent > _SURELY_READ:
            self._should_close = True

    def data_received(self, data: bytes) -> None:
        """Take bytes of the server."""
        self._heard = self._loop.time()
        if not self.asks:
            self.spoke = True
        super().data_received(data)

    def is_fit(self) -> bool:
        """Return whether nothing has come that no request has asked for."""
        if self.spoke or self.should_close:
            return False
        return not self.used or not (self._has_begun() or self._has_more())

    def _has_begun(self) -> bool:
        """Whether the beginning of another reply came with the end of the last one."""
        parser: Any = self._parser
        try:
            return parser is not None and parser.feed_eof() is not None
        except Exception:  # noqa: BLE001 - whatever it is that has begun
            return True

    def _has_more(self) -> bool:
        """Whether there is something to read that the event loop has not come to, or an end."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return True
        look = self._look
        if look is None:
            look = self._look = _looking_at(transport.get_extra_info("socket"))
        return bool(look())


class Host:
    """One host: its idle times, and connections that are watched.

    Attributes:
        usable: seconds for which a connection may have been idle and be used again.
        watched: connections that are left open to see how long they last.
    """

    def __init__(self) -> None:
        self.usable = UNKNOWN_IDLE
        self.watched: list[Connection] = []
        self._named: float | None = None

    def told(self, headers: Mapping[str, str]) -> None:
        """Read what a reply says."""
        found = _KEEP_ALIVE.search(headers.get("keep-alive", ""))
        named = None if found is None else min(LONGEST_IDLE, safe(float(found[1])))
        if named is not None and named != self._named:
            self._named = self.usable = named

    def saw_end(self, seconds: float) -> None:
        """Learn from a connection that the server closed when idle."""
        self.usable = min(self.usable, safe(seconds))

    def saw_open(self, seconds: float) -> None:
        """Learn from an idle connection that is still open."""
        most = LONGEST_IDLE if self._named is None else self._named
        self.usable = max(self.usable, min(most, seconds - _MARGIN))

    def may_use(self, line: Line) -> bool:
        """Return whether a connection that is still open may be used."""
        seconds = line.idle_seconds()
        if seconds <= self.usable:
            return True
        self._look()
        if seconds <= self.usable:
            return True
        self.saw_open(seconds)  # for the next ones: of the margin this one knows nothing
        return False

    def watch(self, connection: Connection) -> bool:
        """Keep a connection open as a test; False if enough are."""
        if len(self.watched) >= _MOST_WATCHED:
            return False
        self.watched.append(connection)
        return True

    def close(self) -> None:
        """Close what is watched."""
        watched, self.watched = self.watched, []
        for connection in watched:
            connection.close()

    def _look(self) -> None:
        """Learn from what is watched."""
        watched, self.watched = self.watched, []
        for connection in watched:
            line = cast("Line", connection.protocol)
            seconds = line.idle_seconds()
            if seconds <= LONGEST_IDLE and line.is_fit():
                self.saw_open(seconds)
                self.watched.append(connection)
            else:
                connection.close()


def safe(seconds: float) -> float:
    """Return for how long a connection may be idle at most.

    `seconds` is what its server allows.

    >>> safe(5.0), safe(75.0), safe(0.6)
    (4.5, 67.5, 0.3)
    """
    margin = max(_MARGIN, _MARGIN_SHARE * seconds)
    return max(seconds / 2, seconds - margin)


class Openings:
    """Turns at opening connections, for each host on its own.

    To open a connection over TLS takes a millisecond of computing, and thousands at once are a
    queue of seconds. Whoever stands in that queue would be timed out for the time that others
    take. So openings take turns, and what one may take is counted from its turn on.

    Few turns are enough where this machine or the server is what openings wait for. On a long
    way to the server they are too few: 64 turns of 0.4 s are 160 connections a second. So their
    number grows while openings take about as long as the quickest has taken, and falls where they
    take longer, for then more at once would only wait for each other. TCP Vegas finds its window
    by the same comparison (Brakmo and Peterson, 1995).

    A host that does not answer holds up nobody who connects to another.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._hosts: dict[Hashable, Turns] = {}

    @asynccontextmanager
    async def turn(self, name: Hashable) -> AsyncGenerator[None, None]:
        """Wait for a host's turn; it ends with the block."""
        host = self._hosts.get(name) or self._turns_of(name)
        if not host.may_begin():
            await host.wait(self._loop.create_future())
        began, seconds = self._loop.time(), None
        try:
            yield
            seconds = self._loop.time() - began
        finally:
            host.end(seconds)

    def _turns_of(self, name: Hashable) -> Turns:
        if len(self._hosts) >= _MOST_HOSTS:
            self._hosts = {each: host for each, host in self._hosts.items() if host.open}
        host = self._hosts[name] = Turns()
        return host


class Turns:
    """The turns of one host: first come, first served.

    Attributes:
        window: how many openings may be under way.
        open: how many are.
    """

    def __init__(self) -> None:
        self.window: float = FEWEST_TURNS
        self.open = 0
        self._quickest = float("inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    def may_begin(self) -> bool:
        """Take a turn if there is one."""
        if self.open >= self.window:
            return False
        self.open += 1
        return True

    async def wait(self, turn: asyncio.Future[None]) -> None:
        """Wait until a turn is given; whoever gives it has counted it."""
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it came together with the cancellation
                self._leave()
            raise

    def end(self, seconds: float | None) -> None:
        """Give a turn back; None if no connection came of it."""
        if seconds is None:
            self.window = FEWEST_TURNS
        elif seconds > _CROWDED * self._quickest:
            self.window = max(FEWEST_TURNS, self.window - 1)
        else:
            self._quickest = min(self._quickest, seconds)
            self.window = min(MOST_TURNS, self.window + _GROWTH)
        self._leave()

    def _leave(self) -> None:
        self.open -= 1
        while self._waiting and self.open < self.window:
            turn = self._waiting.popleft()
            if not turn.done():
                self.open += 1
                turn.set_result(None)


def _lighten(transport: Any) -> None:
    """Have asyncio's TLS read into a smaller buffer than the 256 KiB that each connection gets.

    That is four times what all the rest of a connection takes, while a record of TLS has 16
    KiB at the most. It is changed in this connection's own object, for other libraries on the
    loop may have their reasons; where it is not as expected, it is left as it is. uvloop's TLS
    has no such buffer.
    """
    protocol = getattr(transport, "_ssl_protocol", None)
    buffer = getattr(protocol, "_ssl_buffer", None)
    size = getattr(protocol, "max_size", None)
    if type(buffer) is bytearray and isinstance(size, int) and size > _TLS_BUFFER:
        smaller = bytearray(_TLS_BUFFER)
        protocol.max_size = _TLS_BUFFER  # type: ignore[union-attr]
        protocol._ssl_buffer = smaller  # type: ignore[union-attr]
        protocol._ssl_buffer_view = memoryview(smaller)  # type: ignore[union-attr]


def _looking_at(sock: Any) -> Callable[[], Any]:
    """Return what tells, without waiting, whether there is something to read; made once."""
    descriptor = -1 if sock is None else sock.fileno()
    if descriptor < 0:
        return lambda: True
    if not hasattr(select, "poll"):  # Windows
        return lambda: select.select([descriptor], [], [], 0)[0]
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return functools.partial(poll.poll, 0)


@functools.lru_cache(maxsize=256)
def target(url: str) -> tuple[yarl.URL, yarl.URL | None]:
    """Parse a URL, and find its proxy in the environment, once.

    Raises:
        ConfigurationError: the URL, or its proxy, cannot be used.
    """
    try:
        parts, parsed = urlsplit(url), yarl.URL(url)
    except ValueError as error:
        raise ConfigurationError(f"the URL cannot be called: {redact(str(error))}") from error
    if parsed.scheme not in {"http", "https"} or not parsed.raw_host:
        raise ConfigurationError(
            f"the URL cannot be called: it must begin with https:// or http:// and a host; "
            f"got {redact(url)!r}"
        )
    proxy = _proxy(parts.scheme, parts.hostname or "", parts.netloc)
    return parsed, None if proxy is None else yarl.URL(proxy)


def _proxy(scheme: str, host: str, place: str) -> str | None:
    """Return the proxy that the environment names for a host; none on the way to oneself."""
    proxy = getproxies().get(scheme)
    if not proxy or is_this_machine(host) or proxy_bypass(host) or proxy_bypass(place):
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


class Connector(aiohttp.TCPConnector):
    """A connector whose ``sock_connect`` limits the whole of connecting, look-up included.

    aiohttp's own limits leave out the look-up, or count the waiting for a free connection.
    The waiting for a turn to connect (`Openings`) is not counted.
    """

    def __init__(self, *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(**options)
        self._factory = functools.partial(cast("type[ResponseHandler]", Line), loop)
        self._openings = Openings(loop)
        self._hosts: dict[Any, Host] = {}

    async def connect(
        self, req: ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Return a connection without unexpected data.

        Raises:
            aiohttp.ClientConnectionError: the server speaks before it is asked.
        """
        while True:
            connection = await super().connect(req, traces, timeout)
            line = connection.protocol
            if not isinstance(line, Line):
                return connection
            if line.is_fit():
                host = line.host
                if not line.used or host is None or host.may_use(line):
                    return connection
                # Of those that may be open, there are some to spare.
                watched = sum(len(each.watched) for each in self._hosts.values())
                if watched >= self.limit // 64 or not host.watch(connection):
                    connection.close()
                continue
            connection.close()
            if not line.used:
                raise aiohttp.ClientConnectionError("the server spoke before it was asked")

    def close(self, **options: Any) -> Any:
        """Close all connections."""
        for host in self._hosts.values():
            host.close()
        return super().close(**options)

    def _host(self, name: Any) -> Host:
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= _MOST_HOSTS:
                for each in self._hosts.values():
                    each.close()
                self._hosts.clear()
            host = self._hosts[name] = Host()
        return host

    def _make_room(self) -> None:
        """Close the connection that was idle longest, if with a new one there are too many."""
        kept = {name: lines for name, lines in self._conns.items() if lines}
        if sum(map(len, kept.values())) + len(self._acquired) <= self.limit or not kept:
            return
        name = min(kept, key=lambda each: kept[each][0][1])
        line, _ = kept[name].popleft()
        line.close()

    async def _create_connection(
        self, req: ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        name = req.connection_key
        async with self._openings.turn(name):
            self._make_room()
            try:
                async with asyncio.timeout(timeout.sock_connect):
                    line = await super()._create_connection(req, traces, timeout)
            except TimeoutError:
                raise aiohttp.ConnectionTimeoutError from None
        if isinstance(line, Line):
            line.host = self._host(name)
        return line
