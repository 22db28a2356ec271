"""The file: whose it is, which version it has, and what is said when it is not a journal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from llmflow.errors import JournalBusyError, JournalError
from llmflow.journal import Journal, read_summary, schema
from tests.journal.helpers import answer, key, opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with answers."""
    with opened(tmp_path / "run") as journal:
        journal.begin({"kind": "python"})

        async def fill() -> None:
            await asyncio.gather(*(journal.record(key(n), 0, answer(n)) for n in range(500)))

        asyncio.run(fill())
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir() if each.name != "lock"}


def refused(folder: Path) -> str:
    """Return why a journal is refused; its files stay as they are, and nobody holds it."""
    before = contents(folder)
    with pytest.raises(JournalError) as caught:
        Journal.open(folder)
    assert not isinstance(caught.value, JournalBusyError)
    summary = read_summary(folder)
    assert summary is not None
    assert summary.state == "unreadable"
    assert summary.reason
    assert not summary.busy
    assert contents(folder) == before
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277, 0o777])
def test_nobody_else_can_read_a_run(tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        journal = Journal.open(tmp_path / "run")
        asyncio.run(journal.record(key(), 0, answer()))
    finally:
        os.umask(old)
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (tmp_path / "run").iterdir()}
    assert modes == dict.fromkeys(["journal.db", "journal.db-shm", "journal.db-wal", "lock"], 0o600)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
    journal.close()


def test_folders_above_are_made(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b c" / "d?#%41") as journal:
        assert journal.totals.answers == 0
    assert read_summary(tmp_path / "a" / "b c" / "d?#%41") is not None


def test_people_can_ask_the_file(folder: Path) -> None:
    connection = sqlite3.connect(folder / schema.NAME)
    found = connection.execute(
        "SELECT text, finish_reason, input_tokens, cost, json_extract(raw, '$.id'), typeof(raw) "
        "FROM answers WHERE text = 'answer 7'"
    ).fetchall()
    connection.close()
    assert found == [("answer 7", "stop", 10, 0.25, 7, "text")]


@pytest.mark.parametrize("content", [b"no database", b"x" * 5000, b"SQLite format 3\x00"])
def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / schema.NAME).write_bytes(content)
    message = refused(tmp_path)
    assert "damaged" in message
    assert ".recover" in message
    assert "move the folder" in message


def test_an_empty_file_is_a_new_journal(tmp_path: Path) -> None:
    (tmp_path / schema.NAME).touch()
    with opened(tmp_path) as journal:
        assert journal.totals.answers == 0


@pytest.mark.parametrize("size", [50, 4096, 8192, -4096, -1])
def test_a_file_that_is_cut_off_is_left_alone(folder: Path, size: int) -> None:
    path = folder / schema.NAME
    os.truncate(path, size if size > 0 else path.stat().st_size + size)
    assert "damaged" in refused(folder)


def test_pages_of_garbage_are_found_or_cost_only_what_was_on_them(folder: Path) -> None:
    path = folder / schema.NAME
    whole = path.read_bytes()
    problems: set[str] = set()
    for page in range(1, len(whole) // 4096):
        path.write_bytes(whole[: page * 4096] + b"\xa5" * 4096 + whole[(page + 1) * 4096 :])
        before = path.read_bytes()
        try:
            journal = Journal.open(folder)
        except JournalError as error:
            problems.add(str(error))
            assert path.read_bytes() == before
            continue
        for number in range(500):
            try:
                # An answer of another question would be worse than none.
                assert journal.find(key(number), 0) in (answer(number), None)
            except JournalError as error:
                problems.add(str(error))
        journal.close()
    assert problems
    assert all("is damaged" in each for each in problems)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_journal_that_is_refused_leaves_no_file_open(folder: Path) -> None:
    path = folder / schema.NAME
    whole = path.read_bytes()
    refusals = 0
    gc.disable()  # what is left to it is left open
    try:
        for page in range(1, len(whole) // 4096):
            path.write_bytes(whole[: page * 4096] + b"\xa5" * 4096 + whole[(page + 1) * 4096 :])
            try:
                Journal.open(folder).close()
            except JournalError:
                refusals += 1
        assert not [each for each in Path("/proc/self/fd").iterdir() if _is(each, path)]
    finally:
        gc.enable()
    assert refusals


def _is(descriptor: Path, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return descriptor.samefile(path)
    return False


def test_a_journal_without_its_tables_is_damaged(folder: Path) -> None:
    connection = sqlite3.connect(folder / schema.NAME)
    connection.execute("DROP TABLE failures")
    connection.close()
    with pytest.raises(JournalError, match="no table failures"):
        Journal.open(folder)


@pytest.mark.parametrize("application", [0, 0x12345678])
@pytest.mark.parametrize("logged", [False, True])
def test_another_programs_database_is_left_alone(
    tmp_path: Path, application: int, logged: bool
) -> None:
    connection = sqlite3.connect(tmp_path / schema.NAME, isolation_level=None)
    if logged:
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE notes (note TEXT)")
    connection.execute(f"PRAGMA application_id = {application}")
    connection.execute("INSERT INTO notes VALUES ('keep')")
    before = {
        name: content for name, content in contents(tmp_path).items() if not name.endswith("-shm")
    }
    with pytest.raises(JournalError, match="another program"):
        Journal.open(tmp_path)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    connection.close()


def test_a_newer_journal_asks_for_a_newer_llmflow(folder: Path) -> None:
    connection = sqlite3.connect(folder / schema.NAME, isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    message = refused(folder)
    assert "version 99" in message
    assert f"up to {schema.VERSION}" in message
    assert "install a newer llmflow" in message


def test_a_newer_version_in_the_log_only_is_seen_too(folder: Path) -> None:
    connection = sqlite3.connect(folder / schema.NAME, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="install a newer llmflow"):
        Journal.open(folder)
    connection.close()


def with_notes(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE notes (note TEXT)")
    connection.execute("INSERT INTO notes SELECT text FROM answers WHERE text = 'answer 3'")


def with_more_notes(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE notes ADD COLUMN more TEXT DEFAULT 'yes'")


def test_an_older_journal_is_brought_up_to_date_step_by_step(folder: Path) -> None:
    path = folder / schema.NAME
    steps = (*schema.MIGRATIONS, with_notes, with_more_notes)
    for _ in range(2):
        connection = schema.open_writer(path, migrations=steps)
        assert connection.execute("SELECT * FROM notes").fetchall() == [("answer 3", "yes")]
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION + 2,)
        assert connection.execute("SELECT count(*) FROM answers").fetchone() == (500,)
        schema.close_writer(path, connection)
    with pytest.raises(JournalError, match="install a newer llmflow"):
        Journal.open(folder)


def test_a_step_that_fails_changes_nothing(folder: Path) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        with_notes(connection)
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(sqlite3.OperationalError):
        schema.open_writer(folder / schema.NAME, migrations=(*schema.MIGRATIONS, with_notes, fails))
    with opened(folder) as journal:
        assert journal.find(key(3), 0) == answer(3)
        names = journal._connection.execute("SELECT name FROM sqlite_schema").fetchall()
        assert ("notes",) not in names


def test_a_folder_that_is_a_file_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(JournalError, match="must be a folder"):
        Journal.open(tmp_path / "run")
    with pytest.raises(JournalError, match="must be a folder"):
        Journal.open(tmp_path / "run" / "below")
    assert read_summary(tmp_path / "run") is None
    assert (tmp_path / "run").read_text() == "a file"


def test_a_database_that_is_a_folder_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / schema.NAME).mkdir()
    with pytest.raises(JournalError, match="is a directory"):
        Journal.open(tmp_path)
