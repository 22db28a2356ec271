"""The command as a process: pipes, signals, a terminal, and how long it takes to start."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow.simulator import SimulatorThread
from tests.cli.conftest import PATIENCE, listing, rows_of, wait_for, write_rows

pytestmark = pytest.mark.process

Start = Callable[..., SimulatorThread]
Process = Callable[..., "subprocess.Popen[bytes]"]


def words(sim: SimulatorThread, source: str = "in.jsonl", out: str = "out.jsonl") -> list[str]:
    options = ["--prompt", "{text}", "--model", "openai/x", "--base-url", sim.url]
    return ["run", source, *options, "-o", out]


def finish(popen: subprocess.Popen[bytes], *, code: int) -> tuple[str, str]:
    """Wait for a process's end, and return what it said."""
    out, err = popen.communicate(timeout=PATIENCE)
    text = err.decode() if err else ""
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    assert popen.returncode == code, text
    return (out.decode() if out else ""), text


class TestPipes:
    def test_standard_input_to_standard_output(self, process: Process, simulator: Start) -> None:
        popen = process(*words(simulator(), "-", "-"), "--json", stdin=subprocess.PIPE)
        out, err = popen.communicate(b'{"text": "one"}\n{"text": "two"}\n', timeout=PATIENCE)
        assert popen.returncode == 0
        rows = sorted(map(orjson.loads, out.splitlines()), key=lambda row: row["index"])
        assert [row["response"] for row in rows] == ["one", "two"]
        assert orjson.loads(err)["answered"] == 2

    def test_a_reader_that_has_seen_enough_ends_it_quietly(
        self, process: Process, simulator: Start
    ) -> None:
        write_rows("in.jsonl", 5000)
        popen = process(*words(simulator(latency=0.01), out="-"))
        assert popen.stdout is not None
        popen.stdout.readline()
        popen.stdout.close()
        popen.stdout = None
        _, err = finish(popen, code=141)
        assert err == ""

    def test_rows_arrive_while_the_input_is_still_open(
        self, process: Process, simulator: Start
    ) -> None:
        popen = process(*words(simulator(), "-", "-"), stdin=subprocess.PIPE)
        assert popen.stdin is not None
        assert popen.stdout is not None
        for number in range(3):
            popen.stdin.write(b"text %d\n" % number)
            popen.stdin.flush()
            assert orjson.loads(popen.stdout.readline())["index"] == number
        popen.stdin.close()
        popen.stdin = None
        finish(popen, code=0)

    def test_a_broken_line_in_a_pipe_fails_alone(self, process: Process, simulator: Start) -> None:
        popen = process(*words(simulator(), "-"), "--quiet", stdin=subprocess.PIPE)
        lines = b'{"text": "a"}\n{"text": \n{"text": "b"}\n'
        popen.communicate(lines, timeout=PATIENCE)
        assert popen.returncode == 1
        assert len(rows_of("out.jsonl")) == 2
        (failed,) = rows_of("out.failed.jsonl")
        assert "<stdin>, line 2: not valid JSON" in failed["error"]["message"]

    @pytest.mark.parametrize(
        ("closed", "text"),
        [("<&-", "<stdin> is closed"), (">&-", "standard output is closed"), ("2>&-", "")],
    )
    def test_closed_streams(self, closed: str, text: str, simulator: Start) -> None:
        write_rows("in.jsonl", 2)
        source, out = {"<&-": ("-", "o.jsonl"), ">&-": ("in.jsonl", "-")}.get(
            closed, ("in.jsonl", "o.jsonl")
        )
        command = " ".join([f"'{word}'" for word in words(simulator(), source, out)])
        done = subprocess.run(
            ["sh", "-c", f"exec '{sys.executable}' -m llmflow {command} {closed}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == (2 if text else 0)
        assert text in done.stderr
        assert done.stdout == ""

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    def test_a_full_disk_is_one_line(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 3)
        _, err = finish(process(*words(simulator(), out="/dev/full")), code=2)
        assert err.startswith(
            "llmflow: error: /dev/full cannot be written: no space left on device; nothing was "
            "written; the run has "
        )
        assert err.count("\n") == 1


class TestSignals:
    def begun(self, popen: subprocess.Popen[bytes], sim: SimulatorThread, count: int) -> None:
        wait_for(lambda: sim.stats().received >= count, f"{count} requests")
        assert popen.poll() is None

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_once_waits_for_what_is_in_flight(
        self, number: signal.Signals, process: Process, simulator: Start
    ) -> None:
        write_rows("in.jsonl", 50)
        sim = simulator(latency=1.0)
        popen = process(*words(sim), "--concurrency", "5", "--json")
        self.begun(popen, sim, 5)
        popen.send_signal(number)
        out, err = finish(popen, code=128 + number)
        report = orjson.loads(out)
        assert (report["answered"], report["remaining"]) == (5, 45)
        assert report["stopped_by"] == "interrupted"
        assert re.search(
            "^llmflow: interrupted; 5 answers so far in out.partial.jsonl, 45 rows not sent; "
            "to continue, run the same command again, or `llmflow resume out-[0-9a-f]{6}`$",
            err.splitlines()[-1],
        )
        assert "stopping: 5 answers on their way; Ctrl-C drops them" in err
        assert len(rows_of("out.partial.jsonl")) == 5
        assert sim.stats().answered == 5

    def test_twice_drops_it(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 50)
        sim = simulator(latency=60.0)
        popen = process(*words(sim), "--rpm", "6000", "--quiet")
        self.begun(popen, sim, 50)
        popen.send_signal(signal.SIGINT)
        assert popen.stderr is not None
        assert popen.stderr.readline().startswith(b"llmflow: stopping; ")
        popen.send_signal(signal.SIGINT)
        _, err = finish(popen, code=130)
        assert err == "llmflow: interrupted; nothing was written\n"
        assert listing() == ["in.jsonl"]

    def test_while_standard_input_is_stalled_it_ends_at_once(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator()
        popen = process(*words(sim, "-"), "--quiet", stdin=subprocess.PIPE)
        assert popen.stdin is not None
        popen.stdin.write(b"one\n")
        popen.stdin.flush()
        wait_for(lambda: sim.stats().answered == 1, "the first answer")
        popen.send_signal(signal.SIGINT)
        assert popen.wait(PATIENCE) == 130  # nothing else ends it: the input stays open
        assert len(rows_of("out.partial.jsonl")) == 1

    def test_before_the_first_row_there_is_nothing_to_keep(
        self, process: Process, simulator: Start
    ) -> None:
        popen = process(*words(simulator(), "-"), stdin=subprocess.PIPE)
        # It waits in read(): that is what the signal must end.
        wait_for(lambda: _is_reading(popen.pid), "the read of standard input")
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(PATIENCE) == 143
        assert popen.stderr is not None
        assert popen.stderr.read().strip() == b"llmflow: interrupted; nothing was written"
        assert listing() == []

    def test_a_background_job_ignores_ctrl_c(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 2)
        sim = simulator(latency=0.5)
        popen = process(
            *words(sim), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
        )
        self.begun(popen, sim, 2)
        popen.send_signal(signal.SIGINT)
        finish(popen, code=0)

    def test_the_simulator_stops_and_tells_what_it_saw(self, process: Process) -> None:
        popen = process("simulate", "--port", "0", "--rpm", "60")
        assert popen.stdout is not None
        assert popen.stdout.readline().startswith(b"simulator at http://127.0.0.1:")
        popen.send_signal(signal.SIGINT)
        _, err = finish(popen, code=0)
        assert err == "0 requests: 0 answered, 0 rejected\n"


def _is_reading(pid: int) -> bool:
    """Return whether a process has loaded what it needs and waits for its standard input."""
    try:
        return Path(f"/proc/{pid}/wchan").read_text().startswith(("pipe_read", "anon_pipe_read"))
    except OSError:
        pytest.skip("there is no way to see what a process waits for")


class Screen:
    """The other end of a terminal, read by a thread."""

    def __init__(self) -> None:
        self.primary, self.secondary = pty.openpty()
        self.seen = b""
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.primary, 4096)
            except OSError:
                return
            if not data:
                return
            self.seen += data


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    os.close(made.secondary)
    made.thread.join(PATIENCE)
    os.close(made.primary)


class TestTerminal:
    @property
    def environment(self) -> dict[str, str]:
        return dict(os.environ) | {"TERM": "xterm", "COLUMNS": "100"}

    def test_a_bar_shows_and_goes(self, process: Process, simulator: Start, screen: Screen) -> None:
        write_rows("in.jsonl", 40)
        sim = simulator(latency=1.0)
        popen = process(
            *words(sim), "--concurrency", "10", stderr=screen.secondary, env=self.environment
        )
        wait_for(lambda: b"/40" in screen.seen, "the bar")
        wait_for(lambda: sim.stats().received >= 10, "10 requests")
        popen.send_signal(signal.SIGINT)
        wait_for(lambda: b"stopping: " in screen.seen, "the news")
        assert popen.wait(PATIENCE) == 130
        wait_for(lambda: b"interrupted; " in screen.seen, "the last words")
        bar, _, report = screen.seen.rpartition(b"\x1b[2K")
        assert "━" in bar.decode()
        assert "━" not in report.decode()
        assert report.strip().startswith((b"10 of 40", b"20 of 40", b"30 of 40"))

    def test_rows_on_a_terminal_cannot_act_on_it(
        self, process: Process, simulator: Start, screen: Screen
    ) -> None:
        Path("in.jsonl").write_bytes(orjson.dumps({"text": "\x1b[31m \x9b31m \u202e caf\xe9"}))
        popen = process(
            *words(simulator(), out="-"), "--quiet", stdout=screen.secondary, env=self.environment
        )
        finish(popen, code=0)
        wait_for(lambda: screen.seen.endswith(b"\n"), "the row")
        text = screen.seen.decode()
        assert all(letter.isprintable() for letter in text.strip())
        assert orjson.loads(text)["response"] == "\x1b[31m \x9b31m \u202e caf\xe9"

    def test_it_says_that_it_waits_for_the_first_row(
        self, process: Process, simulator: Start, screen: Screen
    ) -> None:
        popen = process(
            *words(simulator(), "-"),
            stdin=subprocess.PIPE,
            stderr=screen.secondary,
            env=self.environment,
        )
        wait_for(lambda: b"waiting for the first row of <stdin>" in screen.seen, "the notice")
        popen.communicate(b"one\n", timeout=PATIENCE)
        assert popen.returncode == 0
        wait_for(lambda: b"1 of 1 answered" in screen.seen, "the report")


class TestStart:
    """What a start costs is what it loads: 268 and 286 modules when this was written."""

    @pytest.mark.parametrize(
        ("code", "most"),
        [("import llmflow", 340), ("import llmflow.cli.main as m; m.main(['--help'])", 360)],
    )
    def test_few_modules_are_loaded(self, code: str, most: int) -> None:
        program = f"""
import sys
before = len(sys.modules)
try:
    {code}
except SystemExit:
    pass
print(len(sys.modules) - before)
"""
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert int(done.stdout.splitlines()[-1]) <= most

    @pytest.mark.parametrize(
        "code", ["import llmflow", "import llmflow.cli.main as m; m.main(['--help'])"]
    )
    def test_nothing_heavy_is_loaded(self, code: str) -> None:
        heavy = [
            "litellm",
            "tiktoken",
            "pyarrow",
            "aiohttp",
            "rich",
            "tenacity",
            "llmflow.rows",
            "llmflow.simulator",
        ]
        program = f"""
import sys
try:
    {code}
except SystemExit:
    pass
print([name for name in {heavy!r} if name in sys.modules])
"""
        done: Any = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"
