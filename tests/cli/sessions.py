"""What the tests of several sessions of one run share: each session is a process."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from llmflow.config import forget_configs
from llmflow.simulator import SimulatorSettings, SimulatorThread, serve_in_thread
from tests.batch.hostile import HostileServer
from tests.cli.conftest import PATIENCE, Result, rows_of

Start = Callable[..., SimulatorThread]
Process = Callable[..., "subprocess.Popen[bytes]"]


def words(
    sim: SimulatorThread, *more: str, source: str = "in.jsonl", out: str = "out.jsonl"
) -> list[str]:
    """Return the words of a run; the options in `more` come last, and win."""
    options = ["--prompt", "{text}", "--model", "openai/x", "--base-url", sim.url]
    return ["run", source, *options, "-o", out, *more]


def batch_words(server: HostileServer, dialect: str, *more: str) -> list[str]:
    """Return the words of a run in batch mode."""
    url = server.url if dialect == "anthropic" else f"{server.url}/v1"
    options = ["--prompt", "{text}", "--model", f"{dialect}/m", "--base-url", url]
    return ["run", "in.jsonl", *options, "-o", "out.jsonl", "--mode", "batch", *more]


@contextmanager
def configured(monkeypatch: pytest.MonkeyPatch, text: str) -> Iterator[None]:
    """Have a configuration file, and keys for the servers of a test."""
    Path("llmflow.toml").write_text(text)
    monkeypatch.setenv("LLMFLOW_CONFIG", "llmflow.toml")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "sk-hostile")
    forget_configs()
    yield
    forget_configs()


@contextmanager
def serving(port: int = 0, **settings: Any) -> Iterator[SimulatorThread]:
    """Serve for a while, so that another one can take its place on its port."""
    settings = {"latency": 0.0, "answer": "echo"} | settings
    with serve_in_thread(SimulatorSettings(port=port, **settings)) as sim:
        yield sim


def port_of(sim: SimulatorThread) -> int:
    """Return the port that a simulator listens on."""
    return urlsplit(sim.url).port or 0


def ended(popen: subprocess.Popen[bytes], stdin: bytes | None = None) -> Result:
    """Wait for a process's end; it may say what it likes, but not that it is broken."""
    out, err = popen.communicate(stdin, timeout=PATIENCE)
    result = Result(popen.returncode, out.decode(), err.decode() if err else "")
    for broken in ("Traceback", "Exception ignored", "Warning:"):
        assert broken not in result.err, result.err
    return result


def report_of(result: Result) -> dict[str, Any]:
    """Return the report that ``--json`` printed."""
    report = orjson.loads(result.out)
    assert isinstance(report, dict)
    return report


def write_texts(path: str, texts: Sequence[str]) -> None:
    """Write rows with these texts, and their numbers."""
    lines = [orjson.dumps({"id": n, "text": text}) for n, text in enumerate(texts)]
    Path(path).write_bytes(b"\n".join(lines) + b"\n")


def answers(path: str = "out.jsonl") -> list[str]:
    """Return the answers of an output, in the order of the input; each row is there once."""
    rows = sorted(rows_of(path), key=lambda row: row["index"])
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return [row["response"] for row in rows]


def runs_folder() -> Path:
    """Return the folder of the runs of this test."""
    return Path(os.environ["LLMFLOW_JOURNAL_DIR"])


def the_run() -> Path:
    """Return the folder of the only run of this test."""
    (folder,) = runs_folder().iterdir()
    return folder


def journal_of(folder: Path) -> Path:
    """Return the file of a run's journal."""
    files = [each for each in folder.iterdir() if each.is_file()]
    (path,) = (each for each in files if each.read_bytes().startswith(b"SQLite"))
    return path


def recorded(folder: Path) -> int:
    """Return how many answers a journal holds, which must be whole."""
    with closing(sqlite3.connect(journal_of(folder))) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        count: int = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
    return count


def resume_command(text: str) -> list[str]:
    """Return the words of the `llmflow resume ...` that a message names."""
    found = re.search(r"`llmflow (resume [^`]+)`", text)
    assert found is not None, text
    return found[1].split()
