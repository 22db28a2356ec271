"""A program that is killed at any moment is run again, and pays at most twice for what was on
its way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from llmflow.runs.catalog import find_run
from llmflow.simulator import Latency, SimulatorProcess, SimulatorSettings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ITEMS = 300
AT_ONCE = 20
# Of the 0.8 s from its first line to its end, if nothing kills it.
SECONDS = 0.3

PROGRAM = f"""
import asyncio, json, sys
from llmflow import LLM, AsyncFlow, AsyncNode, AsyncParallelBatchNode, Run

url, out = sys.argv[1:]
llm = LLM("openai/killed", base_url=url, api_key="sk-x")

class Ask(AsyncParallelBatchNode):
    async def prep_async(self, shared):
        return [f"Summarize: Item {{n}} is here. It stays." for n in range({ITEMS})]
    async def exec_async(self, text):
        return await llm(text)
    async def post_async(self, shared, prep_res, exec_res):
        shared["answers"] = exec_res

async def main():
    shared = {{}}
    print("begun", flush=True)
    async with Run("killed") as run:
        await Ask(concurrency_limit={AT_ONCE}).run_async(shared)
        shared["replayed"] = run.statistics().replayed
    json.dump(shared, open(out, "w"))

asyncio.run(main())
"""


def start(url: str, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url, str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill a program some time after its beginning; return whether that was before its end."""
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "begun\n"
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
    assert process.returncode == 0
    return False


def series(kills: int, seed: int, out: Path) -> None:
    """Kill a program as often, let it end, and look at what it says and what it cost."""
    rng = random.Random(seed)
    settings = SimulatorSettings(latency=Latency(seconds=0.04, spread=0.5))
    with SimulatorProcess(settings) as simulator:
        killed = 0
        for _ in range(kills):
            killed += kill_after(start(simulator.url, out), rng.uniform(0.0, SECONDS))
        process = start(simulator.url, out)
        process.communicate(timeout=60)
        assert process.returncode == 0
        stats = simulator.stats()
    shared = json.loads(out.read_text())
    assert len(shared["answers"]) == ITEMS
    for number, answer in enumerate(shared["answers"]):
        assert answer.startswith(f"Item {number} is here."), answer
    assert killed > 0
    assert stats.answered <= ITEMS + AT_ONCE * killed
    summary = find_run("killed")
    assert (summary.state, summary.totals.answers) == ("complete", ITEMS)
    assert stats.answered >= ITEMS


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_five_moments_all_is_answered_and_hardly_anything_twice(
    seed: int, tmp_path: Path
) -> None:
    series(5, seed, tmp_path / "out.json")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_killed_at_many_moments_all_is_answered_and_hardly_anything_twice(
    seed: int, tmp_path: Path
) -> None:
    series(6, seed, tmp_path / "out.json")


def test_a_killed_run_is_called_interrupted_and_is_free_again(tmp_path: Path) -> None:
    with SimulatorProcess(SimulatorSettings(latency=Latency(seconds=0.2))) as simulator:
        assert kill_after(start(simulator.url, tmp_path / "out.json"), 0.5)
    summary = find_run("killed")
    assert (summary.state, summary.busy) == ("interrupted", False)
