"""Reading HTTP/1.1 requests from bytes: strict, for what is ambiguous is refused."""

from __future__ import annotations

from typing import BinaryIO, NamedTuple

MAX_HEAD = 32_768
_MAX_HEADERS = 100
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class HttpError(Exception):
    """A request that cannot be served; the connection ends with this status."""

    def __init__(self, status: int, message: str, *, target: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.target = target


class Head(NamedTuple):
    """A request without its body; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    length: int | None  # None: chunked
    keep_alive: bool
    expects: bool


def parse_head(raw: bytes) -> Head:
    """Read a request line and headers.

    Raises:
        HttpError: they are malformed, or could be read in two ways.

    """
    text = raw.decode("latin-1")
    first, *lines = text.split("\r\n")
    if "\0" in text or not text.count("\r") == text.count("\n") == len(lines):
        raise HttpError(400, "A header holds a control character.")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[1] or not _TOKEN.issuperset(parts[0]):
        raise HttpError(400, "The request line is malformed.")
    method, target, version = parts
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise HttpError(505, "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if len(lines) > _MAX_HEADERS:
        raise HttpError(431, "There are too many headers.")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise HttpError(400, "A header is malformed.")
        name, value = name.lower(), value.strip(" \t")
        if name in headers:
            if name in ("content-length", "host", "transfer-encoding", "authorization"):
                raise HttpError(400, f"The header {name} occurs twice.")
            value = f"{headers[name]}, {value}"
        headers[name] = value
    modern = version == "HTTP/1.1"
    if modern and "host" not in headers:
        raise HttpError(400, "The header host is missing.")
    connection = headers.get("connection", "").lower()
    keep_alive = "close" not in connection if modern else "keep-alive" in connection
    expects = headers.get("expect", "").lower()
    if expects not in ("", "100-continue"):
        raise HttpError(417, "Only the expectation 100-continue is understood.")
    return Head(method, target, headers, _length(headers), keep_alive, modern and bool(expects))


def _length(headers: dict[str, str]) -> int | None:
    coding = headers.get("transfer-encoding")
    size = headers.get("content-length")
    if coding is None:
        if size is None:
            return 0
        if not (size.isascii() and size.isdigit() and len(size) < 16):
            raise HttpError(400, "The header content-length is malformed.")
        return int(size)
    if size is not None:
        raise HttpError(400, "Both content-length and transfer-encoding are given.")
    if coding.lower() != "chunked":
        raise HttpError(501, "Only the transfer coding chunked is understood.")
    return None


class Chunks:
    """Takes a chunked body from the front of a buffer, as far as it has come.

    With a file to put it into, the body that it returns in the end is empty.
    """

    __slots__ = ("_body", "_file", "_left", "_limit", "_size", "_trailers")

    def __init__(self, limit: int, *, into: BinaryIO | None = None) -> None:
        self._body = bytearray()
        self._file = into
        self._size = 0
        self._left = -1  # bytes of the current chunk, its line end included; -1: size comes next
        self._trailers = False
        self._limit = limit

    def take(self, buffer: bytearray) -> bytes | None:
        """Return the whole body, or None if more must come."""
        while True:
            if self._left > 2:
                part = buffer[: self._left - 2]
                self._keep(part)
                self._left -= len(part)
                del buffer[: len(part)]
            if self._left >= 2:
                if len(buffer) < 2 or self._left > 2:
                    return None
                if buffer[:2] != b"\r\n":
                    raise HttpError(400, "A chunk is longer than its size.")
                del buffer[:2]
                self._left = -1
            line = self._line(buffer)
            if line is None:
                return None
            if self._trailers:
                if not line:
                    return bytes(self._body)
                continue
            digits = line.partition(b";")[0].strip()
            if not digits or len(digits) > 12 or digits.strip(b"0123456789abcdefABCDEF"):
                raise HttpError(400, "A chunk's size is malformed.")
            size = int(digits, 16)
            self._size += size
            if self._size > self._limit:
                raise HttpError(413, f"The body is larger than {self._limit} bytes.")
            if size:
                self._left = size + 2
            else:
                self._trailers = True

    def _keep(self, part: bytearray) -> None:
        if self._file is None:
            self._body += part
        else:
            self._file.write(part)

    @staticmethod
    def _line(buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n")
        if end > MAX_HEAD or (end < 0 and len(buffer) > MAX_HEAD):
            raise HttpError(400, "A line of the chunked body is too long.")
        if end < 0:
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        return line
