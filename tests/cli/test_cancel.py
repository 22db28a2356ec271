"""``llmflow cancel``: nothing is said before it is done, and what is left is asked as a whole."""

from __future__ import annotations

from pathlib import Path
from urllib.request import Request, urlopen

import orjson
import pytest

from llmflow.config import forget_configs
from llmflow.simulator import BatchSettings, SimulatorThread
from tests.cli.conftest import Run, write_rows
from tests.cli.sessions import Start, answers, the_run, words


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("llmflow.toml").write_text("[batch]\npoll = 0.05\nquiet = 0.05\n")
    monkeypatch.setenv("LLMFLOW_CONFIG", "llmflow.toml")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    forget_configs()


def stuck(seconds: float) -> BatchSettings:
    """Return a provider whose first job gets nowhere, and takes its time to be cancelled."""
    return BatchSettings(
        seconds=0.1,
        validation_seconds=0.0,
        finalizing_seconds=0.0,
        cancel_seconds=seconds,
        cancelled_results="drop",
        stuck_jobs=(1,),
        stuck_at=0.0,
    )


def states_at(sim: SimulatorThread) -> list[str]:
    """Return what the provider says of its jobs, the latest first."""
    asked = Request(f"{sim.url}/batches", headers={"authorization": "Bearer sk-test"})
    with urlopen(asked) as reply:
        return [each["status"] for each in orjson.loads(reply.read())["data"]]


def test_a_job_is_told_to_end_even_if_nobody_waits_for_it(run: Run, simulator: Start) -> None:
    sim = simulator(batch=stuck(60.0))
    write_rows("in.jsonl", 10)
    assert run(*words(sim, "--mode", "batch", "--detach")).code == 0
    name = the_run().name
    result = run("cancel", name, "--wait", "0")
    assert result.code == 0
    assert "the provider is still cancelling" in result.err
    assert states_at(sim) == ["cancelling"]


def test_what_a_cancelled_job_leaves_is_gone_on_with_as_one_job(
    run: Run, simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmflow.cli.batching.IN_BATCHES", 4)  # rows that are asked one by one
    sim = simulator(batch=stuck(0.5))
    write_rows("in.jsonl", 10)
    assert run(*words(sim, "--mode", "batch", "--detach")).code == 0
    name = the_run().name
    assert run("cancel", name, "--wait", "0").code == 0
    result = run("resume", name)
    assert result.code == 0, result.err
    assert answers() == [f"text {n}" for n in range(10)]
    assert sim.stats().batches.jobs_created == 2, "the one that was cancelled, and the rest"
    assert sim.stats().batches.rows_billed == 10
