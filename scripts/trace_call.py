"""Print the files that one call passes, and how often it crosses between packages.

``trace_call.py`` traces a call in a `Run`, live and as the first row of a batch job, against
the built-in simulator in a process of its own. A file counts if one of its functions ran
between ``await llm()`` and its answer; a crossing is a function of another package, or
top-level module, than the function that was entered before it. ``--list`` prints them.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import llmflow
import llmflow_providers
from llmflow import LLM, Run
from llmflow.simulator import SimulatorSettings, serve_in_process

ROOTS = {
    "llmflow": Path(llmflow.__file__).parent,
    "llmflow_providers": Path(llmflow_providers.__path__[0]),
}


ModeName = Literal["parallel", "batch"]
CALLS: dict[ModeName, str] = {"parallel": "a call in a Run", "batch": "the first batch row"}


class Trace:
    """The functions of the project that were entered, in their order."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str] | None] = {}
        self._seen: set[FrameType] = set()
        self._runs = False
        self.entered: list[tuple[str, str, str]] = []
        """Of each function its package, its file and its name."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Trace this thread and those that begin meanwhile, until the block ends."""
        self._runs = True
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            self._runs = False  # a thread that began meanwhile goes on with its profile
            sys.setprofile(None)
            threading.setprofile(None)

    @property
    def files(self) -> list[str]:
        """The distinct files, in the order in which they were entered first."""
        return list(dict.fromkeys(file for _, file, _ in self.entered))

    @property
    def crossings(self) -> int:
        """How often the next function is of another package than the one before."""
        packages = [package for package, _, _ in self.entered]
        return sum(one != next_ for one, next_ in pairwise(packages))

    def _on_event(self, frame: FrameType, event: str, _argument: Any) -> None:
        # A coroutine that goes on is the same frame as when it was entered.
        if event != "call" or not self._runs or frame in self._seen:
            return
        code = frame.f_code
        if code.co_filename not in self._known:
            self._known[code.co_filename] = _place(code.co_filename)
        place = self._known[code.co_filename]
        if place is not None:
            self._seen.add(frame)
            self.entered.append((*place, code.co_qualname))


def _place(filename: str) -> tuple[str, str] | None:
    """Return the package and the file of a source file of the project; None of another."""
    for name, root in ROOTS.items():
        path = Path(filename)
        if path.is_relative_to(root):
            inside = path.relative_to(root)
            first = inside.parts[0].removesuffix(".py")
            return f"{name}.{first}" if name == "llmflow" else name, f"{name}/{inside}"
    return None


async def traced(url: str, folder: Path, *, mode: ModeName, **options: Any) -> Trace:
    """Return what one call in a `Run` passes, after another one has warmed everything up."""
    trace = Trace()
    llm = LLM("openai/traced", base_url=url, api_key="sk-sim", temperature=0.5, **options)
    async with Run("traced", folder=folder, mode=mode):
        if mode == "parallel":
            await llm("The first question.")
        with trace.running():
            await llm("The question.")
    return trace


def main() -> None:
    """Trace both calls and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the functions, too")
    arguments = parser.parse_args()
    with (
        serve_in_process(SimulatorSettings(latency=0.0)) as simulator,
        tempfile.TemporaryDirectory() as place,
    ):
        for mode, name in CALLS.items():
            found = asyncio.run(traced(simulator.url, Path(place) / mode, mode=mode))
            print(f"{name}: {len(found.files)} files, {found.crossings} crossings")
            if arguments.list:
                for package, file, function in found.entered:
                    print(f"    {package:24} {file}: {function}")


if __name__ == "__main__":
    main()
