"""A job is cancelled at the very moment in which something of it is written down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.batch.record import JobRecord, JobStore
from llmflow.errors import BatchCancelledError, InvalidRequestError
from tests.batch.fakes import FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.005)
ORDER = ["sealed", "creating", "created", "fetched", "done"]

Wanted = Callable[[Sequence[JobRecord]], bool]


def ask(
    server: FakeServer, folder: Path, patch: pytest.MonkeyPatch, *, when: Wanted, after: bool
) -> tuple[list[Any], list[JobRecord]]:
    """Ask four prompts, and cancel all jobs beside the first writing that is wanted.

    Returns:
        Answers and errors, and all records in the order in which they were written.
    """
    put, written, cancelled = JobStore.put, list[JobRecord](), threading.Event()

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        llm = LLM(FakeProvider(server), batch=QUICK)
        async with Run("run", folder=folder, mode="batch") as run:

            def cancel() -> None:
                for each in run.session.all_batches:
                    each.cancel_all()
                cancelled.set()

            def putting(self: JobStore, records: Sequence[JobRecord]) -> None:
                beside = threading.current_thread() is not threading.main_thread()
                is_wanted = beside and not cancelled.is_set() and when(records)
                if after:
                    put(self, records)
                    written.extend(records)
                if is_wanted:
                    loop.call_soon_threadsafe(cancel)
                    assert cancelled.wait(5)
                if not after:
                    put(self, records)
                    written.extend(records)

            patch.setattr(JobStore, "put", putting)
            calls = asyncio.gather(*(llm(f"{n}") for n in range(4)), return_exceptions=True)
            return await asyncio.wait_for(calls, 10)

    results = asyncio.run(main())
    assert cancelled.is_set()
    return results, written


@pytest.mark.parametrize("after", [True, False])
def test_a_cancellation_while_a_file_becomes_a_job_cancels_that_job(
    after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer()
    results, written = ask(
        server,
        tmp_path,
        monkeypatch,
        when=lambda records: any(each.state == "sealed" for each in records),
        after=after,
    )
    assert [type(each) for each in results] == [BatchCancelledError] * 4
    assert [written[-1].state, written[-1].cancel] == ["done", "user"]
    assert server.calls.count("create") == 0


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("state", ["creating", "created", "fetched"])
def test_a_cancellation_writes_down_no_earlier_state(
    state: str, after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FakeServer(looks=3)
    _, written = ask(
        server, tmp_path, monkeypatch, when=lambda records: records[0].state == state, after=after
    )
    states = [ORDER.index(each.state) for each in written]
    assert states == sorted(states)
    # Whatever was written while it came, its reason is in what is written next.
    if state != "fetched":
        assert written[-1].cancel == "user"
    assert len(server.jobs) <= 1


def test_a_cancellation_while_a_job_is_split_is_one_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = InvalidRequestError("a bad row", status=400)
    server = FakeServer(refuses=lambda number, rows: bad if number == 1 else None)
    results, _ = ask(
        server, tmp_path, monkeypatch, when=lambda records: len(records) > 1, after=False
    )
    assert [type(each) for each in results] == [BatchCancelledError] * 4
    assert server.calls.count("create") == 1
