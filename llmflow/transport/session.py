"""The HTTP session of an event loop, and its connections.

The parts are aiohttp's: its connector (pool, names, TLS, proxies), its parser and its
streams. They are put together here, because ``ClientSession.request`` does for every
request what ours never need: cookies, redirects, middlewares, traces, merged headers and
a timer, and makes anew what is the same for all (`llmflow.transport.requests`). Together
that is almost half of what a request costs.

Nothing is ever sent twice from here. A server may close an idle connection at the very
moment at which a request goes out on it. Whether it has read the request cannot be known,
and a POST that ran is billed; aiohttp repeats only idempotent methods for that reason (RFC
9110, 9.2.2). So a connection that breaks before the reply is a `ConnectionFailedError`, a
passing one: the retry policy sends again, and the limiter counts it. Idle connections are
given up before servers do so (`llmflow.transport.idle`), which makes it rare, and at once
when anything comes on one (`llmflow.transport.connections`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import aiohttp

from llmflow.transport.connections import Connector, Line
from llmflow.transport.failures import TooLargeError, too_late
from llmflow.transport.idle import LONGEST
from llmflow.transport.requests import Reply, Requests
from llmflow.transport.timeout import Timeout, Wait, Watch
from llmflow.types import WireReply, WireRequest

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import ClientResponse
    from aiohttp.connector import Connection

    from llmflow.batch_api import FileBounds, Upload
    from llmflow.errors import LLMFlowError

# The longest answers of today's models are a mebibyte; a reply without end must not fill
# the memory.
_LARGEST_REPLY = 64 * 2**20
_NAMES_KEPT = 300
# Whoever refuses a request may do so before its body is read, and hang up without saying so
# (hyper does, and with it many gateways written in Rust); the next request on the connection
# would fail. A smaller body comes with its head: ten segments (RFC 6928).
_SURELY_READ = 2**14
_MOST_TIMEOUTS = 64


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

    TLS contexts are made once for all sessions, and IPv6 and IPv4 race for a connection
    (RFC 8305): both are aiohttp's doing.

    Args:
        connections: how many may be open at once; further requests wait for a free one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, connections: int) -> None:
        self._loop = loop
        self._connector = Connector(
            loop=loop, limit=connections, keepalive_timeout=LONGEST, ttl_dns_cache=_NAMES_KEPT
        )
        self.client = aiohttp.ClientSession(
            connector=self._connector, cookie_jar=aiohttp.DummyCookieJar()
        )
        self._requests = Requests(loop, self.client)
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
        request = self._requests.get(wire)
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
            line, number = _expect_reply(connection, wire.method)
            reply = await request.ask(connection, line, wire.body)
            _part_if_refused(line, reply.status, len(wire.body))
            phase = "reading"
            if number == 1 and line.host is not None:
                line.host.told(reply.headers)
            if start is not None:
                _end(first, start)
                start = None
            content = await _content(reply)
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

    async def stream(
        self,
        wire: WireRequest,
        timeout: Timeout,
        *,
        body: Upload | None = None,
        path: Path | None = None,
        bounds: FileBounds | None = None,
    ) -> WireReply:
        """Send a streamed body, or stream a 200's reply to disk.

        Raises:
            JournalError: the file on this machine cannot be read or written.
            ResultsTooLargeError: the reply is above the bounds.
            RequestTimeoutError, TooLargeError, aiohttp.ClientError, OSError: as `exchange`.
        """
        from llmflow.transport.intake import Intake, asking_for_files
        from llmflow.transport.streams import Pace, Pieces, save

        if path is not None:
            wire = asking_for_files(wire)
        limits = self._limits.get(timeout) or self._limits_of(timeout)
        pace = Pace(timeout)
        payload = None if body is None else Pieces(body, pace)
        request = self._requests.make(wire, payload)
        connection: Connection | None = None
        reply: ClientResponse | None = None
        content = b""
        failure: LLMFlowError | None = None
        try:
            async with pace.whole, pace.step:
                connection = await self._connector.connect(request, [], limits.connecting)
                if payload is None:
                    pace.wait()
                else:
                    pace.send()
                line, number = _expect_reply(connection, wire.method, decompressed=path is None)
                reply = await request.send(connection)
                await reply.start(connection)
                _part_if_refused(line, reply.status, 0 if body is None else body.size)
                pace.read()
                if path is None:
                    content = await _content(reply)
                else:
                    intake = Intake(reply.headers, wire.url, bounds)
                    if reply.status == 200:
                        await save(reply.content, path, pace, intake)
                    else:
                        content = intake.whole(await _content(reply), _LARGEST_REPLY)
                line.replied(number)
        except BaseException as error:
            pace.stop()
            if reply is not None:
                reply.close()
            if connection is not None:
                connection.close()
            failure = pace.late(wire.url) if isinstance(error, TimeoutError) else None
            if failure is None and payload is not None:
                failure = payload.failure
            if failure is None or not isinstance(error, Exception):
                raise
        pace.stop()
        if failure is not None:
            raise failure
        assert reply is not None
        return WireReply(reply.status, reply.headers, content, time.time())

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


def _end(watch: Watch | None, wait: Wait | None) -> bool:
    return watch is not None and wait is not None and watch.end(wait)


def _expect_reply(
    connection: Connection, method: str, *, decompressed: bool = True
) -> tuple[Line, int]:
    line = connection.protocol
    assert isinstance(line, Line)
    return line, line.expect_reply(method, decompressed=decompressed)


def _part_if_refused(line: Line, status: int, sent: int) -> None:
    """See to it that no other request follows one that was refused, maybe before it was read."""
    if status >= 400 and sent > _SURELY_READ:
        line.part()


async def _content(reply: Reply | ClientResponse) -> bytes:
    """Return the whole body; most come in one piece.

    Raises:
        TooLargeError: it has more bytes than are read, uncompressed.
    """
    stream = reply.content
    piece = await stream.readany()
    if stream.at_eof() and len(piece) <= _LARGEST_REPLY:
        return piece
    if _length(reply) > _LARGEST_REPLY:
        raise TooLargeError(_LARGEST_REPLY)
    pieces, size = [], 0
    while piece:
        size += len(piece)
        if size > _LARGEST_REPLY:
            raise TooLargeError(_LARGEST_REPLY)
        pieces.append(piece)
        piece = await stream.readany()
    return b"".join(pieces)


def _length(reply: Reply | ClientResponse) -> int:
    size = reply.headers.get("content-length", "")
    return int(size) if size.isdecimal() else 0
