"""A file that is whole or is not there: written under another name, renamed at the end."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from llmflow.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows: two runs into one file are not told apart there
    fcntl = None  # type: ignore[assignment]

_BUFFER: Final = 1 << 16


def partial_path(target: Path, suffix: str | None = None) -> Path:
    """Return the name under which a file is written until it is whole.

    >>> partial_path(Path("out/summaries.jsonl")).as_posix()
    'out/summaries.partial.jsonl'
    """
    return target.with_name(f"{target.stem}.partial{target.suffix if suffix is None else suffix}")


def cannot_write(path: Path | str, error: OSError, remedy: str = "") -> ConfigurationError:
    """Return the error for a file that the system does not let us write."""
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
        self._raw = raw
        self._interval = flush_interval
        self._now = now
        self._due = now() + flush_interval
        self._waiting = bytearray()

    def append(self, data: bytes) -> None:
        """Add bytes; they reach the file with the next block, or after the flush interval."""
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
                view = view[self._raw.write(view) or 0 :]
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


def open_exclusive(path: Path) -> BinaryIO:
    """Open a file empty, unless another run is writing it.

    Raises:
        ConfigurationError: it cannot be written, or another process writes it.

    """
    try:
        raw = path.open("ab", buffering=0)
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no folder {path.parent}; make it") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        if fcntl is not None:
            fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Only now: before the lock it may still have been the other run's file, and
        # after its rename this name may be gone.
        if not os.path.samestat(os.fstat(raw.fileno()), path.stat()):
            raise BlockingIOError
        raw.truncate(0)
    except (BlockingIOError, FileNotFoundError):
        raw.close()
        raise ConfigurationError(f"{path}: another run is writing this file") from None
    except OSError as error:
        raw.close()
        # Some network file systems have no locks; they are no reason not to write.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP):
            raise cannot_write(path, error) from error
        return path.open("wb", buffering=0)
    return raw


def set_aside(path: Path) -> Path | None:
    """Move what an unfinished run left under a name away, for its rows were paid for.

    Returns:
        Where it is now; None if there was nothing, or if a run is still writing it.

    """
    try:
        with path.open("rb") as left:
            if not os.fstat(left.fileno()).st_size:
                return None
            if fcntl is not None:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            number = 1
            while (free := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
                number += 1
            return path.rename(free)
    except OSError:
        return None  # opening it for writing says what is wrong


def sync_file(path: Path) -> None:
    """Have the disk confirm a file that is already written and closed."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def put_in_place(partial: Path, target: Path) -> None:
    """Give a finished file its name, at once and so that it survives a power cut.

    Raises:
        ConfigurationError: the system does not allow it.

    """
    try:
        if target.exists():
            shutil.copymode(target, partial)
        partial.replace(target)
        if os.name == "posix":
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise cannot_write(target, error, f"; the rows are in {partial}") from error
