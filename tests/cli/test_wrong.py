"""What is wrong is said in one line with the remedy, exit code 2, and leaves no file behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import orjson
import pytest

from llmflow.errors import ConfigurationError
from llmflow.jobs import reachability
from llmflow.simulator import SimulatorThread
from tests.cli.conftest import Run, listing, rows_of, write_rows

Start = Callable[..., SimulatorThread]

NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def ask(run: Run) -> Run:
    """Return a function that runs with good options, unless they are given otherwise."""

    def call(*options: str, **changes: str | None) -> object:
        good: dict[str, str | None] = {
            "prompt": "{text}",
            "model": "openai/x",
            "base_url": NOWHERE,
            "output": "out.jsonl",
        }
        source = changes.pop("source", None) or "in.jsonl"
        words = ["run", source]
        for name, value in (good | changes).items():
            if value is not None:
                words += [f"--{name.replace('_', '-')}", value]
        return run(*words, *options)

    write_rows("in.jsonl", 3)
    return call  # type: ignore[return-value]


class TestBeforeTheRun:
    """Nothing is asked, and nothing is written."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"prompt": "Summarize: {txt}"}, "no field 'txt' (did you mean 'text'?)"),
            ({"prompt": "Summarize this"}, "such as {text}"),
            ({"prompt": "Summarize {text"}, "Write {{ and }}"),
            ({"source": "inn.jsonl"}, "no such file; did you mean 'in.jsonl'?"),
            pytest.param(
                {"model": "small"},
                "write the provider first, such as 'openai/small'",
                marks=pytest.mark.slow,  # litellm is asked, and its import takes seconds
            ),
            pytest.param(
                {"model": "opnai/x", "base_url": None},
                "did you mean 'openai/x'?",
                marks=pytest.mark.slow,
            ),
            ({"model": "openai/"}, "write openai/MODEL"),
            ({"base_url": None}, "set the environment variable OPENAI_API_KEY"),
            ({"base_url": "nonsense"}, "such as https://host/v1"),
            ({"output": "nowhere/out.jsonl"}, "there is no folder nowhere"),
            ({"output": "in.jsonl"}, "would be written over; name another output"),
            ({"output": "out.xlsx"}, "writable are .jsonl"),
            ({"output": "."}, "is a folder"),
            ({"rpm": "0"}, "rpm must be a number above 0, such as 500, 10k or 2M"),
            ({"rpm": "many"}, "rpm must be a number above 0, such as 500, 10k or 2M"),
            ({"tpm": "-5"}, "tpm must be a number above 0"),
            ({"concurrency": "0"}, "'--concurrency': 0 is not in the range x>=1"),
            ({"max_tokens": "0"}, "'--max-tokens': 0 is not"),
            ({"limit": "0"}, "'--limit': 0 is not"),
            ({"fast": "yes"}, "No such option '--fast'. Did you mean '--fail-fast'?"),
            (
                {"prompt": None},
                "Missing option '--prompt' (or '--prompt-file'); see llmflow run --help",
            ),
        ],
    )
    def test_one_line_with_the_remedy(
        self, ask: Run, changes: dict[str, str | None], message: str
    ) -> None:
        result = ask(**changes)
        assert result.code == 2
        assert message.lower() in result.error.lower()
        assert result.out == ""
        assert listing() == ["in.jsonl"]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.jsonl", b"", "has no rows"),
            ("blank.jsonl", b"\n\n", "has no rows"),
            ("empty.csv", b"", "is empty"),
            ("header.csv", b"a,text\n", "has no rows"),
            ("empty.txt", b"", "has no rows"),
            ("rows.xls", b"x", "readable are .jsonl"),
            ("latin.txt", b"caf\xe9\n", "line 1: the text is not UTF-8"),
        ],
    )
    def test_an_input_that_cannot_be_used(
        self, ask: Run, name: str, content: bytes, message: str
    ) -> None:
        Path(name).write_bytes(content)
        result = ask(source=name)
        assert result.code == 2
        assert message in result.error
        assert listing() == sorted(["in.jsonl", name])

    def test_a_mark_that_the_provider_does_not_want(self, ask: Run) -> None:
        result = ask("--system", "Be brief.", "--cache-system", "1h")
        assert result.code == 2
        assert "--cache-system is of no use with" in result.error

    def test_a_file_of_broken_lines_is_named_before_anything_is_asked(
        self, ask: Run, simulator: Start
    ) -> None:
        sim = simulator()
        Path("in.jsonl").write_text('{"text": \n{"text": \n')
        result = ask(base_url=sim.url)
        assert result.code == 2
        assert "in.jsonl, line 1: not valid JSON" in result.error
        assert sim.stats().received == 0
        assert listing() == ["in.jsonl"]

    @pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may read everything")
    def test_an_input_that_may_not_be_read(self, ask: Run) -> None:
        Path("in.jsonl").chmod(0)
        assert "permission denied" in ask().error

    def test_an_input_that_the_system_refuses(
        self, ask: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path, *_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        result = ask()
        assert result.code == 2
        assert result.error == "in.jsonl cannot be read: permission denied"

    def test_an_output_that_the_system_refuses(self, ask: Run) -> None:
        Path("out.partial.jsonl").mkdir()
        result = ask()
        assert result.code == 2
        assert "out.partial.jsonl cannot be written: is a directory" in result.error

    def test_a_provider_that_is_not_installed(self, ask: Run) -> None:
        words = ["run", "in.jsonl", "--prompt", "{text}", "--model", "mistral/x", "-o", "out.jsonl"]
        code = "import sys; sys.modules['litellm'] = None; import llmflow.cli.main as m; m.main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "pip install 'llmflow[litellm]'" in done.stderr
        assert listing() == ["in.jsonl"]

    @pytest.mark.parametrize("words", [(), ("config",)])
    def test_no_command_is_a_request_for_help(self, words: tuple[str, ...], run: Run) -> None:
        result = run(*words)
        assert (result.code, result.out) == (2, "")
        assert " ".join(["Usage: llmflow", *words]) in result.err
        assert "Commands:" in result.err

    def test_an_unknown_command(self, run: Run) -> None:
        assert run("fly").error == "No such command 'fly'; see llmflow --help"
        assert run("runs", "fly").error == "No such command 'fly'; see llmflow runs --help"
        near = "No such command 'shwo'. Did you mean 'show'? See llmflow runs --help"
        assert run("runs", "shwo").error == near

    def test_a_fault_that_does_not_exist(self, run: Run) -> None:
        result = run("simulate", "--fault", "flood=0.5")
        assert result.code == 2
        assert "kinds are server_error" in result.error

    def test_a_port_that_is_taken(self, run: Run) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            result = run("simulate", "--port", str(taken.getsockname()[1]))
        assert result.code == 2
        assert "port" in result.error


class TestWhatTheProviderSays:
    """A fatal error: one line, exit code 3, the report in JSON, no file without an answer."""

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"models": ["other"]}, "Check the model's name"),
            ({"api_key": "sk-right-key"}, "Check the API key"),
            ({"credit_requests": 0}, "Add credit"),
        ],
    )
    def test_before_any_answer(
        self, ask: Run, simulator: Start, settings: dict[str, object], message: str
    ) -> None:
        result = ask(base_url=simulator(**settings).url)
        assert result.code == 3
        assert message in result.error
        assert result.error.endswith("; nothing was written")
        assert listing() == ["in.jsonl"]

    def test_a_wrong_key_is_not_repeated(
        self, ask: Run, simulator: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-key-1234567")
        result = ask(base_url=simulator(api_key="sk-right-key").url)
        assert result.code == 3
        assert "wrong-key" not in result.err

    def test_json_reports_it_too(self, ask: Run, simulator: Start) -> None:
        result = ask("--json", base_url=simulator(credit_requests=0).url)
        assert result.code == 3
        report = orjson.loads(result.out)
        assert (report["answered"], report["remaining"], report["output"]) == (0, 3, None)
        assert "insufficient_quota" in report["stopped_by"]
        assert result.error.startswith(report["stopped_by"])

    def test_after_some_answers_those_are_kept(self, ask: Run, simulator: Start) -> None:
        write_rows("in.jsonl", 40)
        result = ask("--concurrency", "1", "--json", base_url=simulator(credit_requests=10).url)
        assert result.code == 3
        report = orjson.loads(result.out)
        assert (report["answered"], report["failed"], report["remaining"]) == (10, 0, 30)
        assert report["output"] == "out.partial.jsonl"
        assert (
            "; 10 answers so far in out.partial.jsonl, 30 rows not sent; to continue"
            in result.error
        )
        assert "`llmflow resume out-" in result.error
        assert listing() == ["in.jsonl", "out.partial.jsonl"]
        assert len(rows_of("out.partial.jsonl")) == 10

    def test_failures_before_the_end_are_kept_with_the_answers(
        self, ask: Run, simulator: Start
    ) -> None:
        rows = [{"text": "a"}, {"txt": "b"}, *({"text": "c"} for _ in range(8))]
        Path("in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
        result = ask("--concurrency", "1", "--json", base_url=simulator(credit_requests=2).url)
        report = orjson.loads(result.out)
        assert (report["answered"], report["failed"], report["remaining"]) == (2, 1, 7)
        assert len(rows_of(report["failures"])) == 1

    @pytest.mark.http
    def test_nobody_listens(self, ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reachability.Reachability.__init__, "__kwdefaults__", _patience(0.2))
        write_rows("in.jsonl", 200)
        result = ask("--quiet")
        assert result.code == 3
        assert "cannot connect to 127.0.0.1:9" in result.error
        assert "check --base-url" in result.error
        assert listing() == ["in.jsonl"]


def _patience(seconds: float) -> dict[str, object]:
    defaults = reachability.Reachability.__init__.__kwdefaults__
    assert defaults is not None
    return defaults | {"patience": seconds}


class _Hostile(BaseHTTPRequestHandler):
    """A server whose error message tries to take the terminal over."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        text = (
            "no\x1b]0;owned\x07\x1b[2J\nllmflow: all is well \u202e\x9b31m key sk-secret-1234567890"
        )
        body = orjson.dumps({"error": {"message": text, "code": "invalid_api_key"}})
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hostile() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Hostile)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.http
def test_a_providers_message_cannot_act_on_the_terminal(ask: Run, hostile: str) -> None:
    result = ask(base_url=hostile)
    assert result.code == 3
    assert "owned" in result.error
    assert all(letter.isprintable() for letter in result.err.removesuffix("\n"))
    assert "sk-secret" not in result.err


def test_a_models_name_cannot_act_on_the_terminal(ask: Run) -> None:
    result = ask(model="nobody/\x1b[31mred\n", base_url=None)
    assert result.code == 2
    assert all(letter.isprintable() for letter in result.error)


def test_an_error_with_notes_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmflow.cli.main import cli

    def fail(**_: object) -> None:
        error = ConfigurationError("first")
        error.add_note("second")
        raise error

    monkeypatch.setattr(cli, "main", fail)
    assert run("run").error == "first; second"
