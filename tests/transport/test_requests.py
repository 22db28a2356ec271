"""Requests that differ in their bodies alone go out as aiohttp would send each of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Self

import pytest

from llmflow import transport
from llmflow.transport import Timeout, http_session
from llmflow.transport.connections import Line
from llmflow.types import WireRequest

pytestmark = pytest.mark.http

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def ok(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


class Server:
    """Keeps what comes, and answers each request when its body is whole, or is not read."""

    def __init__(self, answer: Answer = ok, *, reads: bool = True) -> None:
        self._answer = answer
        self._reads = reads
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self._over = asyncio.Event()

    async def __aenter__(self) -> Self:
        listening = socket.create_server(("127.0.0.1", 0))
        if not self._reads:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._server = await asyncio.start_server(self._serve, sock=listening, limit=4096)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        self._server.close()
        await transport.aclose()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                if self._reads:
                    self.bodies.append(await reader.readexactly(length))
                await self._answer(writer)
                await writer.drain()
                if not self._reads:
                    await self._over.wait()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def send(
    url: str, body: bytes = b"{}", headers: Mapping[str, str] = HEADERS, method: str = "POST"
) -> bytes:
    wire = WireRequest(method, url, headers, body)
    return (await transport.send(wire, timeout=Timeout(total=20))).body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        HEADERS,
        {"authorization": "Bearer k", "user-agent": "mine", "accept": "text/plain"},
        {"Host": "elsewhere", "accept-encoding": "identity", "x-ü": "ü"},
        {"Connection": "close"},
        {"Content-Length": "2"},
    ],
    ids=lambda headers: ",".join(headers) or "none",
)
@pytest.mark.parametrize("path", ["", "/v1/chat?a=b%20c&ü=é#end"])
async def test_what_goes_out_is_what_aiohttp_would_send(
    headers: dict[str, str], path: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Server() as server:
        await send(server.url + path, headers=headers, method=method)
        await send(server.url + path, headers=headers, method=method)
        await transport.aclose()
        monkeypatch.setattr(http_session, "_head", lambda *_: None)
        await send(server.url + path, headers=headers, method=method)
    ours, again, theirs = (sorted(head.split(b"\r\n")) for head in server.heads)
    assert ours == again == theirs
    assert [head.split(b"\r\n")[0] for head in server.heads[:2]] == [
        server.heads[2].split(b"\r\n")[0]
    ] * 2


async def test_bodies_of_all_sizes_arrive_whole() -> None:
    async with Server() as server:
        sizes = [1, 2, 2**16 - 1, 2**16, 2**16 + 1, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20]
        for size in sizes:
            assert await send(server.url, b"x" * size) == b"{}"
    assert [len(body) for body in server.bodies] == sizes


async def test_other_headers_are_sent_from_the_next_request_on() -> None:
    headers = {"Authorization": "Bearer first"}
    async with Server() as server:
        await send(server.url, headers=headers)
        headers["Authorization"] = "Bearer second"
        await send(server.url, headers=headers)
        await send(server.url, headers={"authorization": "Bearer third"})
    sent = [head.lower().partition(b"bearer ")[2].split(b"\r")[0] for head in server.heads]
    assert sent == [b"first", b"second", b"third"]


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    async with Server() as server:
        for _ in range(2):
            with pytest.raises(ValueError, match="header"):
                await send(server.url, headers={"X-Name": "a\r\nX-Other: b"})
    assert server.heads == []


async def test_interim_replies_come_before_the_answer() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await writer.drain()
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" + OK)

    async with Server(answer) as server:
        assert [await send(server.url) for _ in range(3)] == [b"{}"] * 3
    assert server.connections == 1


async def test_a_connection_that_changes_its_protocol_is_given_up() -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nstray")

    async with Server(answer) as server:
        wire = WireRequest("POST", server.url, HEADERS, b"{}")
        for _ in range(2):
            assert (await transport.send(wire, timeout=Timeout(total=20))).status == 101
    assert server.connections == 2


async def test_a_request_that_was_answered_before_it_was_sent_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Line.connection_made

    def with_a_small_buffer(line: Line, connection: asyncio.Transport) -> None:
        sock: socket.socket = connection.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(line, connection)

    monkeypatch.setattr(Line, "connection_made", with_a_small_buffer)
    async with Server(reads=False) as server:
        for _ in range(3):
            assert await send(server.url, b"x" * (2**20 - 1)) == b"{}"
    assert server.connections == 3, "no request begins in the body of another"


async def test_a_server_that_refuses_a_body_unread_and_hangs_up_fails_no_other_request() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}")
        await asyncio.sleep(0.002)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        over.release()

    over = asyncio.Semaphore(0)
    server = await asyncio.start_server(refuse, "127.0.0.1", 0, limit=4096)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        for _ in range(3):
            wire = WireRequest("POST", url, HEADERS, b"x" * 2**17)
            assert (await transport.send(wire, timeout=Timeout(total=20))).status == 429
        for _ in range(3):
            await over.acquire()
    finally:
        server.close()
        await transport.aclose()


@pytest.mark.parametrize(
    ("status", "size", "connections"),
    [(200, 2**17, 1), (429, 2**12, 1), (429, 2**17, 3), (429, 2**20, 3)],
)
async def test_only_a_refusal_of_a_large_body_ends_its_connection(
    status: int, size: int, connections: int
) -> None:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status)

    async with Server(answer) as server:
        for _ in range(3):
            assert await send(server.url, b"x" * size) == b"{}"
    assert server.connections == connections
