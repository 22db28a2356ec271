"""Check, before a run begins, that enough files may be open."""

from __future__ import annotations

import errno
import os
from typing import Final

from llmflow.errors import ConfigurationError

_NEEDED: Final = 32
"""Connections, the files of the journal, input and output, and modules that come late."""
_REMEDY: Final = "raise the limit, such as with `ulimit -n 256`"


def check_descriptors() -> None:
    """Refuse a limit on open files under which something would fail halfway.

    Raises:
        ConfigurationError: too few files may be opened.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return
    used = _used()
    if used is None or most - used < _NEEDED:
        raise ConfigurationError(
            f"only {most:,} files may be open at once, and a run needs "
            f"{_NEEDED + (used or 0):,}: {_REMEDY}"
        )


def system_error(error: OSError) -> str:
    """Describe an error of the system, with its remedy if known."""
    name = f" ({os.fsdecode(error.filename)})" if error.filename else ""
    text = f"{error.strerror or type(error).__name__}{name}"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{text}: {_REMEDY}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}: make room on the disk and run again"
    return text


def _used() -> int | None:
    """Return how many files are open; None if that is unknown."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder)) - 1  # noqa: PTH208 - names only, and one file less
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return 3
