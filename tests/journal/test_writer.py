"""Groups, threads, event loops, cancellation and the end."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmflow.errors import JournalError, ProviderError
from llmflow.journal import Journal, read_summary, schema
from tests.journal.helpers import answer, key, opened, start


def rows(folder: Path) -> int:
    connection = sqlite3.connect(folder / schema.NAME)
    try:
        return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
    finally:
        connection.close()


async def test_what_is_recorded_is_in_the_file_before_record_returns(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        for number in range(3):
            await journal.record(key(number), 0, answer())
            assert rows(tmp_path / "run") == number + 1


@pytest.mark.parametrize("count", [1, 7, 8, 9, 127, 128, 129, 500, 5000])
async def test_groups_of_any_size_are_written_whole(tmp_path: Path, count: int) -> None:
    with opened(tmp_path / "run") as journal:
        await asyncio.gather(*(journal.record(key(n), 0, answer(n)) for n in range(count)))
        assert rows(tmp_path / "run") == count
        assert all(journal.find(key(n), 0) == answer(n) for n in range(count))


async def test_a_group_is_one_commit(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        statements: list[str] = []
        await journal.record(key(), 0, answer())
        with journal._writer.using:
            journal._connection.set_trace_callback(statements.append)
        await asyncio.gather(*(journal.record(key(n), 1, answer(n)) for n in range(200)))
        assert statements.count("COMMIT") == 1
        # SQLite gives the interpreter away at each: 128 + 2 * 32 + 8 rows.
        assert len([each for each in statements if each.startswith("INSERT INTO answers")]) == 4


async def test_a_cancelled_record_is_written_all_the_same(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        task = asyncio.create_task(journal.record(key(), 0, answer()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await journal.drain()
        assert journal.find(key(), 0) == answer()


async def test_drain_waits_for_all_that_came_before(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        await journal.drain()
        tasks = [asyncio.create_task(journal.record(key(n), 0, answer())) for n in range(300)]
        await asyncio.sleep(0)
        await journal.drain()
        assert rows(tmp_path / "run") == 300
        await asyncio.gather(*tasks)


def test_closing_writes_what_nobody_waits_for(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run")

    async def leave() -> None:
        tasks = [asyncio.create_task(journal.record(key(n), 0, answer())) for n in range(50)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)

    asyncio.run(leave())
    journal.close()
    assert rows(tmp_path / "run") == 50


async def test_closing_in_the_loop_tells_those_who_wait(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run")
    task = asyncio.create_task(journal.record(key(), 0, answer()))
    await asyncio.sleep(0)
    journal.close()
    await asyncio.wait_for(task, 5)
    assert rows(tmp_path / "run") == 1


async def test_closing_twice_is_fine(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run")
    await journal.record(key(), 0, answer())
    await asyncio.gather(
        *(asyncio.to_thread(journal.close, state="stopped", reason="why") for _ in range(3))
    )
    journal.close()
    summary = read_summary(tmp_path / "run")
    assert summary is not None
    assert (summary.state, summary.reason) == ("stopped", "why")


async def test_after_the_end_everything_says_so(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run")
    await asyncio.to_thread(journal.close)
    for call in (
        lambda: journal.find(key(), 0),
        lambda: journal.begin({}),
    ):
        with pytest.raises(JournalError, match="is closed"):
            call()
    for recording in (
        journal.record(key(), 0, answer()),
        journal.record(key(), 0, ProviderError("no")),
        journal.drain(),
    ):
        with pytest.raises(JournalError, match="is closed"):
            await recording


def test_a_record_that_meets_the_end_is_written_or_refused(tmp_path: Path) -> None:
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        journal = Journal.open(folder)
        written: list[int] = []

        async def work(journal: Journal = journal, written: list[int] = written) -> None:
            for number in range(10_000):
                await journal.record(key(number), 0, answer())
                written.append(number)

        def serve(work: object = work) -> None:
            with pytest.raises(JournalError, match="is closed"):
                asyncio.run(asyncio.wait_for(work(), 20))  # type: ignore[operator]

        thread = threading.Thread(target=serve)
        thread.start()
        time.sleep(0.001 * attempt)
        journal.close()
        thread.join(20)
        assert not thread.is_alive()
        assert rows(folder) in (len(written), len(written) + 1)


def test_loops_in_threads_share_a_journal(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:

        async def work(start: int) -> None:
            async def one(number: int) -> None:
                assert journal.find(key(number), 0) is None
                await journal.record(key(number), 0, answer(number))
                assert journal.find(key(number), 0) == answer(number)

            await asyncio.gather(*(one(start + n) for n in range(200)))

        threads = [
            threading.Thread(target=asyncio.run, args=(work(n * 1000),)) for n in range(1, 5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert journal.totals.answers == 800


def test_a_loop_that_has_gone_is_nobodys_trouble(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        for number in range(20):
            loop = asyncio.new_event_loop()
            task = loop.create_task(journal.record(key(number), 0, answer()))
            loop.run_until_complete(asyncio.sleep(0))
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            loop.close()
        asyncio.run(journal.record(key(99), 0, answer()))
        assert journal.totals.answers == 21
        assert len(journal._writer._lenders) <= 1


class Noted(threading.Event):
    """An event that tells which threads waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[threading.Thread] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(threading.current_thread())
        return super().wait(timeout)


async def test_a_loop_whose_rows_wait_for_long_makes_way_for_the_writer(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        journal._writer._progress = noted = Noted()
        with journal._writer.using:
            task = asyncio.create_task(journal.record(key(), 0, answer()))
            while not noted.waited:  # noqa: ASYNC110 - the loop itself is what waits
                await asyncio.sleep(0)
            assert not task.done()
        await task
        assert set(noted.waited) == {threading.current_thread()}


async def test_a_loop_whose_rows_are_written_in_time_is_not_stopped(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as journal:
        journal._writer._progress = noted = Noted()
        loop = asyncio.get_running_loop()
        journal._writer._done = 10**9
        await journal.record(key(), 0, answer())
        while loop in journal._writer._lenders:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        assert noted.waited == []


def test_a_journal_that_is_left_open_is_closed_with_the_program(tmp_path: Path) -> None:
    program = """
import asyncio, sys
from llmflow.journal import Journal
from tests.journal.helpers import answer, key
journal = Journal.open(sys.argv[1])
journal.begin({})
async def leave():
    asyncio.create_task(journal.record(key(), 0, answer()))
    await asyncio.sleep(0)
asyncio.run(leave())
"""
    process = start(program, tmp_path / "run")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert rows(tmp_path / "run") == 1
    assert not (tmp_path / "run" / f"{schema.NAME}-wal").exists()
    summary = read_summary(tmp_path / "run")
    assert summary is not None
    assert summary.state == "interrupted"


def test_a_forgotten_journal_lets_go_of_its_file(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run")
    asyncio.run(journal.record(key(), 0, answer()))
    journal.close()
    before = threading.active_count()
    del journal
    gc.collect()
    assert threading.active_count() == before
    with opened(tmp_path / "run") as again:
        assert again.find(key(), 0) == answer()


async def test_the_log_stays_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with opened(folder) as journal:
        for group in range(30):
            await asyncio.gather(
                *(journal.record(key(n), group, answer(text="x" * 20_000)) for n in range(100))
            )
        assert (folder / schema.NAME).stat().st_size > 30_000_000
        assert (folder / f"{schema.NAME}-wal").stat().st_size < 33_000_000


@pytest.mark.parametrize(("durability", "level"), [("process", 1), ("power", 2)])
async def test_durability_is_sqlites_level(tmp_path: Path, durability: str, level: int) -> None:
    with opened(tmp_path / "run", durability=durability) as journal:
        await journal.record(key(), 0, answer())
        assert journal._connection.execute("PRAGMA synchronous").fetchone() == (level,)


class Died(BaseException):
    """What no code that is asked to handle errors expects."""


ENDS = [Died("gone"), SystemExit(3), KeyboardInterrupt(), MemoryError("no memory")]


class TestTheThreadThatDies:
    """Whoever waits for a row is told the error, whatever ended the thread, and wherever."""

    @pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
    @pytest.mark.parametrize("where", ["_commit", "_write_waiting", "_work"])
    async def test_all_calls_that_wait_and_that_come_fail(
        self, where: str, end: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with opened(tmp_path / "run") as journal:
            await journal.record(key(0), 0, answer())

        def die(*_: object) -> None:
            raise end

        with opened(tmp_path / "run") as journal:
            monkeypatch.setattr(journal._writer, where, die)
            waiting = [asyncio.create_task(journal.record(key(n), 1, answer())) for n in range(9)]
            for each in await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 9):
                assert isinstance(each, JournalError)
                assert str(end).lower() in str(each)
            for late in (journal.record(key(99), 0, answer()), journal.drain()):
                with pytest.raises(JournalError, match="cannot be written"):
                    await asyncio.wait_for(late, 9)
        with opened(tmp_path / "run") as journal:
            assert journal.find(key(0), 0) == answer()

    async def test_between_writing_and_telling(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import llmflow.journal.writer as module

        tell, dead = module._tell, False

        def die_once(*arguments: Any) -> None:
            nonlocal dead
            if not dead:
                dead = True
                raise Died("gone")
            tell(*arguments)

        monkeypatch.setattr(module, "_tell", die_once)
        with opened(tmp_path / "run") as journal:
            with pytest.raises(JournalError, match="gone"):
                await asyncio.wait_for(journal.record(key(), 0, answer()), 9)
            loop = asyncio.get_running_loop()
            while loop in journal._writer._lenders:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert rows(tmp_path / "run") == 1

    async def test_that_cannot_start(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with opened(tmp_path / "run") as journal:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", start)
                with pytest.raises(JournalError, match="can't start new thread"):
                    await asyncio.wait_for(journal.record(key(), 0, answer()), 9)
            with pytest.raises(JournalError, match="can't start new thread"):
                await asyncio.wait_for(journal.record(key(), 0, answer()), 9)
