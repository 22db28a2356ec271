"""A run whose journal was altered on disk asks again what it cannot trust, and says so once."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from llmflow import LLM, Batch, Run
from llmflow.runs.catalog import runs_folder
from llmflow.simulator import BatchSettings, SimulatorSettings, serve_in_thread
from llmflow.testing import ScriptedProvider
from tests.runs.asking import asked, numbered

ITEMS = [f"text {number}" for number in range(6)]
WARNING = "llmflow: run run: 2 rows of its journal were altered on disk"


def alter(statement: str) -> None:
    path = runs_folder() / "run" / "journal.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount == 2


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def in_a_block(llm: LLM, mapped: bool) -> tuple[list[str], Run]:
    with Run("run") as run:
        if mapped:
            return [str(each) for each in llm.map_sync(ITEMS).texts()], run
        return [llm.complete_sync(each).text for each in ITEMS], run


def in_a_coroutine(llm: LLM, mapped: bool) -> tuple[list[str], Run]:
    async def main() -> tuple[list[str], Run]:
        async with Run("run") as run:
            if mapped:
                results = await llm.map(ITEMS)
                return [str(each) for each in results.texts()], run
            return list(await asyncio.gather(*map(llm, ITEMS))), run

    return asyncio.run(main())


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("play", [in_a_block, in_a_coroutine])
def test_an_altered_answer_is_asked_again_and_told_once(
    play: Any, mapped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first, run = play(LLM(numbered()), mapped)
    assert run.report().altered == 0
    alter("UPDATE answers SET text = 'altered' WHERE text LIKE '%text 2' OR text LIKE '%text 4'")
    again = numbered()
    second, run = play(LLM(again), mapped)
    assert asked(again) == ["text 2", "text 4"]
    assert [n for n in range(6) if first[n] != second[n]] == [2, 4]
    assert "altered" not in second
    assert run.report().altered == 2
    assert [text for text in warnings(caplog) if "altered" in text] == [
        f"{WARNING}: they were not used, their questions are asked again"
    ]
    caplog.clear()
    nobody = ScriptedProvider()
    third, run = play(LLM(nobody), mapped)
    assert third == second
    assert nobody.requests == []
    assert not warnings(caplog)


def test_altered_answers_in_equal_calls_are_asked_as_often(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def play(llm: LLM) -> list[str]:
        with Run("run"):
            return [llm.complete_sync("the same").text for _ in range(4)]

    first = play(LLM(numbered()))
    alter("UPDATE answers SET output_tokens = output_tokens + 1 WHERE ordinal IN (1, 2)")
    again = numbered()
    second = play(LLM(again))
    assert len(again.requests) == 2
    assert (second[0], second[3]) == (first[0], first[3])
    assert warnings(caplog) == [f"{WARNING}: they were not used, their questions are asked again"]
    assert play(LLM(ScriptedProvider())) == second


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_altered_answers_of_batch_jobs_are_asked_again(
    dialect: str, caplog: pytest.LogCaptureFixture
) -> None:
    batch = BatchSettings(seconds=0.2, validation_seconds=0.05, finalizing_seconds=0.05)
    with serve_in_thread(SimulatorSettings(latency=0.0, answer="echo", batch=batch)) as sim:
        url = sim.url if dialect == "openai" else sim.url.removesuffix("/v1")

        def play() -> tuple[list[Any], Run]:
            soon = Batch(quiet=0.05, poll=0.05)
            llm = LLM(f"{dialect}/x", base_url=url, api_key="key", max_tokens=50, batch=soon)
            with Run("run", mode="batch") as run:
                return llm.map_sync(ITEMS).texts(), run

        first, run = play()
        assert first == ITEMS
        assert run.report().batch_rows == 6
        alter("UPDATE answers SET text = 'altered' WHERE text IN ('text 1', 'text 5')")
        second, run = play()
        assert second == ITEMS
        assert (run.report().altered, run.report().answered) == (2, 2)
        assert run.report().batch_rows == 8
        assert [text for text in warnings(caplog) if "altered" in text] == [
            f"{WARNING}: they were not used, their questions are asked again"
        ]
        third, run = play()
        assert third == ITEMS
        assert run.report().replayed == 6
