"""What a session leaves to the next one, in the journal and on the disk, and what it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.events import BatchDecided, Event
from llmflow.journal import read_jobs
from llmflow.provider import BatchRow
from tests.batch.fakes import FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.005)


def ask(
    server: FakeServer,
    numbers: Collection[int],
    folder: Path,
    *,
    seconds: float = 10.0,
    batch: Batch = QUICK,
) -> list[Any]:
    """Ask in a run of always the same name; return the answers, or what came instead."""
    llm = LLM(FakeProvider(server), batch=batch)

    async def main() -> list[Any]:
        async with Run("run", mode="batch", folder=folder):
            calls = asyncio.gather(*(llm(f"{n}") for n in numbers), return_exceptions=True)
            return await asyncio.wait_for(calls, seconds)

    return asyncio.run(main())


def states(folder: Path) -> list[str]:
    return [each["state"] for each in read_jobs(folder / "run")]


def files(folder: Path) -> list[str]:
    return [each.name for each in (folder / "run" / "batches").iterdir()]


def test_a_program_that_ends_with_its_last_answer_leaves_no_job_behind(tmp_path: Path) -> None:
    assert ask(FakeServer(), range(20), tmp_path) == [f"batch: {n}" for n in range(20)]
    assert states(tmp_path) == ["done"]
    assert files(tmp_path) == []


def test_neither_does_one_whose_event_loop_ends_before_its_run(tmp_path: Path) -> None:
    llm = LLM(FakeProvider(FakeServer()), batch=QUICK)
    with Run("run", mode="batch", folder=tmp_path):
        assert llm.map_sync(["1", "2"]).texts() == ["batch: 1", "batch: 2"]
    assert states(tmp_path) == ["done"]
    assert files(tmp_path) == []


def test_neither_does_one_whose_job_was_cancelled(tmp_path: Path) -> None:
    server = FakeServer(ends=lambda number: "cancelled", fate=lambda prompt, job: None)
    assert len(ask(server, range(20), tmp_path)) == 20
    assert states(tmp_path) == ["done"]
    assert files(tmp_path) == []


def test_a_job_whose_leftovers_are_in_no_other_yet_is_not_done(tmp_path: Path) -> None:
    server = FakeServer(fate=lambda prompt, job: None if job == 1 else f"batch: {prompt}")
    llm = LLM(FakeProvider(server), batch=Batch(quiet=0.2, poll=0.005))

    async def main() -> None:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def hear(event: Event) -> None:
            if isinstance(event, BatchDecided) and event.decision == "next round":
                loop.call_soon_threadsafe(begun.set)

        async with Run("run", mode="batch", folder=tmp_path, on_event=hear):
            asking = asyncio.ensure_future(llm("1"))
            await asyncio.wait_for(begun.wait(), 10)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(main())
    assert states(tmp_path) == ["fetched"]
    assert ask(server, [1], tmp_path) == ["batch: 1"]
    assert server.sizes == [1, 1]
    assert states(tmp_path) == ["done", "done"]


def test_what_a_killed_session_left_is_tidied_up_though_nothing_is_asked(tmp_path: Path) -> None:
    ask(FakeServer(), range(3), tmp_path)
    folder = tmp_path / "run" / "batches"
    (folder / "llmflow-0.jsonl").write_bytes(b"a file of no job")
    (folder / "llmflow-1.jsonl.part").write_bytes(b"half a file")
    (folder / "llmflow-2.results").mkdir()
    (folder / "llmflow-2.results" / "0.jsonl").write_bytes(b"of a job that is done")
    with Run("run", folder=tmp_path):
        assert files(tmp_path) == []


def test_the_files_of_jobs_that_go_on_stay(tmp_path: Path) -> None:
    server = FakeServer(looks=10**9)
    with pytest.raises(TimeoutError):
        ask(server, range(3), tmp_path, seconds=0.3)
    assert states(tmp_path) == ["created"]
    with Run("run", folder=tmp_path):
        assert len(files(tmp_path)) == 1
    server.looks = 1
    assert ask(server, range(3), tmp_path) == ["batch: 0", "batch: 1", "batch: 2"]


def test_a_row_that_a_job_brings_just_before_it_is_asked_for_is_not_asked_again(
    tmp_path: Path,
) -> None:
    server = FakeServer(looks=10**9)
    with pytest.raises(TimeoutError):
        ask(server, range(20), tmp_path, seconds=0.3)
    server.looks = 1
    llm = LLM(FakeProvider(server), batch=QUICK)
    read, asking = FakeProvider(server).batch, list[asyncio.Task[str]]()
    asked = set[str]()
    assert read is not None

    class Asking(type(read)):  # type: ignore[misc]
        def read(self, line: bytes) -> BatchRow:
            row: BatchRow = super().read(line)
            assert row.response is not None
            prompt = row.response.text.removeprefix("batch: ")
            if prompt not in asked:  # it is read now, and given out before anything else happens
                asked.add(prompt)
                asking.append(asyncio.ensure_future(llm(prompt)))
            return row

    async def main() -> list[str]:
        async with Run("run", mode="batch", folder=tmp_path) as run:
            first = FakeProvider(server)
            first.batch = Asking(server)
            await LLM(first, batch=QUICK).collect()
            await run.settled()
            return await asyncio.gather(*asking)

    assert sorted(asyncio.run(main())) == sorted(f"batch: {n}" for n in range(20))
    assert server.sizes == [20]
