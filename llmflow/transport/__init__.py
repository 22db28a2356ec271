"""HTTP transport: one session per event loop, for all providers.

aiohttp, because a request costs a tenth of the CPU it costs through httpx (figures
in ``benchmarks/README.md``). Every way in which it can fail is mapped onto
`llmflow.errors` in one table (`llmflow.transport.failures`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from llmflow.transport.connection_limit import (
    check_connections,
    connection_limit,
    how_to_have_more,
    raise_connection_limit,
)
from llmflow.transport.failures import mapped
from llmflow.transport.timeout import Timeout
from llmflow.types import WireReply, WireRequest

if TYPE_CHECKING:
    from pathlib import Path

    from llmflow.provider import FileBounds, Upload
    from llmflow.transport.http_session import Sending, Session

__all__ = [
    "StreamChannel",
    "Timeout",
    "aclose",
    "check_connections",
    "connection_limit",
    "fetch",
    "how_to_have_more",
    "raise_connection_limit",
    "send",
]

_CONTROL: Final = Timeout(total=60.0)
_STREAM: Final = Timeout(first_byte=300.0, total=3600.0)

_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, Session] = WeakKeyDictionary()
_changing = threading.Lock()  # loops in several threads begin and end at the same time


async def send(
    wire: WireRequest,
    *,
    timeout: Timeout,
    body: Upload | None = None,
    sending: Sending | None = None,
) -> WireReply:
    """Send one request, once, and return the reply, whatever its status.

    Args:
        wire: the request.
        timeout: how long it may take.
        body: a body to be streamed in place of its own; sending it does not count as waiting
            for the first byte, and may stand still for a minute.
        sending: is told once there is a connection, and the request goes out on it.

    Raises:
        RequestTimeoutError: no whole answer in time; it says which phase took too long.
        ConnectionFailedError: there was no connection, or it broke.
        BadReplyError: what came is not HTTP, or is larger than any answer.
        ConfigurationError: the URL or the server's certificate cannot be used.
        JournalError: the file that is streamed cannot be read.
    """
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.client.closed:
        session = await _open(loop)
    if body is not None:
        from llmflow.transport.streams import stream  # with aiohttp, as in `_open`

        return await stream(session, wire, timeout, body=body)
    try:
        return await session.exchange(wire, timeout, sending)
    except Exception as error:
        failure = mapped(error, wire.url, timeout)
        if failure is None:
            raise
    # Neither cause nor context: aiohttp's errors hold the headers, and so the key.
    raise failure


async def fetch(
    wire: WireRequest, path: Path, *, timeout: Timeout, bounds: FileBounds | None = None
) -> WireReply:
    """Send one request, once, and save a 200's body as file.

    The file is there when the whole reply is, on the disk and private to the user; what is
    cut off leaves nothing. The returned reply has an empty body then. One of another status
    has its own, and no file is written.

    Args:
        wire: the request.
        path: the file; one that is there is replaced.
        timeout: how long it may take; the reply may stand still for a minute.
        bounds: the most that it may come to, as it is sent and as it is written.

    Raises:
        JournalError: the file cannot be written.
        ResultsTooLargeError: the reply is above the bounds.
        ProviderError, ConfigurationError: as those of `send`.
    """
    loop = asyncio.get_running_loop()
    session = _sessions.get(loop)
    if session is None or session.client.closed:
        session = await _open(loop)
    from llmflow.transport.streams import stream

    return await stream(session, wire, timeout, path=path, bounds=bounds)


class StreamChannel:
    """A `llmflow.provider.Channel` over HTTP.

    Servers look through a file before they answer, so in `stream_timeout` the first byte may be
    minutes after the last of the upload. `calls_per_minute` is the pace of requests once so many
    were sent at once.
    """

    def __init__(
        self,
        *,
        timeout: Timeout = _CONTROL,
        stream_timeout: Timeout = _STREAM,
        calls_per_minute: float | None = None,
    ) -> None:
        self._timeout = timeout
        self._stream_timeout = stream_timeout
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
            return await send(wire, timeout=self._timeout)
        return await send(wire, timeout=self._stream_timeout, body=body)

    async def fetch(
        self, wire: WireRequest, path: Path, bounds: FileBounds | None = None
    ) -> WireReply:
        """Send a request and save a reply of status 200, atomically.

        Raises:
            ProviderError: there was no whole reply.
            ResultsTooLargeError: it is above the bounds.
            LLMFlowError: as `fetch`.
        """
        async with self._pace:
            pass
        return await fetch(wire, path, timeout=self._stream_timeout, bounds=bounds)


async def aclose() -> None:
    """Close the running loop's session; rarely needed."""
    with _changing:
        session = _sessions.pop(asyncio.get_running_loop(), None)
    if session is not None:
        await session.lifetime.aclose()


async def _open(loop: asyncio.AbstractEventLoop) -> Session:
    from llmflow.transport.http_session import Session  # with aiohttp, which takes a while

    session = Session(loop, connections=connection_limit())
    with _changing:
        for other in [each for each in _sessions if each.is_closed()]:
            del _sessions[other]
        _sessions[loop] = session
    await session.lifetime.__anext__()
    return session
