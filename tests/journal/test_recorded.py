"""A journal that was written once answers the same calls for ever.

``python -m tests.journal.test_recorded`` writes it anew, after a change of the key or of the
schema that `OLDEST` of llmflow/journal/schema.py tells: then all runs before are refused.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Retry, Run
from llmflow.errors import JournalError
from llmflow.journal import Journal, schema
from llmflow.simulator import SimulatorSettings, serve_in_process

RECORDED = Path(__file__).parent / "recorded"
# A part of the key. Nobody listens there when the journal is read.
PORT = 18_431
MODELS = {"openai/recorded": f"http://127.0.0.1:{PORT}/v1", "anthropic/recorded": ""}
QUESTIONS: tuple[tuple[Any, dict[str, Any]], ...] = (
    ("A question.", {}),
    ("A question with a system prompt.", {"system": "Be brief.", "max_tokens": 20}),
    ("Naïve ☕ 日本語", {"temperature": 0.5, "options": {"top_p": 0.5}}),
    (
        [
            {"role": "user", "content": "The first turn."},
            {"role": "assistant", "content": "An answer."},
            {"role": "user", "content": "The second turn."},
        ],
        {"temperature": 0.0},
    ),
)


def llms() -> list[LLM]:
    once = Retry(attempts=1)
    return [
        LLM(name, base_url=url or f"http://127.0.0.1:{PORT}", api_key="sk-recorded", retry=once)
        for name, url in MODELS.items()
    ]


async def ask_all(folder: Path) -> list[str]:
    """Ask each question twice, so that the second one has an ordinal of its own."""
    async with Run("recorded", folder=folder):
        return [
            await llm(prompt, **options)
            for llm in llms()
            for prompt, options in QUESTIONS
            for _ in range(2)
        ]


def journal_of(folder: Path) -> Path:
    (found,) = folder.rglob(schema.NAME)
    return found


async def test_a_recorded_journal_answers_without_a_request(tmp_path: Path) -> None:
    shutil.copytree(RECORDED / "run", tmp_path / "run")
    with closing(sqlite3.connect(journal_of(tmp_path / "run"))) as connection:
        texts = [text for (text,) in connection.execute("SELECT text FROM answers ORDER BY id")]
    assert await ask_all(tmp_path / "run") == texts
    assert len(texts) == len(MODELS) * len(QUESTIONS) * 2


def test_the_recorded_journal_is_of_the_version_of_today() -> None:
    with closing(sqlite3.connect(journal_of(RECORDED / "run"))) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


@pytest.mark.parametrize("version", [1, schema.OLDEST - 1])
def test_a_journal_of_an_older_llmflow_is_refused_and_left_as_it_is(
    tmp_path: Path, version: int
) -> None:
    shutil.copytree(RECORDED / "run", tmp_path / "run")
    path = journal_of(tmp_path / "run")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(JournalError, match=f"has version {version}, .* bought again.*another run"):
        Journal.open(path.parent)
    assert path.read_bytes() == before


def record() -> None:
    """Write the recorded journal anew."""
    shutil.rmtree(RECORDED, ignore_errors=True)
    with serve_in_process(SimulatorSettings(port=PORT, latency=0.0)):
        asyncio.run(ask_all(RECORDED / "run"))
    with closing(sqlite3.connect(journal_of(RECORDED / "run"))) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    for path in RECORDED.rglob("*"):
        if path.is_file() and path.name != schema.NAME:
            path.unlink()


if __name__ == "__main__":
    record()
