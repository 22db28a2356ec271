"""Request bodies too large for memory: written to a file as they come."""

from __future__ import annotations

import contextlib
from pathlib import Path

from llmflow.private_files import private
from llmflow.simulator.http_parser import Chunks, Head, HttpError


class Spool:
    """Writes one request's body to a file. Whoever takes the request owns the file.

    Args:
        path: the file, which must not exist.
        limit: largest body, in bytes.

    """

    def __init__(self, path: Path, *, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._file = open(path, "xb", opener=private)  # noqa: SIM115
        self._left = 0
        self._chunks: Chunks | None = None

    def begin(self, head: Head) -> None:
        """Prepare for the body of this request.

        Raises:
            HttpError: it is too large.

        """
        if head.length is None:
            self._chunks = Chunks(self.limit, into=self._file)
        elif head.length > self.limit:
            message = f"The body is larger than {self.limit} bytes."
            raise HttpError(413, message, target=head.target)
        else:
            self._left = head.length

    def take(self, buffer: bytearray) -> bool:
        """Take what has come from the front of a buffer, and return whether it is all."""
        if self._chunks is not None:
            whole = self._chunks.take(buffer) is not None
        else:
            part = buffer[: self._left]
            self._file.write(part)
            del buffer[: len(part)]
            self._left -= len(part)
            whole = not self._left
        if whole:
            self._file.close()
        return whole

    def discard(self) -> None:
        """Forget the body."""
        self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
