"""Runs share a process: one after another, side by side, and two of one name not at all."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llmflow.cli.main import main
from llmflow.simulator import SimulatorThread
from tests.cli.conftest import Run, listing, rows_of, wait_for, write_rows

pytestmark = pytest.mark.http

Start = Callable[..., SimulatorThread]
ROWS = 20


def words(sim: SimulatorThread, out: str, *more: str) -> list[str]:
    options = ["--prompt", "{text}", "--model", "openai/x", "--base-url", sim.url, "--quiet"]
    return ["run", "in.jsonl", *options, "-o", out, *more]


@contextmanager
def going_on(*arguments: str) -> Iterator[list[Any]]:
    """Run the command in a thread during the block; yields its exit code, once there is one."""
    codes: list[Any] = []

    def target() -> None:
        try:
            main(list(arguments))
        except SystemExit as ended:
            codes.append(ended.code)

    thread = threading.Thread(target=target)
    thread.start()
    try:
        yield codes
    finally:
        thread.join()


def texts(path: str) -> list[str]:
    return sorted(row["response"] for row in rows_of(path))


@pytest.mark.parametrize("mode", ["parallel", "batch"])
def test_a_second_run_is_like_the_first(mode: str, run: Run, simulator: Start) -> None:
    Path("llmflow.toml").write_text("[batch]\npoll = 0.05\n")
    sim, source = simulator(), write_rows("in.jsonl", ROWS)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    config = ["--config", "llmflow.toml", "--mode", mode]
    for name in ("a", "b"):
        assert run(*words(sim, f"{name}.jsonl", "--run", name, *config)).code == 0
    assert texts("a.jsonl") == texts("b.jsonl") == sorted(f"text {n}" for n in range(ROWS))
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert listing() == ["a.jsonl", "b.jsonl", source.name, "llmflow.toml"]


def test_two_runs_go_on_side_by_side(run: Run, simulator: Start) -> None:
    sim = simulator(latency=0.3)
    write_rows("in.jsonl", ROWS)
    with going_on(*words(sim, "a.jsonl", "--run", "a")) as codes:
        assert run(*words(sim, "b.jsonl", "--run", "b")).code == 0
    assert codes == [0]
    assert texts("a.jsonl") == texts("b.jsonl") == sorted(f"text {n}" for n in range(ROWS))


def test_of_two_runs_of_one_name_the_second_is_refused(run: Run, simulator: Start) -> None:
    sim = simulator(latency=0.5)
    write_rows("in.jsonl", ROWS)
    with going_on(*words(sim, "a.jsonl", "--run", "one")) as codes:
        wait_for(lambda: sim.stats().received or codes, "a request")
        refused = run(*words(sim, "b.jsonl", "--run", "one"))
        assert refused.code == 2
        assert "this process is working on the run one" in refused.error
        assert [each for each in listing() if each.startswith("b.")] == []
    assert codes == [0]
    assert texts("a.jsonl") == sorted(f"text {n}" for n in range(ROWS))
    assert listing() == ["a.jsonl", "in.jsonl"]
