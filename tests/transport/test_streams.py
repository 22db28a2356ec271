"""Bodies larger than memory, over real sockets: sent piece by piece, fetched into files."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import pytest

from llmflow import transport
from llmflow.errors import (
    ConnectionFailedError,
    JournalError,
    LLMFlowError,
    RequestTimeoutError,
)
from llmflow.provider import Channel, Upload
from llmflow.transport import StreamChannel, Timeout, streams
from llmflow.types import WireRequest

pytestmark = pytest.mark.http

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
            while await reader.read(2**16):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    finally:
        server.close()
        await transport.aclose()


def wire(url: str, method: str = "POST") -> WireRequest:
    return WireRequest(method, url, {"Authorization": "Bearer k", "Content-Type": "a/b"}, b"")


async def read_all(reader: asyncio.StreamReader, *, at_once: int = 2**20) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    left = int(head.partition(b"Content-Length: ")[2].split(b"\r")[0])
    body = b""
    while left:
        piece = await reader.read(min(left, at_once))
        if not piece:
            raise ConnectionError
        body += piece
        left -= len(piece)
    return head, body


def replies(answer: bytes, *, close: bool = False) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if close:
            writer.close()

    return handler


def names(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir()]


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def test_a_streamed_body_arrives_whole_with_its_length() -> None:
    got: list[tuple[bytes, bytes]] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await read_all(reader))
        writer.write(OK)

    parts = [bytes([n]) * 300_000 for n in range(10)]
    upload = Upload(lambda: iter(parts), 3_000_000)
    channel: Channel = StreamChannel()
    async with serving(handler) as url:
        reply = await channel.send(wire(url), upload)
    assert (reply.status, reply.body) == (200, b"hi")
    head, body = got[0]
    assert body == b"".join(parts)
    assert b"Content-Length: 3000000\r\n" in head
    assert b"Content-Type: a/b\r\n" in head
    assert b"chunked" not in head.lower()


async def test_the_time_of_an_upload_does_not_count_as_waiting_for_the_first_byte() -> None:
    def slowly() -> Iterator[bytes]:
        for _ in range(5):
            time.sleep(0.1)
            yield b"x" * 1000

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_all(reader)
        writer.write(OK)

    async with serving(handler) as url:
        reply = await transport.stream(
            wire(url), timeout=Timeout(first_byte=0.4), body=Upload(slowly, 5000)
        )
        assert reply.status == 200


async def test_no_reply_after_an_upload_is_a_timeout_of_the_first_byte() -> None:
    async with serving(silent) as url:
        with pytest.raises(RequestTimeoutError, match=r"no answer began within 0\.05 s") as caught:
            await transport.stream(
                wire(url), timeout=Timeout(first_byte=0.05), body=Upload(lambda: iter([b"x"]), 1)
            )
    assert caught.value.__context__ is None


async def test_an_upload_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STALL", 0.1)
    stop = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await stop.wait()

    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield bytes(2**20)

    async with serving(deaf) as url:
        with pytest.raises(RequestTimeoutError, match=r"nothing more could be sent for 0\.1 s"):
            await transport.stream(wire(url), timeout=Timeout(), body=Upload(endless, 1000 * 2**20))
        stop.set()


@pytest.mark.parametrize("sizes", [(3,), (5, 5), ()])
async def test_a_file_that_changed_meanwhile_is_no_fault_of_the_connection(
    sizes: tuple[int, ...],
) -> None:
    async with serving(silent) as url:
        upload = Upload(lambda: iter([b"x" * n for n in sizes]), 7)
        with pytest.raises(JournalError, match="has changed"):
            await transport.stream(wire(url), timeout=Timeout(), body=upload)


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"x"
        yield (tmp_path / "gone").read_bytes()

    async with serving(silent) as url:
        with pytest.raises(JournalError, match="gone"):
            await transport.stream(wire(url), timeout=Timeout(), body=Upload(pieces, 9))


async def test_a_cancelled_upload_leaves_no_connection_open() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        while await reader.read(2**16):
            pass
        ended.set()

    def slowly() -> Iterator[bytes]:
        while True:
            time.sleep(0.01)
            yield bytes(1000)

    async with serving(deaf) as url:
        upload = Upload(slowly, 2**30)
        task = asyncio.create_task(transport.stream(wire(url), timeout=Timeout(), body=upload))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 5)


async def test_a_refusal_of_a_large_body_is_returned() -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"
    async with serving(replies(refusal)) as url:
        upload = Upload(lambda: iter([bytes(2**20)] * 64), 2**26)
        reply = await transport.stream(wire(url), timeout=Timeout(), body=upload)
        assert (reply.status, reply.body) == (413, b"no")


async def test_no_request_follows_a_refused_upload_on_its_connection() -> None:
    connections: set[asyncio.StreamReader] = set()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_all(reader)
            connections.add(reader)
            writer.write(b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\nno")

    async with serving(handler) as url:
        upload = Upload(lambda: iter([bytes(2**16)] * 4), 2**18)
        for _ in range(3):
            await transport.stream(wire(url), timeout=Timeout(), body=upload)
    assert len(connections) == 3


async def test_a_reply_is_fetched_into_a_private_file_that_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmflow.transport.http_session.LARGEST_REPLY", 1000)
    body = bytes(range(256)) * 20_000
    path = tmp_path / "out"
    path.write_text("older")
    async with serving(replies(HEAD % len(body) + body)) as url:
        reply = await StreamChannel().fetch(wire(url, "GET"), path)
    assert (reply.status, reply.body) == (200, b"")
    assert path.read_bytes() == body
    assert path.stat().st_mode & 0o077 == 0
    assert names(tmp_path) == ["out"]


async def test_an_empty_reply_is_an_empty_file(tmp_path: Path) -> None:
    async with serving(replies(HEAD % 0)) as url:
        await transport.stream(wire(url, "GET"), timeout=Timeout(), path=tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b""


@pytest.mark.parametrize("status", [b"404 Not Found", b"302 Found", b"206 Partial"])
async def test_another_status_is_returned_with_its_body_and_writes_nothing(
    status: bytes, tmp_path: Path
) -> None:
    answer = b"HTTP/1.1 %s\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 2\r\n\r\nno" % status
    async with serving(replies(answer)) as url:
        reply = await transport.stream(wire(url, "GET"), timeout=Timeout(), path=tmp_path / "out")
    assert (reply.status, reply.body) == (int(status[:3]), b"no")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("answer", "close", "kind"),
    [
        (HEAD % 100 + b"cut", True, ConnectionFailedError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", True, LLMFlowError),
        (HEAD % 100 + b"begun", False, RequestTimeoutError),
    ],
)
async def test_a_body_that_does_not_end_is_an_error_and_leaves_nothing(
    answer: bytes,
    close: bool,
    kind: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "STALL", 0.1)
    path = tmp_path / "out"
    path.write_text("older")
    async with serving(replies(answer, close=close)) as url:
        with pytest.raises(kind, match=r"127\.0\.0\.1") as caught:
            await transport.stream(wire(url, "GET"), timeout=Timeout(), path=path)
    assert caught.value.__context__ is None
    assert names(tmp_path) == ["out"]
    assert path.read_text() == "older"


async def test_a_download_that_moves_may_take_longer_than_a_standstill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "STALL", 0.4)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD % 10)
        for _ in range(10):
            await asyncio.sleep(0.05)
            writer.write(b"x")
        writer.close()

    async with serving(drip) as url:
        await transport.stream(wire(url, "GET"), timeout=Timeout(), path=tmp_path / "out")
        with pytest.raises(RequestTimeoutError, match=r"within 0\.2 s: it had begun"):
            await transport.stream(
                wire(url, "GET"), timeout=Timeout(total=0.2), path=tmp_path / "b"
            )
    assert names(tmp_path) == ["out"]


async def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    async with serving(replies(OK)) as url:
        path = tmp_path / "none" / "out"
        with pytest.raises(JournalError, match="cannot be written: No such file"):
            await transport.stream(wire(url, "GET"), timeout=Timeout(), path=path)


async def test_a_cancelled_download_leaves_nothing(tmp_path: Path) -> None:
    async with serving(replies(HEAD % 100 + b"begun")) as url:
        task = asyncio.create_task(
            transport.stream(wire(url, "GET"), timeout=Timeout(), path=tmp_path / "out")
        )
        async with asyncio.timeout(5):
            while not names(tmp_path):  # noqa: ASYNC110 - of a thread's work
                await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert names(tmp_path) == []


async def test_requests_of_batch_jobs_keep_a_pace(tmp_path: Path) -> None:
    served: list[bytes] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            served.append(head)
            writer.write(OK)

    async with serving(count) as url:
        channel = StreamChannel(calls_per_minute=2)
        await channel.send(wire(url, "GET"))
        await channel.fetch(wire(url, "GET"), tmp_path / "out")
        with pytest.raises(TimeoutError):  # there is room again after half a minute
            await asyncio.wait_for(channel.send(wire(url, "GET")), 0.05)
    assert len(served) == 2


async def test_a_download_cancelled_while_its_file_is_opened_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on, files = threading.Event(), threading.Event(), []
    private = streams._private

    def slow(path: Path) -> IO[bytes]:
        opening.set()
        assert go_on.wait(5)
        files.append(private(path))
        return files[0]

    monkeypatch.setattr(streams, "_private", slow)
    async with serving(replies(HEAD % 100 + b"begun")) as url:
        task = asyncio.create_task(
            transport.stream(wire(url, "GET"), timeout=Timeout(), path=tmp_path / "out")
        )
        assert await asyncio.to_thread(opening.wait, 5)
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [file.closed for file in files] == [True]
    assert names(tmp_path) == []


async def test_the_key_is_in_no_error_of_a_stream(tmp_path: Path) -> None:
    async with serving(replies(b"nonsense\r\n\r\n")) as url:
        asked = wire(url, "GET")._replace(headers={"Authorization": "Bearer sk-hidden-key-1"})
        with pytest.raises(LLMFlowError) as caught:
            await transport.stream(asked, timeout=Timeout(), path=tmp_path / "out")
    assert "hidden" not in f"{caught.value!r}{caught.value}"
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
