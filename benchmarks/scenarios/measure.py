"""Parts of all scenarios: a server on another core, prompts, clocks, the server's course."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from llmflow import LLM, AsyncFlow, AsyncParallelBatchNode
from llmflow.errors import LLMFlowError
from llmflow.simulator import SimulatorProcess, SimulatorSettings, SimulatorStats, serve_in_process

KEY = "sk-benchmark"
ROUNDS = 5  # of the scenarios that compare ways to ask, unless they say otherwise
_ECHO = 200  # characters of the prompt that the simulator's answer "echo" repeats
_SENTENCE = "The tide rises twice a day because the moon pulls the water of the sea. "
_WORDS = [
    "tide",
    "moon",
    "water",
    "harbour",
    "season",
    "engine",
    "letter",
    "market",
    "window",
    "bridge",
    "record",
    "garden",
]


class Options(NamedTuple):
    """What the command line says of a run; None leaves it to the scenario."""

    n: int | None = None
    rounds: int | None = None
    seed: int = 0


class Answered(NamedTuple):
    """What became of the items: seconds, those without a right answer, and the errors' names."""

    seconds: float
    cpu_us: float
    lost: int
    errors: dict[str, int]


def prompts(count: int, *, size: int = 1000) -> list[str]:
    """Return prompts of `size` characters, each different."""
    return [prompt_of(index, size) for index in range(count)]


def prompt_of(index: int, size: int) -> str:
    """Return one prompt, told from all others by its beginning."""
    return f"Summarize: item {index}. {_SENTENCE * (size // len(_SENTENCE) + 1)}"[:size]


def lognormal_prompts(count: int, *, median_tokens: float, sigma: float, seed: int) -> list[str]:
    """Return prompts whose sizes in tokens (four characters each) are lognormal."""
    rng = random.Random(seed)
    sizes = [max(20, round(median_tokens * rng.lognormvariate(0, sigma))) for _ in range(count)]
    return [prompt_of(index, 4 * size) for index, size in enumerate(sizes)]


def stories(count: int, *, median_tokens: float, sigma: float, seed: int) -> list[str]:
    """Return prompts of lognormal size with sentences of any length.

    The simulator answers with one or two of the sentences: how many tokens that
    makes is not known before.
    """
    rng = random.Random(seed)
    texts = []
    for index in range(count):
        size = 4 * max(40, round(median_tokens * rng.lognormvariate(0, sigma)))
        text = f"Summarize: item {index}."
        while len(text) < size:
            words = rng.choices(_WORDS, k=max(3, round(14 * rng.lognormvariate(0, 0.6))))
            text += f" {' '.join(words).capitalize()}."
        texts.append(text)
    return texts


def server(**settings: Any) -> SimulatorProcess:
    """Start a simulator on the second core, and move this process to the first."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    if len(cores) < 2:
        return serve_in_process(SimulatorSettings(**settings))
    process = serve_in_process(SimulatorSettings(**settings), cpu=cores[-1])
    os.sched_setaffinity(0, {cores[0]})
    return process


def peak_mb() -> float:
    """Return the most memory that this process has had so far, in MB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def reset(sim: SimulatorProcess) -> None:
    """Begin the simulator's clock, schedule and counts anew."""
    address = urlsplit(sim.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", "/reset")
        connection.getresponse().read()


def timeline(stats: SimulatorStats) -> dict[str, Any]:
    """Return what the simulator saw in each quarter of a second, one row for each."""
    seen = stats.timeline
    names = ("admitted", "rejected", "answered", "max_in_flight", "tokens_charged")
    rows = zip(*(getattr(seen, name) for name in names), strict=True)
    return {
        "bin_seconds": seen.bin_seconds,
        "columns": names,
        "rows": [[round(value) for value in row] for row in rows],
    }


async def timed(work: Callable[[], Awaitable[int]]) -> dict[str, float]:
    """Return wall and CPU seconds per answered request of some work."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = await work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"n": count, "seconds": wall, "per_second": count / wall, "cpu_us": 1e6 * cpu / count}


async def through_llmflow(
    llm: LLM,
    texts: Sequence[str],
    *,
    concurrency: int | None = None,
    echo: bool = True,
    answered: Callable[[], None] = lambda: None,
    **options: Any,
) -> Answered:
    """Ask the way a user does: a parallel batch node in a flow. Answers are checked."""
    errors: Counter[str] = Counter()

    class Ask(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> Sequence[str]:
            return texts

        async def exec_async(self, text: Any) -> bool:
            try:
                answer = await llm(text, **options)
            except LLMFlowError as error:
                errors[type(error).__name__] += 1
                return False
            right = answer == text[:_ECHO].strip() if echo else bool(answer)
            if not right:
                errors["wrong answer"] += 1
            answered()
            return right

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> str:
            shared["right"] = sum(exec_res_list)
            return "default"

    shared: dict[str, Any] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    await AsyncFlow(start=Ask(concurrency_limit=concurrency)).run_async(shared)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Answered(wall, 1e6 * cpu / len(texts), len(texts) - shared["right"], dict(errors))


def judged(
    result: dict[str, Any],
    *,
    most: float,
    most_rejected: float | None,
    most_peak: float | None = None,
    also: str = "",
) -> dict[str, Any]:
    """Add the target, and whether it is met: by ratio, share of rejections, peak, and losses."""
    target = f"ratio <= {most}"
    met = result["ratio"] <= most and result["lost"] == 0
    if most_rejected is not None:
        target += f", rejected <= {most_rejected:.1%}"
        met = met and result["rejected"] <= most_rejected
    if most_peak is not None:
        target += f", peak <= {most_peak:g} MB"
        met = met and result["peak_mb"] <= most_peak
    return {**result, "target": f"{target}, lost = 0{also}", "met": met}
