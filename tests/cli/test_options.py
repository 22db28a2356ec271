"""Options as people type them: short names, prompt files, provider options, groups, completion."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from llmflow.cli.main import cli
from llmflow.cli.options import provider_options
from llmflow.simulator import SimulatorThread
from tests.cli.conftest import Run, rows_of, write_rows

pytestmark = pytest.mark.every_python

Start = Callable[..., SimulatorThread]


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")


class TestShortNames:
    @pytest.mark.usefixtures("key")
    def test_p_and_m_are_prompt_and_model(self, run: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 2)
        result = run(
            "run", "in.jsonl", "-p", "Say {text}", "-m", "openai/x", "-o", "out.jsonl",
            "--base-url", simulator().url,
        )  # fmt: skip
        assert result.code == 0
        assert len(rows_of("out.jsonl")) == 2

    def test_a_mistyped_command_is_answered_with_the_nearest_one(self, run: Run) -> None:
        assert run("rnu").error == "No such command 'rnu'. Did you mean 'run'? See llmflow --help"
        assert run("resmue").error.startswith("No such command 'resmue'. Did you mean 'resume'?")

    def test_a_word_like_no_command_gets_no_guess(self, run: Run) -> None:
        assert run("xyzzy").error == "No such command 'xyzzy'; see llmflow --help"


class TestPromptFiles:
    @pytest.mark.usefixtures("key")
    def test_a_prompt_comes_from_a_file_and_is_resumed_without_it(
        self, run: Run, simulator: Start
    ) -> None:
        write_rows("in.jsonl", 1)
        Path("prompt.txt").write_text("Say:\n{text}\n", "utf-8-sig")
        sim = simulator()
        words = ("run", "in.jsonl", "-m", "openai/x", "-o", "out.jsonl", "--base-url", sim.url)
        assert run(*words, "--prompt-file", "prompt.txt", "--run", "filed").code == 0
        answer = rows_of("out.jsonl")[0]["response"]
        assert answer.startswith("Say:\n")
        Path("prompt.txt").unlink()
        assert run("resume", "filed").code == 0
        assert rows_of("out.jsonl")[0]["response"] == answer
        assert sim.stats().received == 1

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("-p", "a {text}", "--prompt-file", "there.txt"), "both given"),
            (("--prompt-file", "gone.txt"), "cannot read 'gone.txt': no such file or directory"),
            (("--prompt-file", "."), "is a directory"),
            (("--prompt-file", "empty.txt"), "'empty.txt' is empty"),
            (("--prompt-file", "bytes.txt"), "'bytes.txt' is not UTF-8 text"),
            ((), "Missing option '--prompt' (or '--prompt-file')"),
        ],
    )
    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_a_wrong_prompt_file_is_one_line(
        self, run: Run, command: str, options: tuple[str, ...], message: str
    ) -> None:
        write_rows("in.jsonl", 1)
        Path("there.txt").write_text("{text}")
        Path("empty.txt").write_text(" \n")
        Path("bytes.txt").write_bytes(b"\xff\xfe{text}")
        result = run(command, "in.jsonl", "-m", "sim/demo", "-o", "out.jsonl", *options)
        assert result.code == 2
        assert message in result.error


class TestProviderOptions:
    def test_json_values_are_read_as_json_and_others_as_text(self) -> None:
        given = ["top_p=0.9", "user=me", 'stop=["END"]', "logprobs=true", "a=b=c", "empty="]
        assert provider_options(given) == {
            "top_p": 0.9,
            "user": "me",
            "stop": ["END"],
            "logprobs": True,
            "a": "b=c",
            "empty": "",
        }

    def test_a_value_that_is_nested_too_deep_for_json_is_a_text(self) -> None:
        deep = "[" * 100_000
        assert provider_options([f"user={deep}"]) == {"user": deep}

    @pytest.mark.usefixtures("key")
    def test_they_are_part_of_what_is_asked_and_of_a_resumed_run(
        self, run: Run, simulator: Start
    ) -> None:
        write_rows("in.jsonl", 1)
        sim = simulator()
        words = (
            "run", "in.jsonl", "-p", "Say {text}", "-m", "openai/x", "-o", "out.jsonl",
            "--base-url", sim.url, "--run", "options", "-O", "seed=7", "--option", "user=me",
        )  # fmt: skip
        assert run(*words).code == 0
        assert run("resume", "options").code == 0
        assert sim.stats().received == 1
        assert run(*words[:-1], "user=you").code == 0
        assert sim.stats().received == 2

    @pytest.mark.parametrize("text", ["top_p", "=1", ""])
    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_one_without_a_key_or_a_value_is_one_line(
        self, run: Run, command: str, text: str
    ) -> None:
        write_rows("in.jsonl", 1)
        words = (command, "in.jsonl", "-p", "{text}", "-m", "sim/demo", "-o", "out.jsonl")
        result = run(*words, "-O", text)
        assert result.code == 2
        assert "write KEY=VALUE, such as top_p=0.9" in result.error

    @pytest.mark.parametrize(
        ("text", "option"), [("max_tokens=9", "--max-tokens"), ("temperature=0", "--temperature")]
    )
    def test_one_that_has_an_option_of_its_own_names_it(
        self, run: Run, text: str, option: str
    ) -> None:
        write_rows("in.jsonl", 1)
        result = run(
            "run", "in.jsonl", "-p", "{text}", "-m", "sim/demo", "-o", "o.jsonl", "-O", text
        )
        assert result.code == 2
        assert f"has an option of its own: {option}" in result.error


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Take connections and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


@pytest.mark.usefixtures("key")
def test_timeout_bounds_each_attempt(run: Run, silent_server: str) -> None:
    write_rows("in.jsonl", 1)
    Path("llmflow.toml").write_text("[providers.openai]\nretry = { attempts = 1 }\n")
    result = run(
        "run", "in.jsonl", "-p", "{text}", "-m", "openai/x", "-o", "out.jsonl",
        "--base-url", silent_server, "--timeout", "0.2", "--config", "llmflow.toml",
    )  # fmt: skip
    assert result.code in (1, 3)
    assert "RequestTimeoutError" in result.err or "0.2 s" in result.err


class TestHelp:
    @pytest.mark.parametrize("command", ["run", "plan", "resume"])
    def test_options_are_shown_in_groups(self, run: Run, command: str) -> None:
        text = run(command, "--help").out
        assert "Model options:" in text or command == "resume"
        assert "Journal options:" in text
        options = text[text.index(" options:\n") :]
        listed = re.findall(r"^  (?:-\w, )?--([a-z-]+)", options, re.MULTILINE)
        assert len(listed) == len(set(listed))

    def test_without_a_command_the_help_is_shown_as_it_is_laid_out(self, run: Run) -> None:
        result = run()
        assert result.code == 2
        assert result.err.strip() == run("--help").out.strip()

    def test_every_option_of_run_is_listed_once_and_few_are_among_others(self, run: Run) -> None:
        command = cli.get_command(click.Context(cli), "run")
        assert command is not None
        text = run("run", "--help").out
        for param in command.params:
            if isinstance(param, click.Option):
                assert text.count(f"{param.opts[-1]} ") >= 1, param.opts
        others = text.partition("Other options:")[2]
        listed = set(re.findall(r"--([a-z-]+)", others.partition("Exit")[0]))
        assert listed <= {"dry-run", "config", "quiet", "json", "help"} | {"version"}, listed


@pytest.mark.usefixtures("key")
def test_the_shell_completes_names_of_runs(run: Run, simulator: Start) -> None:
    write_rows("in.jsonl", 1)
    words = ("run", "in.jsonl", "-p", "{text}", "-m", "openai/x", "-o", "out.jsonl")
    assert run(*words, "--base-url", simulator().url, "--run", "summaries-may").code == 0
    for command in (["resume"], ["status"], ["cancel"], ["runs", "show"]):
        shell = ShellComplete(cli, {}, "llmflow", "_LLMFLOW_COMPLETE")
        found = [item.value for item in shell.get_completions(command, "summ")]
        assert found == ["summaries-may"], command
