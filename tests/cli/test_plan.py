"""``llmflow plan``, and ``llmflow run --dry-run``: nothing is sent, and everything is said."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import LLM
from llmflow.limits.learned_limits import LearnedLimit, Remembered, digest, save, state_file
from llmflow.simulator import SimulatorThread
from llmflow.tokens import count_tokens
from tests.cli.conftest import Run, listing, rows_of, write_rows

CONFIG = """
[providers.openai.models."gpt-4.1*"]
price = { input = 1.0, output = 2.0 }

[providers.openai.models."gpt-4.1*".quota]
rpm = 60
rpd = 10
"""
SAY = ("--prompt", "Say: {text}")
# Says how much memory a plan took at its peak. Not by `resource`: what that says, a process
# inherits from the one that started it.
PEAK = """
import sys
from llmflow.cli.main import main
try:
    main(sys.argv[1:])
finally:
    status = open("/proc/self/status").read()
    print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "texts.jsonl", 25)


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("llmflow.toml").write_text(CONFIG)
    monkeypatch.setenv("LLMFLOW_CONFIG", "llmflow.toml")


def planned(run: Run, *arguments: Any) -> dict[str, Any]:
    result = run("plan", *arguments, *SAY, "--json")
    assert (result.code, result.err) == (0, "")
    data: dict[str, Any] = json.loads(result.out)
    return data


def cells(text: str) -> dict[str, list[str]]:
    """Return the cells of a plan's lines, by the first one."""
    rows = [line.strip().split("  ") for line in text.splitlines()[1:]]
    found = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {row[0]: row[1:] for row in found}


class TestWithoutSending:
    def test_neither_a_key_nor_a_request_is_needed(
        self, run: Run, simulator: Callable[..., SimulatorThread], texts: Path
    ) -> None:
        server = simulator()
        model = ("--model", "openai/gpt-4.1-mini")
        assert planned(run, texts, *model)["left"] == 25
        assert planned(run, texts, *model, "--base-url", server.url, "-o", "o.jsonl")["left"] == 25
        assert server.stats().received == 0
        assert listing() == ["texts.jsonl"]

    def test_tokens_are_those_of_the_prompts(self, run: Run, texts: Path) -> None:
        data = planned(run, texts, "--model", "openai/gpt-4.1-mini")
        prompts = [f"Say: {row['text']}" for row in rows_of(texts)]
        expected = sum(7 + count_tokens(each, "gpt-4.1-mini") for each in prompts)
        assert data["input_tokens"]["likely"] == expected

    def test_a_dry_run_shows_the_same(self, run: Run, texts: Path) -> None:
        options = (texts, *SAY, "--model", "sim/demo", "-o", "out.jsonl", "--max-tokens", "20")
        plan, dry = run("plan", *options), run("run", *options, "--dry-run")
        assert (dry.code, dry.out) == (0, plan.out)
        assert listing() == ["texts.jsonl"]

    def test_instructions_can_be_marked_for_the_cache(self, run: Run, texts: Path) -> None:
        marked = ("--system", "Be as brief as you can be. " * 300, "--cache-system", "1h")
        data = planned(run, texts, "--model", "anthropic/claude-sonnet-4-5", *marked)
        assert data["primer"]["usd"] > 0
        assert data["primer"]["chosen"] is False
        Path("llmflow.toml").write_text("[batch]\nprimer = true\n")
        options = ("--config", "llmflow.toml", *marked)
        data = planned(run, texts, "--model", "anthropic/claude-sonnet-4-5", *options)
        assert data["primer"]["chosen"] is True

    def test_rows_may_come_through_a_pipe(
        self, process: Callable[..., subprocess.Popen[bytes]]
    ) -> None:
        popen = process("plan", "-", *SAY, "--model", "sim/demo", "--json", stdin=subprocess.PIPE)
        out, err = popen.communicate(b"one\ntwo\nthree\n", timeout=30)
        assert (popen.returncode, err) == (0, b"")
        assert orjson.loads(out)["left"] == 3


class TestWhatIsSaid:
    def test_each_amount_and_how_it_is_known(self, run: Run, texts: Path, config: None) -> None:
        result = run(
            "plan",
            texts,
            *SAY,
            "--model",
            "openai/gpt-4.1-mini",
            "--max-tokens",
            100,
            "--budget",
            9,
        )
        assert result.code == 0
        found = cells(result.out)
        assert result.out.startswith("plan: ")
        assert found["rows"] == ["25"]
        assert found["left to ask"] == ["25"]
        assert found["output tokens"][0] == "at most 2,500"
        assert "llmflow.toml, line 3" in found["cost"][1]
        assert found["cost"][0].startswith("at most $0.005")
        assert found["time"][0] == "at least 3 days"
        assert "rpd 10 (llmflow.toml, line 7)" in found["time"][1]
        assert found["budget"] == ["$9.00", "covers all rows"]

    def test_prices_have_their_day(self, run: Run, texts: Path) -> None:
        from llmflow.pricing import PRICES_AS_OF

        found = cells(run("plan", texts, *SAY, "--model", "openai/gpt-4.1-mini").out)
        assert f"public prices of {PRICES_AS_OF}" in found["cost"][1]
        assert found["cost in a batch"][0].startswith("about $")

    def test_an_option_takes_the_place_of_its_own_limit(
        self, run: Run, texts: Path, config: None
    ) -> None:
        data = planned(run, texts, "--model", "openai/gpt-4.1-mini", "--rpm", 1)
        origins = {pace["dimension"]: pace["origin"] for pace in data["paces"]}
        assert origins == {"rpm": "--rpm", "rpd": "llmflow.toml, line 7"}

    def test_what_an_earlier_run_has_learned_counts(
        self, run: Run, texts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("LLMFLOW_STATE_DIR", str(tmp_path / "state"))
        provider, path = LLM("openai/gpt-4.1-mini").provider, state_file()
        limit = LearnedLimit(dimension="rpm", limit=50.0, burst_seconds=1.0, estimated=False)
        entry = Remembered(
            provider="openai",
            model="gpt-4.1-mini",
            limits={"rpm": limit},
            times={"rpm": time.time()},
        )
        save(path, {str(digest(provider.domain)): entry})
        from llmflow.limits.registry import forget_limiters

        forget_limiters()
        found = cells(run("plan", texts, *SAY, "--model", "openai/gpt-4.1-mini").out)
        assert found["time"][0] == "at least 30.0 s"
        assert "rpm 50 (learned by an earlier run)" in found["time"][1]

    def test_nothing_in_the_input_acts_on_the_terminal(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "odd.jsonl"
        path.write_bytes(b'{"text": "fine"}\n{"\\u001b[31mred": 1}\n')
        result = run("plan", path, *SAY, "--model", "sim/demo")
        assert "has no field 'text'" in result.out
        assert "\x1b" not in result.out


class TestTheRun:
    def test_what_a_run_has_answered_is_not_counted_again(
        self, run: Run, simulator: Callable[..., SimulatorThread], texts: Path
    ) -> None:
        server = simulator()
        options = (texts, "--model", "sim/demo", "--base-url", server.url, "-o", "out.jsonl")
        assert run("run", *options, *SAY, "--limit", 10, "--quiet").code == 0
        data = planned(run, *options)
        assert (data["answered"], data["left"], data["output"]["basis"]) == (10, 15, "run")
        assert planned(run, texts, "--model", "sim/demo")["run"] is None

    def test_a_sample_is_asked_over_http_and_the_run_does_not_pay_it_again(
        self, run: Run, simulator: Callable[..., SimulatorThread], texts: Path
    ) -> None:
        server = simulator()
        options = (texts, "--model", "sim/demo", "--base-url", server.url, "-o", "out.jsonl")
        data = planned(run, *options, "--sample", 5)
        assert (data["sample"]["new"], data["left"], data["answered"]) == (5, 20, 5)
        assert data["sample"]["seconds"] > 0
        assert server.stats().answered == 5
        assert run("run", *options, *SAY, "--quiet").code == 0
        assert server.stats().answered == 25
        assert len(rows_of("out.jsonl")) == 25

    @pytest.mark.usefixtures("config")
    def test_a_sample_changes_neither_the_command_nor_the_budget_of_its_run(
        self,
        run: Run,
        simulator: Callable[..., SimulatorThread],
        texts: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        server = simulator()
        options = (
            texts,
            *SAY,
            "--model",
            "openai/gpt-4.1-x",
            "--rpm",
            "6k",
            "--base-url",
            server.url,
        )
        options += ("-o", "out.jsonl", "--run", "kept")
        assert run("run", *options, "--budget", "5", "--limit", "6", "--quiet").code == 0
        before = json.loads(run("runs", "show", "kept", "--json").out)
        result = run("plan", *options, "--sample", "3", "--budget", "1", "--max-tokens", "9")
        assert result.code == 0, result.err
        after = json.loads(run("runs", "show", "kept", "--json").out)
        assert server.stats().received == 9
        assert after["about"] == before["about"]
        assert "--budget 5 " in run("runs", "show", "kept").out

    def test_where_the_file_keeps_no_journals_there_is_no_run_to_look_into(
        self, run: Run, simulator: Callable[..., SimulatorThread], texts: Path
    ) -> None:
        Path("off.toml").write_text('[journal]\nstore = "off"\n')
        options = (texts, "--model", "sim/demo", "--base-url", simulator().url, "-o", "o.jsonl")
        data = planned(run, *options, "--config", "off.toml", "--sample", 2)
        assert data["run"] is None
        assert data["sample"]["kept"] is False
        assert data["left"] == 25

    def test_a_sample_needs_a_key(self, run: Run, texts: Path) -> None:
        model = ("--model", "openai/gpt-4.1-mini")
        result = run("plan", texts, *SAY, *model, "--sample", 2)
        assert result.code == 2
        assert "OPENAI_API_KEY" in result.error


class TestWhatIsWrong:
    def test_a_wrong_field_is_found_before_anything_is_read(self, run: Run, texts: Path) -> None:
        result = run("plan", texts, "--prompt", "Say: {txt}", "--model", "sim/demo")
        assert result.code == 2
        assert "did you mean 'text'" in result.error

    def test_a_budget_needs_a_price(self, run: Run, texts: Path) -> None:
        result = run("plan", texts, *SAY, "--model", "openai/my-own", "--budget", 1)
        assert result.code == 2
        assert "needs the price of openai/my-own" in result.error

    def test_a_damaged_journal_is_no_new_run(self, run: Run, texts: Path) -> None:
        from llmflow.runs.catalog import runs_folder

        folder = runs_folder() / "job"
        folder.mkdir(parents=True)
        (folder / "journal.db").write_bytes(b"no database" * 100)
        result = run("plan", texts, *SAY, "--model", "sim/demo", "--run", "job")
        assert result.code == 2
        assert "damaged" in result.error


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="nothing tells the peak")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    peaks = []
    for count in (25_000, 100_000):
        path = write_rows(tmp_path / f"{count}.jsonl", count)
        done = subprocess.run(
            [sys.executable, "-c", PEAK, "plan", path, *SAY, "--model", "openai/gpt-4.1-mini"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert f"{count:,}" in done.stdout
        peaks.append(int(done.stderr) / 1024)
    assert peaks[1] - peaks[0] < 15  # megabytes
