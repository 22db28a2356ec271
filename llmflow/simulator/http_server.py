"""An HTTP/1.1 server as small as a benchmark's server should be.

One `asyncio.Protocol` per connection, no task per request: a handler gets each
whole request in an `Exchange` and replies at once or later. Requests of one
connection are answered one after another, so pipelining is safe. Only what a
provider's clients need is here; what it does not understand, it refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Protocol

from llmflow.simulator.http_connection import Connection, Exchange
from llmflow.simulator.http_parser import Head
from llmflow.simulator.http_spool import Spool


class Refuse(Protocol):
    """Makes the body of an error of HTTP."""

    def __call__(self, status: int, message: str, *, target: str) -> tuple[str, bytes]:
        """Return header lines and the body; the target is empty if the request had none."""
        ...


# The loop needs a few turns to make a connection of a socket that it has accepted.
_TURNS_TO_JOIN = 4


class HttpServer:
    """Listens, and hands each whole request to a handler.

    Args:
        handle: called with each `Exchange`; replies to it now or later.
        gone: called when a client left before its answer.
        refuse: returns the JSON body that says why a request cannot be served.
        max_body: largest request body, in bytes.
        spool: says where the body of a request goes if not into memory.
        slow_openings: seconds, on average, until a fresh connection is listened to.
        seed: makes them repeatable.

    """

    def __init__(
        self,
        handle: Callable[[Exchange], None],
        *,
        gone: Callable[[Exchange], None],
        refuse: Refuse,
        max_body: int,
        spool: Callable[[Head], Spool | None] = lambda _: None,
        slow_openings: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.handle = handle
        self.gone = gone
        self.refuse = refuse
        self.max_body = max_body
        self.spool = spool
        self.connections: set[Connection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.closing = False
        self._server: asyncio.Server | None = None
        self._date = (0, "")
        self._slow_openings = slow_openings
        self._chance = random.Random(f"openings {seed}")

    async def listen(self, host: str, port: int) -> int:
        """Begin to listen and return the port."""
        self.loop = asyncio.get_running_loop()
        self._server = await self.loop.create_server(
            lambda: Connection(self), host, port, backlog=4096
        )
        return int(self._server.sockets[0].getsockname()[1])

    def joined(self, connection: Connection) -> None:
        """Know of a new connection."""
        self.connections.add(connection)
        self._empty.clear()

    def opening_delay(self) -> float:
        """Return the seconds until the next fresh connection is listened to."""
        return self._slow_openings and self._slow_openings * self._chance.uniform(0.5, 1.5)

    def left(self, connection: Connection) -> None:
        """Forget a connection that has ended."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def date(self) -> str:
        """Return the Date header's value, made once a second."""
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]

    async def close(self, *, grace: float = 0.0) -> None:
        """Stop listening, let answers under way be sent for `grace` seconds, and hang up."""
        self.closing = True
        if self._server is None:
            return
        self._server.close()
        for _ in range(_TURNS_TO_JOIN):
            await asyncio.sleep(0)
        for connection in tuple(self.connections):
            # A request without a timer hangs on purpose: nothing is on its way.
            if connection.exchange is None or connection.exchange.timer is None:
                connection.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._empty.wait()
        finally:
            for connection in tuple(self.connections):
                connection.abort()
        await self._empty.wait()
        await self._server.wait_closed()
