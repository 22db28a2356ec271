"""One HTTP/1.1 connection: requests in, answers out, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, cast

from llmflow.simulator.http_parser import MAX_HEAD, Chunks, Head, HttpError, parse_head

if TYPE_CHECKING:
    from llmflow.simulator.http_download import Download
    from llmflow.simulator.http_server import HttpServer
    from llmflow.simulator.http_spool import Spool

logger = logging.getLogger(__name__)

_READ_AHEAD = 1_048_576
_LINGER_SECONDS = 1.0
_PARTS_PER_TURN = 16
_STATUS_LINES = {int(status): f"HTTP/1.1 {status:d} {status.phrase}" for status in HTTPStatus}
# Closing such a socket sends a TCP reset instead of an orderly end.
_NO_LINGER = struct.pack("ii", 1, 0)


class Exchange:
    """One request and the way to answer it. Every reply after the first is ignored."""

    __slots__ = (
        "_connection",
        "arrived",
        "begun",
        "body",
        "context",
        "head",
        "open",
        "timer",
        "upload",
    )

    def __init__(
        self,
        connection: Connection,
        head: Head,
        body: bytes,
        upload: Path | None,
        arrived: float,
    ) -> None:
        self._connection = connection
        self.head = head
        self.body = body
        self.upload = upload
        """The file that holds the body instead; the handler's from here on."""
        self.arrived = arrived
        """Loop time at which the request was complete."""
        self.begun = arrived
        """Loop time from which its latency counts, if that is later: the handler's own."""
        self.open = True
        """Whether an answer is still awaited; False once the client has left."""
        self.timer: asyncio.TimerHandle | None = None
        """Cancelled when the client leaves."""
        self.context: object = None
        """The handler's own."""

    def reply(
        self, status: int, body: bytes, *, headers: str = "", kind: str = "application/json"
    ) -> None:
        """Send an answer; `headers` are whole lines, each with its line end."""
        if self.open:
            self._connection.send_head(status, f"content-length: {len(body)}\r\n{headers}", kind)
            self._connection.send(b"" if self.head.method == "HEAD" else body)
            self._connection.finish(self)

    def download(self, part: Download, *, headers: str = "", kind: str) -> None:
        """Send a part of a file, as fast as the client reads it."""
        if self.open:
            headers = f"content-length: {part.left}\r\n{headers}"
            self._connection.send_head(200, headers, kind)
            if self.head.method == "HEAD":
                part.close()
                self._connection.finish(self)
            else:
                self._connection.pump(part)

    def start(self, *, headers: str = "") -> None:
        """Begin a stream of server-sent events."""
        if self.open:
            headers = f"transfer-encoding: chunked\r\ncache-control: no-cache\r\n{headers}"
            self._connection.send_head(200, headers, "text/event-stream; charset=utf-8")

    def send(self, data: bytes) -> None:
        """Send a part of a stream."""
        if self.open:
            self._connection.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """End a stream."""
        if self.open:
            self._connection.send(b"0\r\n\r\n")
            self._connection.finish(self)

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        if self.open:
            self._connection.reset()


class Connection(asyncio.Protocol):
    """Reads the requests of one client and writes the answers, in order."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._head: Head | None = None
        self._chunks: Chunks | None = None
        self._spool: Spool | None = None
        self._download: Download | None = None
        self._exchange: Exchange | None = None
        self._advancing = False
        self._closing = False
        self._write_paused = False
        self._read_paused = False
        self._linger: asyncio.TimerHandle | None = None
        self._opening: asyncio.TimerHandle | None = None

    @property
    def exchange(self) -> Exchange | None:
        """The request that waits for its answer."""
        return self._exchange

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._server.joined(self)
        delay = self._server.opening_delay()
        if delay:
            self._opening = self._server.loop.call_later(delay, self._listen)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._closing:
            return
        self._buffer += data
        if self._exchange is None and self._opening is None:
            self._advance()
        waiting = self._exchange is not None or self._opening is not None
        busy = waiting or self._write_paused
        if busy and len(self._buffer) > _READ_AHEAD and self._transport is not None:
            self._transport.pause_reading()
            self._read_paused = True

    def _listen(self) -> None:
        """Read what has come meanwhile, after a slow opening."""
        self._opening = None
        self._advance()

    def pause_writing(self) -> None:
        """Stop answering a client that does not read its answers."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Go on."""
        self._write_paused = False
        if self._download is not None:
            self.pump(self._download)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the handler that the client has left, if it waits for an answer."""
        del exc
        self._closing = True
        self._server.left(self)
        if self._linger is not None:
            self._linger.cancel()
        if self._opening is not None:
            self._opening.cancel()
        if self._spool is not None:
            self._spool.discard()
        if self._download is not None:
            self._download.close()
            self._download = None
        self._abandon()
        self._transport = None

    # --- reading

    def _advance(self) -> None:
        # A handler that replies at once comes back here: the loop below is already running.
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._exchange is None and not self._closing and not self._write_paused:
                request = self._next()
                if request is None:
                    break
                self._exchange = Exchange(self, *request, self._server.loop.time())
                self._serve(self._exchange)
        except HttpError as error:
            self._refuse(error)
        finally:
            self._advancing = False
        idle = self._exchange is None and not self._write_paused and not self._closing
        if self._read_paused and idle and self._transport is not None:
            self._read_paused = False
            self._transport.resume_reading()

    def _serve(self, exchange: Exchange) -> None:
        try:
            self._server.handle(exchange)
        except Exception:  # a fault of the handler ends one request, not the server
            logger.exception("The handler failed on %s", exchange.head.target)
            message = "The simulator failed; its log says why."
            headers, body = self._server.refuse(500, message, target=exchange.head.target)
            exchange.reply(500, body, headers=headers)

    def _next(self) -> tuple[Head, bytes, Path | None] | None:
        """Return the next request if all of it has come."""
        head = self._head or self._read_head()
        if head is None:
            return None
        buffer = self._buffer
        body: bytes | None
        spool = self._spool
        if spool is not None:
            body = b"" if spool.take(buffer) else None
        elif head.length is None:
            self._chunks = self._chunks or Chunks(self._server.max_body)
            body = self._chunks.take(buffer)
        elif len(buffer) < head.length:
            body = None
        else:
            body = bytes(buffer[: head.length])
            del buffer[: head.length]
        if body is None:
            if head.expects and self._head is None:
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._head = head
            return None
        self._head = self._chunks = self._spool = None
        return head, body, None if spool is None else spool.path

    def _read_head(self) -> Head | None:
        buffer = self._buffer
        while buffer[:2] == b"\r\n":  # an empty line between requests is allowed
            del buffer[:2]
        if not buffer:
            return None
        if not 65 <= buffer[0] <= 90 and buffer != b"\r":
            # A TLS handshake, say: its end of headers would never come.
            raise HttpError(400, "This is not HTTP; note that the URL begins with http://")
        end = buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD or (end < 0 and len(buffer) > MAX_HEAD):
            raise HttpError(431, f"The headers are larger than {MAX_HEAD} bytes.")
        if end < 0:
            return None
        head = parse_head(bytes(buffer[:end]))
        del buffer[: end + 4]
        self._spool = self._server.spool(head)
        if self._spool is not None:
            self._spool.begin(head)
        elif head.length is not None and head.length > self._server.max_body:
            message = f"The body is larger than {self._server.max_body} bytes."
            raise HttpError(413, message, target=head.target)
        return head

    # --- writing

    def send_head(self, status: int, headers: str, kind: str) -> None:
        """Write a status line and headers."""
        exchange = self._exchange
        stays = exchange is not None and exchange.head.keep_alive and not self._server.closing
        connection = "keep-alive" if stays else "close"
        line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown"
        self.send(
            f"{line}\r\ndate: {self._server.date()}\r\nserver: llmflow-simulator\r\n"
            f"connection: {connection}\r\ncontent-type: {kind}\r\n{headers}\r\n".encode("latin-1")
        )

    def send(self, data: bytes) -> None:
        """Write bytes."""
        if data and self._transport is not None:
            self._transport.write(data)

    def pump(self, part: Download) -> None:
        """Write as much of a download as the client takes now, and finish after all of it."""
        exchange, self._download = self._exchange, part
        turns = _PARTS_PER_TURN
        while part.left and not self._write_paused:
            if not turns:  # a fast reader must not keep others waiting
                self._server.loop.call_soon(self._go_on, part)
                return
            turns -= 1
            data = part.read()
            if not data:  # the file is shorter than was promised
                self.abort()
                return
            self.send(data)
        if exchange is not None and not part.left:
            self._download = None
            part.close()
            self.finish(exchange)

    def _go_on(self, part: Download) -> None:
        if self._download is part and not self._write_paused:
            self.pump(part)

    def finish(self, exchange: Exchange) -> None:
        """End an exchange and go on to the next request."""
        exchange.open = False
        self._exchange = None
        if self._transport is None:
            return
        if not exchange.head.keep_alive or self._server.closing:
            self._closing = True
            self._transport.close()
        elif self._buffer or self._read_paused:
            self._advance()

    def _refuse(self, error: HttpError) -> None:
        """Answer what is not a request, and end the connection.

        Closing with bytes unread would reset it, and the client could miss the answer.
        """
        target = error.target or (self._head.target if self._head is not None else "")
        headers, body = self._server.refuse(error.status, str(error), target=target)
        headers += f"content-length: {len(body)}\r\n"
        self.send_head(error.status, headers, "application/json")
        self.send(body)
        self._closing = True
        self._buffer.clear()
        if self._transport is not None:
            self._transport.write_eof()
            self._linger = self._server.loop.call_later(_LINGER_SECONDS, self.close)

    def close(self) -> None:
        """Close after what is written."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Close at once, with a TCP reset."""
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        if self._exchange is not None:
            self._exchange.open = False
            self._exchange = None
        self.abort()

    def _abandon(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.open:
            exchange.open = False
            if exchange.timer is not None:
                exchange.timer.cancel()
            self._server.gone(exchange)
