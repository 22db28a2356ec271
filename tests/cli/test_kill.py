"""Killed, interrupted and doubled: nothing is lost, and nothing is there twice."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmflow.items.runner import DRAIN_SECONDS
from llmflow.simulator import SimulatorThread
from tests.cli.conftest import PATIENCE, listing, rows_of, wait_for, write_rows
from tests.cli.sessions import (
    Process,
    Start,
    answers,
    ended,
    journal_of,
    recorded,
    report_of,
    runs_folder,
    the_run,
    words,
    write_texts,
)

pytestmark = pytest.mark.slow

ROWS = 400
CONCURRENCY = 20
STOPS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
KILLS = 9


def hear_hangups() -> None:
    """Let a process hear SIGHUP, even if the tests were started by nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ignore_hangups() -> None:
    """Do what nohup does."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class TestKill9:
    """27 kills in all, at moments that the printed seed repeats as well as a machine can."""

    def kill(
        self, popen: subprocess.Popen[bytes], sim: SimulatorThread, chance: random.Random
    ) -> None:
        """Kill a run while it starts, while it replays, or while answers are on their way."""
        if chance.random() < 0.25:
            time.sleep(chance.uniform(0.1, 0.7))
        else:
            goal = sim.stats().received + chance.randrange(1, 45)
            deadline = time.monotonic() + PATIENCE
            while sim.stats().received < goal and popen.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.0005)
            time.sleep(chance.uniform(0.0, 0.03))
        popen.kill()
        popen.wait()

    def series(
        self,
        process: Process,
        sim: SimulatorThread,
        *options: str,
        texts: list[str],
        out: str = "out.jsonl",
    ) -> int:
        """Kill a run again and again, then let it come to its end; return the kills."""
        seed = random.SystemRandom().randrange(10**6)
        print(f"seed {seed}")
        chance, hit, done = random.Random(seed), 0, False
        command = words(sim, "--concurrency", str(CONCURRENCY), *options, out=out)
        for _ in range(KILLS):
            popen = process(*command, "--quiet")
            self.kill(popen, sim, chance)
            hit += popen.returncode == -signal.SIGKILL
            done = done or popen.returncode == 0
            assert done or not Path(out).exists()
        result = ended(process(*command, "--json"))
        assert result.code == 0, result.err
        assert report_of(result)["answered"] == len(texts)
        assert hit >= KILLS - 2, "nearly all sessions were killed at work"
        return hit

    def test_rows_of_their_own(self, process: Process, simulator: Start) -> None:
        texts = [f"text {n}" for n in range(ROWS)]
        write_texts("in.jsonl", texts)
        sim = simulator(latency={"seconds": 0.03, "sigma": 0.5})
        hit = self.series(process, sim, texts=texts)
        assert answers() == texts
        # Asked twice was only what was on its way at a kill.
        assert ROWS <= sim.stats().answered <= ROWS + hit * CONCURRENCY
        assert recorded(the_run()) == ROWS
        assert listing() == ["in.jsonl", "out.jsonl"]

    def test_equal_rows_that_share_their_answers(self, process: Process, simulator: Start) -> None:
        texts = [f"text {n // 2 % 150}" for n in range(ROWS)]
        write_texts("in.jsonl", texts)
        sim = simulator(latency={"seconds": 0.03, "sigma": 0.5})
        hit = self.series(process, sim, "--temperature", "0", texts=texts)
        assert answers() == texts
        assert sim.stats().answered <= ROWS + hit * CONCURRENCY
        received = sim.stats().received
        again = ended(process(*words(sim, "--temperature", "0"), "--json"))
        assert report_of(again)["answered"] == ROWS
        assert sim.stats().received == received
        assert listing() == ["in.jsonl", "out.jsonl"]

    def test_equal_rows_with_an_answer_each_into_parquet(
        self, process: Process, simulator: Start
    ) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        texts = [f"text {n % 50}" for n in range(ROWS)]
        write_texts("in.jsonl", texts)
        sim = simulator(latency={"seconds": 0.03, "sigma": 0.5})
        hit = self.series(process, sim, texts=texts, out="out.parquet")
        table = parquet.read_table("out.parquet").to_pydict()
        rows = sorted(zip(table["index"], table["response"], strict=True))
        assert rows == list(enumerate(texts))
        assert ROWS <= sim.stats().answered <= ROWS + hit * CONCURRENCY
        assert recorded(the_run()) == ROWS
        assert listing() == ["in.jsonl", "out.parquet"]


@pytest.fixture
def silent() -> Iterator[tuple[str, Callable[[], int]]]:
    """A server that takes requests and never answers; yields its address, and how many came."""
    asked: list[socket.socket] = []
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.recv(1 << 16)
                asked.append(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}/v1", lambda: len(asked)
    # A thread in accept() is not woken by closing.
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(PATIENCE)
    for connection in asked:
        connection.close()


class TestSignals:
    def test_twice_stops_now_and_running_again_completes(
        self, process: Process, simulator: Start
    ) -> None:
        write_rows("in.jsonl", 60)
        sim = simulator(latency={"seconds": 0.3, "spread": 0.5})
        popen = process(*words(sim, "--concurrency", "10", "--quiet"))
        wait_for(lambda: sim.stats().answered >= 15, "15 answers")
        popen.send_signal(signal.SIGINT)
        assert popen.stderr is not None
        assert popen.stderr.readline().startswith(b"llmflow: stopping; ")
        popen.send_signal(signal.SIGTERM)
        assert ended(popen).code == 130
        assert recorded(the_run()) >= 15 - 10
        # What was written down in the last moment may not have become a row any more.
        assert recorded(the_run()) >= len(rows_of("out.partial.jsonl"))
        assert ended(process(*words(sim))).code == 0
        assert answers() == [f"text {n}" for n in range(60)]
        assert sim.stats().received <= 60 + 10
        assert listing() == ["in.jsonl", "out.jsonl"]

    @pytest.mark.parametrize("number", STOPS)
    def test_during_the_replay_it_says_what_the_journal_holds(
        self, number: signal.Signals, process: Process, simulator: Start
    ) -> None:
        count = 3000
        write_rows("in.jsonl", count)
        sim = simulator()
        assert ended(process(*words(sim), "--quiet")).code == 0
        Path("out.jsonl").unlink()
        received = sim.stats().received
        # A pipe that stays open: the replay cannot come to its end before the signal.
        command = words(sim, source="-")
        popen = process(*command, "--json", stdin=subprocess.PIPE, preexec_fn=hear_hangups)
        assert popen.stdin is not None
        lines = Path("in.jsonl").read_bytes().splitlines(keepends=True)
        popen.stdin.write(b"".join(lines[: count // 2]))
        popen.stdin.flush()
        partial = Path("out.partial.jsonl")
        wait_for(lambda: partial.exists() and partial.stat().st_size, "rows of the journal")
        popen.send_signal(number)
        assert popen.wait(PATIENCE) == 128 + number
        result = ended(popen)
        assert sim.stats().received == received
        assert (
            f"; the run has {count:,} answers in its journal; to continue, run the " in result.err
        )
        assert "llmflow resume" not in result.err, "what came through a pipe is not there any more"
        assert ended(process(*words(sim))).code == 0
        assert answers() == [f"text {n}" for n in range(count)]
        assert sim.stats().received == received

    @pytest.mark.parametrize("number", STOPS)
    def test_while_rows_are_counted_nothing_is_written(
        self, number: signal.Signals, process: Process, simulator: Start
    ) -> None:
        Path("in.jsonl").write_bytes(b'{"text": "one"}\n' * 600_000)
        sim = simulator()
        popen = process(*words(sim), "--quiet", preexec_fn=hear_hangups)
        wait_for(lambda: Path("out.partial.jsonl").exists(), "the output")
        popen.send_signal(number)
        result = ended(popen)
        assert result.code == 128 + number
        assert result.err.strip() == "llmflow: interrupted; nothing was written"
        assert sim.stats().received == 0
        assert listing() == ["in.jsonl"]

    def test_a_server_that_never_answers_is_not_waited_for_longer_than_said(
        self, process: Process, silent: tuple[str, Callable[[], int]]
    ) -> None:
        url, asked = silent
        write_rows("in.jsonl", 5)
        command = ["run", "in.jsonl", "--prompt", "{text}", "--model", "openai/x"]
        popen = process(*command, "--base-url", url, "-o", "o.jsonl", "--drain", "0.3", "--quiet")
        wait_for(lambda: asked() >= 5, "5 requests")
        popen.send_signal(signal.SIGINT)
        started = time.monotonic()
        result = ended(popen)
        assert result.code == 130
        assert time.monotonic() - started < DRAIN_SECONDS / 2  # without the option it is all of it
        assert result.err.splitlines()[-1] == "llmflow: interrupted; nothing was written"
        assert listing() == ["in.jsonl"]

    @pytest.mark.parametrize("number", STOPS)
    def test_each_lets_what_is_on_its_way_arrive(
        self, number: signal.Signals, process: Process, simulator: Start
    ) -> None:
        write_rows("in.jsonl", 60)
        sim = simulator(latency=0.5)
        command = words(sim, "--concurrency", "10", "--quiet")
        popen = process(*command, preexec_fn=hear_hangups)
        wait_for(lambda: sim.stats().received >= 10, "10 requests")
        popen.send_signal(number)
        result = ended(popen)
        assert result.code == 128 + number
        assert result.err.startswith("llmflow: stopping; ")
        assert len(rows_of("out.partial.jsonl")) == sim.stats().received == 10
        assert ended(process(*words(sim))).code == 0
        assert sim.stats().received == 60

    def test_the_first_of_two_signals_is_the_exit_code(
        self, process: Process, silent: tuple[str, Callable[[], int]]
    ) -> None:
        url, asked = silent
        write_rows("in.jsonl", 5)
        command = ["run", "in.jsonl", "--prompt", "{text}", "--model", "openai/x"]
        popen = process(*command, "--base-url", url, "-o", "o.jsonl", "--quiet")
        wait_for(lambda: asked() >= 5, "5 requests")
        popen.send_signal(signal.SIGTERM)
        assert popen.stderr is not None
        assert popen.stderr.readline().startswith(b"llmflow: stopping; ")
        popen.send_signal(signal.SIGINT)
        assert ended(popen).code == 128 + signal.SIGTERM

    def test_hangups_that_are_to_be_ignored_are(self, process: Process, simulator: Start) -> None:
        write_rows("in.jsonl", 20)
        sim = simulator(latency=0.3)
        command = words(sim, "--concurrency", "10", "--quiet")
        popen = process(*command, preexec_fn=ignore_hangups)
        wait_for(lambda: sim.stats().received >= 10, "10 requests")
        popen.send_signal(signal.SIGHUP)
        result = ended(popen)
        assert (result.code, result.err) == (0, "")
        assert answers() == [f"text {n}" for n in range(20)]

    def test_a_terminal_that_is_closed(self, process: Process, simulator: Start) -> None:
        """The system says SIGHUP, and nothing can be shown any more."""
        pty = pytest.importorskip("pty")
        fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
        write_rows("in.jsonl", 60)
        sim = simulator(latency=0.5)
        outside, inside = pty.openpty()

        def become_its_program() -> None:
            hear_hangups()
            os.setsid()
            fcntl.ioctl(inside, termios.TIOCSCTTY, 0)

        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), inside)
        command = words(sim, "--concurrency", "10")
        popen = process(*command, preexec_fn=become_its_program, **streams)
        os.close(inside)
        wait_for(lambda: sim.stats().received >= 10, "10 requests")
        os.close(outside)
        assert popen.wait(PATIENCE) == 128 + signal.SIGHUP
        assert len(rows_of("out.partial.jsonl")) == 10
        assert ended(process(*words(sim), "--quiet")).code == 0
        assert sim.stats().received == 60

    @pytest.mark.parametrize("number", STOPS)
    def test_before_the_first_row_of_a_pipe(
        self, number: signal.Signals, process: Process, simulator: Start
    ) -> None:
        command = words(simulator(), source="-")
        popen = process(*command, stdin=subprocess.PIPE, preexec_fn=hear_hangups)
        wait_for_handlers(popen.pid)
        popen.send_signal(number)
        assert popen.wait(PATIENCE) == 128 + number
        result = ended(popen)
        assert result.err.strip() == "llmflow: interrupted; nothing was written"
        assert listing() == []

    def test_at_any_moment_nothing_is_left_open_or_half_said(
        self, process: Process, simulator: Start
    ) -> None:
        seed = random.SystemRandom().randrange(10**6)
        print(f"seed {seed}")
        chance = random.Random(seed)
        Path("in.csv").write_text("text\n" + "one\n" * 100_000)
        sim = simulator()
        for _ in range(8):
            popen = process(*words(sim, source="in.csv"), "--quiet", preexec_fn=hear_hangups)
            wait_for_handlers(popen.pid)
            time.sleep(chance.uniform(0.0, 0.6))
            number = chance.choice([signal.SIGTERM, signal.SIGHUP])
            popen.send_signal(number)
            assert ended(popen).code == 128 + number


def wait_for_handlers(process: int) -> None:
    """Wait until a process has a handler for SIGTERM."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        pytest.skip("needs /proc")

    def has_one() -> bool:
        lines = status.read_text().splitlines()
        caught = next(line for line in lines if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))

    wait_for(has_one, "its handlers")


class TestTwoAtOnce:
    def busy(self, process: Process, sim: SimulatorThread, *more: str) -> subprocess.Popen[bytes]:
        before = sim.stats().answered
        popen = process(*words(sim, "--concurrency", "5", *more), "--quiet")
        wait_for(lambda: sim.stats().answered >= before + 5, "5 answers")
        popen.send_signal(signal.SIGSTOP)  # it must still be there after the others
        return popen

    def finish(self, popen: subprocess.Popen[bytes]) -> int:
        popen.send_signal(signal.SIGCONT)
        return ended(popen).code

    @pytest.mark.parametrize("known", [False, True])
    def test_the_second_into_the_same_output_is_refused_and_harms_nothing(
        self, known: bool, process: Process, simulator: Start
    ) -> None:
        sim = simulator(latency=0.05)
        write_rows("in.jsonl", 3)
        if known:
            assert ended(process(*words(sim))).code == 0
        write_rows("in.jsonl", 40)
        first = self.busy(process, sim)
        second = ended(process(*words(sim)))
        assert second.code == 2
        assert "out" in second.error
        assert f"process {first.pid} is working on the run" in second.error or (
            "another run is writing this file" in second.error
        )
        resumed = ended(process("resume", "out"))
        assert resumed.code == 2
        removed = ended(process("runs", "rm", the_run().name))
        assert removed.code == 2
        assert f"process {first.pid} is working on" in removed.error
        assert self.finish(first) == 0
        assert answers() == [f"text {n}" for n in range(40)]
        assert sim.stats().received == 40
        assert recorded(the_run()) == 40
        assert listing() == ["in.jsonl", "out.jsonl"]

    def test_the_same_run_into_another_output_is_refused(
        self, process: Process, simulator: Start
    ) -> None:
        sim = simulator(latency=0.05)
        write_rows("in.jsonl", 40)
        first = self.busy(process, sim, "--run", "mine")
        second = ended(process(*words(sim, "--run", "mine", out="other.jsonl")))
        assert second.code == 2
        assert f"process {first.pid} is working on the run mine" in second.error
        assert listing() == ["in.jsonl", "out.partial.jsonl"]
        assert self.finish(first) == 0
        assert sim.stats().received == 40

    def test_different_runs_side_by_side(self, process: Process, simulator: Start) -> None:
        sim = simulator(latency=0.05)
        write_rows("in.jsonl", 100)
        started = [
            process(*words(sim, "--prompt", f"{out}: {{text}}", out=f"{out}.jsonl"), "--quiet")
            for out in "ab"
        ]
        assert [ended(each).code for each in started] == [0, 0]
        for out in "ab":
            assert answers(f"{out}.jsonl") == [f"{out}: text {n}" for n in range(100)]
        assert sim.stats().received == 200


class TestJournalFolder:
    """One line, exit code 2, and the output untouched."""

    def done(self, process: Process, sim: SimulatorThread) -> bytes:
        write_rows("in.jsonl", 5)
        assert ended(process(*words(sim))).code == 0
        return Path("out.jsonl").read_bytes()

    def refused(self, process: Process, sim: SimulatorThread, **options: object) -> str:
        received = sim.stats().received
        Path("out.jsonl").write_text("mine")
        Path("out.partial.jsonl").write_text("paid for")
        result = ended(process(*words(sim), **options))
        assert result.code == 2
        assert sim.stats().received == received
        assert Path("out.jsonl").read_text() == "mine"
        kept = [path for path in Path().glob("out.partial*") if path.read_text() == "paid for"]
        assert len(kept) == 1, "what an earlier run left is not lost"
        *_, last = result.err.splitlines()
        assert last.startswith("llmflow: error: ")
        return last

    def test_damaged(self, process: Process, simulator: Start) -> None:
        sim = simulator()
        self.done(process, sim)
        journal = journal_of(the_run())
        journal.write_bytes(b"SQLite format 3\0" + b"nonsense" * 4000)
        damaged = journal.read_bytes()
        assert "is damaged" in self.refused(process, sim)
        assert journal.read_bytes() == damaged
        assert "is damaged" in ended(process("resume", "out")).error

    def test_of_a_newer_version(self, process: Process, simulator: Start) -> None:
        import sqlite3

        sim = simulator()
        self.done(process, sim)
        journal = journal_of(the_run())
        with contextlib.closing(sqlite3.connect(journal)) as connection:
            connection.execute("PRAGMA user_version = 99")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert "install a newer llmflow" in self.refused(process, sim)

    def test_a_folder_that_cannot_be_made(
        self, process: Process, simulator: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sim = simulator()
        write_rows("in.jsonl", 3)
        Path("file").write_text("")
        monkeypatch.setenv("LLMFLOW_JOURNAL_DIR", str(Path("file").absolute()))
        assert "cannot be" in self.refused(process, sim)
        assert ended(process(*words(sim, "--no-journal"))).code == 0
        monkeypatch.setenv("LLMFLOW_JOURNAL_DIR", str(Path("folder").absolute()))
        assert ended(process(*words(sim))).code == 0
        assert len(list(Path("folder").iterdir())) == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of files are POSIX")
    def test_a_full_disk_stops_it_and_with_room_it_goes_on(
        self, process: Process, simulator: Start
    ) -> None:
        import resource

        limit = 400_000
        texts = [f"{n} " + "x" * 2000 for n in range(400)]
        write_texts("in.jsonl", texts)
        sim = simulator(latency=0.01)
        # The journal grows by an answer a row, and so does the output: to a device it goes.
        command = words(sim, "--run", "mine", out="/dev/null")
        result = ended(
            process(
                *command,
                "--json",
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            )
        )
        assert result.code == 2, result.err
        assert "journal.db cannot be written" in result.error
        assert "the room on it, and run again; what was written down is kept" in result.error
        kept = recorded(runs_folder() / "mine")
        assert 0 < kept < 400
        received = sim.stats().received
        assert ended(process(*command)).code == 0
        assert sim.stats().received - received == 400 - kept
        assert recorded(runs_folder() / "mine") == 400
