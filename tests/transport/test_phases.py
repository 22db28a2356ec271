"""The transport against servers that hang, drip, break and never end, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import orjson
import pytest

from llmflow import transport
from llmflow.errors import (
    BadReplyError,
    ConfigurationError,
    ConnectionFailedError,
    RequestTimeoutError,
)
from llmflow.testing import VirtualLoop
from llmflow.transport import Timeout, http_session
from llmflow.transport.http_session import Watch
from llmflow.types import WireRequest
from tests.transport.conftest import session_here

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """A server that speaks by hand, and knows which of its connections are open."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.open: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.requests = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self.open.add(task)
        try:
            await self.handler(reader, writer)
            while await reader.read(2**16):  # until the client hangs up
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open.discard(task)
            writer.close()

    async def request(self, reader: asyncio.StreamReader) -> None:
        """Read one request."""
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r")[0]))
        self.requests += 1

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        async with asyncio.timeout(5):
            while self.open:  # noqa: ASYNC110 - of two sides of a socket
                await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(peer: Peer) -> AsyncIterator[str]:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/x"
        opened = session_here()
        watches = [each for limits in opened._limits.values() for each in limits[1:]]
        assert not any(watch._waiting for watch in watches if watch is not None)
    finally:
        server.close()
        await transport.aclose()
        await peer.all_closed()


def post(url: str, body: bytes = b"{}") -> WireRequest:
    return WireRequest("POST", url, {"Authorization": "Bearer k"}, body)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side sees a reset, not an end."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read all, say nothing."""


async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Begin an answer, and never end it."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD % 100 + b"begun")


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send one byte at a time, for ever."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(CHUNKED)
    while not writer.is_closing():
        writer.write(b"1\r\n\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("handler", "timeout", "text"),
    [
        (silent, Timeout(total=0.05), r"no answer within 0\.05 s: it had not begun"),
        (silent, Timeout(first_byte=0.05), r"no answer began within 0\.05 s"),
        (half, Timeout(total=0.4), r"no answer within 0\.4 s: it had begun, but did not end"),
        (half, Timeout(first_byte=0.3, total=0.5), r"within 0\.5 s: it had begun"),
        (drip, Timeout(total=0.4), r"no answer within 0\.4 s: it had begun"),
        (drip, Timeout(first_byte=1, total=0.4), r"no answer within 0\.4 s: it had begun"),
    ],
)
async def test_each_phase_has_its_limit_and_its_message(
    handler: Handler, timeout: Timeout, text: str
) -> None:
    peer = Peer(handler)
    async with serving(peer) as url:
        with pytest.raises(RequestTimeoutError, match=text) as caught:
            await transport.send(post(url), timeout=timeout)
        await peer.all_closed()  # nothing is left open, though the session still is
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_server_that_does_not_accept_is_no_connection_in_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        where = listener.getsockname()
        crowd = [socket.socket() for _ in range(4)]
        try:
            for each in crowd:  # fill the queue: further connections are left unanswered
                each.setblocking(False)
                each.connect_ex(where)
            with pytest.raises(ConnectionFailedError, match=r"no connection within 0\.05 s"):
                await transport.send(
                    post(f"http://127.0.0.1:{where[1]}/x"), timeout=Timeout(connect=0.05)
                )
            with pytest.raises(RequestTimeoutError, match=r"0\.05 s: there was no connection yet"):
                await transport.send(
                    post(f"http://127.0.0.1:{where[1]}/x"), timeout=Timeout(total=0.05)
                )
        finally:
            for each in crowd:
                each.close()
    await transport.aclose()


async def test_a_name_that_is_not_found_in_time_is_no_connection_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object, **__: object) -> list[object]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(aiohttp.TCPConnector, "_resolve_host", never)
    with pytest.raises(ConnectionFailedError, match=r"slow\.invalid: no connection within 0\.05 s"):
        await transport.send(post("http://slow.invalid/x"), timeout=Timeout(connect=0.05, total=5))
    await transport.aclose()


async def test_a_tls_handshake_that_hangs_is_no_connection_in_time() -> None:
    peer = Peer(silent)
    async with serving(peer) as url:
        with pytest.raises(ConnectionFailedError, match=r"no connection within 0\.1 s"):
            await transport.send(post(url.replace("http:", "https:")), timeout=Timeout(connect=0.1))
        await peer.all_closed()


async def test_blank_lines_before_the_answer_are_waited_out_and_parsed() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED)
        for _ in range(5):
            writer.write(b"1\r\n\n\r\n2\r\n\r\n\r\n")
            await asyncio.sleep(0.005)
        writer.write(b"7\r\n" + b'{"a":1}' + b"\r\n0\r\n\r\n")

    async with serving(Peer(handler)) as url:
        reply = await transport.send(post(url), timeout=Timeout(first_byte=5))
    assert reply.body.startswith(b"\n\r\n")
    assert orjson.loads(reply.body) == {"a": 1}


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 20", HEAD % 100, HEAD % 100 + b"begun"])
async def test_a_reset_at_any_point_is_a_broken_connection_and_is_not_repeated(
    sent: bytes,
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(sent)
        await writer.drain()
        reset(writer)

    peer = Peer(handler)
    async with serving(peer) as url:
        with pytest.raises(ConnectionFailedError, match="connection broke") as caught:
            await transport.send(post(url), timeout=Timeout())
        assert caught.value.transient
        assert peer.requests == 1


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_kept_connection_that_breaks_is_not_hidden_and_the_next_is_fresh(
    method: str,
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(HEAD % 2 + b"hi")
        await peer.request(reader)
        reset(writer)  # the server had closed, as it were, when this request came

    peer = Peer(handler)
    async with serving(peer) as url:
        wire = post(url)._replace(method=method)
        assert (await transport.send(wire, timeout=Timeout())).body == b"hi"
        with pytest.raises(ConnectionFailedError):
            await transport.send(wire, timeout=Timeout())
        assert (peer.accepted, peer.requests) == (1, 2)
        assert (await transport.send(wire, timeout=Timeout())).body == b"hi"
        assert peer.accepted == 2


async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(HEAD % 2 + b"hi")
        writer.close()

    peer = Peer(handler)
    async with serving(peer) as url:
        for _ in range(3):
            assert (await transport.send(post(url), timeout=Timeout())).body == b"hi"
            await peer.all_closed()
            await asyncio.sleep(0.01)
        assert peer.accepted == 3


@pytest.mark.parametrize("handler", [silent, half, drip])
async def test_a_cancelled_request_leaves_no_connection_open(handler: Handler) -> None:
    peer = Peer(handler)
    async with serving(peer) as url:
        task = asyncio.create_task(transport.send(post(url), timeout=Timeout()))
        async with asyncio.timeout(5):
            while not peer.open:  # noqa: ASYNC110 - of two sides of a socket
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await peer.all_closed()


async def test_a_request_cancelled_while_it_is_being_sent_leaves_no_connection_open() -> None:
    never = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        accepted.set()
        await never.wait()

    accepted = asyncio.Event()
    peer = Peer(deaf)
    async with serving(peer) as url:
        wire = post(url, b"x" * 2**26)  # more than sockets take unread
        task = asyncio.create_task(transport.send(wire, timeout=Timeout()))
        await accepted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        never.set()
        await peer.all_closed()


async def test_a_cancellation_from_outside_wins_over_a_timeout_at_the_same_moment() -> None:
    async with serving(Peer(silent)) as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await transport.send(post(url), timeout=Timeout(first_byte=0.05, total=0.05))
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0


async def test_two_limits_that_end_together_leave_no_cancellation_behind() -> None:
    task = asyncio.current_task()
    assert task is not None
    async with serving(Peer(silent)) as url:
        for _ in range(5):
            with pytest.raises(RequestTimeoutError, match="no answer began within"):
                await transport.send(post(url), timeout=Timeout(first_byte=0.02, total=0.02))
            assert task.cancelling() == 0


async def test_an_early_answer_to_a_request_that_is_not_read_is_returned() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")

    peer = Peer(handler)
    async with serving(peer) as url:
        reply = await transport.send(post(url, b"x" * 2**26), timeout=Timeout())
        assert (reply.status, reply.body) == (413, b"no")
        await peer.all_closed()


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(CHUNKED)
    while not writer.is_closing():
        writer.write(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
        await writer.drain()


async def announced(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD % 2**40 + b"begun")


async def bomb(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    body = zlib.compress(bytes(2**24))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: %d\r\n\r\n"
    writer.write(head % len(body) + body)


@pytest.mark.parametrize("handler", [endless, announced, bomb])
async def test_a_reply_larger_than_any_answer_is_given_up(
    handler: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_session, "LARGEST_REPLY", 2**20)
    peer = Peer(handler)
    async with serving(peer) as url:
        with pytest.raises(BadReplyError, match="larger than 1 MiB"):
            await transport.send(post(url), timeout=Timeout(total=20))
        await peer.all_closed()


async def test_a_reply_without_a_length_ends_with_its_connection() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2**18)
        writer.close()

    peer = Peer(handler)
    async with serving(peer) as url:
        assert len((await transport.send(post(url), timeout=Timeout())).body) == 2**18


async def test_no_more_connections_are_opened_than_the_process_may_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await peer.request(reader)
            await asyncio.sleep(0.3)
            writer.write(HEAD % 2 + b"hi")

    monkeypatch.setattr(http_session, "connection_limit", lambda: 3)
    peer = Peer(handler)
    async with serving(peer) as url:
        # Waiting for a free connection is not connecting: five rounds outlast that limit.
        timeout = Timeout(connect=1.0)
        replies = await asyncio.gather(
            *(transport.send(post(url), timeout=timeout) for _ in range(15))
        )
        assert peer.accepted == 3
    assert {reply.body for reply in replies} == {b"hi"}


async def test_a_proxy_is_asked_for_the_whole_address_with_its_own_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD % 2 + b"hi")

    async with serving(Peer(handler)) as url:
        place = url.removeprefix("http://").removesuffix("/x")
        monkeypatch.setattr(
            "llmflow.transport.connections.getproxies", lambda: {"http": f"u:p@{place}"}
        )
        wire = post("http://proxied.invalid/v1")
        assert (await transport.send(wire, timeout=Timeout())).body == b"hi"
    assert seen[0].startswith(b"POST http://proxied.invalid/v1 HTTP/1.1\r\n")
    assert b"Host: proxied.invalid\r\n" in seen[0]
    assert b"Proxy-Authorization: Basic dTpw\r\n" in seen[0]
    assert b"Authorization: Bearer k\r\n" in seen[0]


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "503 Unavailable"])
async def test_a_proxy_that_refuses_to_connect_is_no_reply_and_costs_nothing(
    status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno".encode())
        writer.close()

    async with serving(Peer(handler)) as url:
        place = url.removeprefix("http://").removesuffix("/x")
        monkeypatch.setattr(
            "llmflow.transport.connections.getproxies", lambda: {"https": f"u:hunter2@{place}"}
        )
        wire = post(f"https://tunnelled-{status[:3]}.invalid/v1")
        with pytest.raises(
            ConnectionFailedError, match=f"its proxy refuses: {status[:3]}"
        ) as caught:
            await transport.send(wire, timeout=Timeout())
    assert not caught.value.may_be_billed
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["connect", "first_byte", "total"])
@pytest.mark.parametrize("value", [0, -1, True, "5", float("nan")])
def test_a_timeout_is_seconds_above_zero(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"timeout {name} must be seconds"):
        Timeout(**{name: value})  # type: ignore[arg-type]


@pytest.mark.virtual_time
async def test_one_timer_ends_each_wait_at_its_own_time() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    watch = Watch(loop, 10.0)
    ended: list[tuple[int, float, bool]] = []

    async def wait(number: int, seconds: float) -> None:
        entry, cancelled = watch.begin(), False
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            cancelled = True
        assert watch.end(entry) == cancelled
        ended.append((number, loop.time(), cancelled))

    async with asyncio.TaskGroup() as group:
        for number, seconds in enumerate([30.0, 4.0, 30.0, 12.0]):
            group.create_task(wait(number, seconds))
            await asyncio.sleep(1.0)
    expected = [(1, 5.0, False), (0, 10.0, True), (2, 12.0, True), (3, 13.0, True)]
    assert ended == [(n, pytest.approx(at), cancelled) for n, at, cancelled in expected]


async def test_thousands_of_timeouts_at_once_are_found_quickly() -> None:
    async def wait(watch: Watch) -> bool:
        entry = watch.begin()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return watch.end(entry)
        return False

    async def cost(count: int) -> float:
        watch = Watch(asyncio.get_running_loop(), 0.01)
        began = time.process_time()
        assert all(await asyncio.gather(*(wait(watch) for _ in range(count))))
        return time.process_time() - began

    few = [await cost(500) for _ in range(3)]
    many = [await cost(5000) for _ in range(3)]
    assert min(many) < 50 * max(few)  # a scan of all for each would be 100 times
