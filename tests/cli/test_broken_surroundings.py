"""What is around a run is broken: one clear line, exit code 2 or 3, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmflow.cli.prepare import system_error
from llmflow.simulator import SimulatorThread
from tests.cli.conftest import Result, listing, rows_of, write_rows
from tests.cli.sessions import Process, Start, answers, ended, words

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell and its limits")


def in_shell(line: str, sim: SimulatorThread, *more: str) -> Result:
    """Run the command in a shell, where `line` says with which limits and streams."""
    command = [sys.executable, "-m", "llmflow", *words(sim, *more)]
    popen = subprocess.Popen(
        ["/bin/sh", "-c", line, "sh", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"OPENAI_API_KEY": "key"},
    )
    return ended(popen)


class TestOutputs:
    @pytest.mark.parametrize("out", ["loop", "loop/x.jsonl", "other"])
    @pytest.mark.parametrize("command", ["run", "plan"])
    def test_a_link_to_itself_is_one_line(
        self, process: Process, simulator: Start, out: str, command: str
    ) -> None:
        Path("loop").symlink_to("loop")
        Path("other").symlink_to("another")
        Path("another").symlink_to("other")
        write_rows("in.jsonl", 3)
        line = words(simulator(), out=out)
        result = ended(process(command, *line[1:]))
        assert result.code == 2
        assert result.err.splitlines()[-1].startswith(f"llmflow: error: {out} cannot be written: ")
        assert listing() == ["another", "in.jsonl", "loop", "other"]

    def test_dev_stdout_is_standard_output(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 3)
        result = ended(process(*words(simulator(), out="/dev/stdout")))
        assert result.code == 0
        assert len(result.out.splitlines()) == 3
        assert listing() == ["in.jsonl"]

    def test_with_both_outputs_closed_the_rows_are_written(self, simulator: Start) -> None:
        write_rows("in.jsonl", 5)
        result = in_shell('exec "$@" >&- 2>&-', simulator())
        assert (result.code, result.out, result.err) == (0, "", "")
        assert answers() == [f"text {n}" for n in range(5)]

    def test_standard_output_that_is_closed_is_no_output(self, simulator: Start) -> None:
        write_rows("in.jsonl", 5)
        sim = simulator()
        result = in_shell('exec "$@" >&-', sim, "-o", "-")
        assert result.code == 2
        assert "standard output is closed" in result.err
        assert sim.stats().received == 0


class TestOpenFiles:
    @pytest.mark.parametrize("most", [10, 12, 14, 16, 18, 20, 24, 28, 32])
    def test_too_few_are_one_line_and_nothing_is_asked(self, simulator: Start, most: int) -> None:
        write_rows("in.jsonl", 5)
        sim = simulator()
        result = in_shell(f'ulimit -n {most}; exec "$@"', sim)
        assert result.code == 2, result.err
        assert len(result.err.splitlines()) == 1
        assert "ulimit -n 256" in result.err
        assert sim.stats().received == 0
        assert listing() == ["in.jsonl"]

    def test_forty_are_enough(self, simulator: Start) -> None:
        write_rows("in.jsonl", 200)
        result = in_shell('ulimit -n 40; exec "$@"', simulator())
        assert result.code == 0, result.err
        assert answers() == [f"text {n}" for n in range(200)]

    @pytest.mark.parametrize(
        ("number", "remedy"), [(24, "ulimit -n 256"), (28, "make room"), (5, "Input/output error")]
    )
    def test_what_the_system_refuses_is_said(self, number: int, remedy: str) -> None:
        assert remedy in system_error(OSError(number, os.strerror(number), "/some/file"))


class TestConfigurations:
    @pytest.mark.parametrize(
        ("content", "said"),
        [
            ("a = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
            ("a = " + "[" * 100 + "]" * 100, "nested too deeply"),
            ("a = " + "{b = " * 300 + "1" + "}" * 300, "nested too deeply"),
            ("a." * 500 + "b = 1", "nested too deeply"),
            ('"a" . ' * 60_000 + "b = 1", "nested too deeply"),
            ("a." * 400_000 + "b = 1", "nested too deeply"),
            ("[" + "a." * 300 + "b]", "nested too deeply"),
            ("[[" + "a." * 100_000 + "b]]", "nested too deeply"),
            ("[limits]\nrpm = " + "9" * 100_000, "too many digits"),
            ("\n".join(f'key{n} = "{"x" * 60}"' for n in range(20_000)), "larger than a mebibyte"),
        ],
        ids=[
            "lists", "fewer lists", "tables", "key", "quoted key", "long key", "header",
            "long header", "digits", "huge",
        ],
    )  # fmt: skip
    def test_a_file_that_nobody_writes_is_one_line(
        self, process: Process, simulator: Start, content: str, said: str
    ) -> None:
        Path("odd.toml").write_text(content)
        write_rows("in.jsonl", 3)
        sim = simulator()
        result = ended(process(*words(sim, "--config", "odd.toml")))
        assert (result.code, len(result.err.splitlines())) == (2, 1), result.err[:500]
        assert "odd.toml" in result.err
        assert said in result.err
        assert sim.stats().received == 0


_FULL = """
mount -t tmpfs -o size=16k tmpfs "$TMPDIR" && head -c 16384 /dev/zero > "$TMPDIR/other"
exec "$@"
"""
_COUNTING = """
import resource, sys
from llmflow.errors import JournalError
from llmflow.calls import replay
replay._IN_MEMORY, replay._PAGES = 10, 10
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
found = replay.Asked()
try:
    for number in range(100_000):
        found.count(number.to_bytes(16, "big"))
except JournalError as error:
    found.close()
    print(error)
"""


def can_mount() -> bool:
    """Return whether a process can have a file system of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return not subprocess.run(probe, capture_output=True, check=False, timeout=30).returncode


class TestAFullTemporaryFolder:
    def test_a_run_goes_on_beside_it(
        self, simulator: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SQLite puts there what undoes a statement, if it is let."""
        if not can_mount():
            pytest.skip("a process cannot have a file system of its own here")
        write_rows("in.jsonl", 4000)
        (tmp_path / "full").mkdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path / "full"))
        line = f"exec unshare -rm /bin/sh -c '{_FULL}' sh \"$@\""
        result = in_shell(line, simulator(), "--concurrency", "300", "--quiet")
        assert (result.code, result.err) == (0, "")
        assert len(rows_of("out.jsonl")) == 4000
        assert list((tmp_path / "full").iterdir()) == []

    def test_questions_that_do_not_fit_are_a_clear_error(self) -> None:
        result = subprocess.run(
            [sys.executable, "-c", _COUNTING], capture_output=True, text=True, check=True
        )
        assert "cannot be counted in the temporary folder" in result.stdout
        assert "TMPDIR" in result.stdout
