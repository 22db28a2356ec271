"""How long connections are kept: as long as the server keeps them, as far as that is known."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import pytest

from llmflow import transport
from llmflow.transport import Timeout, connections, http_session
from llmflow.transport.connections import LONGEST_IDLE, UNKNOWN_IDLE, Host, safe
from llmflow.types import WireRequest
from tests.transport.conftest import hosts_here

pytestmark = pytest.mark.every_loop


class Server:
    """A server that closes connections on which nothing is asked, after some seconds."""

    def __init__(self, *, keeps: float, says: str = "") -> None:
        self._keeps = keeps
        self._says = says
        self.connections = self.requests = self.open = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/x"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await transport.aclose()
        await self._server.wait_closed()

    async def ask(self, body: str = "{}", **timeout: Any) -> str:
        wire = WireRequest("POST", self.url, {"Authorization": "Bearer k"}, body.encode())
        return (await transport.send(wire, timeout=Timeout(**timeout))).body.decode()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                async with asyncio.timeout(self._keeps):
                    head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                body = await reader.readexactly(length)
                self.requests += 1
                await asyncio.sleep(0.01)
                answer = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s"
                writer.write(answer % (self._says.encode(), len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is known at first, and the margin, be tenths of a second."""
    monkeypatch.setattr(connections, "UNKNOWN_IDLE", 0.2)
    monkeypatch.setattr(connections, "_MARGIN", 0.1)


async def burst(server: Server, number: int) -> None:
    texts = [f'"{each}"' for each in range(number)]
    assert await asyncio.gather(*map(server.ask, texts)) == texts


async def test_connections_of_a_burst_are_there_for_the_next_one(quick: None) -> None:
    """That the oldest of them last is seen, and others are used up to that age."""
    async with Server(keeps=60.0) as server:
        await burst(server, 40)
        await asyncio.sleep(0.6)  # they are older than what is known at first
        await burst(server, 40)
        opened = server.connections
        for _ in range(3):
            await asyncio.sleep(0.6)
            await burst(server, 40)
        assert server.connections == opened
        assert server.requests == 200


async def test_nothing_is_sent_on_what_the_server_may_be_closing(quick: None) -> None:
    """The pause between bursts is, to a few milliseconds, the time that the server keeps them."""
    async with Server(keeps=0.5) as server:
        for number in range(8):
            await burst(server, 10)
            await asyncio.sleep(0.495 + 0.002 * number)
        await burst(server, 10)
        assert server.requests == 90


async def test_what_the_server_closes_while_idle_teaches_how_long_it_keeps(quick: None) -> None:
    async with Server(keeps=0.6) as server:
        await server.ask()
        (host,) = hosts_here()
        host.usable = 60.0
        await asyncio.sleep(1.0)
        assert 0.3 <= host.usable <= 0.6
        await server.ask()
        await asyncio.sleep(0.2)
        await server.ask()
        assert server.connections == 2


@pytest.mark.parametrize(
    ("says", "usable"),
    [
        ("Keep-Alive: timeout=5\r\n", 4.5),
        ("keep-alive: max=100, Timeout = 75\r\n", 67.5),
        ('Keep-Alive: timeout="30", max=7\r\n', 27.0),
        ("Keep-Alive: timeout=1\r\n", 0.5),
        ("Keep-Alive: timeout=0\r\n", 0.0),
        ("Keep-Alive: timeout=99999999999999999999\r\n", LONGEST_IDLE),
        ("Keep-Alive: max=5\r\n", UNKNOWN_IDLE),
        ("Keep-Alive: soon\r\n", UNKNOWN_IDLE),
        ("", UNKNOWN_IDLE),
    ],
)
async def test_a_server_that_says_how_long_is_believed(says: str, usable: float) -> None:
    async with Server(keeps=60.0, says=says) as server:
        await server.ask()
        (host,) = hosts_here()
        assert host.usable == pytest.approx(usable)


async def test_more_connections_than_may_be_open_are_never_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_session, "connection_limit", lambda: 8)
    async with Server(keeps=60.0) as one, Server(keeps=60.0) as other:
        await burst(one, 8)
        await burst(other, 8)
        await asyncio.sleep(0.1)
        assert one.open + other.open <= 9
        assert other.open == 8


async def test_few_connections_are_all_for_requests(
    quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_session, "connection_limit", lambda: 2)
    async with Server(keeps=60.0) as server:
        for _ in range(3):
            await burst(server, 4)
            await asyncio.sleep(0.5)
        assert not any(host.watched for host in hosts_here())


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_what_is_watched_is_closed_with_its_loop(quick: None) -> None:
    async def main() -> None:
        async with Server(keeps=60.0) as server:
            await burst(server, 5)
            await asyncio.sleep(0.5)
            await burst(server, 5)
            assert any(host.watched for host in hosts_here())

    asyncio.run(main())


def test_what_is_seen_last_counts() -> None:
    host = Host()
    host.saw_open(30.0)
    assert host.usable == 29.5
    host.saw_end(10.0)
    assert host.usable == 9.0
    host.saw_open(20.0)
    assert host.usable == 19.5
    host.saw_open(1000.0)
    assert host.usable == LONGEST_IDLE
    host.told({"keep-alive": "timeout=5"})
    host.saw_open(30.0)
    assert host.usable == 4.5


def test_the_margin_is_half_a_second_or_a_tenth() -> None:
    assert (safe(100.0), safe(5.0), safe(2.0), safe(0.2)) == (90.0, 4.5, 1.5, 0.1)
