"""A lock for one process; the system frees it when that dies."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import weakref
from pathlib import Path
from typing import Final

from llmflow.errors import JournalBusyError
from llmflow.journal.schema import restrict

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME: Final = "lock"
# Whoever lists runs shares the lock for a moment.
_TRIES, _PAUSE = 10, 0.01
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_held: weakref.WeakSet[Lock] = weakref.WeakSet()


class Lock:
    """The right to write a run's journal.

    Raises:
        JournalBusyError: another process has it, or this one.
        OSError: the lock's file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._file: int | None = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            restrict(self._file)
            self._take(folder)
            os.ftruncate(self._file, 0)
            os.lseek(self._file, 0, os.SEEK_SET)
            os.write(self._file, str(os.getpid()).encode())
        except BaseException:
            self.release()
            raise
        _held.add(self)

    def release(self) -> None:
        """Let another process have it. Doing so twice is fine."""
        file, self._file = self._file, None
        if file is not None:
            # Without an explicit unlock, which would reach the parent's lock from a fork.
            os.close(file)

    def _take(self, folder: Path) -> None:
        assert self._file is not None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(_PAUSE)
            if _taken(self._file, shared=False):
                return
        pid = _pid(self._file)
        if pid == os.getpid():
            who, remedy = "this process", "leave the other Run of that name first"
        else:
            who = f"process {pid}" if pid else "another process"
            remedy = "wait for it or stop it"
        raise JournalBusyError(f"{who} is working on the run {folder.name} ({folder}): {remedy}")


def holder(folder: Path) -> tuple[bool, int | None]:
    """Return whether a process locks a run, and its id."""
    try:
        file = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return False, None
    try:
        if _taken(file, shared=True):
            return False, None
        return True, _pid(file)
    finally:
        os.close(file)


def _taken(file: int, *, shared: bool) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(file, 1 << 20, os.SEEK_SET)  # nobody can read the byte that is locked
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as error:
        # Some network file systems have no locks; they are no reason not to run.
        return error.errno in _NO_LOCKS
    return True


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
