"""Opening connections: in turns, which are no part of the time that one may take."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from asyncio import sslproto
from typing import Any, Self

import aiohttp
import pytest

from llmflow import transport
from llmflow.errors import ConnectionFailedError
from llmflow.transport import Timeout
from llmflow.transport.connections import FEWEST_TURNS, MOST_TURNS, Openings, Turns
from llmflow.types import WireRequest
from tests.transport.conftest import session_here

pytestmark = pytest.mark.every_loop

OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


class SlowServer:
    """A server over TLS that shakes hands with few at a time and takes its time for each."""

    def __init__(self, context: ssl.SSLContext, *, at_once: int, seconds: float) -> None:
        self._context = context
        self._hands = asyncio.Semaphore(at_once)
        self._seconds = seconds
        self.opening = self.most_opening = self.connections = 0

    async def __aenter__(self) -> Self:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._socket.setblocking(False)
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}/x"
        self._tasks: set[asyncio.Future[None]] = set()
        self._accepted: list[socket.socket] = []
        asyncio.get_running_loop().add_reader(self._socket, self._accept)
        return self

    async def __aexit__(self, *_: object) -> None:
        await transport.aclose()
        # Not a task: uvloop loses the connection of an accept that is cancelled too late.
        asyncio.get_running_loop().remove_reader(self._socket)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        for sock in self._accepted:  # a task that had not begun has closed none
            sock.close()

    async def ask(self, body: bytes = b"{}", **timeout: Any) -> bytes:
        wire = WireRequest("POST", self.url, {"Authorization": "Bearer k"}, body)
        return (await transport.send(wire, timeout=Timeout(**timeout))).body

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock, _ = self._socket.accept()
                sock.setblocking(False)
                self._accepted.append(sock)
                self._tasks.add(asyncio.ensure_future(self._serve(sock)))

    async def _serve(self, sock: socket.socket) -> None:
        self.opening += 1
        self.most_opening = max(self.most_opening, self.opening)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        writer: asyncio.StreamWriter | None = None
        try:
            async with self._hands:
                await asyncio.sleep(self._seconds)
            pipe, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=self._context)
            writer = asyncio.StreamWriter(pipe, protocol, reader, loop)
            self.opening -= 1
            self.connections += 1
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                body = await reader.readexactly(length)
                writer.write(OK % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            sock.close() if writer is None else writer.close()


@pytest.mark.virtual_time(sockets=True)
async def test_the_handshakes_of_others_do_not_time_ours_out(server_tls: ssl.SSLContext) -> None:
    # All at once, the last of 300 would wait for 3.75 s.
    async with SlowServer(server_tls, at_once=16, seconds=0.2) as server:
        answers = await asyncio.gather(*(server.ask(connect=2.5) for _ in range(300)))
        assert answers == [b"{}"] * 300
        assert server.most_opening <= 2 * FEWEST_TURNS
        assert server.connections == 300


async def test_connections_are_opened_few_at_once(server_tls: ssl.SSLContext) -> None:
    async with SlowServer(server_tls, at_once=16, seconds=0.01) as server:
        answers = await asyncio.gather(*(server.ask() for _ in range(300)))
        assert answers == [b"{}"] * 300
        assert server.most_opening <= 2 * FEWEST_TURNS
        assert server.connections == 300


async def test_an_opening_that_itself_takes_too_long_is_timed_out(
    server_tls: ssl.SSLContext,
) -> None:
    async with SlowServer(server_tls, at_once=1, seconds=5.0) as server:
        with pytest.raises(ConnectionFailedError, match=r"no connection within 0\.1 s"):
            await server.ask(connect=0.1)


async def test_a_host_that_does_not_answer_holds_up_no_other(server_tls: ssl.SSLContext) -> None:
    async with (
        SlowServer(server_tls, at_once=1, seconds=60.0) as dead,
        SlowServer(server_tls, at_once=9, seconds=0.0) as alive,
    ):
        waiting = [asyncio.ensure_future(dead.ask(connect=30.0)) for _ in range(3 * FEWEST_TURNS)]
        await asyncio.sleep(0.2)
        assert await asyncio.wait_for(alive.ask(), 5.0) == b"{}"
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_cancelled_openings_give_their_turns_back(server_tls: ssl.SSLContext) -> None:
    async with SlowServer(server_tls, at_once=1000, seconds=0.3) as server:
        given_up = [asyncio.ensure_future(server.ask()) for _ in range(3 * FEWEST_TURNS)]
        await asyncio.sleep(0.1)  # some have a turn, the others wait for one
        for each in given_up:
            each.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError)
            for each in await asyncio.gather(*given_up, return_exceptions=True)
        )
        answers = await asyncio.gather(*(server.ask(connect=5.0) for _ in range(2 * FEWEST_TURNS)))
        assert answers == [b"{}"] * 2 * FEWEST_TURNS


async def test_a_connection_over_tls_takes_no_buffer_of_a_quarter_of_a_mebibyte(
    server_tls: ssl.SSLContext,
) -> None:
    """Those of other libraries on the same loop are left alone."""
    large = bytes(range(256)) * 2**13  # 2 MiB
    async with SlowServer(server_tls, at_once=9, seconds=0.0) as server:
        assert await server.ask(b"{}") == b"{}"
        ((line, _),) = next(iter(session_here()._connector._conns.values()))
        ours = getattr(line.transport, "_ssl_protocol", None)
        if ours is None:
            pytest.skip("uvloop's TLS has no such buffer")
        assert len(ours._ssl_buffer) == ours.max_size == 2**14
        assert await server.ask(large) == large
        assert len(ours._ssl_buffer) == 2**14
        assert server.connections == 1
        async with aiohttp.ClientSession() as other:
            reply = await other.post(server.url, data=b"{}")
            assert reply.connection is not None or await reply.read() == b"{}"
        assert sslproto.SSLProtocol.max_size > 2**14


async def test_replies_and_requests_of_any_size_pass_through_small_buffers(
    server_tls: ssl.SSLContext,
) -> None:
    async with SlowServer(server_tls, at_once=9, seconds=0.0) as server:
        for size in (1, 2**14 - 1, 2**14, 2**14 + 1, 3 * 2**20):
            assert await server.ask(b"x" * size) == b"x" * size
        assert server.connections == 1


async def test_turns_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    openings, order = Openings(asyncio.get_running_loop()), []

    async def take(number: int) -> None:
        async with openings.turn("host"):
            order.append(number)
            await asyncio.sleep(0.001)

    await asyncio.gather(*(take(number) for number in range(5 * FEWEST_TURNS)))
    assert order == sorted(order)


async def test_a_turn_that_comes_together_with_a_cancellation_is_given_on() -> None:
    openings, entered = Openings(asyncio.get_running_loop()), []
    leave = asyncio.Event()

    async def hold() -> None:
        async with openings.turn("host"):
            await leave.wait()

    async def late(number: int) -> None:
        async with openings.turn("host"):
            entered.append(number)

    holding = [asyncio.ensure_future(hold()) for _ in range(FEWEST_TURNS)]
    await asyncio.sleep(0)
    waiting = [asyncio.ensure_future(late(number)) for number in range(3)]
    await asyncio.sleep(0)
    holding[0].cancel()
    await asyncio.sleep(0)  # its turn has been given to the first of those that wait
    waiting[0].cancel()
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), 1.0)
    assert entered == [1, 2]
    leave.set()
    await asyncio.gather(*holding, return_exceptions=True)
    assert not any(host.open or host._waiting for host in openings._hosts.values())


def test_turns_grow_in_number_while_openings_take_no_longer() -> None:
    host = Turns()
    for _ in range(4000):
        assert host.may_begin()
        host.end(0.4)
    assert host.window == MOST_TURNS


def test_turns_stay_few_where_openings_wait_for_each_other() -> None:
    host = Turns()
    for _ in range(2000):
        host.open += 1
        host.end(0.001 * host.window)  # one after the other: so long as there are turns
    assert host.window <= 2 * FEWEST_TURNS + 1


def test_turns_are_few_again_after_a_failure() -> None:
    host = Turns()
    for seconds in [0.4] * 100 + [None]:
        assert host.may_begin()
        host.end(seconds)
    assert host.window == FEWEST_TURNS
