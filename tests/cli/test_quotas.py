"""``llmflow quotas``: what is configured, what was learned, what a run would begin with."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import LLM
from llmflow.limits.learned_limits import LearnedLimit, Remembered, digest, load, save, state_file
from llmflow.simulator import SimulatorThread
from tests.cli.conftest import Run, write_rows

CONFIG = """
[providers.openai.quota]
rpm = 500
max_concurrent = 40

[providers.openai.models."gpt-4.1*".quota]
tpm = "2M"
"""


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LLMFLOW_STATE_DIR", str(tmp_path / "state"))
    found = state_file()
    assert found is not None
    return found


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("llmflow.toml").write_text(CONFIG)
    monkeypatch.setenv("LLMFLOW_CONFIG", "llmflow.toml")


def remember(path: Path, model: str, ago: float = 0.0, **limits: float) -> None:
    """Leave what a run of this model would have learned, with the key that is set."""
    at, provider = time.time() - ago, LLM(model).provider
    learned = {
        name: LearnedLimit(dimension=name, limit=limit, burst_seconds=0.5, estimated=False)
        for name, limit in limits.items()
    }
    entry = Remembered(
        provider=provider.name,
        model=provider.model,
        limits=learned,
        times=dict.fromkeys(learned, at),
    )
    save(path, {str(digest(provider.domain)): entry})


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of the lines of a plain table, by their first."""
    lines = (line.split("  ") for line in text.splitlines() if line.startswith("  "))
    cells = ([cell.strip() for cell in line if cell.strip()] for line in lines)
    return {line[0]: line[1:] for line in cells}


class TestWhatIsShown:
    def test_nothing_is_known_at_first(self, run: Run) -> None:
        result = run("quotas")
        assert result.code == 0
        assert "no limit is configured, and none was learned" in result.out

    def test_what_is_configured_and_by_which_line(self, run: Run, config: None) -> None:
        out = run("quotas").out
        assert "openai/*" in out
        assert rows(out)["tpm"] == ["2,000,000 (llmflow.toml, line 7)", "-", "2,000,000", "1 s"]
        assert rows(out)["in flight"] == ["40", "-", "40", "-"]

    def test_what_was_learned_and_when(self, run: Run, state: Path) -> None:
        remember(state, "openai/any", ago=3725, rpm=600)
        found = rows(run("quotas").out)
        assert found["rpm"] == ["-", "600, named 1 h 2 min ago", "600", "0.5 s"]

    def test_a_configured_limit_is_a_ceiling(self, run: Run, state: Path, config: None) -> None:
        remember(state, "openai/any", rpm=900)
        found = rows(run("quotas", "--model", "openai/any").out)
        assert found["rpm"][0].startswith("500")
        assert found["rpm"][1].startswith("900")
        assert found["rpm"][2] == "500"

    def test_an_option_counts_as_it_does_for_a_run(self, run: Run, config: None) -> None:
        found = rows(run("quotas", "--model", "openai/any", "--rpm", "50").out)
        assert found["rpm"][:3] == ["50 (--rpm)", "-", "50"]

    def test_a_model_without_a_limit_says_so(self, run: Run) -> None:
        out = run("quotas", "--model", "openai/any").out
        assert "no limit is known" in out
        assert rows(out)["in flight"][2].startswith("10 at first")

    def test_another_key_is_told_apart(
        self, run: Run, state: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remember(state, "openai/any", rpm=600)
        monkeypatch.setenv("OPENAI_API_KEY", "another")
        out = run("quotas", "--model", "openai/any").out
        assert "openai/any (another key or address)" in out
        assert "no limit is known" in out

    def test_models_of_one_class_have_one_quota(self, run: Run, state: Path) -> None:
        remember(state, "anthropic/claude-sonnet-4-5", itpm=30_000)
        out = run("quotas", "--model", "anthropic/claude-sonnet-4-5-20250929").out
        assert rows(out)["itpm"][2] == "30,000"

    def test_json_has_it_all(self, run: Run, state: Path, config: None) -> None:
        remember(state, "openai/gpt-4.1-mini", rpm=400)
        result = run("quotas", "--model", "openai/gpt-4.1-mini", "--json")
        data = orjson.loads(result.out)
        (model,) = data["models"]
        rpm = model["dimensions"]["rpm"]
        assert data["file"].endswith("limits.json")
        assert (rpm["configured"], rpm["learned"], rpm["effective"]) == (500, 400, 400)
        assert rpm["estimated"] is False
        assert rpm["burst_seconds"] == 0.5
        assert model["reply"] is None

    def test_a_terminal_gets_a_table(
        self, run: Run, config: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True, raising=False)
        out = run("quotas").out
        assert "burst window" in out
        assert "┃" in out or "│" in out

    def test_a_closed_output_is_no_obstacle(
        self, run: Run, config: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stdout", None)
        assert run("quotas").code == 0

    def test_a_name_from_the_file_cannot_act_on_the_terminal(self, run: Run, state: Path) -> None:
        remember(state, "openai/\x1b[31mred", rpm=600)
        out = run("quotas").out
        assert "red" in out
        assert "\x1b" not in out

    def test_a_provider_that_is_gone_is_no_obstacle(self, run: Run, state: Path) -> None:
        limit = LearnedLimit(dimension="rpm", limit=60, burst_seconds=1, estimated=True)
        times = {"rpm": time.time()}
        entry = Remembered(provider="sim", model="", limits={"rpm": limit}, times=times)
        save(state, {"a": entry})
        result = run("quotas")
        assert result.code == 0
        assert "found by trying" in result.out

    def test_without_a_memory_it_says_so(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LLMFLOW_STATE_DIR", "off")
        assert "LLMFLOW_STATE_DIR is off" in run("quotas").out


class TestProbe:
    def test_it_asks_once_and_shows_what_the_reply_names(
        self, run: Run, simulator: Callable[..., SimulatorThread]
    ) -> None:
        server = simulator(rpm=600, burst_seconds=1)
        result = run("quotas", "--model", "openai/any", "--base-url", server.url, "--probe")
        assert result.code == 0
        assert "the reply names rpm 600, 9 left" in result.out
        assert rows(result.out)["rpm"][2] == "600"
        assert server.stats().received == 1

    def test_a_server_without_headers_names_nothing(
        self, run: Run, simulator: Callable[..., SimulatorThread]
    ) -> None:
        server = simulator(rpm=600, quota_headers="off")
        result = run("quotas", "--model", "openai/any", "--base-url", server.url, "--probe")
        assert result.code == 0
        assert "the reply names no limit" in result.out

    def test_a_failure_is_one_line(self, run: Run) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
            result = run("quotas", "--model", "openai/any", "--base-url", url, "--probe")
        assert result.code == 2
        assert "cannot connect" in result.error
        assert "the reply names" not in result.out

    def test_a_missing_key_is_told(self, run: Run) -> None:
        result = run("quotas", "--model", "openai/any", "--probe")
        assert result.code == 2
        assert "OPENAI_API_KEY" in result.error

    def test_what_is_on_this_machine_is_not_remembered(
        self, run: Run, state: Path, simulator: Callable[..., SimulatorThread]
    ) -> None:
        url = simulator(rpm=600).url
        run("quotas", "--model", "openai/any", "--base-url", url, "--probe")
        assert not state.exists()

    @pytest.mark.parametrize("option", ["--probe", "--rpm=5", "--tpm=5", "--base-url=http://a/v1"])
    def test_it_needs_a_model(self, run: Run, option: str) -> None:
        result = run("quotas", option)
        assert result.code == 2
        assert "needs --model" in result.error


class TestForget:
    def test_all(self, run: Run, state: Path) -> None:
        remember(state, "openai/one", rpm=600)
        remember(state, "openai/two", rpm=600)
        assert run("quotas", "--forget").out == "forgot the limits of 2 models\n"
        assert not state.exists()
        assert run("quotas", "--forget").out == "forgot the limits of 0 models\n"

    def test_one_model(self, run: Run, state: Path) -> None:
        remember(state, "openai/one", rpm=600)
        remember(state, "openai/two", rpm=600)
        assert run("quotas", "--forget", "--model", "openai/one", "--json").out == (
            '{"forgotten":1}\n'
        )
        assert [each.model for each in load(state).values()] == ["two"]

    def test_a_broken_file_goes_as_well(self, run: Run, state: Path) -> None:
        state.parent.mkdir()
        state.write_text("{")
        assert run("quotas", "--forget").code == 0
        assert not state.exists()

    def test_a_file_that_stays_is_told(self, run: Run, state: Path) -> None:
        state.mkdir(parents=True)
        result = run("quotas", "--forget")
        assert result.code == 2
        assert "cannot be changed" in result.error


def own_address() -> str:
    """Return an address of this machine that is not the loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine is in no network")
        return str(any_socket.getsockname()[0])


class TestRuns:
    def test_the_second_begins_where_the_first_ended(
        self, process: Any, simulator: Callable[..., SimulatorThread], run: Run
    ) -> None:
        server = simulator(rpm=6000, burst_seconds=1, host="0.0.0.0")
        url = server.url.replace("0.0.0.0", own_address()).replace("127.0.0.1", own_address())
        write_rows("in.jsonl", 30)
        arguments = ["run", "in.jsonl", "--prompt", "{text}", "--model", "openai/any"]
        arguments += ["--base-url", url, "-o", "out.jsonl", "--json"]
        first = process(*arguments)
        report = orjson.loads(first.communicate()[0])
        assert (first.returncode, report["limits"]) == (0, {"rpm": 6000.0})
        found = rows(run("quotas", "--model", "openai/any", "--base-url", url).out)
        assert found["rpm"][1].startswith("6,000, named")
        assert found["rpm"][2] == "6,000"

    def test_the_report_says_what_bounded_the_run(
        self, simulator: Callable[..., SimulatorThread], run: Run
    ) -> None:
        server = simulator(rpm=600, burst_seconds=1)
        write_rows("in.jsonl", 45)
        arguments = ["run", "in.jsonl", "--prompt", "{text}", "--model", "openai/any"]
        arguments += ["--base-url", server.url, "--rpm", "600", "-o", "out.jsonl", "--json"]
        report = orjson.loads(run(*arguments).out)
        assert report["verdict"].startswith("limited by rpm")
        assert report["bound_by"]["rpm"] > 0.5
