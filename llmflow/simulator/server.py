"""The simulated provider on a socket of this machine."""

from __future__ import annotations

import asyncio
import random
import time
from types import TracebackType
from typing import Self

from llmflow.errors import ConfigurationError
from llmflow.simulator.batches.api import BatchReply
from llmflow.simulator.batches.service import MOST_UPLOADED, Batches, Paths
from llmflow.simulator.batches.store import BatchCounts
from llmflow.simulator.engine import Engine, Reply
from llmflow.simulator.http_connection import Exchange
from llmflow.simulator.http_download import Download
from llmflow.simulator.http_parser import Head
from llmflow.simulator.http_server import HttpServer
from llmflow.simulator.http_spool import Spool
from llmflow.simulator.settings import SimulatorSettings
from llmflow.simulator.stats import Admissions, SimulatorStats


class Simulator:
    """A local LLM provider with a real quota, on the running event loop.

    It speaks OpenAI's chat dialect and Anthropic's over HTTP: point any client of
    the one at `url`, of the other at `root_url`.

    >>> import asyncio
    >>> async def main():
    ...     async with Simulator(SimulatorSettings(rpm=600)) as sim:
    ...         return sim.url.endswith("/v1"), sim.stats().received
    >>> asyncio.run(main())
    (True, 0)

    Args:
        settings: what the provider is set to; without them, no limit, and latencies around
            half a second.

    Raises:
        ConfigurationError: on entering, if the address cannot be listened on.

    """

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.settings = settings or SimulatorSettings()
        self._engine: Engine | None = None
        self._server: HttpServer | None = None
        self._batches: Batches | None = None
        self._paths = Paths(self.settings)
        self._counted = BatchCounts()
        self._tick: asyncio.TimerHandle | None = None
        self._port = 0
        # Chance of its own, so that neither changes the fates that the engine draws.
        self._travel = random.Random(f"travel {self.settings.seed}")

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The base URL for OpenAI's clients, such as ``http://127.0.0.1:8000/v1``."""
        return f"{self.root_url}/v1"

    @property
    def root_url(self) -> str:
        """The base URL for Anthropic's clients, which add ``/v1`` themselves."""
        host = self.settings.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def stats(self) -> SimulatorStats:
        """Return what was counted so far."""
        return self._started().stats()

    def admissions(self) -> Admissions:
        """Return when each request was admitted, and its latency, if `record` is set."""
        return self._started().admissions()

    def reset(self) -> None:
        """Forget all that was: full buckets, counts at zero, chance from its start."""
        self._started().reset(now=asyncio.get_running_loop().time())

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigurationError: the address is taken, or is none of this machine's.

        """
        self._loop = asyncio.get_running_loop()
        self._engine = Engine(
            self.settings, now=self._loop.time(), wall=time.time(), batches=self._batch_counts
        )
        server = HttpServer(
            self._handle,
            gone=self._gone,
            refuse=self._engine.refuse,
            max_body=self.settings.max_body_bytes,
            spool=self._spool,
            slow_openings=self.settings.slow_openings,
            seed=self.settings.seed,
        )
        host, port = self.settings.host, self.settings.port
        try:
            self._port = await server.listen(host, port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(
                f"the simulator cannot listen on {host}:{port}: {reason}; "
                "choose another port, or port 0 for a free one"
            ) from error
        self._server = server
        if self.settings.batch.state is not None:
            try:
                self._carry_on(self._open_batches())
            except BaseException:
                await self.close()
                raise

    async def close(self, *, grace: float = 0.0) -> None:
        """Stop listening; answers under way are still sent for `grace` seconds."""
        server, self._server = self._server, None
        if server is not None:
            await server.close(grace=grace)
        if self._tick is not None:
            self._tick.cancel()
        if self._batches is not None:
            self._counted = self._batches.counts()
            self._batches.close()
            self._batches = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _started(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the simulator is not started: use `async with Simulator(...)`")
        return self._engine

    def _handle(self, exchange: Exchange) -> None:
        head = exchange.head
        if exchange.upload is not None or self._paths.own(head.target):
            self._handle_batch(exchange)
        elif self.settings.jitter and head.method == "POST":
            due = exchange.arrived + self._travel.uniform(0.0, self.settings.jitter)
            exchange.timer = self._loop.call_at(due, self._receive, exchange)
        else:
            self._receive(exchange)

    def _receive(self, exchange: Exchange) -> None:
        """Let the engine decide on a request; its latency begins now."""
        head, now = exchange.head, exchange.arrived
        if exchange.timer is not None:  # it has travelled
            exchange.timer = None
            now = self._loop.time()
        reply = self._started().receive(
            head.method,
            head.target,
            headers=head.headers,
            body=exchange.body,
            now=now,
        )
        exchange.context, exchange.begun = reply, now
        if reply.fault == "hang":
            return  # until the client leaves
        if reply.delay <= 0:
            self._answer(exchange, reply)
        else:
            exchange.timer = self._loop.call_at(now + reply.delay, self._answer, exchange, reply)

    def _batch_counts(self) -> BatchCounts:
        return self._counted if self._batches is None else self._batches.counts()

    def _open_batches(self) -> Batches:
        if self._batches is None:
            self._batches = Batches(self.settings)
        return self._batches

    def _spool(self, head: Head) -> Spool | None:
        if not self._paths.upload(head.method, head.target):
            return None
        return Spool(self._open_batches().store.scratch(), limit=MOST_UPLOADED)

    def _handle_batch(self, exchange: Exchange) -> None:
        head, batches = exchange.head, self._open_batches()
        batches.advance(time.time())
        reply = batches.receive(
            head.method,
            head.target,
            headers=head.headers,
            body=exchange.body,
            upload=exchange.upload,
            now=time.time(),
            later=lambda reply: self._loop.call_soon(self._answer_batch, exchange, reply),
        )
        self._carry_on(batches)
        if reply is not None:
            self._answer_batch(exchange, reply)

    def _answer_batch(self, exchange: Exchange, reply: BatchReply) -> None:
        if reply.lost:
            exchange.reset()
        elif reply.file is not None:
            path, start, size = reply.file
            part = Download(path, start=start, size=size)
            exchange.download(part, headers=reply.headers, kind=reply.kind)
        else:
            exchange.reply(reply.status, reply.body, headers=reply.headers, kind=reply.kind)

    def _carry_on(self, batches: Batches) -> None:
        """Let the jobs go on, now and whenever something is due."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        now = time.time()
        due = batches.advance(now)
        if due is not None:
            self._tick = self._loop.call_later(max(0.0, due - now), self._carry_on, batches)

    def _answer(self, exchange: Exchange, reply: Reply) -> None:
        self._started().leave(reply, now=self._loop.time())
        if reply.fault == "reset":
            exchange.reset()
        elif reply.events is not None:
            exchange.start(headers=reply.headers)
            self._stream(exchange, reply, 0)
            return
        else:
            exchange.reply(reply.status, reply.body, headers=reply.headers, kind=reply.kind)
        self._started().end(reply, now=self._loop.time())

    def _stream(self, exchange: Exchange, reply: Reply, index: int) -> None:
        events = reply.events or []
        if not reply.event_gap:
            exchange.send(b"".join(events))
            index = len(events)
        elif index < len(events):
            exchange.send(events[index])
            due = exchange.begun + reply.delay + (index + 1) * reply.event_gap
            exchange.timer = self._loop.call_at(due, self._stream, exchange, reply, index + 1)
            return
        exchange.end()
        self._started().end(reply, now=self._loop.time())

    def _gone(self, exchange: Exchange) -> None:
        reply = exchange.context
        if isinstance(reply, Reply) and self._server is not None:
            self._started().end(reply, now=self._loop.time(), left=True)
