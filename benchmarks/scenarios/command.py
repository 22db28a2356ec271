"""`llmflow run` as a process: its rows, its time, its memory, and what it left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from scenarios.measure import KEY, prompt_of

ROW_CHARACTERS = 170  # with its number and its name a row has 200 bytes
# A process inherits the peak of the one that started it: this one is small.
_LAUNCHER = """
import json, os, sys, time
begin = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
seconds, cpu = time.perf_counter() - begin, used.ru_utime + used.ru_stime
print(json.dumps([os.waitstatus_to_exitcode(status), seconds, cpu, used.ru_maxrss]))
"""


class Ended(NamedTuple):
    """What a process took: status, seconds, CPU seconds, and its peak of memory in MB."""

    status: int
    seconds: float
    cpu: float
    peak_mb: float


def write_rows(path: Path, n: int, *, characters: int = ROW_CHARACTERS) -> Path:
    """Write JSONL rows, by default of 200 bytes, each different."""
    with path.open("wb") as file:
        for index in range(n):
            row = {"id": index, "text": prompt_of(index, characters)}
            file.write(orjson.dumps(row) + b"\n")
    return path


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an output."""
    with path.open("rb") as file:
        yield from map(orjson.loads, file)


class Command:
    """One command line that can be run again and again.

    Args:
        folder: where its files and its runs are.
        source: the input.
        url: the server's address.
        options: further options.
        prompt: the prompt's template.
        column: the column of the output that an answered row has.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        url: str,
        *options: str,
        prompt: str = "Summarize: {text}",
        column: str = "response",
    ) -> None:
        self.output = folder / "out.jsonl"
        self._column = column
        self._folder = folder
        self._line = [sys.executable, "-m", "llmflow", "run", str(source)]
        self._line += ["--prompt", prompt, "--model", "openai/bench"]
        self._line += ["--base-url", url, "-o", str(self.output), "--run", "bench", *options]
        self._env = {**os.environ, "OPENAI_API_KEY": KEY, "LLMFLOW_JOURNAL_DIR": str(folder)}

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, without waiting for anything."""
        return subprocess.Popen([*self._line, "--quiet"], env=self._env, cwd=self._folder)

    def run(self) -> Ended:
        """Run it to its end, with no output of an earlier time in its way."""
        self.output.unlink(missing_ok=True)
        line = [sys.executable, "-S", "-c", _LAUNCHER, *self._line, "--quiet"]
        done = subprocess.run(
            line, env=self._env, cwd=self._folder, stdout=subprocess.PIPE, check=True
        )
        status, seconds, cpu, peak = orjson.loads(done.stdout)
        return Ended(status, seconds, cpu, peak / (2**20 if sys.platform == "darwin" else 2**10))

    def lost(self, n: int) -> int:
        """Return how many of `n` rows the output lacks, or has more than once."""
        missing, more = self.missing_and_more(n)
        return missing + more

    def missing_and_more(self, n: int) -> tuple[int, int]:
        """Return how many of `n` rows the output lacks, and how many are there too often."""
        had = bytearray(n)
        more = 0
        for row in read_rows(self.output):
            if row[self._column]:
                more += had[row["index"]]
                had[row["index"]] = 1
        return n - sum(had), more
