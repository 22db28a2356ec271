"""A simulated provider at the other end of a network, all of it on the virtual clock.

What is real: the provider that speaks the dialect, `LiveMode`, the limiter, and the
simulator that decides. What is not: sockets. A minute of traffic takes a second or less.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

from llmflow import transport
from llmflow.calls.call import Call, Route
from llmflow.calls.live import LiveMode
from llmflow.errors import ConnectionFailedError, ProviderError, RequestTimeoutError
from llmflow.limits import Limiter
from llmflow.limits.registry import START_IN_FLIGHT
from llmflow.provider_registry import provider_for
from llmflow.retry import Retry
from llmflow.simulator import SimulatorSettings, SimulatorStats
from llmflow.simulator.engine import Engine
from llmflow.testing import VirtualLoop, run_virtual
from llmflow.transport import Timeout
from llmflow.types import Quota, Request, Response, WireReply, WireRequest

SENTENCE = "The tide rises twice a day because the moon pulls the water of the sea. "

Trouble = Callable[[float], WireReply | ProviderError | None]
"""What happens at a time, in seconds since the start, instead of the provider's answer."""


class Network:
    """Carries requests to a simulated provider, each way in a few milliseconds.

    Args:
        settings: what the provider is set to.
        seed: makes the network's delays repeatable.
        trouble: what happens instead of an answer, and when.
        start: the loop's time from which `trouble` counts.
    """

    def __init__(
        self,
        settings: SimulatorSettings,
        *,
        seed: int = 0,
        trouble: Trouble | None = None,
        start: float = 0.0,
    ) -> None:
        self.arrivals: list[tuple[float, int]] = []
        """When each request arrived, and with which status it was answered."""
        self._settings = settings
        self._rng = random.Random(seed)
        self._trouble = trouble
        self._start = start
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The provider, which starts with the first request."""
        if self._engine is None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            self._engine = Engine(self._settings, now=loop.time(), wall=loop.wall_start)
        return self._engine

    async def send(self, wire: WireRequest, *, timeout: Timeout, sending: Any = None) -> WireReply:
        """Take the place of `llmflow.transport.send`."""
        try:
            async with asyncio.timeout(timeout.total):
                if sending is not None:
                    sending.leave()
                return await self._exchange(wire)
        except TimeoutError:
            raise RequestTimeoutError(f"no answer within {timeout.total:g} s") from None

    async def _exchange(self, wire: WireRequest) -> WireReply:
        loop = asyncio.get_running_loop()
        await self._travel()
        trouble = self._trouble(loop.time() - self._start) if self._trouble is not None else None
        if trouble is not None:
            self.arrivals.append((loop.time(), getattr(trouble, "status", None) or 0))
            await self._travel()
            if isinstance(trouble, ProviderError):
                raise trouble
            return trouble._replace(received_at=_wall())
        path = wire.url.split("sim.test", 1)[1]
        headers = {name.lower(): value for name, value in wire.headers.items()}
        reply = self.engine.receive(
            wire.method, path, headers=headers, body=wire.body, now=loop.time()
        )
        self.arrivals.append((loop.time(), reply.status))
        left = True
        try:
            await asyncio.sleep(reply.delay if reply.fault != "hang" else math.inf)
            left = False
            self.engine.leave(reply, now=loop.time())
        finally:
            self.engine.end(reply, now=loop.time(), left=left)
        await self._travel()
        if reply.fault == "reset":
            raise ConnectionFailedError("the connection was reset")
        lines = (line.split(": ", 1) for line in reply.headers.split("\r\n") if line)
        return WireReply(reply.status, dict(lines), reply.body, _wall())  # type: ignore[arg-type]

    async def _travel(self) -> None:
        await asyncio.sleep(self._rng.uniform(0.0005, 0.003))


def _wall() -> float:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    return loop.wall_start + loop.time()


@dataclass(kw_only=True)
class Outcome:
    """What became of the requests.

    Args:
        seconds: from the start until the last one ended.
        finished: the same for each client.
        results: each client's answers and errors.
        limiters: each client's limiter.
        stats: what the provider counted.
        arrivals: when each request arrived at the provider, and its status.
        answered_at: when each client got each of its answers.
    """

    seconds: float
    finished: list[float]
    results: list[list[Response | BaseException]]
    limiters: list[Limiter]
    stats: SimulatorStats
    arrivals: list[tuple[float, int]]
    answered_at: list[list[float]]

    @property
    def errors(self) -> Counter[str]:
        """How many requests ended with which error."""
        failed = (each for own in self.results for each in own if isinstance(each, BaseException))
        return Counter(type(error).__name__ for error in failed)

    @property
    def count(self) -> int:
        """How many requests there were."""
        return sum(map(len, self.results))

    @property
    def rejected(self) -> float:
        """Rejections per request."""
        return self.stats.rejections / self.count

    def share(self, client: int, *, until: float) -> float:
        """Return a client's share of what all were answered up to a time."""
        counts = [sum(moment <= until for moment in log) for log in self.answered_at]
        return counts[client] / sum(counts)

    def check(self) -> None:
        """See that every item ended by name and that nothing was left over."""
        for own in self.results:
            assert all(isinstance(each, (Response, ProviderError)) for each in own)
        for limiter in self.limiters:
            statistics = limiter.statistics()
            assert (statistics.in_flight, statistics.waiting) == (0, 0)


def prompts(count: int, *, characters: int = 200) -> list[str]:
    """Return as many prompts, all of one size."""
    text = SENTENCE * (characters // len(SENTENCE) + 1)
    return [f"Summarize: item {index}. {text}"[:characters] for index in range(count)]


def varied_prompts(count: int, *, tokens: int, seed: int = 1) -> list[str]:
    """Return prompts of lognormal sizes with this median, in tokens of four characters."""
    rng = random.Random(seed)
    sizes = [max(40, int(4 * tokens * math.exp(rng.gauss(0.0, 0.8)))) for _ in range(count)]
    long = SENTENCE * (max(sizes) // len(SENTENCE) + 1)
    return [f"Summarize: item {index}. {long}"[:size] for index, size in enumerate(sizes)]


def play(
    settings: SimulatorSettings,
    texts: Sequence[str],
    *,
    quota: Quota | None = None,
    model: str = "openai/bench",
    clients: int = 1,
    max_tokens: int | None = None,
    retry: Retry | None = None,
    timeout: Timeout | None = None,
    trouble: Trouble | None = None,
    idle_seconds: float = 0.0,
    limit_seconds: float = 100_000.0,
    seed: int = 1,
) -> Outcome:
    """Ask all at once, by clients that do not know of each other, and see what happens.

    Args:
        settings: what the provider is set to.
        texts: what is asked; dealt out to the clients.
        quota: what the clients are told.
        model: the model string.
        clients: how many.
        max_tokens: of every request.
        retry: the clients' retry policy.
        timeout: the clients' time-out.
        trouble: see `Network`.
        idle_seconds: how long the clients exist before they ask; that is time 0 of `trouble`.
        limit_seconds: virtual seconds after which this has hung.
        seed: of the network, and of the clients' jitter.
    """
    network = Network(settings, seed=seed, trouble=trouble, start=idle_seconds)
    limiters: list[Limiter] = []
    answered_at: list[list[float]] = []

    async def client(number: int) -> tuple[float, list[Any]]:
        loop = asyncio.get_running_loop()
        provider = provider_for(model, base_url="http://sim.test/v1", api_key="sk-simulated")
        limiter = Limiter(quota, start_in_flight=START_IN_FLIGHT, seed=seed + 100 * number)
        limiters.append(limiter)
        log: list[float] = []
        answered_at.append(log)
        mode = LiveMode(
            provider,
            limiter=limiter,
            retry=retry or Retry(),
            timeout=timeout or Timeout(),
            rng=random.Random(seed + 100 * number + 1),
        )

        route = Route(provider=provider, live=mode, limiter=limiter)

        async def ask(text: str) -> Response:
            message = {"role": "user", "content": text}
            request = Request(model=provider.model, messages=(message,), max_tokens=max_tokens)
            call = Call(request, route)
            response = await mode.complete(call)
            log.append(loop.time())
            return response

        await asyncio.sleep(idle_seconds + 0.05 * number)
        began = loop.time()
        own = texts[number::clients]
        results = await asyncio.gather(*map(ask, own), return_exceptions=True)
        return loop.time() - began, results

    async def main() -> tuple[float, list[tuple[float, list[Any]]], SimulatorStats]:
        async with asyncio.timeout(limit_seconds):
            ends = await asyncio.gather(*(client(number) for number in range(clients)))
        return asyncio.get_running_loop().time(), list(ends), network.engine.stats()

    with mock.patch.object(transport, "send", network.send):
        seconds, ends, stats = run_virtual(main())
    outcome = Outcome(
        seconds=seconds,
        finished=[each for each, _ in ends],
        results=[results for _, results in ends],
        limiters=limiters,
        stats=stats,
        arrivals=network.arrivals,
        answered_at=answered_at,
    )
    outcome.check()
    return outcome
