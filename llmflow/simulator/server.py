"""The simulated provider on a socket of this machine."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Self

from aiohttp import web

from llmflow.errors import ConfigurationError
from llmflow.simulator.batches.api import BatchReply
from llmflow.simulator.batches.service import MOST_UPLOADED, Batches, is_own, is_upload
from llmflow.simulator.batches.store import BatchCounts
from llmflow.simulator.connection import (
    Connection,
    Server,
    check_head,
    read_body,
    reset,
    respond,
    send_part,
    spool_body,
    stream,
)
from llmflow.simulator.engine import Engine, Reply
from llmflow.simulator.settings import SimulatorSettings
from llmflow.simulator.stats import Admissions, SimulatorStats

# The loop needs a few turns to make a connection of a socket that it has accepted.
_TURNS_TO_JOIN = 4


class Simulator:
    """A local LLM provider with a quota, on the running loop.

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
        self._server: Server | None = None
        self._listener: asyncio.Server | None = None
        self._stopped = asyncio.Event()
        self._batches: Batches | None = None
        self._counted = BatchCounts()
        self._tick: asyncio.TimerHandle | None = None
        self._port = 0
        # Chance of its own, so that neither changes the fates that the engine draws.
        self._travel = random.Random(f"travel {self.settings.seed}")
        self._openings = random.Random(f"openings {self.settings.seed}")

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
        """Return the recorded admissions, if `record` is set."""
        return self._started().admissions()

    def reset(self) -> None:
        """Start anew: full buckets, zero counts, chance from its seed."""
        self._started().reset(now=asyncio.get_running_loop().time())

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ConfigurationError: the address is taken, or is none of this machine's.

        """
        self._loop = asyncio.get_running_loop()
        self._stopped.clear()
        self._engine = Engine(
            self.settings, now=self._loop.time(), wall=time.time(), batches=self._batch_counts
        )
        server = Server(
            self._serve,
            refuse=self._engine.refuse,
            max_body=self.settings.max_body_bytes,
            opening_delay=self._opening_delay,
        )
        host, port = self.settings.host, self.settings.port
        try:
            self._listener = await self._loop.create_server(server, host, port, backlog=4096)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigurationError(
                f"the simulator cannot listen on {host}:{port}: {reason}; "
                "choose another port, or port 0 for a free one"
            ) from error
        self._server = server
        self._port = int(self._listener.sockets[0].getsockname()[1])
        if self.settings.batch.state is not None:
            try:
                self._carry_on(self._open_batches())
            except BaseException:
                await self.close()
                raise

    async def close(self, *, grace: float = 0.0) -> None:
        """Stop listening; answers under way are still sent for `grace` seconds."""
        server, self._server = self._server, None
        if server is not None and self._listener is not None:
            await self._hang_up(server, self._listener, grace)
        if self._tick is not None:
            self._tick.cancel()
        if self._batches is not None:
            self._counted = self._batches.counts()
            self._batches.close()
            self._batches = None

    async def _hang_up(self, server: Server, listener: asyncio.Server, grace: float) -> None:
        listener.close()
        for _ in range(_TURNS_TO_JOIN):
            await asyncio.sleep(0)
        self._stopped.set()
        transports = [each.transport for each in server.connections if each.transport is not None]
        if grace <= 0:
            for transport in transports:
                transport.abort()
        server.pre_shutdown()
        await server.shutdown(max(grace, 0.001))
        try:
            async with asyncio.timeout(max(grace, 1.0)):
                await listener.wait_closed()
        except TimeoutError:  # a client does not read its answer
            for transport in transports:
                transport.abort()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _started(self) -> Engine:
        if self._engine is None:
            raise RuntimeError("the simulator is not started: use `async with Simulator(...)`")
        return self._engine

    def _opening_delay(self) -> float:
        slow = self.settings.slow_openings
        return slow and slow * self._openings.uniform(0.5, 1.5)

    def _batch_counts(self) -> BatchCounts:
        return self._counted if self._batches is None else self._batches.counts()

    def _open_batches(self) -> Batches:
        if self._batches is None:
            self._batches = Batches(self.settings)
        return self._batches

    def _carry_on(self, batches: Batches) -> None:
        """Let the jobs go on, now and whenever something is due."""
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        now = time.time()
        due = batches.advance(now)
        if due is not None:
            self._tick = self._loop.call_later(max(0.0, due - now), self._carry_on, batches)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; this is cancelled when its client leaves."""
        connection = request.protocol
        assert isinstance(connection, Connection)
        if connection.listens_at > self._loop.time():
            await self._until(connection.listens_at)
        if is_upload(request.method, request.raw_path):
            check_head(request, most=MOST_UPLOADED)
            path = self._open_batches().store.scratch()
            await spool_body(request, path, most=MOST_UPLOADED)
            return await self._answer_batch(request, b"", path)
        most = self.settings.max_body_bytes
        check_head(request, most=most)
        body = await read_body(request, most=most)
        if is_own(request.raw_path):
            return await self._answer_batch(request, body, None)
        return await self._answer(request, body)

    async def _answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        engine, loop = self._started(), self._loop
        if self.settings.jitter and request.method == "POST":
            await asyncio.sleep(self._travel.uniform(0.0, self.settings.jitter))
        now = loop.time()
        reply = engine.receive(
            request.method, request.raw_path, headers=request.headers, body=body, now=now
        )
        try:
            if reply.fault == "hang":
                await self._stopped.wait()  # until the client leaves
                return reset(request)
            if reply.delay > 0:
                await self._until(now + reply.delay)
            engine.leave(reply, now=loop.time())
            if reply.events is not None:
                return await self._stream(request, reply, now + reply.delay)
        except (asyncio.CancelledError, ConnectionError):
            if self._server is not None:
                engine.end(reply, now=loop.time(), left=True)
            raise
        engine.end(reply, now=loop.time())
        if reply.fault == "reset":
            return reset(request)
        return respond(reply.status, reply.body, reply.headers, reply.kind)

    async def _stream(
        self, request: web.BaseRequest, reply: Reply, begun: float
    ) -> web.StreamResponse:
        lines = f"cache-control: no-cache\r\n{reply.headers}"
        answer = await stream(request, lines, "text/event-stream; charset=utf-8")
        events = reply.events or []
        if not reply.event_gap:
            await answer.write(b"".join(events))
        else:
            for number, event in enumerate(events, 1):
                await answer.write(event)
                await self._until(begun + number * reply.event_gap)
        await answer.write_eof()
        self._started().end(reply, now=self._loop.time())
        return answer

    async def _until(self, due: float) -> None:
        await asyncio.sleep(due - self._loop.time())

    async def _answer_batch(
        self, request: web.BaseRequest, body: bytes, upload: Path | None
    ) -> web.StreamResponse:
        batches = self._open_batches()
        batches.advance(time.time())
        answered: asyncio.Future[BatchReply] = self._loop.create_future()
        reply = batches.receive(
            request.method,
            request.raw_path,
            headers=request.headers,
            body=body,
            upload=upload,
            now=time.time(),
            later=lambda said: None if answered.done() else answered.set_result(said),
        )
        self._carry_on(batches)
        if reply is None:
            reply = await answered
        if reply.lost:
            return reset(request)
        if reply.file is not None:
            path, start, size = reply.file
            return await send_part(request, path, start, size, lines=reply.headers, kind=reply.kind)
        return respond(reply.status, reply.body, reply.headers, reply.kind)
