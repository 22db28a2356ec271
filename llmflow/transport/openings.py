"""Bounds how many connections to a host open at once.

To open a connection over TLS takes a millisecond of computing, and thousands at once are a
queue of seconds. Whoever stands in that queue would be timed out for the time that others
take. So openings take turns, and what one may take is counted from its turn on.

Few turns are enough where this machine or the server is what openings wait for. On a long
way to the server they are too few: 64 turns of 0.4 s are 160 connections a second. So their
number grows while openings take about as long as the quickest has taken, and falls where they
take longer, for then more at once would only wait for each other. TCP Vegas finds its window
by the same comparison (Brakmo and Peterson, 1995).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from typing import Final

FEWEST: Final = 64
MOST: Final = 512
# An opening that takes twice the quickest one's time waits for others half of its own.
_CROWDED: Final = 2.0
_GROWTH: Final = 0.25
_MOST_HOSTS: Final = 64


class Openings:
    """Turns at opening connections, for each host on its own.

    A host that does not answer holds up nobody who connects to another.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._hosts: dict[Hashable, Host] = {}

    @asynccontextmanager
    async def turn(self, name: Hashable) -> AsyncGenerator[None, None]:
        """Wait for a turn; it ends with the block, however that ends.

        Args:
            name: what tells one host from another.
        """
        host = self._hosts.get(name) or self._host(name)
        if not host.may_begin():
            await host.wait(self._loop.create_future())
        began, seconds = self._loop.time(), None
        try:
            yield
            seconds = self._loop.time() - began
        finally:
            host.end(seconds)

    def _host(self, name: Hashable) -> Host:
        if len(self._hosts) >= _MOST_HOSTS:
            self._hosts = {each: host for each, host in self._hosts.items() if host.is_busy}
        host = self._hosts[name] = Host()
        return host


class Host:
    """The turns of one host: first come, first served.

    Attributes:
        window: how many openings may be under way.
        open: how many are.
    """

    def __init__(self) -> None:
        self.window: float = FEWEST
        self.open = 0
        self._quickest = float("inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_busy(self) -> bool:
        """True if a connection is being opened."""
        return self.open > 0

    def may_begin(self) -> bool:
        """Take a turn if there is one."""
        if self.open >= self.window:
            return False
        self.open += 1
        return True

    async def wait(self, turn: asyncio.Future[None]) -> None:
        """Wait until a turn is given; whoever gives it has counted it."""
        self._waiting.append(turn)
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it came together with the cancellation
                self._leave()
            raise

    def end(self, seconds: float | None) -> None:
        """Give a turn back.

        Args:
            seconds: what opening took; None if no connection came of it.
        """
        if seconds is None:
            self.window = FEWEST
        elif seconds > _CROWDED * self._quickest:
            self.window = max(FEWEST, self.window - 1)
        else:
            self._quickest = min(self._quickest, seconds)
            self.window = min(MOST, self.window + _GROWTH)
        self._leave()

    def _leave(self) -> None:
        self.open -= 1
        while self._waiting and self.open < self.window:
            turn = self._waiting.popleft()
            if not turn.done():
                self.open += 1
                turn.set_result(None)
