"""``llmflow runs``: what there is, what it holds, and away with it; and what is never in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.cli.conftest import Run, wait_for, write_rows
from tests.cli.sessions import (
    Process,
    Start,
    ended,
    journal_of,
    runs_folder,
    the_run,
    words,
)

KEY = "my-own-key-0123456789abcdef"


@pytest.fixture
def three(process: Process, simulator: Start) -> list[str]:
    """Three runs: a complete one, one with a failure, one of a program; the last one first."""
    write_rows("in.jsonl", 3)
    sim = simulator(credit_requests=3)
    assert ended(process(*words(sim, "--run", "complete-one"))).code == 0
    assert ended(process(*words(sim, "--run", "stopped-one", out="b.jsonl"))).code == 3
    code = "import llmflow\nwith llmflow.Run('program', about={'program': 'sum.py'}): pass\n"
    subprocess.run([sys.executable, "-c", code], check=True)
    return ["program", "stopped-one", "complete-one"]


class TestList:
    def test_nothing(self, run: Run) -> None:
        result = run("runs")
        assert (result.code, result.out) == (0, "")
        assert result.err == f"there are no runs in {runs_folder()}\n"
        assert (run("runs", "--json").out, run("runs", "--json").code) == ("", 0)

    def test_the_table(self, run: Run, three: list[str]) -> None:
        result = run("runs")
        assert (result.code, result.err) == (0, "")
        head, *lines = result.out.splitlines()
        assert head.split() == ["run", "state", "answers", "failed", "cost", "last", "used", "what"]
        assert [line.split()[0] for line in lines] == three
        assert lines[2].split()[1:4] == ["complete", "3", "0"]
        assert lines[1].split()[1:4] == ["stopped", "0", "0"]
        assert lines[2].endswith(f"openai/x -> {Path('out.jsonl').absolute()}")
        assert lines[0].endswith("sum.py")

    def test_json_is_an_object_for_each(self, run: Run, three: list[str]) -> None:
        rows = [orjson.loads(line) for line in run("runs", "--json").out.splitlines()]
        assert [row["name"] for row in rows] == three
        assert rows[2]["totals"]["answers"] == 3
        assert rows[2]["state"] == "complete"
        assert rows[1]["reason"].startswith("openai/x: ")
        assert rows[2]["about"]["task"]["prompt"] == "{text}"


class TestShow:
    def test_what_it_was_told_and_what_it_holds(
        self, run: Run, process: Process, three: list[str]
    ) -> None:
        result = run("runs", "show", "complete")
        assert result.code == 0
        facts = dict(line.split(":", 1) for line in result.out.splitlines())
        assert facts["run"].strip() == "complete-one"
        assert facts["answers"].strip() == "3"
        assert facts["folder"].strip() == str(Path.cwd())
        assert facts["command"].strip().startswith("llmflow run ")
        assert "resume" not in facts
        stopped = run("runs", "show", "stopped").out
        assert "state:      stopped: openai/x: " in stopped
        assert "resume:     llmflow resume stopped-one" in stopped

    def test_json(self, run: Run, three: list[str]) -> None:
        assert orjson.loads(run("runs", "show", "program", "--json").out)["name"] == "program"

    def test_an_unknown_one_has_a_suggestion(self, run: Run, three: list[str]) -> None:
        assert "did you mean 'stopped-one'?" in run("runs", "show", "stoped-one").error
        assert "`llmflow runs` lists them" in run("runs", "show", "zzz").error


class TestRemove:
    def test_several_go_and_outputs_stay(self, run: Run, three: list[str]) -> None:
        result = run("runs", "rm", "complete-one", "program", "program")
        assert result.code == 0
        assert result.err.splitlines() == ["removed complete-one", "removed program"]
        assert [each.name for each in runs_folder().iterdir()] == ["stopped-one"]
        assert Path("out.jsonl").exists()

    def test_one_wrong_name_and_none_goes(self, run: Run, three: list[str]) -> None:
        assert "did you mean 'program'?" in run("runs", "rm", "complete-one", "progam").error
        assert "is only the beginning of program" in run("runs", "rm", "complete-one", "pro").error
        assert len(list(runs_folder().iterdir())) == 3

    def test_a_busy_one_stays(self, run: Run, process: Process, simulator: Start) -> None:
        sim = simulator(latency=1.0)
        write_rows("in.jsonl", 2)
        popen = process(*words(sim), "--quiet")
        wait_for(lambda: sim.stats().received == 2, "2 requests")
        name = the_run().name
        assert f"process {popen.pid} is working on {name}" in run("runs", "rm", name).error
        assert f"running (process {popen.pid})" in run("runs", "show", name).out
        assert ended(popen).code == 0
        assert run("runs", "rm", name).code == 0

    def test_a_damaged_one_can_be_seen_and_removed(self, run: Run, three: list[str]) -> None:
        journal_of(runs_folder() / "complete-one").write_bytes(b"nonsense" * 1000)
        lines = run("runs").out.splitlines()
        assert any(line.split()[:2] == ["complete-one", "unreadable"] for line in lines)
        assert "is damaged" in run("runs", "show", "complete-one").out
        assert run("runs", "rm", "complete-one").code == 0
        assert not (runs_folder() / "complete-one").exists()


class TestNames:
    @pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "-x", "a b", "x" * 101, "ä"])
    def test_an_odd_name_is_refused_before_anything_is_asked(
        self, name: str, run: Run, simulator: Start
    ) -> None:
        sim = simulator()
        write_rows("in.jsonl", 2)
        result = run(*words(sim), f"--run={name}")
        assert result.code == 2
        assert "a run's name has at most 100 letters" in result.error
        assert sim.stats().received == 0
        assert not runs_folder().exists()

    def test_a_name_joins_outputs_into_one_run(self, run: Run, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 4)
        for out in ("a.jsonl", "b.csv"):
            assert run(*words(sim, out=out), "--run", "mine").code == 0
        assert sim.stats().received == 4
        assert the_run().name == "mine"


HOSTILE = "\x1b]0;owned\x07 {text} \x9b31m \u202e\nllmflow: all is well"


class TestHostileTexts:
    @pytest.mark.parametrize("command", [("runs",), ("runs", "show", "mine"), ("resume", "mine")])
    def test_what_is_stored_cannot_act_on_the_terminal(
        self, command: tuple[str, ...], run: Run
    ) -> None:
        about = {
            "kind": "command",
            "model": HOSTILE,
            "program": HOSTILE,
            "task": {
                "source": "-",
                "prompt": HOSTILE,
                "model": HOSTILE,
                "output": HOSTILE,
                "folder": HOSTILE,
            },
        }
        self.store(about)
        self.check(run(*command))

    @pytest.mark.parametrize("command", [("runs",), ("runs", "show", "mine"), ("resume", "mine")])
    @pytest.mark.parametrize(
        "task", [None, 3, [], {}, {"source": 1}, {"source": "-", HOSTILE: 1}, {"output": HOSTILE}]
    )
    def test_what_makes_no_sense_is_no_crash(
        self, task: object, command: tuple[str, ...], run: Run
    ) -> None:
        self.store({"kind": HOSTILE, "program": HOSTILE, "task": task})
        self.check(run(*command))

    def store(self, about: dict[str, object]) -> None:
        from llmflow import Run as PythonRun

        with PythonRun("mine", about=about):
            pass

    def check(self, result: object) -> None:
        text = f"{getattr(result, 'out')}{getattr(result, 'err')}"  # noqa: B009
        assert text
        assert all(letter.isprintable() or letter == "\n" for letter in text)
        assert not any(line.startswith("llmflow: all is well") for line in text.splitlines())
        assert "Traceback" not in text


class TestSecrets:
    def test_no_key_is_anywhere(
        self, process: Process, simulator: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        sim = simulator(api_key=KEY, context_tokens=100)
        rows = [{"text": "a"}, {"text": "word " * 300}, {"txt": "b"}]
        Path("in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
        said = ""
        for command in (
            words(sim),
            words(sim, "--retry-failed"),
            words(sim, "--json", out="-"),
            ["runs"],
            ["runs", "--json"],
            ["runs", "show", "out"],
            ["runs", "show", "out", "--json"],
            ["resume", "out"],
        ):
            result = ended(process(*command))
            said += result.out + result.err
        monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}-wrong")
        result = ended(process(*words(sim, "--prompt", "Again: {text}")))
        assert result.code == 3
        assert KEY not in said + result.out + result.err
        for folder in (Path(), runs_folder()):
            for path in folder.rglob("*"):
                assert path.is_dir() or KEY.encode() not in path.read_bytes(), path

    def test_an_address_with_a_password_is_not_kept(self, run: Run) -> None:
        write_rows("in.jsonl", 1)
        result = run(
            *("run", "in.jsonl", "--prompt", "{text}", "--model", "openai/x", "-o", "o.jsonl"),
            *("--base-url", "http://me:hunter2@127.0.0.1:9/v1"),
        )
        assert result.code == 2
        assert "hunter2" not in result.err
        assert not runs_folder().exists()

    def test_files_are_the_owners_only(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 1)
        assert run(*words(simulator())).code == 0
        assert the_run().stat().st_mode & 0o077 == 0
        for path in the_run().iterdir():
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_run_whose_process_died_counts_as_interrupted(
    run: Run, process: Process, simulator: Start
) -> None:
    sim = simulator(latency=0.2)
    write_rows("in.jsonl", 50)
    popen = process(*words(sim, "--concurrency", "5"), "--quiet")
    wait_for(lambda: sim.stats().answered >= 5, "5 answers")
    popen.kill()
    popen.wait()
    name = the_run().name
    shown = run("runs", "show", name).out
    assert "state:      interrupted" in shown
    assert f"resume:     llmflow resume {name}" in shown
    assert run("runs").out.splitlines()[1].split()[1] == "interrupted"
