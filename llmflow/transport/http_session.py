"""The HTTP session of an event loop: prepared requests, exchanges, time-outs.

The parts are aiohttp's: its connector (pool, names, TLS, proxies), its parser and its
streams. They are put together here, because ``ClientSession.request`` does for every
request what ours never need: cookies, redirects, middlewares, traces, merged headers and
a timer, and makes anew its headers, its payload, a writer and a task that writes. Ours go to few
URLs with the same headers, and most bodies are small and at hand. So one request of aiohttp's
stands for all that differ in their bodies alone, and its head is kept as bytes. Together that is
almost half of what a request costs. What is not so plain (a proxy, a large body, one that is
streamed) goes aiohttp's way.

Nothing is ever sent twice from here. A server may close an idle connection at the very
moment at which a request goes out on it. Whether it has read the request cannot be known,
and a POST that ran is billed; aiohttp repeats only idempotent methods for that reason (RFC
9110, 9.2.2). So a connection that breaks before the reply is a `ConnectionFailedError`, a
passing one: the retry policy sends again, and the limiter counts it. What makes it rare is in
`llmflow.transport.connections`.
"""

from __future__ import annotations

import asyncio
import io
import math
import re
import threading
import time
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp import ClientRequest, ClientResponse, hdrs, http

from llmflow._version import __version__
from llmflow.transport.connection_limit import connection_limit
from llmflow.transport.connections import LONGEST_IDLE, Connector, Line, target
from llmflow.transport.failures import TooLargeError, mapped, too_late
from llmflow.transport.timeout import Timeout
from llmflow.types import WireReply, WireRequest

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.connector import Connection

# aiohttp warns of bodies above a mebibyte that are handed over as plain bytes.
_LARGE_BODY: Final = 2**20
# Above this, two writes cost less than to copy the body behind its head.
_WORTH_COPYING: Final = 2**16
_MOST_KEPT: Final = 64
_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# What says how the body is sent is aiohttp's to understand.
_SPECIAL: Final = frozenset(
    {"connection", "content-encoding", "content-length", "expect", "transfer-encoding", "upgrade"}
)
# The longest answers of today's models are a mebibyte; a reply without end must not fill
# the memory.
LARGEST_REPLY = 64 * 2**20
_NAMES_KEPT = 300
_MOST_TIMEOUTS = 64


class Reply(NamedTuple):
    """The head of a reply, and the stream of its body."""

    status: int
    headers: Mapping[str, str]
    content: StreamReader
    connection: Connection

    def release(self) -> None:
        """Give the connection back: the reply is whole."""
        connection = self.connection
        line = connection.protocol
        # A server that answers before it has read everything would take the rest of this
        # request for the beginning of the next one.
        transport = None if line is None else line.transport
        if line is None or transport is None or line.upgraded or transport.get_write_buffer_size():
            connection.close()
        else:
            connection.release()

    def close(self) -> None:
        """Give the connection up."""
        self.connection.close()


class Request(ClientRequest):
    """A request, or all that differ from it in their bodies alone.

    Attributes:
        head: what is sent before the length of the body; None where it goes out as aiohttp
            has it, once.
        given: the headers that it was made of.
    """

    DEFAULT_HEADERS = {  # noqa: RUF012 - aiohttp's own
        **ClientRequest.DEFAULT_HEADERS,
        hdrs.USER_AGENT: f"llmflow/{__version__}",  # some gateways refuse those without a name
    }
    head: bytes | None = None
    given: Mapping[str, str]

    async def ask(self, connection: Connection, line: Line, body: bytes) -> Reply | ClientResponse:
        """Send the request, and wait for the head of the reply.

        Raises:
            aiohttp.ClientError, OSError: it was not sent, or the connection broke.
        """
        if self.head is None:
            reply = await self.send(connection)
            try:
                return await reply.start(connection)
            except BaseException:
                reply.close()
                raise
        head = b"%bContent-Length: %d\r\n\r\n" % (self.head, len(body))
        transport = line.transport
        if transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError("the connection is closing")
        if len(body) <= _WORTH_COPYING:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        try:
            while True:
                message, content = await line.read()
                status = message.code
                if status >= 200 or status == 101:
                    return Reply(status, message.headers, content, connection)
        except http.HttpProcessingError as error:
            raise aiohttp.ClientResponseError(
                self.request_info,
                (),
                status=error.code,
                message=error.message,
                headers=error.headers,
            ) from error


def _head(request: Request, given: Mapping[str, str]) -> bytes | None:
    """Return a request's head without the length of its body; None if it is not plain."""
    if request.proxy is not None or not _SPECIAL.isdisjoint(name.lower() for name in given):
        return None
    lines = [f"{request.method} {request.url.raw_path_qs} HTTP/1.1"]
    headers = request.headers
    lines += [f"{name}: {value}" for name, value in headers.items() if name != hdrs.CONTENT_LENGTH]
    if hdrs.CONTENT_TYPE not in headers:
        lines.append(f"{hdrs.CONTENT_TYPE}: application/octet-stream")
    if any(_FORBIDDEN.search(line) for line in lines):
        return None  # aiohttp refuses it
    return "".join(f"{line}\r\n" for line in lines).encode()


class Wait:
    """One task that is given a limited time."""

    __slots__ = ("cancelling", "ends", "expired", "task")

    def __init__(self, task: asyncio.Task[object], ends: float) -> None:
        self.task = task
        self.ends = ends
        self.expired = False
        self.cancelling = task.cancelling()


class Watch:
    """Cancels tasks that take longer than a fixed time.

    A timer of its own for every request (``asyncio.timeout``, aiohttp's ``total``) costs a seventh
    of what the whole request costs. Requests that may all take equally long end their time in the
    order in which they began, so a queue and one timer, for its head, do.
    """

    __slots__ = ("_loop", "_timer", "_waiting", "seconds")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        self._loop = loop
        self.seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: dict[Wait, None] = {}  # in the order of their ends

    def begin(self) -> Wait:
        """Watch the running task from now on."""
        loop = self._loop
        task = asyncio.current_task(loop)
        assert task is not None
        wait = Wait(task, loop.time() + self.seconds)
        self._waiting[wait] = None
        if self._timer is None:
            self._timer = loop.call_at(wait.ends, self._ring)
        return wait

    def end(self, wait: Wait) -> bool:
        """Stop watching a task; return whether its time was over.

        If it was, the task has been cancelled, and the cancellation ends here, unless
        somebody else has cancelled it as well: as ``asyncio.timeout`` does it.
        """
        if wait.expired:
            return wait.task.uncancel() <= wait.cancelling
        # The timer is left alone: when it rings, it finds who is to be watched then.
        del self._waiting[wait]
        return False

    def stop(self) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time()
        for wait in list(self._waiting):
            if wait.ends > now:
                self._timer = self._loop.call_at(wait.ends, self._ring)
                return
            del self._waiting[wait]
            wait.expired = True
            wait.task.cancel()


class Sending(Protocol):
    """Notified when a request goes out and may be running."""

    def leave(self) -> None:
        """Take note that it goes out on a connection of its own."""
        ...


class _Limits(NamedTuple):
    connecting: aiohttp.ClientTimeout
    first_byte: Watch | None
    total: Watch | None


class Session:
    """The session of one loop.

    Beyond so many `connections`, requests wait for a free one. TLS contexts are made once for all
    sessions, and IPv6 and IPv4 race for a connection (RFC 8305): both are aiohttp's doing.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, connections: int) -> None:
        self._loop = loop
        self._connector = Connector(
            loop=loop, limit=connections, keepalive_timeout=LONGEST_IDLE, ttl_dns_cache=_NAMES_KEPT
        )
        self.client = aiohttp.ClientSession(
            connector=self._connector, cookie_jar=aiohttp.DummyCookieJar()
        )
        self._kept: dict[tuple[str, str], Request] = {}
        self._limits: dict[Timeout, _Limits] = {}
        self.lifetime = self._live()

    async def exchange(
        self, wire: WireRequest, timeout: Timeout, sending: Sending | None = None
    ) -> WireReply:
        """Send a request and read the reply, with time-outs by phase.

        Raises:
            RequestTimeoutError: the time was over; the error says in which phase.
            TooLargeError: the reply does not end.
            aiohttp.ClientError, OSError: as `llmflow.transport.failures` lists them.
        """
        limits = self._limits.get(timeout) or self._limits_of(timeout)
        request = self._prepared(wire)
        connection: Connection | None = None
        reply: Reply | ClientResponse | None = None
        phase = "connecting"
        first, whole = limits.first_byte, limits.total
        start = None if first is None else first.begin()
        wait = None if whole is None else whole.begin()
        try:
            connection = await self._connector.connect(request, [], limits.connecting)
            phase = "waiting"
            if sending is not None:
                sending.leave()
            line, number = expect_reply(connection, wire.method)
            reply = await request.ask(connection, line, wire.body)
            line.part_if_refused(reply.status, len(wire.body))
            phase = "reading"
            if number == 1 and line.host is not None:
                line.host.told(reply.headers)
            if start is not None:
                _end(first, start)
                start = None
            content = await whole_body(reply)
            line.replied(number)
            reply.release()
        except BaseException as error:
            if reply is not None:
                reply.close()
            if connection is not None:
                connection.close()
            began_late = start is not None and start.expired
            over = [_end(first, start), _end(whole, wait)]
            if not any(over) or not isinstance(error, asyncio.CancelledError):
                raise
        else:
            _end(whole, wait)
            return WireReply(reply.status, reply.headers, content, time.time())
        if began_late and first is not None:
            raise too_late(wire.url, seconds=first.seconds, phase="first byte")
        raise too_late(wire.url, seconds=timeout.total, phase=phase)

    def make(self, wire: WireRequest, body: Any = None) -> Request:
        """Return a request with its own, possibly streamed body."""
        url, proxy = target(wire.url)
        if body is None:
            body = wire.body or None
        if isinstance(body, bytes) and len(body) >= _LARGE_BODY:
            body = io.BytesIO(body)
        return Request(
            wire.method,
            url,
            headers=wire.headers,
            data=body,
            loop=self._loop,
            response_class=ClientResponse,
            session=self.client,
            proxy=proxy,
        )

    async def connect(self, request: Request, timeout: Timeout) -> Connection:
        """Return a connection for a request that is streamed."""
        limits = self._limits.get(timeout) or self._limits_of(timeout)
        return await self._connector.connect(request, [], limits.connecting)

    def _prepared(self, wire: WireRequest) -> Request:
        """Return the prepared request; its body comes when it is sent."""
        if not 0 < len(wire.body) < _LARGE_BODY:
            return self.make(wire)
        key = wire.method, wire.url
        kept = self._kept.get(key)
        if kept is not None and kept.given == wire.headers:
            return kept
        request = self.make(wire)
        request.head = _head(request, wire.headers)
        if request.head is not None:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            request.given = dict(wire.headers)
            self._kept[key] = request
        return request

    def _limits_of(self, timeout: Timeout) -> _Limits:
        if len(self._limits) >= _MOST_TIMEOUTS:
            self._limits.clear()
        connect, first, total = (
            None if seconds is None or math.isinf(seconds) else seconds
            for seconds in (timeout.connect, timeout.first_byte, timeout.total)
        )
        limits = self._limits[timeout] = _Limits(
            aiohttp.ClientTimeout(total=None, sock_connect=connect),
            None if first is None else Watch(self._loop, first),
            None if total is None else Watch(self._loop, total),
        )
        return limits

    async def _live(self) -> AsyncGenerator[None, None]:
        # A loop closes the asynchronous generators that were begun on it when it shuts
        # down (asyncio.run, Runner, notebooks' kernels do): no session is left open.
        try:
            yield
        finally:
            for limits in self._limits.values():
                for watch in (limits.first_byte, limits.total):
                    if watch is not None:
                        watch.stop()
            await self.client.close()


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, Session] = WeakKeyDictionary()
_changing = threading.Lock()  # loops in several threads begin and end at the same time


async def send(wire: WireRequest, *, timeout: Timeout, sending: Sending | None = None) -> WireReply:
    """Send one request, once, and return the reply, whatever its status.

    Args:
        wire: the request.
        timeout: how long it may take.
        sending: is told once there is a connection, and the request goes out on it.

    Raises:
        RequestTimeoutError: no whole answer in time; it says which phase took too long.
        ConnectionFailedError: there was no connection, or it broke.
        BadReplyError: what came is not HTTP, or is larger than any answer.
        ConfigurationError: the URL or the server's certificate cannot be used.
    """
    session = _sessions.get(asyncio.get_running_loop())
    if session is None or session.client.closed:
        session = await open_session()
    try:
        return await session.exchange(wire, timeout, sending)
    except Exception as error:
        failure = mapped(error, wire.url, timeout)
        if failure is None:
            raise
    # Neither cause nor context: aiohttp's errors hold the headers, and so the key.
    raise failure


async def open_session() -> Session:
    """Return the running loop's session."""
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.client.closed:
        session = Session(loop, connections=connection_limit())
        with _changing:
            for other in [each for each in _sessions if each.is_closed()]:
                del _sessions[other]
            _sessions[loop] = session
        await session.lifetime.__anext__()
    return session


async def aclose() -> None:
    """Close the running loop's session; rarely needed."""
    with _changing:
        session = _sessions.pop(asyncio.get_running_loop(), None)
    if session is not None:
        await session.lifetime.aclose()


def _end(watch: Watch | None, wait: Wait | None) -> bool:
    return watch is not None and wait is not None and watch.end(wait)


def expect_reply(
    connection: Connection, method: str, *, decompressed: bool = True
) -> tuple[Line, int]:
    """Begin reading a reply before its request; return its connection and number."""
    line = connection.protocol
    assert isinstance(line, Line)
    return line, line.expect_reply(method, decompressed=decompressed)


async def whole_body(reply: Reply | ClientResponse) -> bytes:
    """Return the whole body; most come in one piece.

    Raises:
        TooLargeError: it has more bytes than are read, uncompressed.
    """
    stream = reply.content
    piece = await stream.readany()
    if stream.at_eof() and len(piece) <= LARGEST_REPLY:
        return piece
    size = reply.headers.get("content-length", "")
    if size.isdecimal() and int(size) > LARGEST_REPLY:
        raise TooLargeError(LARGEST_REPLY)
    pieces, length = [], 0
    while piece:
        length += len(piece)
        if length > LARGEST_REPLY:
            raise TooLargeError(LARGEST_REPLY)
        pieces.append(piece)
        piece = await stream.readany()
    return b"".join(pieces)
