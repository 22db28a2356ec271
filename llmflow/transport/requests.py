"""Builds requests: shared parts once, each sent in one piece.

aiohttp makes every request anew: its headers, its payload, a writer, a task that writes, a
response. Ours go to few URLs with the same headers, and most bodies are small and at hand.
So one request of aiohttp's stands for all that differ in their bodies alone, and its head
is kept as bytes. What is not so plain (a proxy, a large body, one that is streamed) goes
aiohttp's way. Its connector, its parser and its streams are used in both cases.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import ClientRequest, ClientResponse, hdrs, http

from llmflow._version import __version__
from llmflow.transport.target import target

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from aiohttp import StreamReader
    from aiohttp.connector import Connection

    from llmflow.transport.connections import Line
    from llmflow.types import WireRequest

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


class Reply:
    """The head of a reply, and the stream of its body."""

    __slots__ = ("_connection", "content", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        content: StreamReader,
        connection: Connection,
    ) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self._connection = connection

    def release(self) -> None:
        """Give the connection back: the reply is whole."""
        connection = self._connection
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
        self._connection.close()


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
        _write(line, b"%bContent-Length: %d\r\n\r\n" % (self.head, len(body)), body)
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


class Requests:
    """Makes the requests of one session."""

    def __init__(self, loop: asyncio.AbstractEventLoop, client: aiohttp.ClientSession) -> None:
        self._loop = loop
        self._client = client
        self._kept: dict[tuple[str, str], Request] = {}

    def get(self, wire: WireRequest) -> Request:
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
            session=self._client,
            proxy=proxy,
        )


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


def _write(line: Line, head: bytes, body: bytes) -> None:
    transport = line.transport
    if transport is None or transport.is_closing():
        raise aiohttp.ClientConnectionResetError("the connection is closing")
    if len(body) <= _WORTH_COPYING:
        transport.write(head + body)
    else:
        transport.write(head)
        transport.write(body)
