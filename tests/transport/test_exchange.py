"""The transport: one session per loop, and every failure mapped onto our errors."""

from __future__ import annotations

import asyncio
import gc
import inspect
import math
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Self

import aiohttp
import pytest

import llmflow
from llmflow import transport
from llmflow.errors import (
    BadReplyError,
    ConfigurationError,
    ConnectionFailedError,
    LLMFlowError,
    RequestTimeoutError,
)
from llmflow.transport import Timeout
from llmflow.transport.connections import target
from llmflow.transport.failures import mapped, table
from llmflow.types import WireRequest
from tests.transport.conftest import session_here


def post(port: int, body: bytes = b"{}") -> WireRequest:
    return WireRequest("POST", f"http://127.0.0.1:{port}/x", {"Authorization": "Bearer k"}, body)


class Server:
    """A raw server: sends what it is told to, whatever comes."""

    def __init__(self, answer: bytes, *, close: bool = True) -> None:
        self.answer = answer
        self.close = close
        self.received: list[bytes] = []
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await transport.aclose()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
                self.received.append(head + await reader.readexactly(length))
                writer.write(self.answer)
                await writer.drain()
                if self.close:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Name: v\r\n\r\nhi"


async def test_a_reply_has_status_headers_and_body() -> None:
    async with Server(OK, close=False) as server:
        reply = await transport.send(post(server.port, b'{"a":1}'), timeout=Timeout())
    assert (reply.status, reply.body, reply.headers["x-name"]) == (200, b"hi", "v")
    assert reply.received_at > 1.7e9
    assert b"Authorization: Bearer k" in server.received[0]
    assert f"User-Agent: llmflow/{llmflow.__version__}".encode() in server.received[0]
    assert server.received[0].endswith(b'{"a":1}')


async def test_connections_are_kept_and_used_again() -> None:
    async with Server(OK, close=False) as server:
        for _ in range(5):
            await transport.send(post(server.port), timeout=Timeout())
        assert server.connections == 1


async def test_a_redirect_is_not_followed_with_the_key() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
    async with Server(moved) as server:
        assert (await transport.send(post(server.port), timeout=Timeout())).status == 302


async def test_a_large_body_is_sent_whole() -> None:
    async with Server(OK) as server:
        await transport.send(post(server.port, b"x" * (2**20 + 1)), timeout=Timeout())
        assert server.received[0].endswith(b"x" * 1000)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", ConnectionFailedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\ncut off", ConnectionFailedError),
        (b"this is not HTTP\r\n\r\n", BadReplyError),
    ],
)
async def test_broken_replies_are_named(answer: bytes, kind: type[LLMFlowError]) -> None:
    async with Server(answer) as server:
        with pytest.raises(kind, match=f"127.0.0.1:{server.port}"):
            await transport.send(post(server.port), timeout=Timeout())


async def test_no_answer_in_time_is_a_timeout_with_the_seconds() -> None:
    async with Server(b"", close=False) as server:
        with pytest.raises(RequestTimeoutError, match=r"no answer within 0\.05 s"):
            await transport.send(post(server.port), timeout=Timeout(total=0.05))


async def test_a_refused_connection_names_the_place() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionFailedError, match=f"cannot connect to 127.0.0.1:{port}"):
        await transport.send(post(port), timeout=Timeout())


async def test_a_name_that_does_not_exist_is_a_connection_error() -> None:
    wire = WireRequest("POST", "http://no-such-host.invalid/x", {}, b"{}")
    with pytest.raises(ConnectionFailedError, match=r"no-such-host\.invalid"):
        await transport.send(wire, timeout=Timeout())


def test_every_exception_of_aiohttp_is_mapped() -> None:
    kinds = [
        kind
        for _, kind in inspect.getmembers(aiohttp, inspect.isclass)
        if issubclass(kind, aiohttp.ClientError | OSError) and not issubclass(kind, Warning)
    ]
    assert len(kinds) > 15
    for kind in kinds:
        assert any(issubclass(kind, theirs) for theirs, _, _ in table()), kind
    assert mapped(ValueError("a bug"), "http://h/x", Timeout()) is None


async def test_an_address_that_cannot_be_called_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="cannot be called"):
        await transport.send(WireRequest("POST", "http://:0:0/x", {}, b""), timeout=Timeout())


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_no_session_is_left_open_when_its_loop_ends() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what other tests have left says nothing of these sessions
    clients = []

    async def use() -> None:
        async with Server(OK) as server:
            await transport.send(post(server.port), timeout=Timeout())
            server._server.close()

    async def use_and_leave() -> None:
        server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionFailedError):
            await transport.send(post(port), timeout=Timeout())
        clients.append(session_here().client)
        server.close()

    asyncio.run(use())
    asyncio.run(use_and_leave())
    gc.collect()
    assert all(client.closed for client in clients)


async def test_no_error_of_the_transport_carries_the_key_along() -> None:
    async with Server(b"this is not HTTP\r\n\r\n") as server:
        with pytest.raises(BadReplyError) as caught:
            await transport.send(post(server.port), timeout=Timeout())
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_timeout_may_be_endless() -> None:
    async with Server(OK) as server:
        reply = await transport.send(post(server.port), timeout=Timeout(total=math.inf))
    assert reply.body == b"hi"


async def test_a_session_that_was_closed_is_opened_again() -> None:
    async with Server(OK, close=False) as server:
        for _ in range(2):
            await transport.send(post(server.port), timeout=Timeout())
            await session_here().client.close()


def test_loops_in_many_threads_open_their_sessions_at_the_same_time() -> None:
    failures: list[BaseException] = []

    async def once() -> None:
        async with Server(OK) as server:
            await transport.send(post(server.port), timeout=Timeout())

    def work() -> None:
        try:
            for _ in range(15):
                asyncio.run(once())
        except BaseException as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work) for _ in range(12)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    target.cache_clear()
    yield monkeypatch
    target.cache_clear()


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://host/v1", "http://proxy:3128"),
        ("https://host/v1", None),
        ("http://127.0.0.1:8000/v1", None),
        ("http://127.9.9.9/v1", None),
        ("http://[::1]:8000/v1", None),
        ("http://localhost:8000/v1", None),
        ("http://inside:8000/v1", None),
        ("http://inside:9000/v1", "http://proxy:3128"),
        ("http://x.corp/v1", None),
    ],
)
def test_the_proxy_is_the_environments_and_never_for_this_machine(
    url: str, proxy: str | None, proxies: pytest.MonkeyPatch
) -> None:
    proxies.setenv("http_proxy", "proxy:3128")
    proxies.setenv("no_proxy", "inside:8000,.corp")
    found = target(url)[1]
    assert (None if found is None else str(found).rstrip("/")) == proxy


@pytest.mark.parametrize("proxy", ["socks5://user:hunter2@proxy:1", "http://[user:hunter2@proxy"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(
    proxy: str, proxies: pytest.MonkeyPatch
) -> None:
    proxies.setenv("http_proxy", proxy)
    with pytest.raises(ConfigurationError, match="HTTP_PROXY") as caught:
        target("http://host/v1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["api..example.invalid", ".invalid", "a" * 64])
async def test_a_host_that_no_name_can_be_is_a_wrong_setting(host: str) -> None:
    wire = WireRequest("POST", f"http://{host}/v1", {"Authorization": "Bearer sk-hidden"}, b"{}")
    with pytest.raises(ConfigurationError, match="the URL cannot be called") as caught:
        await transport.send(wire, timeout=Timeout())
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
