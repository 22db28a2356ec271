"""Learns how long servers keep idle connections open.

A request that goes out while the server closes the connection may have been read or not, and
is not sent again from here. So a connection that was idle for as long as the server may keep
it is not used. Nobody knows that time at first; 4 s are shorter than what servers have, the
shortest common one being 5 s (uvicorn, and so vLLM; Node). After that it is known

- from the header ``Keep-Alive: timeout=N`` (RFC 2068, 19.7.1.1), where there is one;
- from a connection that the server has closed while it was idle;
- from one that is still open: a few that are older than what is known are left open, and not
  used, to see how long they last.

What is seen last counts: another server may have taken the address over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol, cast

if TYPE_CHECKING:
    from aiohttp.connector import Connection

UNKNOWN: Final = 4.0
# Gateways of networks forget a silent connection after some minutes, and tell nobody (Azure's
# after 4); what is sent on it then is lost until the time-out.
LONGEST: Final = 120.0
# A request is on its way, and so is the news that the connection was closed.
_MARGIN: Final = 0.5
_MARGIN_SHARE: Final = 0.1
_MOST_WATCHED: Final = 2
_TIMEOUT: Final = re.compile(r"(?:^|[,;\s])timeout\s*=\s*\"?(\d+)", re.IGNORECASE)


class _Line(Protocol):
    def idle_seconds(self) -> float: ...

    def is_fit(self) -> bool: ...


class Host:
    """One host: its idle times, and connections that are watched.

    Attributes:
        usable: seconds for which a connection may have been idle and be used again.
        watched: connections that are left open to see how long they last.
    """

    def __init__(self) -> None:
        self.usable = UNKNOWN
        self.watched: list[Connection] = []
        self._named: float | None = None

    def told(self, headers: Mapping[str, str]) -> None:
        """Read what a reply says."""
        found = _TIMEOUT.search(headers.get("keep-alive", ""))
        named = None if found is None else min(LONGEST, safe(float(found[1])))
        if named is not None and named != self._named:
            self._named = self.usable = named

    def saw_end(self, seconds: float) -> None:
        """Learn from a connection that the server closed when idle."""
        self.usable = min(self.usable, safe(seconds))

    def saw_open(self, seconds: float) -> None:
        """Learn from an idle connection that is still open."""
        most = LONGEST if self._named is None else self._named
        self.usable = max(self.usable, min(most, seconds - _MARGIN))

    def may_use(self, line: _Line) -> bool:
        """Return whether a connection that is still open may be used."""
        seconds = line.idle_seconds()
        if seconds <= self.usable:
            return True
        self._look()
        if seconds <= self.usable:
            return True
        self.saw_open(seconds)  # for the next ones: of the margin this one knows nothing
        return False

    def watch(self, connection: Connection) -> bool:
        """Keep a connection open as a test; False if enough are."""
        if len(self.watched) >= _MOST_WATCHED:
            return False
        self.watched.append(connection)
        return True

    def close(self) -> None:
        """Close what is watched."""
        watched, self.watched = self.watched, []
        for connection in watched:
            connection.close()

    def _look(self) -> None:
        """Learn from what is watched."""
        watched, self.watched = self.watched, []
        for connection in watched:
            line = cast("_Line", connection.protocol)
            seconds = line.idle_seconds()
            if seconds <= LONGEST and line.is_fit():
                self.saw_open(seconds)
                self.watched.append(connection)
            else:
                connection.close()


def safe(seconds: float) -> float:
    """Return the safety margin before a connection's idle time ends.

    >>> safe(5.0), safe(75.0), safe(0.6)
    (4.5, 67.5, 0.3)

    Args:
        seconds: the idle time that a server allows.
    """
    margin = max(_MARGIN, _MARGIN_SHARE * seconds)
    return max(seconds / 2, seconds - margin)
