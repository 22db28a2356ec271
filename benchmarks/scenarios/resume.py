"""`resume`: what was answered before is answered from the journal."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from llmflow import LLM, Run
from scenarios.checks import Check, checked
from scenarios.command import ROW_CHARACTERS, Command, write_rows
from scenarios.measure import KEY, Options, prompt_of, server, through_llmflow

MOST_SECONDS_EACH = 6.0 / 100_000
MOST_MEGABYTES = 200.0
LEAST_PER_SECOND = 20_000.0


def resume(options: Options) -> dict[str, Any]:
    """Ask everything once, then again: `llmflow run` as a whole process, and a node."""
    n = options.n or 100_000
    with server(latency=0.0, answer="echo") as sim, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command = Command(folder, write_rows(folder / "in.jsonl", n), sim.url)
        first = command.run()
        lost = command.lost(n)
        asked = sim.stats().received
        again = command.run()
        lost += command.lost(n)
        node_seconds, node_lost = asyncio.run(_through_a_node(folder, sim.url, n))
        lost += node_lost
        repeated = sim.stats().received - asked
    checks = [
        Check("seconds of the whole process", again.seconds, "s", most=n * MOST_SECONDS_EACH),
        Check("rows per second", n / again.seconds, "/s", least=LEAST_PER_SECOND),
        Check("CPU per row", 1e6 * again.cpu / n, "us"),
        Check("its peak of memory", again.peak_mb, "MB", most=MOST_MEGABYTES),
        Check("items per second of a node", n / node_seconds, "/s", least=LEAST_PER_SECOND),
        Check("requests sent", repeated, "", most=0),
        Check("rows lost or doubled", lost, "", most=0),
    ]
    what = f"{n:,} rows of 200 bytes that `llmflow run` has answered before, run again"
    return checked(what, n, checks, first_seconds=first.seconds, first_cpu=first.cpu)


async def _through_a_node(folder: Path, url: str, n: int) -> tuple[float, int]:
    """Ask in Python what the command has asked, within its run."""
    llm = LLM("openai/bench", base_url=url, api_key=KEY)
    texts = [f"Summarize: {prompt_of(index, ROW_CHARACTERS)}" for index in range(n)]
    begin = time.perf_counter()
    async with Run("bench", folder=folder):
        answered = await through_llmflow(llm, texts, concurrency=100, echo=False)
    return time.perf_counter() - begin, answered.lost
