"""A disk that is full, or cannot be written: said clearly, and nothing recorded is harmed."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from llmflow.errors import JournalError, ProviderError
from llmflow.journal import Journal, read_summary, schema
from tests.journal.helpers import answer, key, opened, start

posix = pytest.mark.skipif(os.name != "posix", reason="of POSIX")


async def fill(journal: Journal) -> tuple[list[int], str]:
    """Record until the disk is full; return what was acknowledged, and what was said."""
    done: list[int] = []
    reasons: set[str] = set()

    async def work(start: int) -> None:
        try:
            for number in range(start, 1_000_000, 20):
                await journal.record(key(number), 0, answer(number, text="x" * 3000))
                done.append(number)
        except JournalError as error:
            reasons.add(str(error))

    await asyncio.gather(*(work(n) for n in range(20)))
    assert len(reasons) == 1  # everybody who waited, and everybody who came later
    return done, reasons.pop()


async def test_a_full_database_ends_every_record_and_loses_none(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "run")
    journal._connection.execute("PRAGMA max_page_count = 200")
    done, reason = await fill(journal)
    assert "make room on the disk" in reason
    assert done
    for recording in (
        journal.record(key(999_999), 0, answer()),
        journal.record(key(), 0, ProviderError("no")),
    ):
        with pytest.raises(JournalError, match="make room"):
            await recording
    # What is there can still be read.
    assert journal.find(key(done[0]), 0) is not None
    assert journal.totals.answers == len(done)
    await asyncio.to_thread(journal.close)
    with opened(tmp_path / "run") as again:
        assert again.totals.answers == len(done)
        for number in done:
            assert again.find(key(number), 0) == answer(number, text="x" * 3000)
        await again.record(key(999_999), 0, answer())


LIMITED = """
import asyncio, resource, sys
from llmflow.errors import JournalError
from llmflow.journal import Journal
from tests.journal.test_disk import fill
journal = Journal.open(sys.argv[1])
journal.begin({})
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
done, reason = asyncio.run(fill(journal))
try:
    journal.close()
except JournalError as error:
    reason = str(error)
print(*done)
print(reason)
"""


@posix
def test_a_file_that_may_not_grow_is_a_clear_error(tmp_path: Path) -> None:
    process = start(LIMITED, tmp_path / "run")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    numbers, reason = out.splitlines()
    assert "cannot be written" in reason
    assert "what was written down is kept" in reason
    done = [int(each) for each in numbers.split()]
    assert done
    with opened(tmp_path / "run") as journal:
        assert all(journal.find(key(n), 0) == answer(n, text="x" * 3000) for n in done)
        assert journal.totals.answers == len(done)


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something for a while, where this is allowed."""
    mount = shutil.which("mount")
    if sys.platform != "linux" or mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount")
    if subprocess.run([mount, *options, str(folder)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_a_clear_error_and_room_heals_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=2m", "tmpfs"):
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 1_000_000)
        journal = Journal.open(disk / "run")
        journal.begin({})
        done, reason = asyncio.run(fill(journal))
        assert "make room on the disk" in reason
        journal.close()
        summary = read_summary(disk / "run")
        assert summary is not None
        assert (summary.state, summary.totals.answers) == ("interrupted", len(done))
        with pytest.raises(JournalError, match="make room on the disk"):
            Journal.open(disk / "other").begin({"much": "x" * 1_000_000})
        ballast.unlink()
        with opened(disk / "run") as again:
            assert all(again.find(key(n), 0) == answer(n, text="x" * 3000) for n in done)
            asyncio.run(again.record(key(999_999), 0, answer()))


def test_a_disk_without_any_room_makes_no_run(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        with suppress(OSError):
            (disk / "ballast").write_bytes(b"x" * 65_536)
        with pytest.raises(JournalError, match="make room on the disk"):
            Journal.open(disk / "run")


def test_a_disk_that_cannot_be_written_can_be_looked_at(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "tmpfs"):
        with opened(disk / "run") as journal:
            asyncio.run(journal.record(key(), 0, answer()))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for name in ("run", "new"):
            with pytest.raises(JournalError, match="LLMFLOW_JOURNAL_DIR"):
                Journal.open(disk / name)
        summary = read_summary(disk / "run")
        assert summary is not None
        assert summary.totals.answers == 1


def test_a_disk_that_becomes_read_only_ends_the_records(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "tmpfs"):
        with opened(disk / "run") as journal:
            asyncio.run(journal.record(key(), 0, answer()))
        # What a killed process leaves: a log beside the file.
        with opened(disk / "run") as journal:
            asyncio.run(journal.record(key(1), 0, answer()))
            shutil.copytree(disk / "run", disk / "killed")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(JournalError, match="LLMFLOW_JOURNAL_DIR"):
            Journal.open(disk / "killed")
        assert read_summary(disk / "killed") is not None
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with opened(disk / "killed") as journal:
            assert journal.totals.answers == 2


@posix
def test_a_file_or_folder_that_may_not_be_written_is_a_clear_error(tmp_path: Path) -> None:
    with opened(tmp_path / "run"):
        pass
    (tmp_path / "run" / schema.NAME).chmod(0o400)
    if os.access(tmp_path / "run" / schema.NAME, os.W_OK):
        pytest.skip("root may do anything")
    with pytest.raises(JournalError, match="LLMFLOW_JOURNAL_DIR"):
        Journal.open(tmp_path / "run")
    assert read_summary(tmp_path / "run") is not None
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(JournalError, match="LLMFLOW_JOURNAL_DIR"):
            Journal.open(tmp_path / "new")
    finally:
        tmp_path.chmod(0o700)
