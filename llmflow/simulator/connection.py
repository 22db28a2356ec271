"""HTTP connections of the simulator: aiohttp's, with refusals in a dialect's words."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from asyncio import BaseTransport
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import hdrs, http_exceptions, web
from aiohttp.http_exceptions import LineTooLong

from llmflow.private_files import private

logger = logging.getLogger(__name__)

# aiohttp before 3.12 has no name of its own for what TLS at a plain port looks like.
_NOT_HTTP = getattr(http_exceptions, "BadHttpMethod", http_exceptions.BadStatusLine)
_MAX_HEAD = 32_768
_MAX_HEADERS = 100
_LINGER_SECONDS = 1.0
_NEVER = 1e9
_PART = 65_536
# Closing such a socket sends a TCP reset instead of an orderly end.
_NO_LINGER = struct.pack("ii", 1, 0)


class HttpError(Exception):
    """A request that cannot be served; the connection ends with this status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Server(web.Server):
    """aiohttp's low-level server, without its routing.

    Args:
        handler: called with each request; cancelled when its client leaves.
        refuse: returns the header lines and the body that refuse a request; takes its
            status, a message, and `target`, which may be empty.
        max_body: largest request body, in bytes.
        opening_delay: returns the seconds until a fresh connection is listened to.

    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        refuse: Callable[..., tuple[str, bytes]],
        max_body: int,
        opening_delay: Callable[[], float],
    ) -> None:
        loop = asyncio.get_running_loop()
        request = partial(web.BaseRequest, loop=loop, client_max_size=max_body)
        super().__init__(handler, request_factory=request, handler_cancellation=True)
        self.refuse = refuse
        self.opening_delay = opening_delay

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(
            self,
            loop=self._loop,
            access_log=None,
            keepalive_timeout=_NEVER,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_MAX_HEAD,
            max_field_size=_MAX_HEAD,
            max_headers=_MAX_HEADERS,
            auto_decompress=False,
        )


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ("listens_at", "server")

    def __init__(self, server: Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.server = server
        self.listens_at = 0.0
        """Loop time from which its requests are looked at."""

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin."""
        self.listens_at = self._loop.time() + self.server.opening_delay()
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the refusal of a bad request, or a 500."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has left
        if isinstance(exc, HttpError):
            status, message = exc.status, str(exc)
        elif isinstance(exc, LineTooLong):
            status, message = 431, f"The headers are larger than {_MAX_HEAD} bytes."
        elif isinstance(exc, _NOT_HTTP):
            message = "This is not HTTP; note that the URL begins with http://"
        elif status == 500 and exc is not None:  # it ends one request, not the server
            logger.error("The handler failed on %s", request.raw_path, exc_info=exc)
            message = "The simulator failed; its log says why."
        target = "" if request.method == "UNKNOWN" else request.raw_path
        lines, body = self.server.refuse(status, message or "It is malformed.", target=target)
        answer = respond(status, body, lines)
        answer.force_close()
        return answer


def check_head(request: web.BaseRequest, *, most: int) -> None:
    """Raise the `HttpError` of headers that the parser lets through."""
    headers = request.headers
    if request.version < (1, 0):
        raise HttpError(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if hdrs.HOST not in headers and request.version >= (1, 1):
        raise HttpError(400, "The header host is missing.")
    expects = headers.get(hdrs.EXPECT, "").lower()
    if expects not in ("", "100-continue"):
        raise HttpError(417, "Only the expectation 100-continue is understood.")
    if (request.content_length or 0) > most:
        raise HttpError(413, f"The body is larger than {most} bytes.")


async def read_body(request: web.BaseRequest, *, most: int) -> bytes:
    """Return the whole body, of so many bytes at most."""
    await _invite(request)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise HttpError(413, f"The body is larger than {most} bytes.") from None


async def spool_body(request: web.BaseRequest, path: Path, *, most: int) -> None:
    """Write a body to a new file, which is removed on failure."""
    size = 0
    with _new_file(path) as file:
        await _invite(request)
        async for data in request.content.iter_any():
            size += len(data)
            if size > most:
                raise HttpError(413, f"The body is larger than {most} bytes.")
            file.write(data)


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    try:
        with open(path, "xb", opener=private) as file:
            yield file
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def _invite(request: web.BaseRequest) -> None:
    if hdrs.EXPECT in request.headers and request.version >= (1, 1):
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def respond(
    status: int, body: bytes, lines: str = "", kind: str = "application/json"
) -> web.Response:
    """Return a response; `lines` are whole header lines."""
    return web.Response(status=status, body=body, headers=_headers(lines, kind))


async def stream(request: web.BaseRequest, lines: str, kind: str) -> web.StreamResponse:
    """Begin a response of unknown length."""
    answer = web.StreamResponse(headers=_headers(lines, kind))
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    return answer


async def send_part(
    request: web.BaseRequest, path: Path, start: int, size: int, *, lines: str, kind: str
) -> web.StreamResponse:
    """Send a part of a file as fast as the client reads."""
    answer = web.StreamResponse(headers=_headers(lines, kind))
    answer.content_length = size
    with path.open("rb") as file:
        await answer.prepare(request)
        file.seek(start)
        while size and request.method != "HEAD":
            data = file.read(min(_PART, size))
            if not data:  # the file is shorter than was promised
                reset(request)
                break
            size -= len(data)
            await answer.write(data)
    return answer


def reset(request: web.BaseRequest) -> web.Response:
    """Cut the connection with a TCP reset; the response goes nowhere."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        transport.abort()
    return web.Response()


def _headers(lines: str, kind: str) -> dict[str, str]:
    headers = dict(line.split(": ", 1) for line in lines.splitlines())
    return {**headers, hdrs.SERVER: "llmflow-simulator", hdrs.CONTENT_TYPE: kind}
