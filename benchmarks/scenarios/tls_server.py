"""A server over TLS that answers nobody until so many requests are there at once."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

WARM_UP = b"warm-up"
_BACKLOG = 1024
_PATIENCE = 120.0
_REPLY = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A short answer."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
    }
).encode()
_WHOLE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_REPLY)
    + _REPLY
)


class Barrier:
    """Holds all answers back until `least` requests wait for one."""

    def __init__(self, least: int) -> None:
        self.connections = self.most = 0
        self._least = least
        self._held: list[asyncio.Transport] = []
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, transport: asyncio.Transport) -> None:
        self._held.append(transport)
        self.most = max(self.most, len(self._held))
        if self._timer is None:
            # Where some never come, those that came are still answered, and counted as too few.
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._open)
        if len(self._held) >= self._least:
            self._open()

    def _open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held, self._held = self._held, []
        for transport in held:
            transport.write(_WHOLE)


class _Connection(asyncio.Protocol):
    def __init__(self, barrier: Barrier) -> None:
        self._barrier = barrier
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._barrier.connections += 1

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
        if len(body) >= length:
            self._received = body[length:]
            if WARM_UP in body:
                self._transport.write(_WHOLE)
            else:
                self._barrier.hold(self._transport)


async def _serve(least: int, certificate: str, key: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop, barrier = asyncio.get_running_loop(), Barrier(least)
    server = await loop.create_server(
        lambda: _Connection(barrier),
        "127.0.0.1",
        0,
        ssl=context,
        backlog=_BACKLOG,
        ssl_handshake_timeout=300.0,
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"connections": barrier.connections, "most": barrier.most}), flush=True)
    os._exit(0)


class TlsServer:
    """The server, in a process of its own, with a certificate that is made for it."""

    def __init__(self, least: int, folder: Path, *, cpu: int | None = None) -> None:
        self._least, self._cpu = least, cpu
        self.certificate, self._key = folder / "certificate.pem", folder / "key.pem"
        self.saw: dict[str, int] = {}
        """When it has ended: connections that were made, and requests that waited at once."""

    def __enter__(self) -> Self:
        make_certificate(self.certificate, self._key)
        command = [sys.executable, __file__, str(self._least), self.certificate, self._key]
        if self._cpu is not None:
            command.append(str(self._cpu))
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = f"https://127.0.0.1:{int(self._process.stdout.readline())}/v1"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.saw = json.loads(self._process.communicate()[0])


def make_certificate(certificate: Path, key: Path) -> None:
    """Make a key and a certificate for this machine, with openssl."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    if len(sys.argv) > 4:
        os.sched_setaffinity(0, {int(sys.argv[4])})
    try:
        import uvloop

        run: Any = uvloop.run
    except ImportError:
        run = asyncio.run
    run(_serve(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
