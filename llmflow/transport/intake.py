"""A download, decompressed in small pieces and within bounds.

A file of results may be made to fill a disk or the memory: a few megabytes of gzip are
gigabytes of blank lines. So what is sent is counted before it is decompressed, and what
comes of it after each mebibyte.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import aiohttp

from llmflow.errors import BadReplyError, ResultsTooLargeError, redact
from llmflow.transport.failures import TooLargeError, place

if TYPE_CHECKING:
    from llmflow.batch_api import FileBounds
    from llmflow.types import WireRequest

_AT_ONCE: Final = 2**20
_AUTOMATIC: Final = zlib.MAX_WBITS + 32  # gzip or zlib, as its first bytes say
_RAW: Final = -zlib.MAX_WBITS
_PLAIN: Final = ("", "identity")
_GZIP: Final = ("gzip", "x-gzip")
_DEFLATE: Final = "deflate"
_ZLIB: Final = 8


def asking_for_files(wire: WireRequest) -> WireRequest:
    """Return a request that names the compressions that an `Intake` knows."""
    return wire._replace(headers={**wire.headers, "Accept-Encoding": "gzip, deflate"})


class Intake:
    """The bytes of one reply's body.

    Args:
        headers: the reply's.
        url: where it is from, for messages.
        bounds: what there may be of it, or None.

    Raises:
        BadReplyError: it is compressed in a way that nobody asked for.
    """

    def __init__(self, headers: Mapping[str, str], url: str, bounds: FileBounds | None) -> None:
        self._encoding = headers.get("content-encoding", "").strip().lower()
        self._place = place(url)
        self._bounds = bounds
        self._sent = self._size = self._lines = 0
        self._inflater: zlib._Decompress | None = None
        if self._encoding not in (*_PLAIN, *_GZIP, _DEFLATE):
            raise BadReplyError(
                f"{self._place}: the reply is compressed as {redact(self._encoding)!r}, "
                "which was not asked for"
            )

    def take(self, piece: bytes) -> Iterator[bytes]:
        """Yield what a piece of the body stands for.

        Raises:
            ResultsTooLargeError: the body is above its bounds.
            aiohttp.ClientPayloadError: it is not compressed as it says.
        """
        self._sent += len(piece)
        if self._bounds is not None and self._sent > self._bounds.size:
            raise self._too_large(f"{self._bounds.size:,} bytes")
        if self._encoding in _PLAIN:
            yield self._counted(piece)
            return
        try:
            for each in self._inflated(piece):
                yield self._counted(each)
        except zlib.error as error:
            raise aiohttp.ClientPayloadError(f"the reply cannot be decompressed: {error}") from None

    def end(self) -> None:
        """Check that the body came to its end.

        Raises:
            aiohttp.ClientPayloadError: it is cut off.
        """
        if self._inflater is not None and not self._inflater.eof:
            raise aiohttp.ClientPayloadError("the compressed reply is cut off")

    def whole(self, body: bytes, most: int) -> bytes:
        """Return a body that is in memory, decompressed.

        Raises:
            TooLargeError: it has more bytes than `most`.
        """
        pieces, size = [], 0
        for piece in self.take(body):
            size += len(piece)
            if size > most:
                raise TooLargeError(most)
            pieces.append(piece)
        return b"".join(pieces)

    def _inflated(self, piece: bytes) -> Iterator[bytes]:
        is_more = bool(piece)
        while is_more:
            if self._inflater is None or self._inflater.eof:  # gzip may have several members
                self._inflater = zlib.decompressobj(self._window(piece))
            inflater = self._inflater
            made = inflater.decompress(piece, _AT_ONCE)
            piece = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            # All of the input may be taken while there is still output to come.
            is_more = bool(piece) or (len(made) == _AT_ONCE and not inflater.eof)
            if made:
                yield made

    def _window(self, start: bytes) -> int:
        # Servers mean either by "deflate".
        is_raw = self._encoding == _DEFLATE and start[0] & 0x0F != _ZLIB
        return _RAW if is_raw else _AUTOMATIC

    def _counted(self, piece: bytes) -> bytes:
        if self._bounds is not None:
            self._size += len(piece)
            self._lines += piece.count(b"\n")
            if self._size > self._bounds.size:
                raise self._too_large(f"{self._bounds.size:,} bytes")
            if self._lines > self._bounds.lines:
                raise self._too_large(f"{self._bounds.lines:,} lines")
        return piece

    def _too_large(self, what: str) -> ResultsTooLargeError:
        return ResultsTooLargeError(
            f"{self._place}: the results have more than {what}, which is more than the rows of "
            "the batch job can come to. They are kept at the provider"
        )
