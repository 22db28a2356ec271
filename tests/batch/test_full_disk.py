"""A disk that is full for a moment leaves a job's file whole."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, Self

import pytest

from llmflow.batch import spool as spools
from llmflow.batch.spool import Spool, name_of, names_of


class Disk:
    """Lets a half of what is written pass while it is full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full = False
        self._open = Path.open
        disk = self

        def opened(path: Path, *args: Any, **options: Any) -> Any:
            file = disk._open(path, *args, **options)
            return Writing(file, disk) if path.suffix == ".part" else file

        monkeypatch.setattr(Path, "open", opened)


class Writing:
    """An open file on that disk."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file = file
        self._disk = disk
        self._had = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        if not self._disk.is_full:
            return int(self._file.write(data))
        if self._had:
            raise OSError(errno.ENOSPC, "no space left on device")
        self._had = True
        return int(self._file.write(data[: len(data) // 2]))


def test_rows_are_in_a_jobs_file_once_after_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "_BUFFER", 200)
    disk, spool, refused = Disk(monkeypatch), Spool(tmp_path / "job.jsonl"), set()
    for number in range(9):
        disk.is_full = 3 <= number < 6
        name = name_of(bytes(16), number)
        try:
            spool.add(name, b'{"custom_id":"%s"}' % name.encode(), tokens=1.0)
        except OSError:
            refused.add(name)
    spool.seal()
    assert refused
    assert sorted(names_of(spool.path)) == sorted(spool.names)
    assert len(spool.names) + len(refused) == 9
    assert spool.size == spool.path.stat().st_size
