"""Measure llmflow against its targets: ``python benchmarks/run.py overhead rpm``.

Every scenario talks to a server in a process of its own, on another core where
there are two, over real HTTP. What counts are the ratios within one run: machines
differ, and the same machine differs from hour to hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from llmflow import LLM, AsyncFlow, AsyncParallelBatchNode, Quota
from llmflow.limits.registry import forget_limiters
from llmflow.simulator import Latency, SimulatorProcess, SimulatorSettings, serve_in_process

RESULTS = Path(__file__).parent / "results"
SENTENCE = "The tide rises twice a day because the moon pulls the water of the sea. "


def prompts(count: int, *, size: int = 1000) -> list[str]:
    """Return prompts of about `size` characters, each different."""
    text = SENTENCE * (size // len(SENTENCE) + 1)
    return [f"Summarize: item {index}. {text}"[:size] for index in range(count)]


def server(**settings: Any) -> SimulatorProcess:
    """Start a simulator on the second core, and move this process to the first."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    if len(cores) < 2:
        return serve_in_process(SimulatorSettings(**settings))
    process = serve_in_process(SimulatorSettings(**settings), cpu=cores[-1])
    os.sched_setaffinity(0, {cores[0]})
    return process


async def timed(work: Callable[[], Awaitable[int]]) -> dict[str, float]:
    """Return wall and CPU seconds per answered request of some work."""
    wall, cpu = time.perf_counter(), time.process_time()
    count = await work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "n": count,
        "seconds": wall,
        "per_second": count / wall,
        "cpu_us": 1e6 * cpu / count,
    }


async def bare_loop(url: str, texts: list[str], concurrency: int) -> int:
    """Ask as people write it with aiohttp alone: a semaphore, ``json=``, ``r.json()``."""
    semaphore = asyncio.Semaphore(concurrency)
    connector = aiohttp.TCPConnector(limit=concurrency)
    headers = {"Authorization": "Bearer sk-benchmark"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def ask(text: str) -> str:
            body = {"model": "bench", "messages": [{"role": "user", "content": text}]}
            async with semaphore, session.post(f"{url}/chat/completions", json=body) as reply:
                data = await reply.json()
                answer: str = data["choices"][0]["message"]["content"]
                return answer

        return len(await asyncio.gather(*(ask(text) for text in texts)))


async def through_llmflow(llm: LLM, texts: list[str], concurrency: int | None) -> int:
    """Ask the way a user does: a parallel batch node in a flow."""

    class Ask(AsyncParallelBatchNode):
        async def prep_async(self, shared: Any) -> list[str]:
            return list(shared["texts"])

        async def exec_async(self, text: Any) -> str:
            return await llm(text)

        async def post_async(self, shared: Any, prep_res: Any, exec_res_list: Any) -> str:
            shared["answers"] = exec_res_list
            return "default"

    shared: dict[str, Any] = {"texts": texts}
    await AsyncFlow(start=Ask(concurrency_limit=concurrency)).run_async(shared)
    return len(shared["answers"])


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """CPU and throughput without limits, against a bare aiohttp loop in the same run."""
    texts = prompts(options.n or 2000)
    rounds: dict[str, list[dict[str, float]]] = {"bare": [], "llmflow": []}
    with server(latency=0.0, answer="echo") as sim:
        llm = LLM("openai/bench", base_url=sim.url, api_key="sk-benchmark")

        async def bare() -> int:
            return await bare_loop(sim.url, texts, 100)

        async def ours() -> int:
            return await through_llmflow(llm, texts, 100)

        async def main() -> None:
            await bare_loop(sim.url, texts[:200], 100)
            await through_llmflow(llm, texts[:200], 100)
            for _ in range(options.rounds):
                rounds["bare"].append(await timed(bare))
                rounds["llmflow"].append(await timed(ours))

        asyncio.run(main())
    result: dict[str, Any] = {"scenario": "overhead", "n": len(texts)}
    for name, figures in rounds.items():
        for key in ("per_second", "cpu_us"):
            result[f"{name}_{key}"] = statistics.median(each[key] for each in figures)
    pairs = list(zip(rounds["llmflow"], rounds["bare"], strict=True))
    for ratio, key in (("throughput_ratio", "per_second"), ("cpu_ratio", "cpu_us")):
        result[ratio] = statistics.median(ours[key] / bare[key] for ours, bare in pairs)
    result["target"] = "throughput_ratio >= 0.5"
    result["met"] = result["throughput_ratio"] >= 0.5
    return result


def rpm(options: argparse.Namespace) -> dict[str, Any]:
    """6,000 RPM enforced in slices of a second, latency 1 s, quota known."""
    n, rate, burst, latency = options.n or 2000, 100.0, 1.0, 1.0
    settings = {"rpm": rate * 60, "burst_seconds": burst, "latency": Latency(seconds=latency)}
    with server(**settings) as sim:
        quota = Quota(rpm=rate * 60, burst_seconds=burst)
        llm = LLM("openai/bench", base_url=sim.url, api_key="sk-benchmark", quota=quota)
        figures = asyncio.run(timed(lambda: through_llmflow(llm, prompts(n), None)))
        seen = sim.stats()
    ideal = (n - rate * burst) / rate + latency
    return _against_ideal("rpm", figures, seen, n=n, ideal=ideal, most=1.10, most_rejected=0.01)


def _against_ideal(
    name: str,
    figures: dict[str, float],
    seen: Any,
    *,
    n: int,
    ideal: float,
    most: float,
    most_rejected: float,
) -> dict[str, Any]:
    ratio, rejected = figures["seconds"] / ideal, seen.rejections / n
    lost = n - int(figures["n"])
    return {
        "scenario": name,
        "n": n,
        "seconds": figures["seconds"],
        "ideal": ideal,
        "ratio": ratio,
        "rejected": rejected,
        "lost": lost,
        "cpu_us": figures["cpu_us"],
        "target": f"ratio <= {most}, rejected <= {most_rejected:.1%}, lost = 0",
        "met": ratio <= most and rejected <= most_rejected and lost == 0,
    }


SCENARIOS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "overhead": overhead,
    "rpm": rpm,
}


def main() -> int:
    """Run scenarios, print their figures and save them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "scenarios",
        nargs="+",
        choices=[*SCENARIOS, "all"],
        metavar="SCENARIO",
        help=f"one or more of {', '.join(SCENARIOS)}, or all",
    )
    parser.add_argument("--n", type=int, help="requests, instead of the scenario's own number")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of overhead (5)")
    options = parser.parse_args()
    names = list(SCENARIOS) if "all" in options.scenarios else options.scenarios
    RESULTS.mkdir(exist_ok=True)
    met = True
    for name in names:
        forget_limiters()
        result = SCENARIOS[name](options)
        (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        for key, value in result.items():
            print(f"{key:>20}  {value:,.4g}" if isinstance(value, float) else f"{key:>20}  {value}")
        print()
        met = met and result["met"]
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
