"""Parses output names: standard output, streams and files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from llmflow.errors import ConfigurationError
from llmflow.rows.files import cannot_write

_STDOUT: Final = frozenset({"/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})


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
