"""A channel that answers as it is told, and rows in a file."""

from __future__ import annotations

from pathlib import Path

import orjson

from llmflow.provider import BatchInput, Upload
from llmflow.types import WireReply, WireRequest

NOW = 1_788_220_760.0


def reply(body: object, status: int = 200, **headers: str) -> WireReply:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return WireReply(status, {k.replace("_", "-"): v for k, v in headers.items()}, content, NOW)


class Script:
    """A channel whose replies are written beforehand; it keeps what it is asked."""

    def __init__(self, *replies: WireReply) -> None:
        self.left = list(replies)
        self.asked: list[tuple[str, str]] = []
        self.wires: list[WireRequest] = []
        self.bodies: list[bytes] = []

    async def send(self, wire: WireRequest, body: Upload | None = None) -> WireReply:
        content = wire.body if body is None else b"".join(body.pieces())
        if body is not None:
            assert len(content) == body.size
            assert b"".join(body.pieces()) == content
        return self._next(wire, content)

    async def fetch(self, wire: WireRequest, path: Path) -> WireReply:
        answer = self._next(wire, b"")
        if answer.status != 200:
            return answer
        path.write_bytes(answer.body)  # noqa: ASYNC240 - of a test
        return answer._replace(body=b"")

    def _next(self, wire: WireRequest, body: bytes) -> WireReply:
        self.asked.append((wire.method, wire.url))
        self.wires.append(wire)
        self.bodies.append(body)
        return self.left.pop(0)


def rows_in(folder: Path, *lines: bytes, tag: str = "tag-1", created_at: float = NOW) -> BatchInput:
    path = folder / f"{tag}.jsonl"
    path.write_bytes(b"\n".join(lines))
    return BatchInput(
        path=path,
        size=path.stat().st_size,
        requests=len(lines),
        tag=tag,
        model="m",
        created_at=created_at,
    )
