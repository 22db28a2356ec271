"""Batch jobs on the command line: one word more, and a process that need not wait for them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import orjson
import pytest

from llmflow import LLM
from llmflow.cli.batch_jobs import check_batching
from llmflow.cli.task import Task
from llmflow.config import forget_configs
from llmflow.errors import ConfigurationError, JournalError
from llmflow.journal import read_jobs
from llmflow.simulator import BatchSettings, SimulatorThread
from llmflow.testing import ScriptedProvider
from tests.cli.conftest import Run, listing, rows_of, wait_for, write_rows
from tests.cli.sessions import (
    Process,
    Start,
    answers,
    ended,
    report_of,
    runs_folder,
    the_run,
    words,
)

QUICK = {"seconds": 0.2, "validation_seconds": 0.05, "finalizing_seconds": 0.05}
SLOW = QUICK | {"seconds": 60.0, "cancel_seconds": 0.05}
CONFIG = "[batch]\npoll = 0.05\nquiet = 0.3\nrequests = 10\n"


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at jobs often, and make several of a few rows."""
    Path("llmflow.toml").write_text(CONFIG)
    monkeypatch.setenv("LLMFLOW_CONFIG", "llmflow.toml")
    forget_configs()


def serve(simulator: Start, **batch: Any) -> SimulatorThread:
    return simulator(batch=BatchSettings(**(QUICK | batch)))


@contextmanager
def without_batches(sim: SimulatorThread) -> Iterator[str]:
    """Serve what a simulator does, but for files and batches, which this server does not know."""

    class Live(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if not self.path.endswith("/chat/completions"):
                self.send_error(404)
                return
            headers = {"content-type": "application/json", "authorization": "Bearer -"}
            with urlopen(Request(f"{sim.url}/chat/completions", body, headers)) as reply:
                answer = reply.read()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Live) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def texts(count: int) -> list[str]:
    return [f"text {n}" for n in range(count)]


def jobs_at(sim: SimulatorThread) -> int:
    return sim.stats().batches.jobs_created


def states() -> list[str]:
    """Return the states of the jobs as they are written down."""
    folder = runs_folder()
    runs = list(folder.iterdir()) if folder.exists() else []
    return [job["state"] for run in runs if (run / "lock").exists() for job in _jobs(run)]


def _jobs(run: Path) -> list[dict[str, Any]]:
    try:
        return read_jobs(run)
    except JournalError:
        return []  # it is being made


class TestOneWord:
    def test_the_output_is_that_of_parallel_mode(self, run: Run, simulator: Start) -> None:
        sim = serve(simulator)
        write_rows("in.jsonl", 25)
        result = run(*words(sim, "--mode", "batch", "--json"))
        assert result.code == 0, result.err
        report = report_of(result)
        assert (report["answered"], report["run"]["replayed"]) == (25, 0)
        assert (report["run"]["batch_jobs"], report["run"]["batch_rows"]) == (3, 25)
        assert report["input_tokens"] > 0
        assert sim.stats().received == 0, "nothing was asked live"
        assert run(*words(sim, out="live.jsonl")).code == 0
        by_index = [
            sorted(rows_of(name), key=lambda row: int(row["index"]))
            for name in ("out.jsonl", "live.jsonl")
        ]
        assert by_index[0] == by_index[1]

    def test_rows_that_fail_for_good_are_named(self, run: Run, simulator: Start) -> None:
        sim = serve(simulator, error_rows=0.3, row_error="invalid_request")
        write_rows("in.jsonl", 20)
        result = run(*words(sim, "--mode", "batch", "--json"))
        report = report_of(result)
        assert result.code == 1
        assert report["failed"] >= 1
        assert report["answered"] + report["failed"] == 20
        assert len(rows_of("out.failed.jsonl")) == report["failed"]
        jobs = jobs_at(sim)
        again = run(*words(sim, "--mode", "batch", "--retry-failed"))
        assert again.code in (0, 1)
        assert jobs_at(sim) == jobs + 1, "a row that fails again is asked once"

    def test_auto_takes_the_way_that_is_in_time(self, run: Run, simulator: Start) -> None:
        sim = serve(simulator)
        write_rows("in.jsonl", 5)
        assert run(*words(sim, "--mode", "auto", "--deadline", "1h")).code == 0
        assert (jobs_at(sim), sim.stats().received) == (0, 5)

    @pytest.mark.parametrize("mode", ["parallel", "auto"])
    def test_the_rest_of_a_day_s_quota_goes_into_as_few_jobs_as_can_be(
        self, run: Run, simulator: Start, mode: str
    ) -> None:
        sim = simulator(rpd=15, rpm=60_000, batch=BatchSettings(**QUICK))
        write_rows("in.jsonl", 60)
        # With two rows under way at once, and jobs of ten rows.
        options = ("--mode", mode, "--concurrency", "2", "--budget", "5")
        Path("llmflow.toml").write_text(
            CONFIG + "[providers.openai]\nprice = { input = 1, output = 1 }\n"
        )
        forget_configs()
        fallback = ("--fallback", "batch") if mode == "parallel" else ()
        result = run(*words(sim, *options, *fallback))
        assert result.code == 0, result.err
        assert answers() == texts(60)
        bill = sim.stats().batches
        assert (sim.stats().answered, bill.rows_billed, bill.bodies_billed_twice) == (15, 45, 0)
        assert bill.jobs_created <= 6, "and not one for every two rows"
        assert "the daily quota is used up: on in batch jobs" in result.err

    def test_what_is_late_is_asked_in_parallel(self, run: Run, simulator: Start) -> None:
        sim = serve(simulator, **SLOW)
        write_rows("in.jsonl", 12)
        result = run(*words(sim, "--mode", "batch", "--deadline", "4s"))
        assert result.code == 0, result.err
        assert answers() == texts(12)
        assert "the deadline is near (" in result.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mode", "batch", "--no-journal"], "leave out --no-journal"),
        (["--fallback", "batch", "--no-journal"], "--fallback batch needs the run's journal"),
        (["--detach"], "--mode batch"),
        (["--deadline", "6h"], "--deadline is for rows that may go into batch jobs"),
        (["--mode", "parallel", "--fallback", "parallel"], "--fallback parallel is for"),
        (["--mode", "batch", "--fallback", "batch"], "--fallback batch is for"),
        (["--mode", "batch", "--deadline", "soon"], "a time such as '6h'"),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_is_sent(
    options: list[str], said: str, run: Run, simulator: Start
) -> None:
    sim = serve(simulator)
    write_rows("in.jsonl", 2)
    result = run(*words(sim, *options))
    assert result.code == 2
    assert said in result.error
    if "journal" not in said:
        assert run(*words(sim, *options, "--dry-run")).error == result.error
    assert jobs_at(sim) == 0
    assert listing() == ["in.jsonl", "llmflow.toml"]


def test_without_a_batch_api_there_has_to_be_another_way() -> None:
    llm = LLM(ScriptedProvider([]))
    task = Task(source="in.jsonl", prompt="{text}", model="x/y", output="o.jsonl", mode="batch")
    with pytest.raises(ConfigurationError, match="--fallback parallel"):
        check_batching(task, llm, keeps=True)
    check_batching(replace(task, fallback="parallel"), llm, keeps=True)
    check_batching(replace(task, mode="auto"), llm, keeps=True)


def test_where_the_server_has_no_batch_api_the_fallback_asks(run: Run, simulator: Start) -> None:
    sim = simulator()
    write_rows("in.jsonl", 12)
    with without_batches(sim) as url:
        for options in (["--fallback", "parallel"], ["--fallback", "parallel", "--detach"]):
            out = f"out{len(options)}.jsonl"
            result = run(
                *words(sim, "--mode", "batch", *options, out=out), "--base-url", url, "--quiet"
            )
            assert (result.code, result.err) == (0, "")
            assert len(rows_of(out)) == 12
    assert jobs_at(sim) == 0


class TestDetached:
    def test_it_says_what_the_budget_left_out(self, run: Run, simulator: Start) -> None:
        sim = serve(simulator, **SLOW)
        Path("llmflow.toml").write_text(
            CONFIG + "[providers.openai]\nprice = { input = 1, output = 1000 }\n"
        )
        forget_configs()
        write_rows("in.jsonl", 40)
        options = ("--mode", "batch", "--detach", "--budget", "0.5", "--max-tokens", "50")
        result = run(*words(sim, *options))
        assert result.code == 0, result.err
        assert "not all rows are in these jobs, because of the budget" in result.err

    def test_it_leaves_and_another_session_collects(self, run: Run, simulator: Start) -> None:
        sim = serve(simulator)
        write_rows("in.jsonl", 25)
        result = run(*words(sim, "--mode", "batch", "--detach"))
        assert result.code == 0, result.err
        assert "3 batch jobs are still running at openai" in result.err
        name = the_run().name
        assert f"`llmflow resume {name}`" in result.err
        assert listing() == ["in.jsonl", "llmflow.toml"]
        assert "waiting: 3 batch jobs" in run("runs", "show", name).out
        refused = run("runs", "rm", name)
        assert (refused.code, "--force" in refused.err) == (2, True)

        watched = run("status", name, "--watch")
        assert f"run {name}: 3 batch jobs, all ended" in watched.out
        assert "all batch jobs have ended" in watched.err
        assert states() == ["created"] * 3, "to look changes nothing"

        assert run("resume", name).code == 0
        assert answers() == texts(25)
        assert jobs_at(sim) == 3
        assert run("status").err == "no run has batch jobs that are still running\n"

    def test_a_queue_that_is_full_is_told(self, run: Run, simulator: Start) -> None:
        sim = serve(simulator, **SLOW)
        Path("llmflow.toml").write_text(f"{CONFIG}jobs = 1\n")
        forget_configs()
        write_rows("in.jsonl", 25)
        result = run(*words(sim, "--mode", "batch", "--detach"))
        assert result.code == 0, result.err
        assert "1 batch job is still running at openai, 2 wait here to be sent" in result.err
        assert jobs_at(sim) == 1

    def test_cancel_keeps_what_was_answered(self, run: Run, simulator: Start) -> None:
        sim = serve(simulator, **SLOW, stuck_jobs=(1, 2), stuck_at=0.5)
        write_rows("in.jsonl", 20)
        assert run(*words(sim, "--mode", "batch", "--detach")).code == 0
        name = the_run().name
        result = run("cancel", name)
        assert result.code == 0, result.err
        assert "cancelled: " in result.err
        assert states() == ["done", "done"]
        assert run("cancel", name).err == f"no batch job of {name} is still running\n"
        kept = orjson.loads(run("runs", "show", name, "--json").out)["totals"]["answers"]
        result = run(*words(sim, "--mode", "parallel", "--json"))
        assert report_of(result)["requests"] == 20 - kept
        assert answers() == texts(20)


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupted_wait_leaves_the_jobs(
        self, number: signal.Signals, process: Process, simulator: Start
    ) -> None:
        sim = serve(simulator, seconds=1.5)
        write_rows("in.jsonl", 25)
        popen = process(*words(sim, "--mode", "batch"))
        wait_for(lambda: states() == ["created"] * 3, "three jobs")
        popen.send_signal(number)
        result = ended(popen)
        assert result.code == 128 + number
        assert "3 batch jobs are still running at openai: `llmflow resume" in result.err
        assert ended(process("resume", the_run().name)).code == 0
        assert answers() == texts(25)
        assert (jobs_at(sim), sim.stats().batches.rows_billed) == (3, 25)

    def test_a_killed_session_is_gone_on_with(self, process: Process, simulator: Start) -> None:
        sim = serve(simulator, seconds=1.0)
        write_rows("in.jsonl", 25)
        popen = process(*words(sim, "--mode", "batch"))
        wait_for(lambda: jobs_at(sim) >= 2, "two jobs")
        popen.kill()
        popen.wait()
        result = ended(process(*words(sim, "--mode", "batch")))
        assert result.code == 0, result.err
        assert answers() == texts(25)
        assert (jobs_at(sim), sim.stats().batches.rows_billed) == (3, 25)

    def test_cancelled_from_beside_it_stops(
        self, process: Process, run: Run, simulator: Start
    ) -> None:
        sim = serve(simulator, **SLOW)
        write_rows("in.jsonl", 10)
        popen = process(*words(sim, "--mode", "batch"))
        wait_for(lambda: states() == ["created"], "a job")
        name = the_run().name
        assert f"process {popen.pid} is working on it" in run("status", name).err
        assert run("cancel", name).code == 0
        result = ended(popen)
        assert result.code == 3
        assert "was cancelled" in result.err
        assert jobs_at(sim) == 1, "nobody sends again what somebody has cancelled"
