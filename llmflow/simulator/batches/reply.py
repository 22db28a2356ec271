"""What the batch APIs hand to the server: an answer, or a part of a file to send."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import parse_qs, urlsplit

import orjson


class FilePart(NamedTuple):
    """A part of a file."""

    path: Path
    start: int
    size: int


@dataclass(slots=True, kw_only=True)
class BatchRequest:
    """A request to the batch APIs; `upload` is the file that holds a large body."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    upload: Path | None
    owner: str
    now: float
    """Seconds since 1970."""

    @property
    def parts(self) -> list[str]:
        """The path below the version."""
        path = urlsplit(self.target).path.strip("/").removeprefix("v1/")
        return path.split("/")

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the address."""
        return {k: v[-1] for k, v in parse_qs(urlsplit(self.target).query).items()}

    @property
    def length(self) -> int:
        """The size of the body, wherever it is."""
        return self.upload.stat().st_size if self.upload is not None else len(self.body)


@dataclass(slots=True, kw_only=True)
class BatchReply:
    """An answer: a body, or a part of a file; with `lost`, none, but a broken connection."""

    status: int = 200
    body: bytes = b""
    headers: str = ""
    kind: str = "application/json"
    file: FilePart | None = None
    lost: bool = False


Work: TypeAlias = Generator[None, None, BatchReply]
"""A request whose answer takes long: it is made in steps, between which others are served."""


def say(data: object, *, headers: str = "", lost: bool = False) -> BatchReply:
    """Return an answer of JSON."""
    return BatchReply(body=orjson.dumps(data), headers=headers, lost=lost)
