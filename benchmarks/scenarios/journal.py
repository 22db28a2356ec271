"""`journal`: what it costs to write every answer down before it is given out."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from llmflow import LLM, Run
from llmflow.calls.replay import Asked, fingerprint
from llmflow.journal import Journal
from llmflow.types import Response, Usage
from scenarios.checks import Check, checked
from scenarios.measure import KEY, ROUNDS, Options, prompts, server, through_llmflow, timed
from scenarios.overhead import CONCURRENCY, bare_loop

MOST_OF_OFF = 1.2
MOST_OF_BARE = 1.5
MOST_MICROSECONDS = 40.0


async def journal_alone(folder: Path, texts: list[str]) -> int:
    """Look up and write down what nobody asked: no request, no flow, no run."""
    journal = Journal.open(folder)
    journal.begin({})
    asked = Asked()
    waiting = iter(texts)

    async def work() -> None:
        for text in waiting:
            response = Response(
                text=text[:200], usage=Usage(), finish_reason="stop", model="bench", provider="sim"
            )
            body = text.encode()
            key = fingerprint(provider="sim", endpoint="", model="bench", body=body)
            nth = asked.count(key)
            assert journal.find(key, nth) is None
            await journal.record(key, nth, response)

    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    await asyncio.to_thread(journal.close)
    return len(texts)


def journal(options: Options) -> dict[str, Any]:
    """Four ways to ask the same, one after the other; ratios are of each round's own."""
    texts = prompts(options.n or 10_000)
    times = options.rounds or ROUNDS
    lost = 0
    with server(latency=0.0, answer="echo") as sim, tempfile.TemporaryDirectory() as place:
        llm = LLM("openai/bench", base_url=sim.url, api_key=KEY)
        folder, names = Path(place), iter(range(1000))

        async def ours(some: list[str]) -> int:
            nonlocal lost
            lost += (await through_llmflow(llm, some, concurrency=CONCURRENCY)).lost
            return len(some)

        async def in_run(store: Any, some: list[str]) -> int:
            async with Run(f"run-{next(names)}", store=store, folder=folder):
                return await ours(some)

        ways: dict[str, Callable[[list[str]], Awaitable[int]]] = {
            "bare": lambda some: bare_loop(sim.url, some),
            "off": ours,
            "answers": lambda some: in_run("answers", some),
            "full": lambda some: in_run("full", some),
            "alone": lambda some: journal_alone(folder / f"alone-{next(names)}", some),
        }
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in ways}

        async def main() -> None:
            for way in ways.values():
                await way(texts[:300])
            for _ in range(times):
                for name, way in ways.items():
                    rounds[name].append(await timed(lambda way=way: way(texts)))

        begin = time.perf_counter()
        asyncio.run(main())
        seconds = time.perf_counter() - begin

    def ratio(name: str, to: str, key: str = "cpu_us") -> float:
        pairs = zip(rounds[name], rounds[to], strict=True)
        return statistics.median(a[key] / b[key] for a, b in pairs)

    def middle(name: str) -> float:
        return statistics.median(each["cpu_us"] for each in rounds[name])

    checks = [
        Check("CPU, answers kept / no journal", ratio("answers", "off"), most=MOST_OF_OFF),
        Check("CPU, whole replies kept / no journal", ratio("full", "off"), most=MOST_OF_OFF),
        Check("CPU, whole replies kept / bare aiohttp", ratio("full", "bare"), most=MOST_OF_BARE),
        Check("CPU, no journal / bare aiohttp", ratio("off", "bare")),
        Check("seconds, whole replies kept / no journal", ratio("full", "off", "seconds")),
        Check("CPU of the journal alone", middle("alone"), "us per item", MOST_MICROSECONDS),
        Check("answers lost", lost, "", most=0),
    ]
    what = (
        f"{len(texts):,} prompts of 1,000 characters, concurrency {CONCURRENCY}, no limits, no "
        f"latency: the most that a journal has to do; medians of {times} rounds"
    )
    figures = {f"{name}_cpu_us": middle(name) for name in ways}
    return checked(what, len(texts), checks, seconds=seconds, **figures)
