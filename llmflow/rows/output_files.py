"""Output names, and files that get theirs only when complete."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from llmflow.errors import ConfigurationError

_BUFFER: Final = 1 << 16
_STDOUT: Final = frozenset({"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


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


def is_stdout(name: str) -> bool:
    """Return whether an output's name means standard output.

    >>> is_stdout("-"), is_stdout("/dev/stdout"), is_stdout("out.jsonl")
    (True, True, False)
    """
    return name == "-" or os.path.normpath(name) in _STDOUT


def is_stream(name: str) -> bool:
    """Return whether a name is a pipe, a socket or a device."""
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        return False  # what is wrong with it is said later
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def followed(path: Path) -> Path:
    """Return the file to write, behind any link.

    Raises:
        ConfigurationError: it is a folder, leads nowhere, or has a name that cannot be.
    """
    try:
        target = path.resolve() if path.is_symlink() else path
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        is_folder = target.is_dir()
    except RuntimeError:  # how Python before 3.13 says it
        raise ConfigurationError(f"{path} cannot be written: it is a link to itself") from None
    except OSError as error:  # such as a name that is too long
        if error.errno == errno.ELOOP:
            raise ConfigurationError(f"{path} cannot be written: it is a link to itself") from None
        raise cannot_write(path, error) from error
    if is_folder:
        raise ConfigurationError(f"{path} is a folder; name a file in it")
    return target
