"""Where a job's outcomes cannot be kept, nobody waits for them for ever."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Batch, Run
from llmflow.errors import ContentFilterError, JournalError, ServerError
from llmflow.journal import Journal
from llmflow.types import Usage
from tests.batch import fakes
from tests.batch.fakes import FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.005, rounds=1)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what lets no more outcomes be written down."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise JournalError("the disk is full")

    def fill() -> None:
        monkeypatch.setattr(Journal, "put", refuse)
        monkeypatch.setattr(Journal, "put_many", refuse)

    return fill


async def test_a_map_ends_though_an_items_failure_cannot_be_written(
    tmp_path: Path, full_disk: Any
) -> None:
    def fate(prompt: str, number: int) -> Any:
        full_disk()
        return ContentFilterError("no")

    llm = LLM(FakeProvider(FakeServer(fate=fate)), batch=QUICK, mode="batch")
    with pytest.raises(JournalError, match="disk is full"):
        async with Run("run", folder=tmp_path):
            await asyncio.wait_for(llm.map(["1", "2"]), 5)


async def test_calls_end_though_another_rows_failure_cannot_be_written(
    tmp_path: Path, full_disk: Any
) -> None:
    def fate(prompt: str, number: int) -> Any:
        full_disk()
        return ServerError("oops", status=500)

    server = FakeServer(fate=fate)
    llm = LLM(FakeProvider(server), batch=QUICK, mode="batch")
    async with Run("run", folder=tmp_path):
        for number in range(20):
            await llm.submit(f"nobody waits for {number}")
        calls = [llm(f"somebody waits for {number}") for number in range(20)]
        found = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert {type(each) for each in found} == {JournalError}
    assert server.sizes == [40]


@pytest.mark.parametrize("named", [True, False])
async def test_a_map_ends_though_an_answer_says_nonsense_of_its_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    answer, nonsense = fakes.answer, Usage(input_tokens=None)  # type: ignore[arg-type]

    def odd(text: str) -> Any:
        return replace(answer(text), usage=nonsense) if text.endswith("1") else answer(text)

    monkeypatch.setattr(fakes, "answer", odd)
    server = FakeServer()
    llm = LLM(FakeProvider(server), batch=QUICK, mode="batch")
    with pytest.raises(TypeError):
        async with Run("run" if named else None, folder=tmp_path if named else None):
            await asyncio.wait_for(llm.map(["0", "1", "2"]), 5)
    assert server.sizes == [3]
