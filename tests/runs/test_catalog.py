"""Which runs there are, whatever else lies in their folder, and how they are removed."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from llmflow import LLM, Run
from llmflow.errors import ConfigurationError, InputError, JournalBusyError, JournalError
from llmflow.runs.catalog import checked_name, find_run, list_runs, remove_run, runs_folder
from tests.runs.asking import numbered, play


def make(*names: str) -> None:
    for name in names:
        play(lambda llm: llm.run("Hi"), LLM(numbered()), name)


# --- where -----------------------------------------------------------------------------


def test_where_nothing_was_run_there_are_no_runs_and_no_folder_is_made() -> None:
    assert list_runs() == []
    assert not runs_folder().exists()


def test_the_variable_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLMFLOW_JOURNAL_DIR", str(tmp_path / "here"))
    make("run")
    assert (tmp_path / "here" / "run" / "journal.db").exists()


def test_a_home_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("LLMFLOW_JOURNAL_DIR", "~/runs")
    assert runs_folder() == tmp_path / "runs"


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="other folders there")
def test_by_default_it_is_the_folder_for_what_programs_keep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LLMFLOW_JOURNAL_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert runs_folder() == tmp_path / "llmflow" / "runs"


def test_the_file_names_the_folder_and_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("LLMFLOW_JOURNAL_DIR")
    file = tmp_path / "llmflow.toml"
    file.write_text(f'[journal]\ndir = "{(tmp_path / "kept").as_posix()}"\nstore = "off"\n')
    monkeypatch.setenv("LLMFLOW_CONFIG", str(file))
    assert runs_folder() == tmp_path / "kept"
    make("run")
    assert list_runs() == []


def test_a_folder_of_its_own_is_not_listed(tmp_path: Path) -> None:
    play(lambda llm: llm.run("Hi"), LLM(numbered()), "run", folder=tmp_path)
    assert (tmp_path / "run" / "journal.db").exists()
    assert list_runs() == []


# --- which -----------------------------------------------------------------------------


def test_the_run_that_was_used_last_comes_first() -> None:
    make("a", "b", "c", "a")
    assert [each.name for each in list_runs()] == ["a", "c", "b"]
    assert find_run("a").sessions == 2


def test_what_is_no_run_is_not_listed() -> None:
    make("run")
    folder = runs_folder()
    (folder / "notes.txt").write_text("mine")
    (folder / "empty").mkdir()
    (folder / "a name with spaces").mkdir()
    (folder / ".hidden").mkdir()
    (folder / "a-file-within").mkdir()
    (folder / "a-file-within" / "other.db").write_text("x")
    assert [each.name for each in list_runs()] == ["run"]


@pytest.mark.parametrize(
    "content", [b"not a database at all", b"SQLite format 3\x00" + b"\x00" * 84, b"\x00"]
)
def test_a_damaged_journal_is_listed_as_unreadable_and_left_alone(content: bytes) -> None:
    make("good")
    bad = runs_folder() / "bad"
    bad.mkdir()
    (bad / "journal.db").write_bytes(content)
    states = {each.name: each.state for each in list_runs()}
    assert states == {"good": "complete", "bad": "unreadable"}
    assert find_run("bad").reason
    assert (bad / "journal.db").read_bytes() == content
    with pytest.raises(JournalError), Run("bad"):
        pass
    assert (bad / "journal.db").read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_that_cannot_be_read_is_told_by_name() -> None:
    make("run")
    folder = runs_folder()
    folder.chmod(0)
    try:
        with pytest.raises(JournalError, match="cannot be read"):
            list_runs()
    finally:
        folder.chmod(stat.S_IRWXU)


def test_a_file_in_place_of_the_folder_is_told_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLMFLOW_JOURNAL_DIR", str(tmp_path / "file"))
    with pytest.raises(JournalError, match="cannot be read"):
        list_runs()


def test_looking_changes_nothing_and_disturbs_nobody() -> None:
    with Run("run"):
        LLM(numbered()).run("Hi")
        before = find_run("run")
        assert (before.state, before.busy, before.pid) == ("running", True, os.getpid())
        assert before.totals.answers == 1
        LLM(numbered()).run("Ho")
        assert find_run("run").totals.answers == 2


def test_a_run_is_found_by_the_beginning_that_only_it_has() -> None:
    make("summaries-may", "summaries-june", "summaries")
    assert find_run("summaries-j").name == "summaries-june"
    assert find_run("summaries").name == "summaries"
    with pytest.raises(InputError, match=r"several runs.*summaries-"):
        find_run("summaries-")
    with pytest.raises(InputError, match="did you mean 'summaries-may'"):
        find_run("summaries-mai")
    with pytest.raises(InputError, match="llmflow runs"):
        find_run("quite-different")


# --- removing --------------------------------------------------------------------------


def test_a_run_is_removed_with_all_its_files_and_no_other() -> None:
    make("a", "b")
    remove_run("a")
    assert [each.name for each in list_runs()] == ["b"]
    assert not (runs_folder() / "a").exists()
    second = numbered()
    play(lambda llm: llm.run("Hi"), LLM(second), "a")
    assert len(second.requests) == 1


def test_a_beginning_is_not_enough_to_remove_a_run() -> None:
    make("summaries")
    with pytest.raises(InputError, match="the whole name"):
        remove_run("summ")
    with pytest.raises(InputError, match="no run"):
        remove_run("../elsewhere")
    assert len(list_runs()) == 1


def test_a_run_at_work_is_not_removed() -> None:
    with Run("run"):
        with pytest.raises(JournalBusyError):
            remove_run("run")
        LLM(numbered()).run("Hi")
    assert find_run("run").totals.answers == 1
    remove_run("run")


def test_a_damaged_run_can_be_removed() -> None:
    bad = runs_folder() / "bad"
    bad.mkdir(parents=True)
    (bad / "journal.db").write_text("not a database")
    remove_run("bad")
    assert list_runs() == []


# --- names -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "summaries-2026-11", "v1.2_b", "7", "A" * 100])
def test_a_name_that_can_be_a_folder_everywhere_is_one(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a.", "-a", "a b", "a/b", "a\\b", "a\n", "ä", "A" * 101, None, 1]
)
def test_any_other_is_not(name: object) -> None:
    with pytest.raises(ConfigurationError, match="a run's name"):
        checked_name(name)  # type: ignore[arg-type]
