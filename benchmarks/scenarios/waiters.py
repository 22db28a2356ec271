"""`waiters`: what one waiting call costs when 100,000 of them wait for one limiter."""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from typing import Any

from llmflow import Quota
from llmflow.limits import Limiter
from llmflow.testing import run_virtual
from llmflow.types import Charge
from scenarios.measure import Options

MOST_MICROSECONDS = 30.0
MOST_MEGABYTES = 400.0


async def bare(n: int) -> tuple[float, float]:
    """Do the same without a limiter: a future per task, each set after a sleep of its own."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    async def call() -> None:
        future = loop.create_future()
        futures.append(future)
        await future

    tasks = [asyncio.ensure_future(call()) for _ in range(n)]
    made = time.process_time()
    await asyncio.sleep(0)
    queued = time.process_time()
    for future in futures:
        future.set_result(None)
        await asyncio.sleep(1e-4)
    await asyncio.gather(*tasks)
    return queued - made, time.process_time() - queued


def waiters(options: Options) -> dict[str, Any]:
    """All wait at once on a virtual clock; each admission is one wake-up of its own."""
    n = options.n or 100_000
    limiter = Limiter(Quota(rpm="600k", tpm="600M", burst_seconds=1.0))
    admitted = 0
    waiting = 0

    async def call() -> None:
        nonlocal admitted
        permit = await limiter.acquire(Charge(1.0, 250.0))
        admitted += 1
        permit.settle(Charge(1.0, 250.0))

    async def main() -> tuple[float, float, float]:
        nonlocal waiting
        # The bucket is full at first: without this pause, 10,000 calls would never wait.
        limiter.pause(1.0)
        begin = time.process_time()
        tasks = [asyncio.ensure_future(call()) for _ in range(n)]
        made = time.process_time()
        await asyncio.sleep(0)
        waiting = limiter.statistics().waiting
        queued = time.process_time()
        await asyncio.gather(*tasks)
        return made - begin, queued - made, time.process_time() - queued

    making, queueing, admitting = (1e6 * seconds / n for seconds in run_virtual(main()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (2**20 if sys.platform == "darwin" else 2**10)
    queueing_bare, waking_bare = (1e6 * seconds / n for seconds in run_virtual(bare(n)))
    each = queueing + admitting
    return {
        "what": f"{n:,} calls waiting for one limiter of 10,000 requests and 10M tokens per s, "
        "on a virtual clock; CPU from acquire() to settle(), waking its task included",
        "n": n,
        "waiting": waiting,
        "cpu_us": each,
        "making_tasks_cpu_us": making,
        "queueing_cpu_us": queueing,
        "admitting_cpu_us": admitting,
        "bare_cpu_us": queueing_bare + waking_bare,
        "peak_mb": megabytes,
        "lost": n - admitted,
        "target": f"CPU <= {MOST_MICROSECONDS:g} us per call, peak <= {MOST_MEGABYTES:g} MB",
        "met": each <= MOST_MICROSECONDS
        and megabytes <= MOST_MEGABYTES
        and admitted == n == waiting,
    }
