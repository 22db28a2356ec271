"""Files that appear under their final name only when complete."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from llmflow.errors import ConfigurationError

_BUFFER: Final = 1 << 16


def partial_path(target: Path, suffix: str | None = None) -> Path:
    """Return the name of an output file while it is incomplete.

    >>> partial_path(Path("out/summaries.jsonl")).as_posix()
    'out/summaries.partial.jsonl'
    """
    return target.with_name(f"{target.stem}.partial{target.suffix if suffix is None else suffix}")


def cannot_write(path: Path | str, error: OSError, remedy: str = "") -> ConfigurationError:
    """Return the error for a file that cannot be written."""
    if error.errno == errno.EPIPE:
        reason = "its reader has closed it"
    else:
        reason = (error.strerror or str(error)).lower()
    return ConfigurationError(f"{path} cannot be written: {reason}{remedy}")


class Appender:
    """Bytes, collected and written in blocks; every failure names the file.

    The file below is not buffered: after a full disk nothing is left that closing
    it would try to write again.
    """

    def __init__(
        self,
        raw: BinaryIO,
        *,
        name: str,
        flush_interval: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.size = 0
        """How many bytes have been written."""
        self._raw = raw
        self._interval = flush_interval
        self._now = now
        self._due = now() + flush_interval
        self._waiting = bytearray()

    def append(self, data: bytes) -> None:
        """Add bytes; they are written by block or flush interval."""
        self._waiting += data
        if len(self._waiting) >= _BUFFER or self._now() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            ConfigurationError: the disk is full, the reader is gone, ...

        """
        self._due = self._now() + self._interval
        waiting, self._waiting = self._waiting, bytearray()
        try:
            view = memoryview(waiting)
            while view:
                # A raw file may take a part only; None means "none just now".
                taken = self._raw.write(view) or 0
                self.size += taken
                view = view[taken:]
            self._raw.flush()
        except OSError as error:
            raise cannot_write(self.name, error) from error

    def sync(self) -> None:
        """Write what is waiting and have the disk confirm it."""
        self.flush()
        try:
            os.fsync(self._raw.fileno())
        except OSError as error:
            raise cannot_write(self.name, error) from error

    def close(self) -> None:
        """Close the file; what is still waiting is dropped."""
        self._waiting.clear()
        self._raw.close()


def sync_folder(folder: Path) -> None:
    """Sync a folder's names to disk, where that is possible."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
