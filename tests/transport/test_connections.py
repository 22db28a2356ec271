"""Connections that are kept: what comes on one that nobody asked for is nobody's answer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Self

import aiohttp
import pytest

from llmflow import transport
from llmflow.errors import BadReplyError, ConnectionFailedError
from llmflow.transport import Timeout
from llmflow.transport.connections import Line
from llmflow.types import WireRequest

pytestmark = pytest.mark.every_loop

Behaviour = Callable[["Server", asyncio.StreamWriter, int, bytes], Awaitable[None]]


class Server:
    """A raw server. What it does with the nth request of a connection is the test's."""

    def __init__(self, behaviour: Behaviour, *, context: ssl.SSLContext | None = None) -> None:
        self._behaviour = behaviour
        self._context = context
        self.connections = 0
        self.greeting = b""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        port = self._server.sockets[0].getsockname()[1]
        scheme = "http" if self._context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{port}/x"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await transport.aclose()
        await self._server.wait_closed()

    async def ask(self, body: str, **timeout: Any) -> str:
        wire = WireRequest("POST", self.url, {"Authorization": "Bearer k"}, body.encode())
        reply = await transport.send(wire, timeout=Timeout(**timeout))
        return reply.body.decode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        nth = 0
        try:
            if self.greeting:
                writer.write(self.greeting)
                await writer.drain()
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                body = await reader.readexactly(length)
                await self._behaviour(self, writer, nth, body)
                await writer.drain()
                nth += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


STRAY = {
    "a whole reply": whole(b"stray"),
    "a reply that begins": b"HTTP/1.1 200 OK\r\nContent-Le",
    "one byte": b"H",
    "a blank line": b"\r\n",
    "an interim reply": b"HTTP/1.1 100 Continue\r\n\r\n",
    "no HTTP": b"hello?\r\n\r\n",
    "many replies": whole(b"stray") * 50,
}


@pytest.fixture(params=["plain", "TLS"])
def context(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return None if request.param == "plain" else request.getfixturevalue("server_tls")


@pytest.mark.parametrize("stray", list(STRAY))
async def test_what_comes_while_nothing_is_asked_is_no_answer(
    stray: str, context: ssl.SSLContext | None
) -> None:
    sent = asyncio.Event()

    async def behave(_: Server, writer: asyncio.StreamWriter, nth: int, body: bytes) -> None:
        writer.write(whole(body))
        await writer.drain()
        if nth == 0:
            await asyncio.sleep(0.02)  # so that it comes in a packet of its own
            writer.write(STRAY[stray])
            await writer.drain()
            sent.set()

    async with Server(behave, context=context) as server:
        for number in range(8):
            sent.clear()
            assert await server.ask(f"question {number}") == f"question {number}"
            await sent.wait()
            await asyncio.sleep(0.02)
        assert server.connections == 8


@pytest.mark.parametrize("stray", list(STRAY))
async def test_what_comes_with_the_end_of_an_answer_is_no_answer(
    stray: str, context: ssl.SSLContext | None
) -> None:
    async def behave(_: Server, writer: asyncio.StreamWriter, nth: int, body: bytes) -> None:
        writer.write(whole(body) + (STRAY[stray] if nth == 0 else b""))

    async with Server(behave, context=context) as server:
        for number in range(8):
            if stray == "no HTTP":  # in one packet with an answer it spoils that one, too
                with pytest.raises(BadReplyError, match="not HTTP"):
                    await server.ask(f"question {number}")
            else:
                assert await server.ask(f"question {number}") == f"question {number}"


async def test_what_the_event_loop_has_not_come_to_is_seen_too(
    context: ssl.SSLContext | None,
) -> None:
    """The bytes are in the system's buffer, and nobody has read them yet."""
    import time

    async def behave(_: Server, writer: asyncio.StreamWriter, nth: int, body: bytes) -> None:
        writer.write(whole(body))
        if nth == 0:
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, lambda: (writer.write(whole(b"stray")), time.sleep(0.05)))

    async with Server(behave, context=context) as server:
        assert await server.ask("first") == "first"
        # The stray reply is written and the next question asked in one turn of the loop.
        asking: list[asyncio.Task[str]] = []
        loop = asyncio.get_running_loop()
        loop.call_later(0.05, lambda: asking.append(loop.create_task(server.ask("second"))))
        await asyncio.sleep(0.3)
        assert await asking[0] == "second"
        assert server.connections == 2


async def test_many_rows_at_once_get_their_own_answers(context: ssl.SSLContext | None) -> None:
    owed: set[asyncio.StreamWriter] = set()

    async def behave(_: Server, writer: asyncio.StreamWriter, nth: int, body: bytes) -> None:
        if nth % 3 == 0:
            owed.add(writer)
        writer.write(whole(body))
        await writer.drain()
        if writer in owed:
            await asyncio.sleep(0.005)
            writer.write(whole(b"stray"))
            await writer.drain()
            await asyncio.sleep(0)  # uvloop writes once the callbacks of a turn have run
            owed.discard(writer)

    async with Server(behave, context=context) as server:
        for number in range(20):
            asked = [f"{name}-{number}" for name in range(5)]
            assert await asyncio.gather(*map(server.ask, asked)) == asked
            # What comes after the next request has gone out cannot be told from its answer.
            async with asyncio.timeout(10.0):
                while owed:  # noqa: ASYNC110 - any of the connections may be the last one
                    await asyncio.sleep(0.001)


async def test_a_server_that_speaks_before_it_is_asked_has_not_answered() -> None:
    async def behave(_: Server, writer: asyncio.StreamWriter, nth: int, body: bytes) -> None:
        writer.write(whole(body))

    async with Server(behave) as server:
        server.greeting = whole(b"stray")
        looped = aiohttp.TCPConnector._create_connection

        async def late(self: Any, *arguments: Any) -> Any:
            line = await looped(self, *arguments)
            await asyncio.sleep(0.02)  # the greeting is here before the request goes out
            return line

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(aiohttp.TCPConnector, "_create_connection", late)
            with pytest.raises(ConnectionFailedError, match="before it was asked"):
                await server.ask("first")


async def test_connections_on_which_nothing_comes_are_kept(context: ssl.SSLContext | None) -> None:
    async def behave(_: Server, writer: asyncio.StreamWriter, nth: int, body: bytes) -> None:
        writer.write(whole(body))

    async with Server(behave, context=context) as server:
        for number in range(20):
            assert await server.ask(str(number)) == str(number)
            await asyncio.sleep(0.001)
        assert server.connections == 1


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X-Header-%d: value\r\n" % number for number in range(300)),
        b"X-Long: %s\r\n" % (b"v" * 32 * 1024),
        b"X-%s: v\r\n" % (b"n" * 32 * 1024),
        b"Set-Cookie: %s\r\n" % (b"c" * 100_000),
    ],
    ids=["300 headers", "a value of 32 KiB", "a name of 32 KiB", "a cookie of 100 kB"],
)
@pytest.mark.parametrize("status", [b"200 OK", b"429 Too Many Requests", b"500 Oops"])
async def test_long_and_many_headers_are_read(headers: bytes, status: bytes) -> None:
    async def behave(_: Server, writer: asyncio.StreamWriter, nth: int, body: bytes) -> None:
        start = b"HTTP/1.1 %s\r\n%sRetry-After: 7\r\nContent-Length: " % (status, headers)
        writer.write(start + b"%d\r\n\r\n%s" % (len(body), body))

    async with Server(behave) as server:
        assert await server.ask("question") == "question"


async def test_a_reply_s_reason_may_be_long() -> None:
    async def behave(_: Server, writer: asyncio.StreamWriter, nth: int, body: bytes) -> None:
        writer.write(whole(body).replace(b"OK", b"O" * 32 * 1024, 1))

    async with Server(behave) as server:
        assert await server.ask("question") == "question"


async def test_a_connection_that_the_next_request_has_already_is_kept() -> None:
    """It is released when the last byte comes, and another task may run first."""
    line = Line(asyncio.get_running_loop())
    first = line.expect_reply("POST")
    line.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab")
    second = line.expect_reply("POST")
    line.replied(first)
    line.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\ncd")
    assert not line.spoke
    line.replied(second)
    line.data_received(b"HTTP/1.1 200 OK\r\n")
    assert line.spoke
