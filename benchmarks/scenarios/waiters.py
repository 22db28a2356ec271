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

    async def main() -> float:
        nonlocal waiting
        # The bucket is full at first: without this pause, 10,000 calls would never wait.
        limiter.pause(1.0)
        tasks = [asyncio.ensure_future(call()) for _ in range(n)]
        await asyncio.sleep(0)
        waiting = limiter.statistics().waiting
        before = time.process_time()
        await asyncio.gather(*tasks)
        return time.process_time() - before

    cpu = time.process_time()
    woken = run_virtual(main())
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (2**20 if sys.platform == "darwin" else 2**10)
    each = 1e6 * cpu / n
    return {
        "what": f"{n:,} calls waiting for one limiter of 10,000 requests and 10M tokens per s, "
        "on a virtual clock",
        "formula": "CPU of tasks, waiting, admission and settling, per call",
        "n": n,
        "waiting": waiting,
        "cpu_us": each,
        "admission_cpu_us": 1e6 * woken / n,
        "peak_mb": megabytes,
        "lost": n - admitted,
        "target": f"CPU <= {MOST_MICROSECONDS:g} us per call, peak <= {MOST_MEGABYTES:g} MB",
        "met": each <= MOST_MICROSECONDS
        and megabytes <= MOST_MEGABYTES
        and admitted == n == waiting,
    }
