"""Output names, and files that get theirs only when complete.

The folder may be one in which others write, such as /tmp. So a file under the partial name is
always a new one (``O_EXCL``), never what a link points to (``O_NOFOLLOW``), and nobody may
read it who may not read the output. What an unfinished run has left there is set aside;
what is no regular file is refused, and never waited for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from llmflow.errors import ConfigurationError
from llmflow.private_files import sync_folder

try:
    import fcntl
except ImportError:  # Windows: two runs into one file are not told apart there
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_SAFE: Final = (
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE
_OLD: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _SAFE
_TRIES: Final = 20
_PAUSE: Final = 0.05
_KINDS: Final = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)

_Identity = tuple[int, int, int, int] | None
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


class _NoLocksError(Exception):
    """The file system has no locks."""


class Partial:
    """A new, open file for `target` that no other run writes.

    Where the file system has no locks it has a name of its own, and `put_in_place` refuses to
    replace a target that somebody else has written meanwhile.

    Args:
        path: its name until it is whole.
        target: the name that it is to have then.
        like: a file whose mode counts if there is no target yet.
        keep: whether to set aside what an unfinished run has left under the name.

    Raises:
        ConfigurationError: it cannot be written, or another process writes it.
    """

    def __init__(
        self, path: Path, target: Path, *, like: Path | None = None, keep: bool = True
    ) -> None:
        self.path = path
        self.mode = mode_of(target, like)
        self.set_aside: Path | None = None
        """Where the rows of an unfinished run are now, or None."""
        self._target = target
        self._before = _identity(target)
        self._has_lock = fcntl is not None
        try:
            self.raw = self._open(keep)
        except _NoLocksError:
            self._has_lock = False
            self.path = path.with_name(f"{path.stem}-{secrets.token_hex(4)}{path.suffix}")
            self.raw = create(self.path, self.mode, append=True)
        self._file = os.fstat(self.raw.fileno())

    def check(self, size: int) -> None:
        """Check that the named file is the one written, and complete.

        Raises:
            ConfigurationError: another program has removed, replaced or changed it.
        """
        try:
            found = os.lstat(self.path)
        except OSError:
            found = None
        if found is None or not os.path.samestat(found, self._file):
            what = "removed or replaced"
        elif found.st_size != size:
            what = "changed"
        else:
            return
        raise ConfigurationError(
            f"{self._target} is not written: another program has {what} {self.path} meanwhile; "
            "run again"
        )

    def put_in_place(self, whole: Path) -> None:
        """Rename a finished file to the target, atomically and durably.

        Raises:
            ConfigurationError: the system does not allow it, or another run was faster.
        """
        try:
            if self._has_lock:
                whole.replace(self._target)
            else:
                self._replace_unlocked(whole)
            sync_folder(self._target.parent)
        except OSError as error:
            raise cannot_write(self._target, error, f"; the rows are in {whole}") from error

    def _replace_unlocked(self, whole: Path) -> None:
        """Replace the target unless somebody else does, or has done it since the beginning."""
        marker = self._target.with_name(f"{self._target.name}.commit")
        for attempt in range(_TRIES):
            try:
                os.close(os.open(marker, _NEW, 0o600))
                break
            except FileExistsError:
                if attempt == _TRIES - 1:
                    raise ConfigurationError(
                        f"{self._target} is not written: {marker} says that another run is doing "
                        f"so; remove it if none is; the rows are in {whole}"
                    ) from None
                time.sleep(_PAUSE)
        try:
            # Without Windows's locks there is nothing that another run would say of itself.
            if fcntl is not None and _identity(self._target) != self._before:
                raise ConfigurationError(
                    f"{self._target} is not written: another run has written it meanwhile, and "
                    f"this file system has no locks; the rows are in {whole}"
                )
            whole.replace(self._target)
        finally:
            with contextlib.suppress(OSError):
                marker.unlink()

    def _open(self, keep: bool) -> BinaryIO:
        for _ in range(_TRIES):
            self.set_aside = self._clear(keep) or self.set_aside
            try:
                raw = create(self.path, self.mode, append=True)
            except FileExistsError:
                continue  # another run was faster: the next look tells what it does
            try:
                _lock(raw.fileno(), self.path)
            except _NoLocksError:
                self.path.unlink(missing_ok=True)
                raw.close()
                raise
            except BaseException:
                raw.close()
                raise
            return raw
        raise _busy(self.path)

    def _clear(self, keep: bool) -> Path | None:
        """Move what an unfinished run has left under the name away: its rows were paid for."""
        path = self.path
        try:
            check_kind(path)
            descriptor = os.open(path, _OLD)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            left = os.fstat(descriptor)
            if not stat.S_ISREG(left.st_mode):
                raise _busy(path)
            _lock(descriptor, path)
            if fcntl is None:  # Windows moves no open file
                os.close(descriptor)
                descriptor = -1
            if not (left.st_size and keep):
                path.unlink(missing_ok=True)
                return None
            return path.rename(_free(path))
        except OSError as error:
            raise cannot_write(path, error) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def create(path: Path, mode: int | None = None, *, append: bool = False) -> BinaryIO:
    """Make a file and open it for writing.

    Args:
        path: its name, under which there is nothing.
        mode: its mode from the start, whatever the umask; None leaves it to the umask.
        append: write at its end, wherever that is: what another program cuts off then is
            missing in its size, and not a hole that nobody sees.

    Raises:
        FileExistsError: there is something, of whatever kind.
        ConfigurationError: it cannot be made.
    """
    try:
        flags = _NEW | os.O_APPEND if append else _NEW
        descriptor = os.open(path, flags, 0o666 if mode is None else mode)
    except FileExistsError:
        raise
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no folder {path.parent}; make it") from None
    except OSError as error:
        raise cannot_write(path, error) from error
    if mode is not None and hasattr(os, "fchmod"):
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb", buffering=0)


def create_anew(path: Path, mode: int | None = None) -> BinaryIO:
    """Create a file like `create`, replacing an unfinished run's.

    Raises:
        ConfigurationError: it cannot be made, or what is there is no regular file.
        OSError: what is there cannot be removed.
    """
    check_kind(path)
    path.unlink(missing_ok=True)
    return create(path, mode)


def mode_of(target: Path, like: Path | None = None) -> int | None:
    """Return the mode of a target's file; None for the umask's."""
    for path in (target, like):
        if path is not None:
            with contextlib.suppress(OSError):
                return stat.S_IMODE(path.stat().st_mode) & 0o777
    return None


def check_kind(path: Path) -> None:
    """Refuse what is no regular file, without opening it.

    Raises:
        ConfigurationError: it is a link, a pipe or a socket.
        OSError: there is nothing, it cannot be looked at, or it is a folder.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    kind = next((name for test, name in _KINDS if test(mode)), "a device")
    raise ConfigurationError(
        f"{path} cannot be written: it is {kind}, and llmflow makes a file of its own there; "
        "remove it, or name another output"
    )


def _lock(descriptor: int, path: Path) -> None:
    """Lock the file under a name; raise if another run has it, or has just moved it."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Before the lock it may still have been the other run's, and after its rename the
        # name may be another file's.
        if not os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            raise BlockingIOError
    except (BlockingIOError, FileNotFoundError):
        raise _busy(path) from None
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise _NoLocksError from None
        raise cannot_write(path, error) from error


def _busy(path: Path) -> ConfigurationError:
    return ConfigurationError(f"{path}: another run is writing this file")


def _free(path: Path) -> Path:
    number = 1
    while os.path.lexists(free := path.with_name(f"{path.stem}-{number}{path.suffix}")):
        number += 1
    return free


def _identity(path: Path) -> _Identity:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
