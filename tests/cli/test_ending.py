"""How a run ends: the exit code, the remedy, and that it goes on once the cause is gone."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow.cli.task import Task
from tests.cli.conftest import Run, listing, rows_of, wait_for, write_rows
from tests.cli.sessions import (
    Process,
    Start,
    answers,
    ended,
    port_of,
    report_of,
    resume_command,
    serving,
    the_run,
    words,
    write_texts,
)

KEYS = {
    "model",
    "items",
    "answered",
    "failed",
    "remaining",
    "requests",
    "rejected",
    "input_tokens",
    "output_tokens",
    "cost",
    "seconds",
    "limits",
    "utilisation",
    "bound_by",
    "verdict",
    "output",
    "failures",
    "reasons",
    "stopped_by",
    "cut",
    "empty",
    "reasked",
    "retried",
    "retries",
    "skipped",
    "first_skipped",
    "skipped_empty",
    "run",
}
SLOWLY = ("--concurrency", "1")


class TestStoppedByTheProvider:
    """Exit code 3, what to do in one line, and afterwards only the rest is asked."""

    @pytest.mark.parametrize(
        ("settings", "remedy"),
        [
            ({"credit_requests": 10}, "Add credit"),
            ({"credit_requests": 10, "credit_error": "spend_limit"}, "spend limit"),
            ({"credit_requests": 10, "credit_error": "balance"}, "credit"),
            # With headers its ten a day would be taken for ten a minute, and kept.
            ({"rpd": 10, "quota_headers": "off"}, "Run again after the quota's reset"),
        ],
    )
    @pytest.mark.parametrize("how", ["run", "resume"])
    def test_with_credit_or_another_day_it_goes_on(
        self, how: str, settings: dict[str, Any], remedy: str, process: Process
    ) -> None:
        write_rows("in.jsonl", 25)
        with serving(**settings) as sim:
            command, port = words(sim, *SLOWLY), port_of(sim)
            result = ended(process(*command, "--json"))
            answered = sim.stats().answered
        assert result.code == 3
        assert remedy in result.error
        report = report_of(result)
        assert (report["answered"], report["failed"]) == (answered, 0)
        assert report["remaining"] == 25 - answered > 0
        assert report["output"] == "out.partial.jsonl"
        assert listing() == ["in.jsonl", "out.partial.jsonl"]
        with serving(port) as better:
            again = command if how == "run" else resume_command(result.error)
            assert ended(process(*again)).code == 0
            assert better.stats().received == 25 - answered
        assert answers() == [f"text {n}" for n in range(25)]
        assert listing() == ["in.jsonl", "out.jsonl"]

    def test_a_wrong_key_in_the_middle(
        self, process: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_rows("in.jsonl", 10)
        monkeypatch.setenv("OPENAI_API_KEY", "first-key-0123456789")
        with serving(api_key="first-key-0123456789") as sim:
            command, port = words(sim), port_of(sim)
            assert ended(process(*command, "--limit", "6")).code == 0
        with serving(port, api_key="second-key-0123456789") as sim:
            stopped = ended(process(*command, "--json"))
            assert stopped.code == 3
            assert "Check the API key" in stopped.error
            assert "; to continue, run the same command again, or `llmflow resume" in stopped.error
            assert report_of(stopped)["failed"] == 0
            assert len(rows_of("out.jsonl")) == 6, "what is complete stays until more is complete"
            monkeypatch.setenv("OPENAI_API_KEY", "second-key-0123456789")
            assert ended(process(*command)).code == 0
            assert sim.stats().answered == 4
        assert answers() == [f"text {n}" for n in range(10)]

    def test_what_the_journal_has_more_is_said(self, process: Process) -> None:
        """A session that is stopped at its first row has less in its file than the run has."""
        write_rows("in.jsonl", 10)
        with serving() as sim:
            command, port = words(sim, *SLOWLY), port_of(sim)
            assert ended(process(*command, "--quiet")).code == 0
        write_texts("in.jsonl", ["new", *(f"text {n}" for n in range(10))])
        with serving(port, credit_requests=0):
            result = ended(process(*command))
        assert result.code == 3
        assert "; nothing was written; the run has 10 answers in its journal; " in result.err
        assert "to continue, run the same command again" in result.err
        assert len(rows_of("out.jsonl")) == 10
        with serving(port) as sim:
            assert ended(process(*command)).code == 0
            assert sim.stats().received == 1


class TestExitCodes:
    def test_0_and_the_keys_of_its_report(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 3)
        sim = simulator()
        for replayed in (0, 3):
            result = ended(process(*words(sim), "--json"))
            assert (result.code, result.err) == (0, "")
            report = report_of(result)
            assert set(report) == KEYS
            assert (report["items"], report["remaining"], report["stopped_by"]) == (3, 0, None)
            assert report["run"]["name"] == the_run().name
            assert report["run"]["replayed"] == replayed

    def test_1_and_the_keys_of_its_report(self, process: Process, simulator: Start) -> None:
        write_texts("in.jsonl", ["a", "word " * 300])
        sim = simulator(context_tokens=100)
        for session in range(2):
            result = ended(process(*words(sim), "--json"))
            assert (result.code, result.err) == (1, "")
            report = report_of(result)
            assert set(report) == KEYS
            assert (report["answered"], report["failed"], report["remaining"]) == (1, 1, 0)
            assert report["failures"] == "out.failed.jsonl"
            assert report["reasons"]["ContextLengthError"]["count"] == 1
            assert report["run"]["failed_before"] == session

    def test_2_for_an_option_that_is_wrong(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 1)
        result = ended(process(*words(simulator()), "--drain", "-1"))
        assert result.code == 2
        assert "--drain" in result.error
        assert listing() == ["in.jsonl"]

    @pytest.mark.parametrize("option", ["--budget=0", "--budget=-1", "--budget=free"])
    def test_2_for_a_budget_that_is_none(self, option: str, run: Run) -> None:
        write_rows("in.jsonl", 1)
        for command in (["run", "in.jsonl"], ["resume", "out"]):
            result = run(*command, option)
            assert result.code == 2
            assert "--budget" in result.error

    def test_3_and_143_have_the_same_keys(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 9)
        stopped = ended(process(*words(simulator(credit_requests=4), *SLOWLY), "--json"))
        sim = simulator(latency=0.5)
        popen = process(*words(sim, "--concurrency", "2", out="b.jsonl"), "--json")
        wait_for(lambda: sim.stats().received >= 2, "2 requests")
        popen.send_signal(signal.SIGTERM)
        interrupted = ended(popen)
        assert (stopped.code, interrupted.code) == (3, 143)
        for result in (stopped, interrupted):
            report = report_of(result)
            assert set(report) == KEYS
            assert report["items"] + report["remaining"] == 9
            assert report["stopped_by"]


class TestWhatIsThereAlready:
    def test_a_file_of_somebody_else_is_named_and_replaced_at_the_end_only(
        self, process: Process, simulator: Start
    ) -> None:
        write_rows("in.jsonl", 6)
        Path("out.jsonl").write_text("mine\n")
        sim = simulator(credit_requests=3)
        result = ended(process(*words(sim, *SLOWLY)))
        assert result.code == 3
        assert result.err.startswith(
            "llmflow: out.jsonl exists already: it will be replaced once all rows are done\n"
        )
        assert Path("out.jsonl").read_text() == "mine\n"

    def test_of_its_own_output_it_does_not_warn(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 2)
        sim = simulator()
        for _ in range(2):
            assert "already" not in run(*words(sim)).err


class TestCommands:
    """The command that is shown is the one that was given."""

    def test_numbers_and_switches(self) -> None:
        task = Task(
            source="in.csv",
            prompt="{a}",
            model="sim/demo",
            output="o.csv",
            rpm=1_234_567.0,
            temperature=0.7,
            budget=0.000001,
            limit=3,
            dedupe=True,
        )
        assert task.command() == (
            "llmflow run in.csv --prompt '{a}' --model sim/demo --output o.csv --rpm 1234567 "
            "--temperature 0.7 --limit 3 --budget 1e-06 --dedupe"
        )

    @pytest.mark.parametrize(
        "prompt", ["two  spaces {a}", "it's\n\t{a}", "caf\xe9 {a}", "\\ {a} \\n", "\x1b[31m {a}"]
    )
    def test_a_shell_reads_it_back(self, prompt: str) -> None:
        task = Task(source="a b.csv", prompt=prompt, model="sim/demo", output="o.csv")
        shown = task.command()
        assert shown.isprintable()
        code = "import sys, json; print(json.dumps(sys.argv[1:]))"
        program = shlex.join([sys.executable, "-c", code])
        line = shown.replace("llmflow run", program, 1)
        done = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
        assert orjson.loads(done.stdout)[:3] == ["a b.csv", "--prompt", prompt]
