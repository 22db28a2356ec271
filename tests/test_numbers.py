"""What a call through a run may cost, as ratios that hold on any machine.

`benchmarks/` measures the real figures. These only catch what makes them worse many times
over: a scan where there was a lookup, or an object kept for every item.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from llmflow.llm import LLM
from llmflow.runs.run import Run
from tests.runs.asking import numbered

pytestmark = pytest.mark.slow

_LONG = "Once upon a time. " * 200


async def _ask(llm: LLM, numbers: Iterable[int]) -> None:
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            await llm(f"{number}. {_LONG}")

    await asyncio.gather(*(work() for _ in range(50)))


def _cpu_seconds(work: Callable[[], Any]) -> float:
    """Return the CPU seconds of all threads: other programs on the machine do not count."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def _in_run(llm: LLM, folder: Path, count: int) -> None:
    async def main() -> None:
        async with Run("numbers", folder=folder):
            await _ask(llm, range(count))

    asyncio.run(main())


def test_a_replayed_call_costs_no_more_than_a_dozen_bare_lookups(tmp_path: Path) -> None:
    count = 1500
    provider = numbered()
    llm = LLM(provider)
    _in_run(llm, tmp_path, count)
    path = tmp_path / "numbers" / "journal.db"

    def look_up() -> None:
        connection = sqlite3.connect(path)
        keys = connection.execute("SELECT fingerprint, ordinal FROM answers").fetchall()
        assert len(keys) == count
        for key in keys:
            query = "SELECT text, raw FROM answers WHERE fingerprint = ? AND ordinal = ?"
            assert connection.execute(query, key).fetchone()
        connection.close()

    bare = min(_cpu_seconds(look_up) for _ in range(3))
    replayed = min(_cpu_seconds(lambda: _in_run(llm, tmp_path, count)) for _ in range(3))

    assert len(provider.requests) == count  # nothing was asked twice
    assert replayed < 12 * bare


def test_the_cost_of_a_call_does_not_grow_with_the_journal(tmp_path: Path) -> None:
    llm = LLM(numbered())
    costs: list[float] = []

    async def main() -> None:
        async with Run("numbers", folder=tmp_path):
            for part in range(6):
                begin = time.process_time()
                await _ask(llm, range(800 * part, 800 * (part + 1)))
                costs.append(time.process_time() - begin)

    asyncio.run(main())

    # The first one also loads what is loaded lazily. A scan would make it 5 times as much.
    assert min(costs[-2:]) < 3 * min(costs[1:3])


def test_a_run_keeps_nothing_of_an_answer_in_memory(tmp_path: Path) -> None:
    llm = LLM(numbered())
    count = 2000
    _in_run(llm, tmp_path, count)
    llm = LLM(numbered())  # the first one's provider remembers its requests
    held = 0

    async def main() -> None:
        nonlocal held
        async with Run("numbers", folder=tmp_path):
            await _ask(llm, range(200))
            before = tracemalloc.get_traced_memory()[0]
            await _ask(llm, range(200, count))
            held = tracemalloc.get_traced_memory()[0] - before

    tracemalloc.start()
    try:
        asyncio.run(main())
    finally:
        tracemalloc.stop()

    # A fingerprint with its count takes 110 bytes; an answer has 3,600 characters.
    assert held < 500 * (count - 200)
