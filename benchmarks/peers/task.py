"""What every client script shares: it reads a task from standard input and reports what it got.

Only the standard library: each client runs in a virtual environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

# For clients that must be told how many calls may run at once: three times what the quotas
# here need. A number that fits would be a rate limit made by hand, for one latency only.
CONCURRENCY = 300
ATTEMPTS = 10


class Task(NamedTuple):
    """Where to ask and what; the quota is None where the client is not to know it."""

    url: str
    texts: list[str]
    rpm: float | None
    tpm: float | None
    burst_seconds: float | None


Answers = list[str | None]


def run(ask_all: Callable[[Task], Awaitable[Answers]]) -> None:
    """Run a client once, and print how long it took and which items it answered."""
    os.environ["OPENAI_API_KEY"] = "sk-benchmark"
    task = Task(**json.load(sys.stdin))
    begin = time.perf_counter()
    answers = asyncio.run(_all(ask_all, task))
    seconds = time.perf_counter() - begin
    right = sum(map(_right, task.texts, answers))
    report: dict[str, Any] = {"seconds": seconds, "answered": right, "items": len(answers)}
    print(f"\n{json.dumps(report)}", flush=True)
    os._exit(0)  # some clients leave threads behind that never end


async def _all(ask_all: Callable[[Task], Awaitable[Answers]], task: Task) -> Answers:
    return await ask_all(task)


def _right(text: str, answer: str | None) -> bool:
    """Tell whether an answer repeats the beginning of its own prompt, as the simulator does."""
    return bool(answer) and text.startswith(str(answer)[:40])
