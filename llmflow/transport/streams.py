"""Streams large bodies: uploads in pieces, downloads to disk.

A file of hundreds of megabytes may take an hour on a narrow line. So what is limited here,
besides the whole, is standing still: every piece that moves begins the time anew.

A file of results may be made to fill a disk or the memory: a few megabytes of gzip are
gigabytes of blank lines. So what is sent is counted before it is decompressed, and what
comes of it after each mebibyte.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

import aiohttp
from aiohttp.payload import Payload

from llmflow.errors import (
    BadReplyError,
    JournalError,
    LLMFlowError,
    RequestTimeoutError,
    ResultsTooLargeError,
    redact,
)
from llmflow.private_files import private, sync_folder
from llmflow.transport.failures import TooLargeError, mapped, place, too_late
from llmflow.transport.http_session import (
    LARGEST_REPLY,
    expect_reply,
    open_session,
    send,
    whole_body,
)
from llmflow.transport.timeout import OF_CONTROL, OF_FILES, Timeout
from llmflow.types import WireReply, WireRequest

if TYPE_CHECKING:
    from aiohttp import ClientResponse, StreamReader
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection

    from llmflow.provider import FileBounds, Upload

_T = TypeVar("_T")


STALL: Final = 60.0
"""After how many seconds in which nothing moves an upload or a download is given up."""

_WRITE_AT_ONCE: Final = 2**20
_AT_ONCE: Final = 2**20
_AUTOMATIC: Final = zlib.MAX_WBITS + 32  # gzip or zlib, as its first bytes say
_RAW: Final = -zlib.MAX_WBITS
_PLAIN: Final = ("", "identity")
_GZIP: Final = ("gzip", "x-gzip")
_DEFLATE: Final = "deflate"
_ZLIB: Final = 8


async def stream(
    wire: WireRequest,
    *,
    timeout: Timeout,
    body: Upload | None = None,
    path: Path | None = None,
    bounds: FileBounds | None = None,
) -> WireReply:
    """Send one request, once; stream its body, or save the reply.

    The file is there when the whole reply is, on the disk and private to the user; what is
    cut off leaves nothing. The returned reply has an empty body then. One of another status
    than 200 has its own, and no file is written.

    Args:
        wire: the request.
        timeout: how long it may take; in sending and in receiving it may stand still for a
            minute.
        body: what is sent in place of its own body; sending it does not count as waiting for
            the first byte.
        path: where the body of a 200 is saved; a file that is there is replaced.
        bounds: the most that it may come to, as it is sent and as it is written.

    Raises:
        JournalError: the file on this machine cannot be read or written.
        ResultsTooLargeError: the reply is above the bounds.
        ProviderError, ConfigurationError: as those of `send`.
    """
    session = await open_session()
    if path is not None:
        wire = wire._replace(headers={**wire.headers, "Accept-Encoding": "gzip, deflate"})
    pace = Pace(timeout)
    payload = None if body is None else Pieces(body, pace)
    connection: Connection | None = None
    reply: ClientResponse | None = None
    content = b""
    failure: LLMFlowError | None = None
    try:
        request = session.make(wire, payload)
        async with pace.whole, pace.step:
            connection = await session.connect(request, timeout)
            if payload is None:
                pace.wait()
            else:
                pace.send()
            line, number = expect_reply(connection, wire.method, decompressed=path is None)
            reply = await request.send(connection)
            await reply.start(connection)
            line.part_if_refused(reply.status, 0 if body is None else body.size)
            pace.read()
            if path is None:
                content = await whole_body(reply)
            else:
                intake = Intake(reply.headers, wire.url, bounds)
                if reply.status == 200:
                    await save(reply.content, path, pace, intake)
                else:
                    content = intake.whole(await whole_body(reply), LARGEST_REPLY)
            line.replied(number)
    except BaseException as error:
        pace.stop()
        if reply is not None:
            reply.close()
        if connection is not None:
            connection.close()
        if isinstance(error, Exception):
            failure = pace.late(wire.url) if isinstance(error, TimeoutError) else None
            failure = failure or (payload and payload.failure) or mapped(error, wire.url, timeout)
        if failure is None:
            raise
    pace.stop()
    if failure is not None:
        raise failure
    assert reply is not None
    return WireReply(reply.status, reply.headers, content, time.time())


class StreamChannel:
    """A `llmflow.provider.Channel` over HTTP.

    `calls_per_minute` is the pace of requests once so many
    were sent at once.
    """

    def __init__(self, *, calls_per_minute: float | None = None) -> None:
        self._pace: AbstractAsyncContextManager[None] = contextlib.nullcontext()
        if calls_per_minute is not None:
            from aiolimiter import AsyncLimiter

            # Equal requests at a fixed rate, and nothing to give back: what it is made for.
            self._pace = AsyncLimiter(calls_per_minute, 60.0)

    async def send(self, wire: WireRequest, body: Upload | None = None) -> WireReply:
        """Send a request with a streamed body, and return the reply.

        Raises:
            ProviderError: there was no reply; a reply of any status is returned.
            LLMFlowError: as `send`.
        """
        async with self._pace:
            pass
        if body is None:
            return await send(wire, timeout=OF_CONTROL)
        return await stream(wire, timeout=OF_FILES, body=body)

    async def fetch(
        self, wire: WireRequest, path: Path, bounds: FileBounds | None = None
    ) -> WireReply:
        """Send a request and save a reply of status 200, atomically.

        Raises:
            ProviderError: there was no whole reply.
            ResultsTooLargeError: it is above the bounds.
            LLMFlowError: as `stream`.
        """
        async with self._pace:
            pass
        return await stream(wire, timeout=OF_FILES, path=path, bounds=bounds)


class Pace:
    """The state of an exchange, and its next deadline.

    Must be made while its loop runs. The first byte is waited for from the end of the upload.
    """

    def __init__(self, timeout: Timeout) -> None:
        self._timeout = timeout
        self._phase = "connecting"
        self._over = False
        self.whole = asyncio.timeout(_finite(timeout.total))
        self.step = asyncio.timeout(None)

    def send(self) -> None:
        """Begin sending, or note progress; the reply may be there already."""
        if self._phase in ("connecting", "sending"):
            self._enter("sending", STALL)

    def wait(self) -> None:
        """Begin to wait for the reply, all being sent."""
        if self._phase in ("connecting", "sending"):
            self._enter("waiting", _finite(self._timeout.first_byte))

    def read(self) -> None:
        """Begin to read, or note that something was read."""
        self._enter("reading", STALL)

    def stop(self) -> None:
        """Watch no longer: what still sends is not to be heard."""
        self._over = True

    def late(self, url: str) -> RequestTimeoutError | None:
        """Return the error for an exceeded time, or None."""
        if self.whole.expired():
            return too_late(url, seconds=self._timeout.total, phase=self._phase)
        if self.step.expired():
            first = self._timeout.first_byte
            waited = self._phase == "waiting" and first is not None
            seconds, phase = (first, "first byte") if waited else (STALL, f"{self._phase} stalled")
            return too_late(url, seconds=seconds or STALL, phase=phase)
        return None

    def _enter(self, phase: str, seconds: float | None) -> None:
        if self._over or self.step.expired():
            return
        self._phase = phase
        when = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self.step.reschedule(when)


class Pieces(Payload):
    """A request's body that is made while it is sent.

    The pieces are made in a thread: most are read from a disk. The pace is told of each.
    """

    _value: Upload

    def __init__(self, upload: Upload, pace: Pace) -> None:
        super().__init__(upload)
        self._size = upload.size
        self._pace = pace
        self.failure: JournalError | None = None
        """Why there is no next piece, if that was not the connection's fault."""

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:  # noqa: ARG002
        """Refuse: nothing asks for a body of this size in one."""
        raise TypeError("a streamed body is not text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all pieces."""
        left = self._value.size
        try:
            pieces = iter(self._value.pieces())
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                left -= len(piece)
                if left < 0:
                    break
                await writer.write(piece)
                self._pace.send()
        except ConnectionError:  # the writer's, which is the connection's matter
            raise
        except OSError as error:
            self.failure = JournalError(f"a file to be sent cannot be read: {error}")
            raise
        if left:
            self.failure = JournalError("a file to be sent has changed meanwhile")
            raise OSError("the body has another size than was announced")
        self._pace.wait()


class Intake:
    """The bytes of one reply's body.

    Raises:
        BadReplyError: it is compressed in a way that nobody asked for.
    """

    def __init__(self, headers: Mapping[str, str], url: str, bounds: FileBounds | None) -> None:
        self._encoding = headers.get("content-encoding", "").strip().lower()
        self._url = url
        self._bounds = bounds
        self._sent = self._size = self._lines = 0
        self._inflater: zlib._Decompress | None = None
        if self._encoding not in (*_PLAIN, *_GZIP, _DEFLATE):
            raise BadReplyError(
                f"{place(url)}: the reply is compressed as {redact(self._encoding)!r}, "
                "which was not asked for"
            )

    def take(self, piece: bytes) -> Iterator[bytes]:
        """Yield what a piece of the body stands for.

        Raises:
            ResultsTooLargeError: the body is above its bounds.
            aiohttp.ClientPayloadError: it is not compressed as it says.
        """
        self._sent += len(piece)
        if self._bounds is not None and self._sent > self._bounds.size:
            raise self._too_large(f"{self._bounds.size:,} bytes")
        if self._encoding in _PLAIN:
            yield self._counted(piece)
            return
        try:
            for each in self._inflated(piece):
                yield self._counted(each)
        except zlib.error as error:
            raise aiohttp.ClientPayloadError(f"the reply cannot be decompressed: {error}") from None

    def end(self) -> None:
        """Check that the body came to its end.

        Raises:
            aiohttp.ClientPayloadError: it is cut off.
        """
        if self._inflater is not None and not self._inflater.eof:
            raise aiohttp.ClientPayloadError("the compressed reply is cut off")

    def whole(self, body: bytes, most: int) -> bytes:
        """Return a body that is in memory, decompressed.

        Raises:
            TooLargeError: it has more bytes than `most`.
        """
        pieces, size = [], 0
        for piece in self.take(body):
            size += len(piece)
            if size > most:
                raise TooLargeError(most)
            pieces.append(piece)
        return b"".join(pieces)

    def _inflated(self, piece: bytes) -> Iterator[bytes]:
        is_more = bool(piece)
        while is_more:
            if self._inflater is None or self._inflater.eof:  # gzip may have several members
                self._inflater = zlib.decompressobj(self._window(piece))
            inflater = self._inflater
            made = inflater.decompress(piece, _AT_ONCE)
            piece = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            # All of the input may be taken while there is still output to come.
            is_more = bool(piece) or (len(made) == _AT_ONCE and not inflater.eof)
            if made:
                yield made

    def _window(self, start: bytes) -> int:
        # Servers mean either by "deflate".
        is_raw = self._encoding == _DEFLATE and start[0] & 0x0F != _ZLIB
        return _RAW if is_raw else _AUTOMATIC

    def _counted(self, piece: bytes) -> bytes:
        if self._bounds is not None:
            self._size += len(piece)
            self._lines += piece.count(b"\n")
            if self._size > self._bounds.size:
                raise self._too_large(f"{self._bounds.size:,} bytes")
            if self._lines > self._bounds.lines:
                raise self._too_large(f"{self._bounds.lines:,} lines")
        return piece

    def _too_large(self, what: str) -> ResultsTooLargeError:
        return ResultsTooLargeError(
            f"{place(self._url)}: the results have more than {what}, which is more than the rows "
            "of the batch job can come to. They are kept at the provider"
        )


async def save(stream: StreamReader, path: Path, pace: Pace, intake: Intake) -> None:
    """Write a reply's body into a file, whole or not at all.

    Raises:
        JournalError: the file cannot be written.
        ResultsTooLargeError: the body is above its bounds.
        aiohttp.ClientError, OSError: the body is cut off.
    """
    part = path.with_name(f"{path.name}.part")
    # The thread that opens it notes it: whoever is cancelled meanwhile has it, too.
    files: list[IO[bytes]] = []
    try:
        try:
            await _on_disk(part, lambda: files.append(_private(part)))
            await _copy(stream, files[0], part, pace, intake)
        finally:
            for file in files:
                await _on_disk(part, file.close)
        await _on_disk(path, lambda: _publish(part, path))
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


async def _copy(
    stream: StreamReader, file: IO[bytes], path: Path, pace: Pace, intake: Intake
) -> None:
    pieces: list[bytes] = []
    size = 0
    while received := await stream.readany():
        pace.read()
        for piece in intake.take(received):
            pieces.append(piece)
            size += len(piece)
            if size >= _WRITE_AT_ONCE:
                await _on_disk(path, lambda: file.writelines(pieces))
                pieces.clear()
                size = 0
    intake.end()

    def end() -> None:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())

    await _on_disk(path, end)


def _publish(part: Path, path: Path) -> None:
    """Give a complete file its name, and have that survive a power cut."""
    part.replace(path)
    sync_folder(path.parent)


def _private(path: Path) -> IO[bytes]:
    return open(path, "wb", opener=private)


async def _on_disk(path: Path, work: Callable[[], _T]) -> _T:
    """Do something with a file in a thread, to its end even if nobody waits for it any more."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise JournalError(f"{path} cannot be written: {reason}") from None


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else seconds
