"""`watching`: what it costs that somebody looks on: a progress display, or a hook."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from llmflow import LLM, Run
from llmflow.events import Event
from scenarios.checks import Check, checked
from scenarios.measure import KEY, ROUNDS, Options, prompts, server, through_llmflow, timed
from scenarios.overhead import CONCURRENCY

MOST_OF_THE_TIME = 0.02
MOST_HOOK_MICROSECONDS = 20.0
_DRAWING_THREAD = "llmflow-progress"


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Make standard error a terminal that nobody sees."""
    outer, inner = os.openpty()
    threading.Thread(target=_drain, args=(outer,), daemon=True).start()
    stream, sys.stderr = sys.stderr, os.fdopen(inner, "w")
    term = os.environ.get("TERM")
    os.environ["TERM"] = "xterm-256color"
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = stream
        os.environ.pop("TERM")
        if term is not None:
            os.environ["TERM"] = term


def _drain(fd: int) -> None:
    with contextlib.suppress(OSError):  # how a terminal says that it is closed
        while os.read(fd, 65536):
            pass


def _drawing_seconds() -> float:
    """Return the CPU seconds of the thread that draws, which has not ended."""
    for thread in threading.enumerate():
        if thread.name == _DRAWING_THREAD and thread.ident is not None:
            return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return float("nan")


def watching(options: Options) -> dict[str, Any]:
    """Rounds of three: nobody looks, a display does, a hook does."""
    texts = prompts(options.n or 10_000)
    times = options.rounds or ROUNDS
    lost = events = 0
    drawn: list[float] = []
    rounds: dict[str, list[dict[str, float]]] = {"alone": [], "shown": [], "heard": []}

    def hook(event: Event) -> None:
        nonlocal events
        events += 1

    with server(latency=0.0, answer="echo") as sim:
        llm = LLM("openai/bench", base_url=sim.url, api_key=KEY)

        async def asked(some: list[str]) -> int:
            nonlocal lost
            lost += (await through_llmflow(llm, some, concurrency=CONCURRENCY)).lost
            return len(some)

        async def alone(some: list[str]) -> int:
            async with Run():
                return await asked(some)

        async def shown(some: list[str]) -> int:
            with terminal():
                async with Run(progress=True, total=len(some)):
                    begin, drawing = time.perf_counter(), _drawing_seconds()
                    count = await asked(some)
                    drawing = _drawing_seconds() - drawing
                    drawn.append(drawing / (time.perf_counter() - begin))
                    return count

        async def heard(some: list[str]) -> int:
            async with Run(on_event=hook):
                return await asked(some)

        async def main() -> None:
            nonlocal events
            for way in (alone, shown, heard):
                await way(texts[:300])
            drawn.clear()
            events = 0
            for _ in range(times):
                rounds["alone"].append(await timed(lambda: alone(texts)))
                rounds["shown"].append(await timed(lambda: shown(texts)))
                rounds["heard"].append(await timed(lambda: heard(texts)))

        asyncio.run(main())

    def middle(name: str) -> float:
        return statistics.median(each["cpu_us"] for each in rounds[name])

    pairs = list(zip(rounds["heard"], rounds["alone"], strict=True))
    hook_cost = statistics.median(ours["cpu_us"] - bare["cpu_us"] for ours, bare in pairs)
    checks = [
        Check("the thread that draws / the run", statistics.median(drawn), "", MOST_OF_THE_TIME),
        Check("CPU, with a display / without", middle("shown") / middle("alone")),
        Check("a hook that counts all events", hook_cost, "us per call", MOST_HOOK_MICROSECONDS),
        Check("CPU, with the hook / without", middle("heard") / middle("alone")),
        Check("events per call", events / times / len(texts), ""),
        Check("answers lost", lost, "", most=0),
    ]
    what = (
        f"{len(texts):,} prompts of 1,000 characters, concurrency {CONCURRENCY}, no limits, no "
        f"latency, no journal; medians of {times} rounds"
    )
    return checked(what, len(texts), checks)
