"""One process at a time: a lock that the system takes back when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import weakref
from pathlib import Path
from typing import Final

from llmflow.errors import JournalBusyError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME: Final = "lock"
# Whoever lists runs holds the lock for a moment.
_TRIES, _PAUSE = 5, 0.02
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """The right to write a run's journal.

    Args:
        folder: the run's folder.

    Raises:
        JournalBusyError: another process has it, or this one.
        OSError: the lock's file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._file: int | None = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o600)
        for attempt in range(_TRIES):
            if _take(self._file):
                break
            if attempt + 1 == _TRIES:
                pid = _pid(self._file)
                self.release()
                who = f"process {pid}" if pid else "another process"
                raise JournalBusyError(
                    f"{who} is working on the run {folder.name} ({folder}): wait for it or stop it"
                )
            time.sleep(_PAUSE)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0) if hasattr(os, "pwrite") else os.write(
            self._file, str(os.getpid()).encode()
        )
        _held.add(self)

    def release(self) -> None:
        """Let another process have it. Doing so twice is fine."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


def holder(folder: Path) -> tuple[bool, int | None]:
    """Return whether a process has a run's lock, and its number if it is known."""
    try:
        file = os.open(folder / NAME, os.O_RDWR)
    except OSError:
        return False, None
    try:
        if _take(file):
            return False, None
        return True, _pid(file)
    finally:
        os.close(file)


def _take(file: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            _take_on_windows(file)
    except OSError as error:
        # Some network file systems have no locks; they are no reason not to run.
        return error.errno in _NO_LOCKS
    return True


def _take_on_windows(file: int) -> None:
    import msvcrt

    os.lseek(file, 1 << 20, os.SEEK_SET)  # the locked byte cannot be read by others
    msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    os.lseek(file, 0, os.SEEK_SET)


def _pid(file: int) -> int | None:
    os.lseek(file, 0, os.SEEK_SET)
    with contextlib.suppress(OSError, ValueError):
        return int(os.read(file, 32))
    return None


def _after_fork() -> None:
    """Leave the lock to the parent: a copy of its file would keep it beyond the parent's end."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
