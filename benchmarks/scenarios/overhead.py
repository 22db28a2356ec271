"""`overhead`: CPU per request, against aiohttp as people write it."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from llmflow import LLM, Run
from scenarios.checks import Check, checked
from scenarios.measure import KEY, Options, prompts, server, through_llmflow, timed

CONCURRENCY = 100
ROUNDS = 9
MOST = 1.0
MOST_WITH_JOURNAL = 1.35
_WARM_UP = 300

Ways = Mapping[str, Callable[[list[str]], Awaitable[int]]]
Figures = dict[str, list[dict[str, float]]]


async def bare_loop(url: str, texts: list[str]) -> int:
    """Ask as people write it with aiohttp alone: a semaphore, ``json=``, ``r.json()``."""
    semaphore = asyncio.Semaphore(CONCURRENCY)
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(text: str) -> str:
            body = {"model": "bench", "messages": [{"role": "user", "content": text}]}
            async with semaphore, session.post(f"{url}/chat/completions", json=body) as reply:
                data = await reply.json()
                answer: str = data["choices"][0]["message"]["content"]
                return answer

        return len(await asyncio.gather(*(ask(text) for text in texts)))


async def _interleaved(ways: Ways, texts: list[str], *, rounds: int) -> Figures:
    """Let the ways take turns, every second round backwards: none is always the first."""
    figures: Figures = {name: [] for name in ways}
    for way in ways.values():
        await way(texts[:_WARM_UP])
    for number in range(rounds):
        for name in reversed(ways) if number % 2 else ways:
            way = ways[name]
            figures[name].append(await timed(lambda way=way: way(texts)))
    return figures


def _ratio(figures: Figures, name: str, key: str = "cpu_us") -> float:
    """Return the median of the rounds' own ratios to the bare loop."""
    pairs = zip(figures[name], figures["bare"], strict=True)
    return statistics.median(ours[key] / bare[key] for ours, bare in pairs)


def _loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop] | None]:
    """Return each kind of event loop: asyncio's, and uvloop's where it is installed."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {
        "asyncio": asyncio.SelectorEventLoop
    }
    if importlib.util.find_spec("uvloop") is not None:
        loops["uvloop"] = importlib.import_module("uvloop").new_event_loop
    return loops


def overhead(options: Options) -> dict[str, Any]:
    """Without limits or latency: bare, llmflow, and llmflow in a run with its journal."""
    texts = prompts(options.n or 5000)
    rounds = options.rounds or ROUNDS
    lost = 0
    measured: dict[str, Figures] = {}
    with server(latency=0.0, answer="echo") as sim, tempfile.TemporaryDirectory() as folder:
        names = iter(range(10_000))
        llm = LLM("openai/bench", base_url=sim.url, api_key=KEY)

        async def ours(some: list[str]) -> int:
            nonlocal lost
            lost += (await through_llmflow(llm, some, concurrency=CONCURRENCY)).lost
            return len(some)

        async def in_run(some: list[str]) -> int:
            async with Run(f"run-{next(names)}", folder=Path(folder)):
                return await ours(some)

        ways: Ways = {
            "bare": lambda some: bare_loop(sim.url, some),
            "llmflow": ours,
            "journal": in_run,
        }
        for kind, factory in _loops().items():
            with asyncio.Runner(loop_factory=factory) as runner:
                measured[kind] = runner.run(_interleaved(ways, texts, rounds=rounds))
    what = (
        f"{len(texts):,} prompts of 1,000 characters, concurrency {CONCURRENCY}, no limits, no "
        "latency; the bare loop is aiohttp as people write it, with `json=` and `await r.json()`; "
        f"the ways take turns; medians of {rounds} rounds"
    )
    checks = [*_checks(measured), Check("answers lost", lost, "", most=0)]
    return checked(what, len(texts), checks)


def _checks(measured: Mapping[str, Figures]) -> list[Check]:
    """Return the targets, which are asyncio's, and what else is worth knowing."""
    figures = measured["asyncio"]
    checks = [
        Check("CPU, no journal / bare loop", _ratio(figures, "llmflow"), most=MOST),
        Check("CPU, journal / bare loop", _ratio(figures, "journal"), most=MOST_WITH_JOURNAL),
    ]
    if "uvloop" in measured:
        faster = measured["uvloop"]
        checks += [
            Check("uvloop on both sides: no journal / bare loop", _ratio(faster, "llmflow")),
            Check("uvloop on both sides: journal / bare loop", _ratio(faster, "journal")),
        ]
    checks += [
        Check("seconds, no journal / bare loop", _ratio(figures, "llmflow", "seconds")),
        Check("seconds, journal / bare loop", _ratio(figures, "journal", "seconds")),
    ]
    for kind, each in measured.items():
        for name, word in (
            ("bare", "bare loop"),
            ("llmflow", "no journal"),
            ("journal", "journal"),
        ):
            middle = statistics.median(one["cpu_us"] for one in each[name])
            checks.append(Check(f"CPU on {kind}, {word}", middle, "us per request"))
    return checks
