"""An equal question has one answer over all runs, and a cache is never a reason to fail."""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmflow import LLM, Response, Run, Usage
from llmflow.cache import Cache
from llmflow.errors import ContentFilterError
from llmflow.runs.catalog import cache_folder
from llmflow.testing import ScriptedProvider
from llmflow.types import Request

KEY = b"0123456789abcdef"


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("LLMFLOW_CACHE_DIR", str(tmp_path / "cached"))
    yield tmp_path / "cached"
    from llmflow.cache import cache_at

    cache_at(tmp_path / "cached").close()


def numbered() -> ScriptedProvider:
    asked = 0

    def answer(request: Request) -> str:
        nonlocal asked
        asked += 1
        return f"answer {asked}"

    return ScriptedProvider(default=answer)


def answer_of(text: str) -> Response:
    return Response(
        text=text,
        usage=Usage(input_tokens=5, output_tokens=7, cached_tokens=2),
        finish_reason="stop",
        model="m",
        provider="p",
        cost=0.25,
        raw={"choices": [1]},
    )


class TestAcrossRuns:
    async def test_what_one_run_asked_another_does_not(self) -> None:
        provider = numbered()
        llm = LLM(provider, cache=True, temperature=0.7)
        async with Run("one"):
            first = await llm.complete("Hi")
        async with Run("two") as run:
            second = await llm.complete("Hi")
            statistics = run.statistics()
        assert (first.source, second.source) == ("provider", "cache")
        assert first == second
        assert (statistics.cached, statistics.answered, statistics.requests) == (1, 0, 0)
        assert len(provider.requests) == 1

    async def test_a_run_is_whole_without_the_cache(self, folder: Path) -> None:
        llm = LLM(ScriptedProvider([answer_of("Hello")]), cache=True)
        await llm("Hi")
        async with Run("one"):
            assert (await llm.complete("Hi")).source == "cache"
        shutil.rmtree(folder)
        async with Run("one"):
            again = await llm.complete("Hi")
        assert (again.source, again.text, again.raw) == ("journal", "Hello", {"choices": [1]})

    async def test_what_came_from_the_cache_is_not_spent(self) -> None:
        llm = LLM(ScriptedProvider([answer_of("Hello")]), cache=True)
        await llm("Hi")
        async with Run("one") as run:
            assert (await llm.complete("Hi")).cost == 0.25
            totals = run.totals
        assert totals is not None
        assert (totals.answers, totals.requests, totals.input_tokens, totals.cost) == (
            1,
            0,
            0,
            None,
        )

    async def test_within_a_run_every_equal_call_gets_the_one_answer(self) -> None:
        llm = LLM(numbered(), cache=True, temperature=1)
        async with Run("one"):
            texts = [*await asyncio.gather(*(llm("Hi") for _ in range(20))), await llm("Hi")]
        assert set(texts) == {"answer 1"}

    async def test_without_a_run_it_serves_all_the_same(self) -> None:
        assert [await LLM(numbered(), cache=True)("Hi") for _ in range(2)] == ["answer 1"] * 2

    async def test_any_other_parameter_is_another_question(self) -> None:
        llm = LLM(numbered(), cache=True)
        texts = [await llm("Hi"), await llm("Hi", temperature=1), await llm("Hi", seed=5)]
        assert len(set(texts)) == 3

    async def test_a_failure_is_not_kept(self) -> None:
        provider = ScriptedProvider([ContentFilterError("no"), "yes"])
        llm = LLM(provider, cache=True)
        with pytest.raises(ContentFilterError):
            await llm("Hi")
        assert await llm("Hi") == "yes"

    def test_without_cache_it_is_neither_read_nor_made(self, folder: Path) -> None:
        with Run("one"):
            LLM(numbered(), temperature=0).run("Hi")
        assert not folder.exists()


class TestPlace:
    def test_only_its_owner_may_read_it(self, folder: Path) -> None:
        LLM(numbered(), cache=True).run("Hi")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()} == {0o600}

    def test_it_is_beside_the_runs(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("LLMFLOW_CACHE_DIR")
        monkeypatch.delenv("LLMFLOW_JOURNAL_DIR")
        monkeypatch.setattr("sys.platform", "linux")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
        assert cache_folder() == tmp_path / "llmflow"
        monkeypatch.setenv("LLMFLOW_JOURNAL_DIR", str(tmp_path / "runs"))
        assert cache_folder() == tmp_path / "runs" / ".cache"

    async def test_it_is_never_in_wal_mode(self, folder: Path) -> None:
        await LLM(numbered(), cache=True)("Hi")
        assert (folder / "cache.db").read_bytes()[18:20] == b"\x01\x01"


class TestFile:
    async def test_the_oldest_answers_make_room(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache.db", most_bytes=500_000)
        keys = [number.to_bytes(16) for number in range(2_000)]
        for start in range(0, 2_000, 100):
            await asyncio.gather(
                *(cache.store(each, answer_of("x" * 2_000)) for each in keys[start : start + 100])
            )
        assert (tmp_path / "cache.db").stat().st_size < 1_000_000
        assert await cache.find(keys[0]) is None
        assert await cache.find(keys[-1]) is not None
        cache.close()

    async def test_the_first_answer_stays(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache.db")
        await cache.store(KEY, answer_of("first"))
        await cache.store(KEY, answer_of("second"))
        found = await cache.find(KEY)
        assert found is not None
        assert found == answer_of("first")
        cache.close()

    @pytest.mark.parametrize("text", ["", "\ud800", "\0", "ä" * 100_000])
    async def test_any_text_comes_back(self, tmp_path: Path, text: str) -> None:
        cache = Cache(tmp_path / "cache.db")
        await cache.store(KEY, answer_of(text))
        assert await cache.find(KEY) == answer_of(text)
        cache.close()

    async def test_deleted_while_in_use_it_begins_anew(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "here" / "cache.db")
        await cache.store(KEY, answer_of("gone"))
        shutil.rmtree(tmp_path / "here")
        assert await cache.find(KEY) is None
        await cache.store(KEY, answer_of("new"))
        cache.close()
        other = Cache(tmp_path / "here" / "cache.db")
        assert await other.find(KEY) == answer_of("new")
        other.close()

    async def test_what_is_cancelled_is_kept_all_the_same(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache.db")
        task = asyncio.create_task(cache.store(KEY, answer_of("kept")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        cache.close()
        assert await cache.find(KEY) == answer_of("kept")
        cache.close()

    def test_event_loops_may_come_and_go(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache.db")
        for number in range(3):
            key = number.to_bytes(16)
            asyncio.run(cache.store(key, answer_of("x")))
            assert asyncio.run(cache.find(key)) == answer_of("x")
        cache.close()


def database(path: Path, *statements: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def made(path: Path, text: str = "kept") -> None:
    cache = Cache(path)
    for number in range(50):
        await cache.store(number.to_bytes(16), answer_of(text))
    cache.close()


def overwrite(path: Path, start: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5_000)


def in_place_of_the_folder(path: Path) -> None:
    path.parent.write_text("no folder")


WAYS: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "a file in place of its folder": (False, in_place_of_the_folder),
    "a folder in its place": (False, lambda path: path.mkdir(parents=True)),
    "a link to nowhere": (
        False,
        lambda path: (path.parent.mkdir(), path.symlink_to(path.parent / "no" / "where")),
    ),
    "a link to itself": (False, lambda path: (path.parent.mkdir(), path.symlink_to(path))),
    "a text": (False, lambda path: (path.parent.mkdir(), path.write_text("no database" * 100))),
    "another program's database": (False, lambda path: database(path, "CREATE TABLE mine (x)")),
    "of a newer llmflow": (True, lambda path: database(path, "PRAGMA user_version = 99")),
    "cut off": (True, cut),
    "overwritten inside": (True, lambda path: overwrite(path, 4_096, b"\xff" * 8_192)),
    "without its table": (True, lambda path: database(path, "DROP TABLE answers")),
    "with answers that are none": (
        True,
        lambda path: database(path, "UPDATE answers SET raw = '{', fingerprint = id"),
    ),
    "never to be written": (
        True,
        lambda path: database(
            path, "CREATE TRIGGER no BEFORE INSERT ON answers BEGIN SELECT raise(ABORT, 'no'); END"
        ),
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_unusable_it_stops_no_call(
    way: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "cache.db"
    first, spoil = WAYS[way]
    if first:
        await made(path)
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    llm = LLM(numbered(), cache=True)
    with caplog.at_level(logging.WARNING, "llmflow"):
        async with Run("one"):
            texts = await asyncio.gather(*(llm(f"Question {number}") for number in range(20)))
            more = [await llm(f"Another {number}") for number in range(5)]
    assert len({*texts, *more}) == 25
    warnings = [each.getMessage() for each in caplog.records]
    if way != "with answers that are none":  # nobody asks for one of these
        assert len(warnings) == 1
        assert "calls go on without" in warnings[0]
        assert before == (path.read_bytes() if path.is_file() else None)


async def test_an_answer_that_is_none_is_as_if_it_were_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.db"
    await made(path)
    database(path, "UPDATE answers SET raw = '{'")
    cache = Cache(path)
    assert await cache.find(bytes(16)) is None
    assert "is damaged" in caplog.text
    cache.close()


async def test_locked_for_long_it_is_left_alone_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache.db"
    await made(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    cache = Cache(path, patience=0.05, pause=0.3)
    key = (1).to_bytes(16)
    assert await cache.find(key) is None
    await cache.store(KEY, answer_of("lost"))
    started = asyncio.get_running_loop().time()
    for _ in range(100):
        assert await cache.find(key) is None
    assert asyncio.get_running_loop().time() - started < 0.25
    other.execute("ROLLBACK")
    other.close()
    await asyncio.sleep(0.4)  # longer than the pause
    assert await cache.find(key) == answer_of("kept")
    assert len(caplog.records) == 1
    assert "locked" in caplog.text
    cache.close()


async def test_where_there_is_no_place_for_it_calls_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLMFLOW_CACHE_DIR", "~no-such-user-here/x")
    llm = LLM(numbered(), cache=True)
    assert [await llm("Hi"), await llm("Hi")] == ["answer 1", "answer 2"]
    assert len(caplog.records) == 1


class TestTheThreadThatDies:
    @pytest.mark.parametrize("where", ["_work", "_look_up", "_write"])
    async def test_calls_go_on_without_the_cache_and_it_is_said_once(
        self, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from llmflow.cache.store import StoreWorker

        def die(*_: object) -> None:
            raise SystemExit("the thread is gone")

        monkeypatch.setattr(StoreWorker, where, die)
        llm = LLM(numbered(), cache=True)
        with caplog.at_level(logging.WARNING, "llmflow"):
            answers = await asyncio.wait_for(asyncio.gather(*(llm(f"Hi {n}") for n in range(9))), 9)
            assert len(set(answers)) == 9
            assert await asyncio.wait_for(llm("one more"), 9)
        assert caplog.text.count("the thread is gone") == 1

    async def test_that_cannot_start(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        import threading

        def start(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        assert await asyncio.wait_for(LLM(numbered(), cache=True)("Hi"), 9) == "answer 1"
        assert "can't start new thread" in caplog.text
