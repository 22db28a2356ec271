"""The simulator's HTTP, byte by byte over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from llmflow.simulator import Engine, Simulator, SimulatorSettings

pytestmark = pytest.mark.http

END = b"\r\n\r\n"
CHAT = "/v1/chat/completions"
SETTINGS: dict[str, Any] = {"latency": 0, "answer": "echo", "max_body_bytes": 1000}
CLOSE = "Connection: close\r\n"


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(**SETTINGS)) as simulator:
        yield simulator


async def talk(sim: Simulator, *parts: bytes, until_end: bool = False) -> bytes:
    """Send the parts one by one, and return what comes until the server closes or has answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if until_end:
            return await reader.read()
        head = await reader.readuntil(END)
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        return head + await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()


def chat(text: str, **more: Any) -> bytes:
    messages = [{"role": "user", "content": text}]
    return orjson.dumps({"model": "m", "messages": messages, **more})


def post(body: bytes, *, target: str = CHAT, extra: str = "") -> bytes:
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def answer(reply: bytes) -> str:
    """Return what the model says in the last answer of a reply."""
    body = orjson.loads(reply.rpartition(END)[2])
    return str(body["choices"][0]["message"]["content"])


async def test_a_request_is_answered_and_the_connection_kept(sim: Simulator) -> None:
    reply = await talk(sim, post(chat("hello")))
    head, _, _ = reply.lower().partition(END)
    assert head.startswith(b"http/1.1 200 ok\r\n")
    assert b"\r\nserver: llmflow-simulator" in head
    assert b"\r\ncontent-type: application/json" in head
    assert b"\r\ndate: " in head
    assert b"connection: close" not in head
    assert answer(reply) == "hello"


async def test_pipelined_requests_are_answered_in_order(sim: Simulator) -> None:
    requests = [post(chat(f"<{n}>")) for n in range(50)]
    requests.append(post(chat("end"), extra=CLOSE))
    reply = await talk(sim, b"".join(requests), until_end=True)
    order = [reply.index(f'"<{n}>"'.encode()) for n in range(50)]
    assert order == sorted(order)
    assert reply.count(b"HTTP/1.1 200") == 51


async def test_pipelined_requests_wait_for_a_slow_answer() -> None:
    async with Simulator(SimulatorSettings(**SETTINGS | {"latency": 0.05})) as sim:
        raw = post(chat("first")) + post(b"{}", extra=CLOSE)
        reply = await talk(sim, raw, until_end=True)
    assert reply.index(b'"first"') < reply.index(b"HTTP/1.1 400")


async def test_a_request_may_come_byte_by_byte(sim: Simulator) -> None:
    raw = b"\r\n" + post(chat("hello"))
    assert answer(await talk(sim, *(raw[i : i + 1] for i in range(len(raw))))) == "hello"


async def test_chunked_bodies_are_joined(sim: Simulator) -> None:
    body = chat("hello")
    raw = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        + b"5;ext=1\r\n%b\r\n1\r\n%b\r\n" % (body[:5], body[5:6])
        + b"%X\r\n%b\r\n0\r\nTrailer: 1\r\n\r\n" % (len(body) - 6, body[6:])
    )
    for parts in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        assert answer(await talk(sim, *parts)) == "hello"


async def test_a_client_that_expects_100_is_told_to_continue(sim: Simulator) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sim.port)
    raw = post(chat("hello"), extra="Expect: 100-continue\r\nConnection: close\r\n")
    writer.write(raw[:-5])
    assert await reader.readuntil(END) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(raw[-5:])
    assert answer(await reader.read()) == "hello"
    writer.close()
    await writer.wait_closed()


async def test_http_1_0_is_closed_after_the_answer(sim: Simulator) -> None:
    reply = await talk(sim, b"GET /v1/models HTTP/1.0\r\n\r\n", until_end=True)
    assert b" 200 OK\r\n" in reply


async def test_a_head_request_gets_no_body(sim: Simulator) -> None:
    raw = b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    reply = await talk(sim, raw, until_end=True)
    assert reply.endswith(END)
    assert int(reply.lower().partition(b"content-length: ")[2].partition(b"\r")[0]) > 0


async def test_a_stream_is_chunked(sim: Simulator) -> None:
    reply = await talk(sim, post(chat("one two", stream=True), extra=CLOSE), until_end=True)
    assert b"transfer-encoding: chunked\r\n" in reply.lower()
    assert b'"content":" two"' in reply
    assert reply.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_fault_of_the_simulator_is_a_500_and_not_the_end(
    sim: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "receive", None)
        reply = await talk(sim, post(chat("hello")))
    assert reply.startswith(b"HTTP/1.1 500 ")
    assert b"its log says why" in reply
    assert answer(await talk(sim, post(chat("hello")))) == "hello"


async def test_a_client_that_leaves_is_noticed() -> None:
    async with Simulator(SimulatorSettings(**SETTINGS | {"latency": 60})) as sim:
        _, writer = await asyncio.open_connection("127.0.0.1", sim.port)
        writer.write(post(chat("hello")))
        async with asyncio.timeout(5):
            while not sim.stats().in_flight:  # noqa: ASYNC110 - it comes through a socket
                await asyncio.sleep(0.001)
            writer.close()
            await writer.wait_closed()
            while sim.stats().in_flight:  # noqa: ASYNC110 - it comes through a socket
                await asyncio.sleep(0.001)
        assert sim.stats().client_disconnects == 1


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
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
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3E9\r\n"
            + b"x" * 1001,
            413,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 40_000, 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 400),
    ],
)
async def test_what_is_not_a_request_is_refused(sim: Simulator, raw: bytes, status: int) -> None:
    reply = await talk(sim, raw, until_end=True)
    assert reply.split()[1] == str(status).encode()
    assert b'{"error":{"message":"' in reply


async def test_a_tls_handshake_is_told_of_the_url(sim: Simulator) -> None:
    assert b"note that the URL begins with http://" in await talk(sim, b"\x16\x03\x01\x02\x00\x01")


async def test_closing_lets_answers_under_way_go_out() -> None:
    simulator = Simulator(SimulatorSettings(**SETTINGS | {"latency": 0.05}))
    await simulator.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(post(chat("done")))
    while not simulator.stats().in_flight:  # noqa: ASYNC110 - it comes through a socket
        await asyncio.sleep(0.001)
    await simulator.close(grace=10)
    assert answer(await reader.read()) == "done"
    writer.close()
    await writer.wait_closed()
