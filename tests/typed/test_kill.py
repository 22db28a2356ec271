"""A program with typed answers is killed at any moment and run again, in both modes.

Every fifth first answer is wrong. Nothing is lost, every value is right in the end, and what is
paid for twice is at most what was on its way at a kill; in batch jobs nothing is.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmflow.runs.catalog import find_run
from llmflow.simulator import BatchSettings, Latency, SimulatorProcess, SimulatorSettings
from llmflow.simulator.wrong_answer import Mistakes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ITEMS = 200
AT_ONCE = 20
RATE = 0.2
TOKENS = 500
KILLS = 4
# Of the seconds from a program's first line to its end, if nothing kills it.
SECONDS = {"parallel": 0.4, "batch": 0.8}
MODELS = {"openai": "sim/killed", "anthropic": "anthropic/claude-opus-5"}

PROGRAM = f"""
import asyncio, json, sys
from typing import Annotated, Literal
from pydantic import BaseModel, Field
from llmflow import LLM, AsyncParallelBatchNode, Batch, Run

url, model, mode, out = sys.argv[1:]

class Review(BaseModel):
    title: str
    score: Annotated[int, Field(ge=3, le=9)]
    mood: Literal["good", "bad"]

llm = LLM(
    model, base_url=url, api_key="sk-x", output_type=Review, max_tokens={TOKENS},
    batch=Batch(quiet=0.05, poll=0.05, few=0),
)

class Ask(AsyncParallelBatchNode):
    async def prep_async(self, shared):
        return [f"Item {{n}} is here." for n in range({ITEMS})]
    async def exec_async(self, text):
        return (await llm(text)).model_dump()
    async def post_async(self, shared, prep_res, exec_res):
        shared["answers"] = exec_res

async def main():
    shared = {{}}
    print("begun", flush=True)
    limit = {AT_ONCE} if mode == "parallel" else None
    async with Run("killed", mode=mode) as run:
        await Ask(concurrency_limit=limit).run_async(shared)
    json.dump(shared, open(out, "w"))

asyncio.run(main())
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
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


SETTINGS = SimulatorSettings(
    latency=Latency(seconds=0.04, spread=0.5),
    batch=BatchSettings(seconds=0.3, validation_seconds=0.05, finalizing_seconds=0.05),
    invalid_answer_rate=RATE,
)


def expected_wrong(items: int) -> int:
    """Return how many of the items are answered wrongly at first."""
    mistakes = Mistakes(RATE, seed=0)
    kinds = (mistakes.kind(f"Item {n} is here.", max_tokens=TOKENS) for n in range(items))
    return sum(kind is not None for kind in kinds)


@pytest.mark.parametrize("mode", ["parallel", "batch"])
@pytest.mark.parametrize("dialect", MODELS)
def test_killed_again_and_again_all_is_answered_rightly(
    dialect: str, mode: str, tmp_path: Path
) -> None:
    chance = random.Random(f"{dialect} {mode}")
    out, wrong = tmp_path / "out.json", expected_wrong(ITEMS)
    with SimulatorProcess(SETTINGS) as sim:
        url = sim.root_url if dialect == "anthropic" else sim.url
        asked = (url, MODELS[dialect], mode, str(out))
        killed = 0
        for _ in range(KILLS):
            killed += kill_after(start(*asked), chance.uniform(0.0, SECONDS[mode]))
        process = start(*asked)
        process.communicate(timeout=90)
        assert process.returncode == 0
        stats = sim.stats()
    answers: list[Any] = json.loads(out.read_text())["answers"]
    assert answers == [
        {"title": f"Item {n} is here.", "score": 3, "mood": "good"} for n in range(ITEMS)
    ]
    assert killed >= 2
    summary = find_run("killed")
    assert (summary.state, summary.totals.failures) == ("complete", 0)
    paid, needed = stats.answered + stats.batches.rows_billed, ITEMS + wrong
    assert 20 < wrong < 60
    if mode == "batch":
        assert (paid, stats.batches.rows_invalid, stats.answered) == (needed, wrong, 0)
        assert stats.batches.bodies_billed_twice == 0
    else:
        assert needed <= paid <= needed + AT_ONCE * killed


ROWS = 300
COMMAND = (
    *("run", "in.jsonl", "--prompt", "{text}", "-o", "out.jsonl"),
    *("--schema", "title: str, mood: good|bad, score: int, when: date?"),
    *("--max-tokens", str(TOKENS), "--concurrency", str(AT_ONCE)),
)


@pytest.mark.parametrize("mode", ["parallel", "batch"])
@pytest.mark.parametrize("dialect", MODELS)
def test_a_command_that_is_killed_writes_all_columns_in_the_end(
    dialect: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chance, texts = random.Random(f"{dialect} {mode}"), [f"Item {n} is here." for n in range(ROWS)]
    Path("in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    Path("llmflow.toml").write_text("[batch]\npoll = 0.05\nquiet = 0.2\n")
    environment = {**os.environ, "LLMFLOW_CONFIG": "llmflow.toml", "ANTHROPIC_API_KEY": "sk-x"}
    with SimulatorProcess(SETTINGS) as sim:
        url = sim.root_url if dialect == "anthropic" else sim.url
        asked = ("--model", MODELS[dialect], "--base-url", url, "--mode", mode)
        command = [sys.executable, "-m", "llmflow", *COMMAND, *asked, "--quiet"]
        killed = 0
        for _ in range(KILLS):
            process = subprocess.Popen(command, env=environment)
            try:
                assert process.wait(timeout=chance.uniform(0.8, 1.8)) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
        subprocess.run(command, env=environment, check=True, timeout=90)
        stats = sim.stats()
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    values = {"mood": "good", "score": 0, "when": "2026-01-31"}
    rows.sort(key=lambda row: row["index"])
    made = [{name: row[name] for name in ("title", *values)} for row in rows]
    assert made == [{"title": text, **values} for text in texts]
    assert killed >= 1
    wrong = expected_wrong(ROWS)
    paid, needed = stats.answered + stats.batches.rows_billed, ROWS + wrong
    if mode == "batch":
        assert (paid, stats.batches.bodies_billed_twice) == (needed, 0)
    else:
        assert needed <= paid <= needed + AT_ONCE * killed
