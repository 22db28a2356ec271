"""``llmflow cancel``: nothing is said before it is done, and what is left is asked as a whole."""

from __future__ import annotations

import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import orjson
import pytest

from llmflow.batch.record import JobRecord
from llmflow.cli.batch_jobs import RunJobs
from llmflow.cli.run_task import resume_hint
from llmflow.cli.task import Task
from llmflow.config import forget_configs
from llmflow.errors import InvalidRequestError, JournalError
from llmflow.simulator import BatchSettings, SimulatorThread
from tests.cli.conftest import Run, wait_for, write_rows
from tests.cli.sessions import Process, Start, answers, ended, the_run, words


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
    monkeypatch.setattr("llmflow.cli.batch_jobs.IN_BATCHES", 4)  # rows that are asked one by one
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


def test_a_watch_that_nobody_reads_any_more_ends(
    run: Run, simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asleep(_: float) -> None:
        raise AssertionError("it goes on")

    sim = simulator(batch=stuck(60.0))
    write_rows("in.jsonl", 10)
    assert run(*words(sim, "--mode", "batch", "--detach")).code == 0
    monkeypatch.setattr("time.sleep", asleep)
    monkeypatch.setattr("llmflow.cli.job_commands.write", lambda *_: False)
    assert run("status", the_run().name, "--watch").code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_wait_says_that_the_provider_goes_on(
    number: signal.Signals, process: Process, run: Run, simulator: Start
) -> None:
    sim = simulator(batch=stuck(60.0))
    write_rows("in.jsonl", 10)
    assert run(*words(sim, "--mode", "batch", "--detach")).code == 0
    popen = process("cancel", the_run().name)
    wait_for(lambda: states_at(sim) == ["cancelling"], "the job's end")
    popen.send_signal(number)
    result = ended(popen)
    assert result.code == 128 + number
    assert "the provider keeps cancelling" in result.err
    assert "nothing was written" not in result.err


def test_jobs_that_go_on_are_told_whenever_a_session_is_interrupted(
    run: Run, simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    sim = simulator(batch=stuck(60.0))
    write_rows("in.jsonl", 10)
    assert run(*words(sim, "--mode", "batch", "--detach")).code == 0
    name = the_run().name
    monkeypatch.setattr("llmflow.cli.run_task._checked_total", interrupted)
    result = run("resume", name)
    assert result.code == 130
    assert (
        f"1 batch job is still running at openai: `llmflow resume {name}` collects the answers"
        in result.err
    )
    monkeypatch.setattr("time.sleep", interrupted)
    result = run("status", name, "--watch")
    assert (result.code, result.err) == (
        130,
        "llmflow: interrupted; the batch jobs are still running\n",
    )


def test_jobs_that_go_on_are_told_where_the_budget_is_used_up() -> None:
    record = JobRecord(tag="t", queue="q", provider="openai", model="x", state="created", job="b")
    left: Any = SimpleNamespace(name="poor", totals=SimpleNamespace(answers=0), batch_jobs=[record])
    report: Any = SimpleNamespace(run=SimpleNamespace(reached="usd"), failed=0, items=0)
    task = Task(source="in.jsonl", prompt="{text}", model="openai/x", output="out.jsonl")
    said = resume_hint(left, task, report)
    assert said is not None
    assert said.startswith(
        "1 batch job is still running at openai; to continue, run the same command"
    )


async def test_a_job_that_has_ended_keeps_no_other_from_being_cancelled() -> None:
    asked = []

    class Jobs:
        async def cancel(self, job: str, _: Any) -> None:
            asked.append(job)
            if job != "2":
                raise InvalidRequestError("it has ended", status=409 if job == "1" else 422)

    records = [
        JobRecord(tag=job, queue="q", provider="openai", model="x", state="created", job=job)
        for job in "123"
    ]
    llms: Any = {"q": SimpleNamespace(provider=SimpleNamespace(batch=Jobs()))}
    run: Any = SimpleNamespace(busy=True)
    assert await RunJobs(run=run, jobs=records[:2]).cancel(llms) is None
    assert asked == ["1", "2"]
    assert await RunJobs(run=run, jobs=records).cancel(llms) == "it has ended (HTTP 422)"


def test_a_journal_that_cannot_be_closed_is_told_after_detached_jobs(
    run: Run, simulator: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise JournalError("no room on the disk")

    sim = simulator(batch=stuck(60.0))
    write_rows("in.jsonl", 10)
    monkeypatch.setattr("llmflow.runs.run.Run._close", broken)
    result = run(*words(sim, "--mode", "batch", "--detach"))
    assert result.code == 2
    assert "no room on the disk" in result.err
