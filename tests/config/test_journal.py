"""Where runs are kept and what they keep, as the file says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Response, Usage
from llmflow.config import Config, JournalSettings, load_config, use_config
from llmflow.journal import schema
from llmflow.runs.catalog import list_runs, runs_folder
from llmflow.runs.run import Run
from llmflow.testing import ScriptedProvider
from tests.config.conftest import Load, Write

FILE = "[journal]\ndir = 'kept/runs'\nstore = 'answers'\n"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LLMFLOW_JOURNAL_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_the_folder_is_relative_to_the_file(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(FILE)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert load_config().journal.dir == runs_folder() == tmp_path / "kept" / "runs"


def test_the_folder_may_be_in_the_home_folder(load: Load, tmp_path: Path) -> None:
    assert load("[journal]\ndir = '~/runs'").journal.dir == tmp_path / "runs"


def test_each_setting_tells_its_line(load: Load) -> None:
    origins = load(FILE).journal.origins
    assert origins == {"dir": "llmflow.toml, line 2", "store": "llmflow.toml, line 3"}


def test_without_a_file_nothing_is_said() -> None:
    assert Config().journal == JournalSettings(dir=None, store=None)
    with use_config(Config()):
        assert (
            runs_folder().parts[-3:] == ("state", "llmflow", "runs") or not runs_folder().exists()
        )


def test_the_variable_wins_over_the_file(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(FILE)
    monkeypatch.setenv("LLMFLOW_JOURNAL_DIR", str(tmp_path / "named"))
    assert runs_folder() == tmp_path / "named"


async def kept(run: Run) -> bool | None:
    """Return whether an answer's whole reply was kept; None where nothing was."""
    answer = Response(
        text="Hello", usage=Usage(), finish_reason="stop", model="m", provider="p", raw={"id": "x"}
    )
    llm = LLM(ScriptedProvider([answer]))
    async with run:
        first = await llm.complete("Hi")
    if run.totals is None:
        return None
    assert first.raw
    async with Run(run.name):
        return bool((await llm.complete("Hi")).raw)


async def test_a_run_keeps_what_the_file_says(write: Write, tmp_path: Path) -> None:
    write(FILE)
    assert await kept(Run("a")) is False
    assert [each.folder for each in list_runs()] == [tmp_path / "kept" / "runs" / "a"]


async def test_what_the_run_says_wins_over_the_file(write: Write) -> None:
    write(FILE)
    assert await kept(Run("a", store="full")) is True
    assert await kept(Run("b", store="off")) is None


async def test_a_file_can_keep_everything_off(write: Write) -> None:
    write("[journal]\nstore = 'off'\n")
    assert await kept(Run("a")) is None
    assert list_runs() == []


@pytest.mark.parametrize(("said", "synchronous"), [("process", 1), ("power", 2)])
async def test_an_answer_survives_what_the_file_says(
    write: Write, monkeypatch: pytest.MonkeyPatch, said: str, synchronous: int
) -> None:
    write(f"[journal]\ndurability = '{said}'\n")
    opened = []

    def watched(*args: Any, **options: Any) -> Any:
        opened.append(open_writer(*args, **options))
        return opened[-1]

    open_writer = schema.open_writer
    monkeypatch.setattr(schema, "open_writer", watched)
    async with Run("a"):
        assert opened[0].execute("PRAGMA synchronous").fetchone() == (synchronous,)
