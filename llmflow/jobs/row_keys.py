"""Journal keys of a source's rows, in a temporary file."""

from __future__ import annotations

import struct
import tempfile
import weakref
from collections.abc import Iterator
from typing import Final, TypeAlias

from llmflow.errors import JournalError

Key: TypeAlias = tuple[bytes, int]
"""Fingerprint and ordinal of a row's call."""

NO_KEY: Final[Key] = b"", 0
NO_HASH: Final = -1
"""No text has this hash."""
_ENTRY: Final = struct.Struct("=16sIq")
_AT_ONCE: Final = 128
_BUFFERED: Final = 1000


class RowKeys:
    """The journal keys of rows, in the order of the rows.

    Whoever reads the source a second time does not have to work them out again.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does that
        self.close = weakref.finalize(self, self._file.close)
        self._new: list[bytes] = []

    def add(self, prompt: str = "", key: Key = NO_KEY) -> None:
        """Add the next row, without a key where nothing was asked.

        Raises:
            JournalError: there is no room in the temporary folder.
        """
        self._new.append(_ENTRY.pack(*key, hash(prompt) if key[0] else NO_HASH))
        if len(self._new) >= _BUFFERED:
            self._flush()

    def _flush(self) -> None:
        try:
            self._file.write(b"".join(self._new))
        except OSError as error:
            raise JournalError(
                f"the keys of rows cannot be kept in the temporary folder: {error}; make room "
                "there, or name another folder in TMPDIR, and run again; what was answered is kept"
            ) from error
        self._new.clear()

    def read(self) -> Iterator[list[tuple[Key, int]]]:
        """Yield keys and hashes of prompts, many rows at a time."""
        self._flush()
        self._file.seek(0)
        while data := self._file.read(_ENTRY.size * _AT_ONCE):
            yield [((key, nth), digest) for key, nth, digest in _ENTRY.iter_unpack(data)]
