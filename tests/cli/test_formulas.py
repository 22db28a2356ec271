"""``--escape-formulas``, in run and resume."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from llmflow.simulator import SimulatorThread
from tests.cli.conftest import Run, write_rows

pytestmark = pytest.mark.http

Start = Callable[..., SimulatorThread]


def words(sim: SimulatorThread, out: str) -> list[str]:
    options = ["--prompt", "=cmd|{text}", "--model", "openai/x", "--base-url", sim.url]
    return ["run", "in.jsonl", *options, "-o", out]


def responses(path: str) -> set[str]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return {row["response"] for row in csv.DictReader(file)}


def test_answers_are_escaped_and_a_resumed_run_remembers(run: Run, simulator: Start) -> None:
    sim = simulator()
    write_rows("in.jsonl", 3)
    plain = {f"=cmd|text {number}" for number in range(3)}
    assert run(*words(sim, "out.csv")).code == 0
    assert responses("out.csv") == plain
    name = run("runs").out.split("\n")[1].split()[0]
    assert run("resume", name, "--escape-formulas").code == 0
    assert responses("out.csv") == {f"'{text}" for text in plain}
    assert run("resume", name).code == 0
    assert responses("out.csv") == {f"'{text}" for text in plain}
    assert run(*words(sim, "other.csv"), "--escape-formulas").code == 0
    assert responses("other.csv") == {f"'{text}" for text in plain}


@pytest.mark.parametrize("out", ["out.jsonl", "-", "out.parquet", "/dev/stdout"])
def test_an_output_without_cells_is_refused_before_anything_is_asked(
    run: Run, simulator: Start, out: str
) -> None:
    sim = simulator()
    write_rows("in.jsonl", 3)
    result = run(*words(sim, out), "--escape-formulas")
    assert result.code == 2
    assert "escaped in .csv and .tsv only" in result.error
    assert sim.stats().received == 0
