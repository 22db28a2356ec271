"""A journal that is far away takes its time, and nothing is paid for twice meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import llmflow.journal
from llmflow import LLM, Batch, Run
from llmflow.journal import Key, Recorded
from tests.batch.fakes import FakeProvider, FakeServer
from tests.journal.memory import MemoryJournal


class FarJournal(MemoryJournal):
    """Answers with what it knew when it was asked."""

    async def find_many(self, keys: Sequence[Key]) -> Mapping[Key, Recorded]:
        found = await super().find_many(keys)
        await asyncio.sleep(0.1)
        return found


async def test_an_answer_that_comes_while_the_journal_is_asked_is_not_paid_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llmflow.journal, "Journal", FarJournal)
    stuck = {2}
    server = FakeServer(stuck=stuck)
    batch = Batch(quiet=0.02, poll=0.005, requests=1)
    llm = LLM(FakeProvider(server), batch=batch, mode="batch")
    async with Run("run", folder=tmp_path) as run:
        await llm.submit("first")
        await llm.submit("second")
        while not run.statistics().answered:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        call = asyncio.ensure_future(llm("second"))
        await asyncio.sleep(0.15)  # it has looked once, and would do so again
        stuck.clear()
        assert await asyncio.wait_for(call, 5) == "batch: second"
        await run.settled()
    assert server.sizes == [1, 1]
