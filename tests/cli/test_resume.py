"""Resume is running again: what was answered is not asked, what is new or changed is."""

from __future__ import annotations

import csv
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from llmflow.simulator import BatchSettings
from tests.cli.conftest import listing, rows_of, wait_for, write_rows
from tests.cli.sessions import (
    Process,
    Start,
    answers,
    ended,
    port_of,
    report_of,
    resume_command,
    runs_folder,
    serving,
    the_run,
    words,
    write_texts,
)

pytestmark = pytest.mark.process

PRICED = """\
[providers.openai]
price = { input = 100, output = 100 }
"""


class TestTheSameCommandAgain:
    def test_it_asks_nothing_and_gives_the_same(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 30)
        sim = simulator()
        assert ended(process(*words(sim))).code == 0
        first = answers()
        result = ended(process(*words(sim), "--json"))
        report = report_of(result)
        assert result.code == 0
        assert (report["answered"], report["requests"], report["remaining"]) == (30, 0, 0)
        assert answers() == first
        assert sim.stats().received == 30
        assert listing() == ["in.jsonl", "out.jsonl"]

    def test_it_goes_on_after_an_interruption(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 60)
        sim = simulator(latency=0.3)
        popen = process(*words(sim, "--concurrency", "10"))
        wait_for(lambda: sim.stats().received >= 15, "15 requests")
        popen.send_signal(signal.SIGINT)
        assert ended(popen).code == 130
        done = sim.stats().answered
        assert 10 <= done < 60
        result = ended(process(*words(sim), "--json"))
        assert result.code == 0
        assert report_of(result)["requests"] == 60 - done
        assert answers() == [f"text {n}" for n in range(60)]
        assert sim.stats().received == 60
        assert listing() == ["in.jsonl", "out.jsonl"]

    def test_only_what_changed_in_the_input_is_asked(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator()
        write_texts("in.jsonl", [f"text {n}" for n in range(20)])
        assert ended(process(*words(sim))).code == 0

        changed = [f"text {n}" for n in range(20)]
        changed[3], changed[7] = "other 3", "other 7"  # two are new
        del changed[15]  # one is gone, and all behind it have another position
        changed += ["added 1", "added 2", "added 3"]
        write_texts("in.jsonl", changed)
        assert ended(process(*words(sim))).code == 0
        assert answers() == changed
        assert sim.stats().received == 20 + 5

        write_texts("in.jsonl", [f"text {n}" for n in range(20)])
        assert ended(process(*words(sim))).code == 0
        assert sim.stats().received == 25, "what was there first is in the journal still"

    def test_a_changed_prompt_is_asked_and_the_old_one_is_not_forgotten(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator()
        write_rows("in.jsonl", 5)
        for prompt, received in (("{text}", 5), ("Say: {text}", 10), ("{text}", 10)):
            assert ended(process(*words(sim, "--prompt", prompt))).code == 0
            assert sim.stats().received == received
        for option in (["--temperature", "0.5"], ["--system", "Be short."], ["--max-tokens", "9"]):
            assert ended(process(*words(sim, *option))).code == 0
        assert sim.stats().received == 25

    def test_equal_rows_keep_an_answer_each(self, process: Process, simulator: Start) -> None:
        sim = simulator()
        write_texts("in.jsonl", ["same"] * 6 + ["other"])
        assert ended(process(*words(sim))).code == 0
        assert sim.stats().received == 7
        write_texts("in.jsonl", ["same"] * 8 + ["other"])
        assert ended(process(*words(sim))).code == 0
        assert sim.stats().received == 9
        assert len(answers()) == 9

    def test_csv_and_parquet_come_again(self, process: Process, simulator: Start) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        sim = simulator()
        write_rows("in.jsonl", 12)
        for _ in range(2):
            assert ended(process(*words(sim, out="out.csv"))).code == 0
            assert ended(process(*words(sim, out="out.parquet"))).code == 0
            with Path("out.csv").open(newline="") as file:
                rows = sorted(csv.DictReader(file), key=lambda row: int(row["index"]))
            table = parquet.read_table("out.parquet").to_pydict()
            assert [row["response"] for row in rows] == [f"text {n}" for n in range(12)]
            assert sorted(table["index"]) == list(range(12))
        assert sim.stats().received == 24

    def test_a_pipe_of_rows_is_matched_by_what_is_in_it(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator()
        for count in (3, 5):
            rows = b"".join(b"text %d\n" % n for n in range(count))
            popen = process(*words(sim, source="-"), stdin=subprocess.PIPE)
            assert ended(popen, rows).code == 0
            assert len(answers()) == count
        assert sim.stats().received == 5


class TestStandardOutput:
    def test_all_rows_are_printed_again(self, process: Process, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 8)
        printed = []
        for _ in range(2):
            result = ended(process(*words(sim, out="-"), "--quiet"))
            assert result.code == 0
            printed.append(sorted(result.out.splitlines()))
        assert printed[0] == printed[1]
        assert len(printed[0]) == 8
        assert sim.stats().received == 8

    def test_another_prompt_is_another_run(self, process: Process, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 2)
        for prompt in ("{text}", "Say: {text}"):
            assert ended(process(*words(sim, "--prompt", prompt, out="-"))).code == 0
        names = [each.name for each in runs_folder().iterdir()]
        assert len(names) == 2
        assert all(name.startswith("stream-") for name in names)

    def test_it_can_be_resumed(self, process: Process, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 4)
        first = ended(process(*words(sim, out="-"), "--quiet"))
        again = ended(process("resume", "stream", "--quiet"))
        assert sorted(again.out.splitlines()) == sorted(first.out.splitlines())
        assert sim.stats().received == 4


class TestResume:
    def test_from_another_folder_it_does_the_same(
        self, process: Process, simulator: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Relative paths, the configuration found upwards, and options mean what they meant."""
        sim = simulator(rpm=6000, burst_seconds=60)
        work, elsewhere = tmp_path / "project" / "work", tmp_path / "elsewhere"
        work.mkdir(parents=True)
        elsewhere.mkdir()
        (tmp_path / "project" / "llmflow.toml").write_text(
            f'[providers.mine]\nkind = "openai"\nbase_url = "{sim.url}"\n'
        )
        (elsewhere / "llmflow.toml").write_text(
            '[providers.mine]\nkind = "openai"\nbase_url = "http://127.0.0.1:9/v1"\n'
        )
        monkeypatch.delenv("LLMFLOW_CONFIG")
        write_rows(work / "in.jsonl", 10)
        command = ["run", "in.jsonl", "--prompt", "{text}", "--model", "mine/x", "-o", "out.jsonl"]
        assert ended(process(*command, "--limit", "6", cwd=work)).code == 0
        write_texts(str(work / "in.jsonl"), [f"text {n}" for n in range(4)] + ["new"])
        result = ended(process("resume", "out-", "--json", cwd=elsewhere))
        assert result.code == 0, result.err
        assert report_of(result)["requests"] == 1
        assert answers(str(work / "out.jsonl"))[4] == "new"
        assert sim.stats().received == 7
        assert sorted(path.name for path in elsewhere.iterdir()) == ["llmflow.toml"]

    def test_no_configuration_stays_none(
        self, process: Process, simulator: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        sim = simulator()
        monkeypatch.delenv("LLMFLOW_CONFIG")
        write_rows("in.jsonl", 3)
        assert ended(process(*words(sim))).code == 0
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "llmflow.toml").write_text("[journal]\nnonsense = 1\n")
        # The list of runs is this folder's matter, and its file is wrong: so it is not read.
        (tmp_path / "elsewhere" / "llmflow.toml").write_text("[providers.openai.quota]\nrpm = 1\n")
        result = ended(process("resume", "out", "--json", cwd=tmp_path / "elsewhere"))
        assert result.code == 0, result.err
        assert "rpm" not in report_of(result)["limits"]

    @pytest.mark.parametrize("by", ["option", "variable"])
    def test_a_named_configuration_is_kept(
        self,
        by: str,
        process: Process,
        simulator: Start,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        sim = simulator()
        Path("mine.toml").write_text(f'[providers.mine]\nkind = "openai"\nbase_url = "{sim.url}"\n')
        monkeypatch.delenv("LLMFLOW_CONFIG")
        write_rows("in.jsonl", 3)
        command = ["run", "in.jsonl", "--prompt", "{text}", "--model", "mine/x", "-o", "out.jsonl"]
        if by == "option":
            command += ["--config", "mine.toml"]
        else:
            monkeypatch.setenv("LLMFLOW_CONFIG", "mine.toml")
        assert ended(process(*command)).code == 0
        monkeypatch.delenv("LLMFLOW_CONFIG", raising=False)
        (tmp_path / "elsewhere").mkdir()
        result = ended(process("resume", "out", cwd=tmp_path / "elsewhere"))
        assert result.code == 0, result.err
        assert sim.stats().received == 3

    def test_an_address_of_the_environment_is_kept(
        self, process: Process, simulator: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sim = simulator()
        write_rows("in.jsonl", 3)
        monkeypatch.setenv("OPENAI_BASE_URL", sim.url)
        command = ["run", "in.jsonl", "--prompt", "{text}", "--model", "openai/x", "-o", "o.jsonl"]
        assert ended(process(*command)).code == 0
        monkeypatch.delenv("OPENAI_BASE_URL")
        assert ended(process("resume", "o-")).code == 0
        assert sim.stats().received == 3

    def test_a_folder_of_texts(self, process: Process, simulator: Start, tmp_path: Path) -> None:
        sim = simulator()
        Path("texts").mkdir()
        for n in range(4):
            Path("texts", f"{n}.txt").write_text(f"text {n}")
        assert ended(process(*words(sim, source="texts"))).code == 0
        Path("texts", "0.txt").write_text("changed")
        (tmp_path / "elsewhere").mkdir()
        assert ended(process("resume", "out", cwd=tmp_path / "elsewhere")).code == 0
        assert answers() == ["changed", "text 1", "text 2", "text 3"]
        assert sim.stats().received == 5

    def test_a_project_keeps_its_runs_with_itself(
        self, process: Process, simulator: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        sim = simulator()
        monkeypatch.delenv("LLMFLOW_CONFIG")
        monkeypatch.delenv("LLMFLOW_JOURNAL_DIR")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        (tmp_path / "llmflow.toml").write_text('[journal]\ndir = "runs"\n')
        write_rows("in.jsonl", 3)
        assert ended(process(*words(sim))).code == 0
        assert len(list((tmp_path / "runs").iterdir())) == 1
        elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
        elsewhere.mkdir()
        assert "there is no run 'out'" in ended(process("resume", "out", cwd=elsewhere)).error
        config = ["--config", str(tmp_path / "llmflow.toml")]
        assert ended(process("resume", "out", *config, cwd=elsewhere)).code == 0
        assert sim.stats().received == 3
        assert not (tmp_path / "state").exists()

    def test_a_pipe_says_what_to_do(self, process: Process, simulator: Start) -> None:
        sim = simulator()
        command = words(sim, "--prompt", "Say:\n{text}", source="-")
        assert ended(process(*command, stdin=subprocess.PIPE), b"one\ntwo\n").code == 0
        result = ended(process("resume", "out"))
        assert result.code == 2
        assert "came through a pipe, which cannot be read again: pipe them into" in result.error
        again = result.error.partition("pipe them into ")[2]
        shell = again.replace("llmflow", f"{shlex.quote(sys.executable)} -m llmflow", 1)
        done = subprocess.run(
            ["bash", "-c", f"printf 'one\\ntwo\\n' | {shell}"], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert sim.stats().received == 2, "the command that is shown is the command that was given"

    def test_a_shells_pipe_is_a_pipe_even_when_it_is_gone(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator()
        shown = shlex.join([sys.executable, "-m", "llmflow", *words(sim, source="@")])
        subprocess.run(
            ["bash", "-c", shown.replace(" @ ", " <(echo one) ")], check=True, capture_output=True
        )
        result = ended(process("resume", "out"))
        assert "came through a pipe" in result.error
        assert "/dev/fd" not in result.error

    def test_an_input_that_is_gone_is_named(self, process: Process, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 2)
        assert ended(process(*words(sim))).code == 0
        before = Path("out.jsonl").read_bytes()
        Path("in.jsonl").unlink()
        result = ended(process("resume", "out"))
        assert result.code == 2
        assert "in.jsonl: there is no such file" in result.error
        assert Path("out.jsonl").read_bytes() == before

    def test_a_run_of_a_program_names_the_program(self, process: Process) -> None:
        code = "import llmflow\nwith llmflow.Run('mine', about={'program': 'sum.py'}): pass\n"
        subprocess.run([sys.executable, "-c", code], check=True)
        result = ended(process("resume", "mine"))
        assert result.code == 2
        assert result.error == "the run mine was started by sum.py: run that again to continue"

    def test_an_unknown_name(self, process: Process, simulator: Start) -> None:
        sim = simulator()
        write_rows("in.jsonl", 1)
        for out in ("good.jsonl", "gone.jsonl"):
            assert ended(process(*words(sim, out=out))).code == 0
        assert "several runs begin with 'go'" in ended(process("resume", "go")).error
        names = {each.name.partition("-")[0]: each.name for each in runs_folder().iterdir()}
        near = names["good"][:-1] + "_"
        assert f"did you mean {names['good']!r}?" in ended(process("resume", near)).error


class TestBudget:
    @pytest.mark.parametrize("more", [(), ("--mode", "batch")])
    def test_a_row_above_the_whole_budget_fails_alone_in_every_session(
        self,
        more: tuple[str, ...],
        process: Process,
        simulator: Start,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sim = simulator(batch=BatchSettings(seconds=0.1))
        Path("llmflow.toml").write_text(PRICED + "[batch]\npoll = 0.1\n")
        monkeypatch.delenv("LLMFLOW_CONFIG")
        write_texts("in.jsonl", ["a", "word " * 20_000, *"bcdefgh"])
        command = words(sim, "--max-tokens", "1", "--budget", "0.1", *more)
        for _ in range(2):
            result = ended(process(*command, "--json"))
            assert result.code == 1, result.err
            report = report_of(result)
            assert (report["answered"], report["failed"], report["remaining"]) == (8, 1, 0)
            assert report["stopped_by"] is None
            reason = report["reasons"]["TooLargeForBudgetError"]
            assert "which is above the whole budget of $0.10" in reason["first"]
            (row,) = rows_of("out.failed.jsonl")
            assert (row["index"], "alone may come to $" in str(row)) == (1, True)
        assert len(rows_of("out.jsonl")) == 8

    def test_it_stops_with_3_and_a_higher_one_goes_on(
        self, process: Process, simulator: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sim = simulator()
        Path("llmflow.toml").write_text(PRICED)
        monkeypatch.delenv("LLMFLOW_CONFIG")
        write_rows("in.jsonl", 60)
        options = ["--concurrency", "5", "--max-tokens", "20"]
        result = ended(process(*words(sim, *options, "--budget", "0.05"), "--json"))
        assert result.code == 3
        report = report_of(result)
        asked = sim.stats().received
        assert 0 < report["answered"] == asked < 60
        assert report["cost"] <= 0.05
        assert "the budget of $0.05 is reached" in result.error
        assert result.error.endswith(" --budget USD`")
        assert not Path("out.jsonl").exists()

        again = ended(process(*words(sim, *options, "--budget", "0.05"), "--json"))
        assert again.code == 3, "what earlier sessions spent counts"
        assert sim.stats().received - asked <= 1
        asked = sim.stats().received

        more = resume_command(result.error)[:-1]
        result = ended(process(*more, "1.5", "--json"))
        assert result.code == 0, result.err
        assert report_of(result)["requests"] == 60 - asked
        assert sim.stats().received == 60
        assert answers() == [f"text {n}" for n in range(60)]
        assert listing() == ["in.jsonl", "llmflow.toml", "out.jsonl"]

    def test_without_a_price_it_is_refused_before_anything_is_asked(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator()
        write_rows("in.jsonl", 3)
        result = ended(process(*words(sim, "--budget", "1")))
        assert result.code == 2
        assert "price" in result.error
        assert sim.stats().received == 0
        assert listing() == ["in.jsonl"]


class TestFailures:
    """Rows that the provider refuses for good: beside the output, each time, asked once."""

    texts = ("text 0", "text 1", "word " * 300, "text 3", "text 4", "text 5")

    @pytest.fixture(autouse=True)
    def one_too_long(self, clean: None) -> None:
        write_texts("in.jsonl", self.texts)

    def test_they_have_their_reason_and_come_again_unasked(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator(context_tokens=100)
        first = ended(process(*words(sim)))
        assert first.code == 1
        assert first.err.splitlines()[-1] == (
            "the same command with --retry-failed retries failed rows"
        )
        (failure,) = rows_of("out.failed.jsonl")
        assert failure["index"] == 2
        error = failure["error"]
        assert (error["type"], error["status"], error["attempts"]) == ("ContextLengthError", 400, 1)
        assert error["request_id"]
        assert "context" in error["message"]

        received = sim.stats().received
        second = ended(process(*words(sim)))
        assert second.code == 1
        assert rows_of("out.failed.jsonl") == [failure]
        assert len(rows_of("out.jsonl")) == 5
        assert sim.stats().received == received == 6
        assert second.err.splitlines()[-1] == (
            "the same command with --retry-failed retries failed rows"
        )

    def test_asked_again_they_may_fail_again(self, process: Process, simulator: Start) -> None:
        sim = simulator(context_tokens=100)
        assert ended(process(*words(sim))).code == 1
        (before,) = rows_of("out.failed.jsonl")
        assert ended(process(*words(sim, "--retry-failed"))).code == 1
        (after,) = rows_of("out.failed.jsonl")
        assert sim.stats().received == 7
        assert after["error"]["request_id"] != before["error"]["request_id"]

    @pytest.mark.parametrize("how", ["run", "resume"])
    def test_answered_then_they_are_gone_from_the_failures(
        self, how: str, process: Process
    ) -> None:
        with serving(context_tokens=100) as sim:
            command, port = words(sim), port_of(sim)
            assert ended(process(*command)).code == 1
        with serving(port) as better:
            command = command if how == "run" else ["resume", "out"]
            result = ended(process(*command, "--retry-failed"))
            assert result.code == 0, result.err
            assert better.stats().received == 1
        assert [text[:5] for text in answers()] == [text[:5] for text in self.texts]
        assert listing() == ["in.jsonl", "out.jsonl"]

    def test_a_row_that_does_not_fit_the_prompt_is_looked_at_again(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator()
        Path("in.jsonl").write_bytes(b'{"text": "a"}\n{"txt": "b"}\n')
        result = ended(process(*words(sim)))
        assert result.code == 1
        assert "--retry-failed" not in result.err
        Path("in.jsonl").write_bytes(b'{"text": "a"}\n{"text": "b"}\n')
        assert ended(process(*words(sim))).code == 0
        assert sim.stats().received == 2
        assert listing() == ["in.jsonl", "out.jsonl"]


class TestFailFast:
    def test_the_first_failure_ends_it_and_the_rest_can_be_resumed(
        self, process: Process, simulator: Start
    ) -> None:
        texts = [f"text {n}" for n in range(40)]
        texts[5] = "word " * 300
        write_texts("in.jsonl", texts)
        sim = simulator(context_tokens=100)
        options = ["--fail-fast", "--concurrency", "2"]
        result = ended(process(*words(sim, *options), "--json"))
        assert result.code == 1
        report = report_of(result)
        assert report["failed"] == 1
        assert report["answered"] + report["failed"] + report["remaining"] == 40
        assert report["remaining"] > 25
        assert re.search(
            "to continue, run the same command again with --retry-failed, or without --fail-fast, "
            "or `llmflow resume out-[0-9a-f]{6} --retry-failed`$",
            result.error,
        )
        asked = sim.stats().received
        again = ended(process(*words(sim, *options)))
        assert again.code == 1
        assert sim.stats().received == asked, "it fails as before, at no cost"
        result = ended(process(*words(sim)))
        assert result.code == 1
        assert sim.stats().received == 40
        assert len(rows_of("out.jsonl")) == 39


def test_without_a_journal_everything_is_asked_again(process: Process, simulator: Start) -> None:
    sim = simulator()
    write_rows("in.jsonl", 5)
    for received in (5, 10):
        assert ended(process(*words(sim, "--no-journal"))).code == 0
        assert sim.stats().received == received
    assert not runs_folder().exists()


def test_a_run_at_temperature_0_is_resumed_at_temperature_0(
    process: Process, simulator: Start
) -> None:
    write_rows("in.jsonl", 3)
    sim = simulator()
    assert ended(process(*words(sim), "--temperature", "0", "--drain", "0")).code == 0
    assert "--temperature 0" in ended(process("runs", "show", the_run().name)).out
    result = ended(process("resume", the_run().name, "--json"))
    assert result.code == 0
    assert report_of(result)["requests"] == 0
    assert sim.stats().received == 3


def test_a_command_that_is_kept_holds_no_session_options(
    process: Process, simulator: Start
) -> None:
    sim = simulator()
    write_rows("in.jsonl", 2)
    assert ended(process(*words(sim, "--retry-failed", "--quiet", "--json"))).code == 0
    shown = ended(process("runs", "show", the_run().name, "--json"))
    task = orjson.loads(shown.out)["about"]["task"]
    assert sorted(task) == ["base_url", "config", "folder", "model", "output", "prompt", "source"]


class TestWithoutJournal:
    # A Parquet file is made of JSON lines, and a link leads to another name.
    @pytest.mark.parametrize("out", ["out.jsonl", "out.parquet", "link.jsonl"])
    def test_what_it_has_paid_for_is_not_overwritten_by_the_next_session(
        self, process: Process, simulator: Start, out: str
    ) -> None:
        if out == "out.parquet":
            pytest.importorskip("pyarrow")
        Path("link.jsonl").symlink_to("out.jsonl")
        write_rows("in.jsonl", 60)
        sim = simulator(latency=0.3)
        answered = 0
        for more in ([], ["--no-journal"], []):
            before = sim.stats().received
            popen = process(*words(sim, "--concurrency", "5", *more, out=out))
            wait_for(lambda start=before: sim.stats().received >= start + 8, "8 requests")
            popen.send_signal(signal.SIGINT)
            assert ended(popen).code == 130
            if more:
                answered = len(rows_of("out.partial.jsonl"))
                kept = {row["index"] for row in rows_of("out.partial.jsonl")}
        assert answered >= 5
        found = [
            {row["index"] for row in rows_of(name)}
            for name in listing()
            if name.startswith("out.partial-")
        ]
        assert kept in found
        assert len(found) == 2, "that of the first session, and that without a journal"
