"""The rows of a job: where they lie in its input, in which order they are done, their fates."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llmflow.simulator.batches.settings import BatchSettings


class Rows:
    """The lines of a part of a file, read one at a time; ten bytes of memory for each.

    Args:
        path: the file.
        start: the first byte.
        size: how many bytes.

    """

    def __init__(self, path: Path, *, start: int, size: int) -> None:
        self._file: BinaryIO = path.open("rb")
        self._start, self._size = start, size
        self._places = array("Q")

    def __len__(self) -> int:
        return len(self._places)

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Find all rows; yield the number of the line, from 1, and the bytes of each."""
        place, end = self._start, self._start + self._size
        number = 0
        while place < end:
            self._file.seek(place)
            line = self._file.readline(end - place)
            if not line:
                break
            number += 1
            if line.strip():
                self._places.append(place)
                yield number, line
            place += len(line)

    def read(self, index: int) -> bytes:
        """Return the bytes of a row that was found."""
        place = self._places[index]
        self._file.seek(place)
        return self._file.readline(self._start + self._size - place)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Fates:
    """The order in which the rows of a job are done, and what goes wrong with each.

    Both follow from the seed and the job alone, so that they are the same after a restart.
    """

    def __init__(self, settings: BatchSettings, total: int, *, seed: str) -> None:
        dice = random.Random(seed)
        self.order = array("L", range(total))
        dice.shuffle(self.order)
        self._draws = array("d", (dice.random() for _ in range(total)))
        self._limits: list[tuple[float, str]] = []
        limit = 0.0
        for fate, share in settings.shares():
            limit += share
            if share:
                self._limits.append((limit, fate))

    def of(self, index: int) -> str | None:
        """Return ``error``, ``expired``, ``missing``, ``duplicate``, or None."""
        if not self._limits:
            return None
        draw = self._draws[index]
        return next((fate for limit, fate in self._limits if draw < limit), None)
