"""What the tests of the command line share: the command in this process, and in one of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow.cli.main import main
from llmflow.limits.registry import forget_limiters
from llmflow.simulator import SimulatorSettings, SimulatorThread, serve_in_thread

PATIENCE = 90.0


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The only line on standard error, which must be an error's."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("llmflow: error: "), self.err
        assert "Traceback" not in self.err
        return self.err.removeprefix("llmflow: error: ").strip()


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Start each test in an empty folder, without keys and without limits of other tests."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    forget_limiters()
    yield
    forget_limiters()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``llmflow ...`` in this process."""

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 1, captured.out, captured.err)

    return call


@pytest.fixture
def simulator() -> Iterator[Callable[..., SimulatorThread]]:
    """Return a function that starts a simulator, fast unless told otherwise."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> SimulatorThread:
            settings = {"latency": 0.0, "answer": "echo"} | settings
            return stack.enter_context(serve_in_thread(SimulatorSettings(**settings)))

        yield start


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts ``llmflow ...`` as a process; none survives the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        command = [sys.executable, "-m", "llmflow", *map(str, arguments)]
        options.setdefault("env", dict(os.environ) | {"PYTHONWARNINGS": "error"})
        popen = subprocess.Popen(command, **options)
        started.append(popen)
        return popen

    yield start
    for popen in started:
        if popen.poll() is None:
            popen.kill()
        popen.wait()
        for pipe in (popen.stdin, popen.stdout, popen.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Wait until a condition holds; fail with `what` after a while."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.01)


def rows_of(path: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a file of JSON lines."""
    return [orjson.loads(line) for line in Path(path).read_bytes().splitlines()]


def write_rows(path: Path | str, count: int) -> Path:
    """Write a file of JSON lines with `count` texts."""
    lines = [orjson.dumps({"id": n, "text": f"text {n}"}) for n in range(count)]
    path = Path(path)
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def listing() -> list[str]:
    """Return the names in the working directory."""
    return sorted(path.name for path in Path().iterdir())
