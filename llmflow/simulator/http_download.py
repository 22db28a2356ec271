"""Answers too large for memory: read from a file while they are sent."""

from __future__ import annotations

from pathlib import Path

_PART = 65_536


class Download:
    """A part of a file, read piece by piece.

    Args:
        path: the file.
        start: the first byte.
        size: how many bytes.

    """

    def __init__(self, path: Path, *, start: int, size: int) -> None:
        self._file = path.open("rb")
        self._file.seek(start)
        self.left = size

    def read(self) -> bytes:
        """Return the next piece; empty if the file is shorter than it should be."""
        data = self._file.read(min(_PART, self.left))
        self.left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()
