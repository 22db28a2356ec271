"""`batch`: the same node over batch jobs, fifty thousand calls that wait, and rows by the file."""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmflow import LLM, AsyncParallelBatchNode, Batch, Run
from llmflow.simulator import BatchSettings
from scenarios.checks import Check, checked
from scenarios.measure import KEY, Options, prompt_of, server

SIZE = 1000
ITEMS = 10_000
WAITING = 50_000
LEAST_ROWS_PER_SECOND = 20_000.0
MOST_MEGABYTES_OF_ROWS = 400.0
MOST_MEGABYTES_WAITING = 500.0
POLL = Batch(poll=0.2)
QUICK = BatchSettings(seconds=1.0, validation_seconds=0.1, finalizing_seconds=0.1)
TROUBLED = BatchSettings(
    seconds=0.2,
    validation_seconds=0.05,
    finalizing_seconds=0.05,
    error_rows=0.05,
    expired_rows=0.1,
    missing_rows=0.01,
)


class Ask(AsyncParallelBatchNode):
    """Asks once for each item."""

    def __init__(self, llm: LLM, **options: Any) -> None:
        super().__init__(concurrency_limit=200, **options)
        self.llm = llm

    async def prep_async(self, shared: Any) -> Any:
        return shared["items"]

    async def exec_async(self, item: int) -> str:
        return await self.llm(prompt_of(item, SIZE), max_tokens=50)

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        shared["answers"] = exec_res


def asked(url: str, count: int, folder: Path, *, mode: Any) -> tuple[list[str], float]:
    """Ask for so many items in a run; return the answers, and microseconds of CPU for each."""
    llm = LLM("openai/bench", base_url=url, api_key=KEY, batch=POLL)
    shared: dict[str, Any] = {"items": range(count)}

    async def main() -> None:
        async with Run(f"{mode}-{count}", folder=folder):
            await Ask(llm, mode=mode).run_async(shared)

    cpu = time.process_time()
    asyncio.run(main())
    return shared["answers"], 1e6 * (time.process_time() - cpu) / count


def submitted(url: str, count: int, folder: Path) -> tuple[float, int]:
    """Submit so many rows and collect their answers; return CPU seconds, and the answers."""
    llm = LLM("openai/bench", base_url=url, api_key=KEY, batch=POLL)

    async def main() -> int:
        async with Run("submitted", mode="batch", folder=folder) as run:
            for number in range(count):
                await llm.submit(prompt_of(number, SIZE), max_tokens=50)
            await run.settled()
            return run.statistics().answered

    cpu = time.process_time()
    answered = asyncio.run(main())
    return time.process_time() - cpu, answered


def peak_megabytes() -> float:
    """Return the most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def missing(answers: Sequence[str], count: int) -> int:
    """Return how many items have no answer of their own."""
    return sum(f"item {n}." not in each for n, each in enumerate(answers)) + count - len(answers)


def batch(options: Options) -> dict[str, Any]:
    """Rows by the file first: the peak of memory is the process's."""
    rows = options.n or 200_000
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with server(latency=0.0, answer="echo", batch=QUICK) as sim:
            seconds, answered = submitted(sim.url, rows, folder)
            rows_peak = peak_megabytes()
            parallel, live_us = asked(sim.url, ITEMS, folder, mode="parallel")
            in_batch, batch_us = asked(sim.url, ITEMS, folder, mode="batch")
            waiting, _ = asked(sim.url, WAITING, folder, mode="batch")
            waiting_peak = peak_megabytes()
        with server(latency=0.0, answer="echo", batch=TROUBLED) as sim:
            troubled, _ = asked(sim.url, ITEMS + 1, folder, mode="batch")
    differ = sum(one != other for one, other in zip(parallel, in_batch, strict=True))
    lost = rows - answered + missing(waiting, WAITING) + missing(in_batch, ITEMS)
    checks = [
        Check(f"{ITEMS:,} answers that differ between the modes", differ, "", most=0),
        Check("CPU per item, batch / parallel", batch_us / live_us),
        Check(
            f"rows submitted and ingested, of {rows:,}",
            rows / seconds,
            "/s of a core",
            least=LEAST_ROWS_PER_SECOND,
        ),
        Check("peak of that", rows_peak, "MB", most=MOST_MEGABYTES_OF_ROWS),
        Check(f"peak, {WAITING:,} items wait", waiting_peak, "MB", most=MOST_MEGABYTES_WAITING),
        Check("rows lost", lost, "", most=0),
        Check("lost of 5% failed, 10% expired, 1% gone", missing(troubled, ITEMS + 1), "", most=0),
    ]
    what = "prompts of 1,000 characters, the journal on, jobs of a second"
    return checked(what, rows, checks, parallel_us=live_us, batch_us=batch_us)
