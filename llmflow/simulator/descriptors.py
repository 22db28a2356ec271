"""How many connections a process may have open."""

from __future__ import annotations

import contextlib


def raise_limit_of_descriptors() -> None:
    """Raise the soft limit of open files to the hard one, as a program may for itself.

    A simulated provider serves thousands of connections; 1,024 files are what a shell
    usually allows. Does nothing where the system has no such limit, or forbids it.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # macOS names no hard limit, but refuses what is above its own.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
