"""Files and folders that nobody but their owner may read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_FOLDER = 0o700
_FILE = 0o600


def make_private_folder(folder: Path) -> None:
    """Create a folder and its parents, for the owner alone.

    What is there already keeps its mode. `Path.mkdir` would give the folders above those of
    the umask: others could list, and in a lax one replace, what is kept in them.

    Raises:
        OSError: it cannot be made, or what is there is no folder.
    """
    missing = []
    for each in (folder, *folder.parents):
        if each.is_dir():
            break
        missing.append(each)
    for each in reversed(missing):
        try:
            each.mkdir(mode=_FOLDER)
        except FileExistsError:
            if not each.is_dir():
                raise
        else:
            with contextlib.suppress(OSError):  # whatever the umask has taken away
                each.chmod(_FOLDER)


def sync_folder(folder: Path) -> None:
    """Sync a folder's names to disk, where that is possible."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private(path: str, flags: int) -> int:
    """Open a file for the owner alone; an `opener` for `open`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(f"{folder}/a", "wb", opener=private) as file:
    ...         print(oct(os.fstat(file.fileno()).st_mode & 0o777))
    0o600
    """
    return os.open(path, flags, _FILE)
