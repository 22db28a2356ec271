"""The limit on open connections, and raising it."""

from __future__ import annotations

from typing import Final

from llmflow.errors import ConfigurationError

MOST_CONNECTIONS: Final = 10_000
"""More than that is a matter of several processes: one core does not keep up with it."""
# For the journal, input and output, modules that come late, and what else a program opens.
_RESERVED_FILES: Final = 64
_LEAST: Final = 16
_FILES: Final = MOST_CONNECTIONS + _RESERVED_FILES
# What macOS allows where its hard limit says that there is none (OPEN_MAX).
_OPEN_MAX: Final = 10_240


def connection_limit() -> int:
    """Return how many connections this process may hold open at once.

    At most 10,000, and 64 fewer than the files that it may have open: the soft limit of
    ``RLIMIT_NOFILE``. `raise_connection_limit` raises that, as the command line does.
    """
    limits = _open_files()
    if limits is None:
        return 500 - _RESERVED_FILES  # Windows: select() takes 512 sockets
    return max(_LEAST, min(MOST_CONNECTIONS, limits[0] - _RESERVED_FILES))


def raise_connection_limit(connections: int | None = None) -> int:
    """Raise the limit on connections to the system's; return it.

    It raises the process's soft limit on open files (``ulimit -Sn``, often 1,024) to the
    hard one. The command line does so by itself; in a program it is the program's to decide,
    for child processes inherit the limit, and ``select()`` takes no descriptor above 1,023.
    Call it before the first `LLM` is made.

    >>> from llmflow import raise_connection_limit
    >>> raise_connection_limit() >= 16
    True

    Args:
        connections: how many are needed; by default as many as there may be.

    Raises:
        ConfigurationError: so many are not allowed; the message says how they would be.
    """
    limits = _open_files()
    if limits is not None and limits[0] < limits[1]:
        _raise_to(limits[1])
    if connections is not None:
        check_connections("connections", connections)
    return connection_limit()


def check_connections(name: str, number: int | None) -> None:
    """Refuse more calls in flight, given as `name`, than connections.

    Raises:
        ConfigurationError: the number is above `connection_limit`.
    """
    most = connection_limit()
    if number is not None and number > most:
        raise ConfigurationError(
            f"{name} {number:,} is more than the {most:,} connections that this process may "
            f"open: {how_to_have_more(number)}"
        )


def how_to_have_more(wanted: int = MOST_CONNECTIONS) -> str:
    """Return in words how more connections could be open than `connection_limit` says."""
    limits = _open_files()
    if limits is None or connection_limit() >= MOST_CONNECTIONS:
        return "several processes, each with its LLMFLOW_SHARE of the quota, open more"
    soft, hard = limits
    files = min(wanted, MOST_CONNECTIONS) + _RESERVED_FILES
    allow = f"only {soft:,} files may be open at once; allow more with `ulimit -n {files}`"
    if hard >= min(files, _OPEN_MAX):
        return f"{allow} or llmflow.raise_connection_limit()"
    return f"{allow}, as root where the hard limit ({hard:,}) is too low"


def _open_files() -> tuple[int, int] | None:
    """Return the soft and the hard limit on open files; None where there is none (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    return (
        _FILES if soft == endless else soft,
        2**31 if hard == endless else hard,
    )


def _raise_to(hard: int) -> None:
    import resource

    top = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # macOS refuses more than the kernel's own limit, whatever it says is the hard one.
    for soft in (hard, _FILES, _OPEN_MAX):
        if soft <= hard:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, top))
            except (OSError, ValueError):
                continue
            return
