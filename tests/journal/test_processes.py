"""Several processes: one writes, others look, and any of them may be killed."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from llmflow.errors import JournalBusyError, JournalError, ProviderError
from llmflow.journal import Journal, Totals, read_summary, schema
from llmflow.journal import lock as lock_module
from tests.journal.helpers import answer, key, opened, start

posix = pytest.mark.skipif(os.name != "posix", reason="there are no forks or signals")

WRITES = """
import asyncio, sys
from llmflow.errors import ProviderError
from llmflow.journal import Journal
from tests.journal.helpers import answer, key

async def main():
    journal = Journal.open(sys.argv[1])
    journal.begin({"kind": "python"})
    first = int(sys.argv[2])
    async def work(start):
        for number in range(start, 10_000_000, 20):
            if number % 7:
                await journal.record(key(number), 0, answer(number, text="x" * 3000))
            else:
                await journal.record(key(number), 0, ProviderError(str(number)))
            print(number, flush=True)
    await asyncio.gather(*(work(first + n) for n in range(20)))

asyncio.run(main())
"""


@posix
def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    acknowledged: set[int] = set()
    chance = random.Random(4)
    for attempt in range(10):
        process = start(WRITES, folder, attempt * 1_000_000)
        assert process.stdout is not None
        acknowledged.add(int(process.stdout.readline()))
        time.sleep(chance.uniform(0, 0.3))  # the moment is what is tested
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        # The last line may have been cut off.
        acknowledged.update(map(int, rest[: rest.rfind("\n") + 1].split()))
        process.communicate()
        summary = read_summary(folder)
        assert summary is not None
        assert (summary.state, summary.busy) == ("interrupted", False)
    assert len(acknowledged) > 100
    with opened(folder) as journal:
        for number in acknowledged:
            found = journal.find(key(number), 0)
            if number % 7:
                assert found == answer(number, text="x" * 3000)
            else:
                assert found is not None
        totals = journal.totals
        assert journal.sessions == 10
    connection = sqlite3.connect(folder / schema.NAME)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    counted = [
        connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for table in ("answers", "failures")
    ]
    connection.close()
    assert counted == [totals.answers, totals.failures]


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    process = start(WRITES, tmp_path / "run", 0)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(JournalBusyError, match=rf"process {process.pid} .* run \(") as caught:
        Journal.open(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    process.kill()
    process.communicate()
    with opened(tmp_path / "run") as journal:
        assert journal.totals.answers


def test_a_process_cannot_open_a_run_twice(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        with pytest.raises(JournalBusyError, match="this process is working on the run run"):
            Journal.open(tmp_path / "run")
        asyncio.run(journal.record(key(), 0, answer()))
    with opened(tmp_path / "run") as journal:
        assert journal.find(key(), 0) == answer()


def test_a_journal_that_cannot_be_opened_is_not_held(tmp_path: Path) -> None:
    (tmp_path / schema.NAME).write_bytes(b"x" * 200)
    for _ in range(2):
        with pytest.raises(JournalError, match="damaged"):
            Journal.open(tmp_path)
    (tmp_path / schema.NAME).unlink()
    with opened(tmp_path) as journal:
        assert journal.totals == Totals()


def test_summaries_are_read_while_another_process_writes(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(WRITES, folder, 0)
    assert process.stdout is not None
    process.stdout.readline()
    reader = threading.Thread(target=process.stdout.read)
    reader.start()
    answers = []
    while len(set(answers)) < 20:
        summary = read_summary(folder)
        assert summary is not None
        assert (summary.state, summary.busy, summary.pid) == ("running", True, process.pid)
        assert summary.sessions == 1
        answers.append(summary.totals.answers)
    assert answers == sorted(answers)
    process.kill()
    process.wait()
    reader.join()
    assert process.stdin is not None
    process.stdin.close()
    process.stdout.close()


def test_lists_of_runs_do_not_make_a_run_seem_busy(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with opened(folder):
        pass
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            read_summary(folder)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            with opened(folder):
                pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with opened(folder) as journal:
        asyncio.run(journal.record(key(), 0, answer()))
    before = {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in folder.iterdir()}
    for _ in range(3):
        assert read_summary(folder) is not None
    after = {each.name: (each.read_bytes(), each.stat().st_mtime_ns) for each in folder.iterdir()}
    assert after == before


def test_there_is_no_summary_of_nothing(tmp_path: Path) -> None:
    assert read_summary(tmp_path / "none") is None
    assert read_summary(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


async def test_a_summary_says_what_the_run_was(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    about = {"kind": "command", "arguments": ["--model", "m"], "odd": "\udc80"}
    journal = Journal.open(folder, wall=lambda: 7.0)
    journal.begin(about)
    await journal.record(key(), 0, answer())
    now = read_summary(folder)
    assert now is not None
    assert (now.name, now.state, now.about, now.busy) == ("run", "running", about, True)
    assert (now.pid, now.totals) == (os.getpid(), journal.totals)
    journal.close(state="stopped", reason="the budget is used up")
    later = read_summary(folder)
    assert later is not None
    assert (later.name, later.folder, later.about) == ("run", folder, about)
    assert (later.state, later.reason) == ("stopped", "the budget is used up")
    assert (later.created_at, later.last_used_at, later.sessions) == (7.0, 7.0, 1)
    assert later.id
    assert later.version
    assert (later.busy, later.pid) == (False, None)
    assert later.bytes == (folder / schema.NAME).stat().st_size
    again = Journal.open(folder, wall=lambda: 9.0)
    again.begin(about)
    again.close()
    latest = read_summary(folder)
    assert latest is not None
    assert (latest.id, latest.created_at) == (later.id, 7.0)
    assert (latest.last_used_at, latest.sessions, latest.reason) == (9.0, 2, None)


@posix
def test_a_forked_process_keeps_its_hands_off(tmp_path: Path) -> None:
    program = """
import asyncio, os, sys
from llmflow.errors import JournalBusyError, JournalError
from llmflow.journal import Journal
from tests.journal.helpers import answer, key
journal = Journal.open(sys.argv[1])
asyncio.run(journal.record(key(1), 0, answer(1)))
child = os.fork()
if child == 0:
    for use in (lambda: journal.find(key(1), 0),
                lambda: asyncio.run(journal.record(key(2), 0, answer(2)))):
        try:
            use()
        except JournalError as error:
            assert "forked" in str(error)
        else:
            sys.exit(3)
    try:
        Journal.open(sys.argv[1])
    except JournalBusyError:
        journal.close()
        sys.exit(0)  # in the ordinary way: everything is tidied up
    sys.exit(4)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
asyncio.run(journal.record(key(3), 0, answer(3)))
assert journal.find(key(1), 0) == answer(1)
assert journal.find(key(3), 0) == answer(3)
journal.close()
"""
    process = start(program, tmp_path / "run")
    process.communicate(timeout=60)
    assert process.returncode == 0
    with opened(tmp_path / "run") as journal:
        assert [journal.find(key(n), 0) for n in (1, 2, 3)] == [answer(1), None, answer(3)]


@posix
def test_a_forked_process_does_not_hold_the_run_of_a_dead_parent(tmp_path: Path) -> None:
    program = """
import asyncio, os, sys, time
from llmflow.journal import Journal
from tests.journal.helpers import answer, key
journal = Journal.open(sys.argv[1])
asyncio.run(journal.record(key(), 0, answer()))
if os.fork() == 0:
    print("child", flush=True)
    sys.stdin.readline()
    os._exit(0)
time.sleep(60)
"""
    process = start(program, tmp_path / "run")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    with opened(tmp_path / "run") as journal:
        assert journal.find(key(), 0) == answer()
    process.communicate("\n")


@pytest.mark.skipif(not hasattr(lock_module, "fcntl"), reason="of POSIX")
def test_a_file_system_without_locks_is_no_reason_not_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(lock_module._NO_LOCKS[0], "No locks available")

    monkeypatch.setattr("llmflow.journal.lock.fcntl.flock", no_locks)
    with opened(tmp_path / "run") as journal:
        asyncio.run(journal.record(key(), 0, answer()))
        summary = read_summary(tmp_path / "run")
        assert summary is not None
        assert not summary.busy


async def test_a_program_that_only_looks_does_not_stop_the_writer(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        connection = sqlite3.connect(tmp_path / "run" / schema.NAME, isolation_level=None)
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM answers").fetchall()
        for number in range(50):
            await journal.record(key(number), 0, answer(number))
        connection.close()
        assert journal.totals.answers == 50


@posix
async def test_looking_at_a_run_of_this_process_leaves_it_its_locks(tmp_path: Path) -> None:
    """Closing a file takes a process's locks on it; SQLite's log would be removed by others."""
    folder = tmp_path / "run"
    journal = Journal.open(folder)
    await journal.record(key(1), 0, answer(1))
    assert read_summary(folder) is not None
    program = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM answers')"
    process = start(program, folder / schema.NAME)
    process.communicate()
    assert process.returncode == 0
    assert (folder / f"{schema.NAME}-wal").exists()
    await journal.record(key(2), 0, answer(2))
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)  # what a kill would leave
    journal.close()
    assert schema._in_use == set()
    with opened(copy) as left:
        assert [left.find(key(n), 0) for n in (1, 2)] == [answer(1), answer(2)]


async def test_a_program_that_writes_by_hand_is_named_in_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_PATIENCE_SECONDS", 0.05)
    with opened(tmp_path / "run") as journal:
        connection = sqlite3.connect(tmp_path / "run" / schema.NAME, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="another program holds it"):
            await journal.record(key(), 0, answer())
        with pytest.raises(JournalError, match="another program holds it"):
            await journal.record(key(), 0, ProviderError("no"))
        connection.close()
