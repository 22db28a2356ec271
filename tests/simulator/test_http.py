"""The HTTP server, byte by byte over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from llmflow.simulator import Engine, SimulatorSettings
from llmflow.simulator.http_connection import Exchange
from llmflow.simulator.http_parser import Chunks, HttpError, parse_head
from llmflow.simulator.http_server import HttpServer

END = b"\r\n\r\n"


class Echo:
    """Answers with the method, the target and the body; holds what asks for it."""

    def __init__(self) -> None:
        self.gone = 0
        self.held: list[Exchange] = []
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()

    def handle(self, exchange: Exchange) -> None:
        self.arrived.set()
        if exchange.head.target == "/hold":
            self.held.append(exchange)
        elif exchange.head.target == "/fail":
            raise ValueError("on purpose")
        elif exchange.head.target == "/stream":
            exchange.start()
            exchange.send(b"one")
            exchange.send(b"two")
            exchange.end()
        else:
            text = f"{exchange.head.method} {exchange.head.target} ".encode()
            exchange.reply(200, text + exchange.body, kind="text/plain")

    def on_gone(self, exchange: Exchange) -> None:
        self.gone += 1
        self.left.set()


refuse = Engine(SimulatorSettings(), now=0.0).refuse


@pytest.fixture
async def echo() -> AsyncIterator[tuple[Echo, int]]:
    handler = Echo()
    server = HttpServer(handler.handle, gone=handler.on_gone, refuse=refuse, max_body=1000)
    port = await server.listen("127.0.0.1", 0)
    yield handler, port
    await server.close()


async def talk(port: int, *parts: bytes, until_end: bool = False) -> bytes:
    """Send the parts one by one, and return what comes until the server closes or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if until_end:
            return await reader.read()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        return head + await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()


def post(body: bytes, *, target: str = "/a", extra: str = "") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


async def test_a_request_is_answered_and_the_connection_kept(echo: tuple[Echo, int]) -> None:
    reply = await talk(echo[1], post(b"hello"))
    assert reply.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    assert b"connection: keep-alive\r\n" in reply
    assert reply.endswith(b"\r\n\r\nPOST /a hello")


async def test_pipelined_requests_are_answered_in_order(echo: tuple[Echo, int]) -> None:
    requests = [post(str(n).encode(), target=f"/{n}") for n in range(50)]
    requests.append(post(b"end", extra="Connection: close\r\n"))
    reply = await talk(echo[1], b"".join(requests), until_end=True)
    order = [reply.index(f"POST /{n} {n}".encode()) for n in range(50)]
    assert order == sorted(order)
    assert reply.count(b"HTTP/1.1 200") == 51


async def test_pipelined_requests_wait_for_a_held_answer(echo: tuple[Echo, int]) -> None:
    handler, port = echo
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(b"", target="/hold") + post(b"b", extra="Connection: close\r\n"))
    await handler.arrived.wait()
    handler.held[0].reply(200, b"first")
    handler.held[0].reply(200, b"ignored")
    reply = await reader.read()
    assert reply.index(b"first") < reply.index(b"POST /a b")
    assert b"ignored" not in reply
    writer.close()
    await writer.wait_closed()


async def test_a_request_may_come_byte_by_byte(echo: tuple[Echo, int]) -> None:
    raw = b"\r\n" + post(b"hello")
    assert (await talk(echo[1], *(raw[i : i + 1] for i in range(len(raw))))).endswith(b"/a hello")


async def test_chunked_bodies_are_joined(echo: tuple[Echo, int]) -> None:
    raw = (
        b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5;ext=1\r\nhello\r\n1\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
    )
    for parts in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        assert (await talk(echo[1], *parts)).endswith(b"POST /c hello 0123456789")


async def test_a_client_that_expects_100_is_told_to_continue(echo: tuple[Echo, int]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", echo[1])
    raw = post(b"hello", extra="Expect: 100-continue\r\nConnection: close\r\n")
    writer.write(raw[:-5])
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(raw[-5:])
    assert (await reader.read()).endswith(b"/a hello")
    writer.close()
    await writer.wait_closed()


async def test_http_1_0_is_closed_after_the_answer(echo: tuple[Echo, int]) -> None:
    reply = await talk(echo[1], b"GET / HTTP/1.0\r\n\r\n", until_end=True)
    assert b"connection: close\r\n" in reply


async def test_a_head_request_gets_no_body(echo: tuple[Echo, int]) -> None:
    raw = b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    reply = await talk(echo[1], raw, until_end=True)
    assert reply.endswith(b"\r\n\r\n")
    assert b"content-length: 7\r\n" in reply


async def test_a_stream_is_chunked(echo: tuple[Echo, int]) -> None:
    raw = post(b"", target="/stream", extra="Connection: close\r\n")
    reply = await talk(echo[1], raw, until_end=True)
    assert reply.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")


async def test_a_handlers_fault_is_a_500_and_not_the_end(echo: tuple[Echo, int]) -> None:
    assert (await talk(echo[1], post(b"", target="/fail"))).startswith(b"HTTP/1.1 500 ")
    assert (await talk(echo[1], post(b"hello"))).endswith(b"/a hello")


async def test_a_client_that_leaves_is_noticed(echo: tuple[Echo, int]) -> None:
    handler, port = echo
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(b"", target="/hold"))
    await handler.arrived.wait()
    writer.close()
    await writer.wait_closed()
    await asyncio.wait_for(handler.left.wait(), 5)
    assert handler.gone == 1
    assert not handler.held[0].open
    handler.held[0].reply(200, b"too late")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nName : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked" + END,
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 40_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    ],
)
async def test_what_is_not_a_request_is_refused(
    echo: tuple[Echo, int], raw: bytes, status: int
) -> None:
    reply = await talk(echo[1], raw)
    assert reply.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"connection: close\r\n" in reply
    assert b'{"error":{"message":"' in reply


async def test_closing_lets_answers_under_way_go_out() -> None:
    handler = Echo()
    server = HttpServer(handler.handle, gone=handler.on_gone, refuse=refuse, max_body=1000)
    port = await server.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(post(b"", target="/hold"))
    await handler.arrived.wait()
    loop = asyncio.get_running_loop()
    handler.held[0].timer = loop.call_later(0.01, handler.held[0].reply, 200, b"done")
    await server.close(grace=10)
    assert (await reader.read()).endswith(b"done")
    writer.close()
    await writer.wait_closed()


def test_a_header_that_occurs_twice_is_joined() -> None:
    head = parse_head(b"GET / HTTP/1.1\r\nHost: x\r\nAccept: a\r\naccept: b")
    assert head.headers["accept"] == "a, b"


def test_chunks_of_more_than_the_limit_are_refused() -> None:
    chunks = Chunks(10)
    assert chunks.take(bytearray(b"6\r\n123456\r\n")) is None
    with pytest.raises(HttpError):
        chunks.take(bytearray(b"6\r\n123456\r\n"))
