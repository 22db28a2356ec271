"""The files of results of one job, while they are written."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from llmflow.private_files import private
from llmflow.simulator.batches.speaker import Row
from llmflow.simulator.batches.store import JobRecord, Store


class Results:
    """Writes the lines of a job's results. What an earlier start has written is replaced."""

    def __init__(self, store: Store, job: JobRecord) -> None:
        self._store = store
        self._job = job.id
        self._files: dict[str, BinaryIO] = {}

    def write(self, row: Row) -> None:
        """Add a line."""
        file = self._files.get(row.file)
        if file is None:
            path = self._path(row.file)
            file = self._files[row.file] = open(path, "wb", opener=private)  # noqa: SIM115
        file.write(row.line)

    def finish(self, name: str) -> int:
        """Close one of the files, and return its size; 0 if there is none."""
        file = self._files.pop(name, None)
        if file is None:
            return 0
        size = file.tell()
        file.close()
        return size

    def rename(self, name: str, final: str) -> None:
        """Give one of the closed files its final name."""
        self._path(name).replace(self._store.data(final))

    def discard(self) -> None:
        """Forget what was written."""
        for name in tuple(self._files):
            self.finish(name)
            self._path(name).unlink()

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _path(self, name: str) -> Path:
        return self._store.data(f"{self._job}.{name}")
