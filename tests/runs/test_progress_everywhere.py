"""A run shows its progress and ends well, in every combination of what a run can be."""

from __future__ import annotations

import asyncio
import io
import re
import sys
from types import ModuleType
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.calls.mode_options import ModeName
from llmflow.runs.catalog import find_run
from llmflow.runs.report import RunReport
from tests.batch.fakes import FakeProvider, FakeServer
from tests.observing import is_drawing

pytestmark = pytest.mark.slow

TEXTS = ["a", "b", "c"]


class Notebook:
    """What IPython's display was told."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def display(self, data: dict[str, str], **_: Any) -> Notebook:
        self.pages.append(data["text/plain"])
        return self

    def update(self, data: dict[str, str], **_: Any) -> None:
        self.pages.append(data["text/plain"])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Shown:
    """Where progress goes, and all that came there."""

    def __init__(self, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._notebook = Notebook()
        self._stream = Terminal() if where == "terminal" else io.StringIO()
        monkeypatch.setattr(sys, "stderr", self._stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        if where == "notebook":
            module = ModuleType("IPython.display")
            module.__dict__["display"] = self._notebook.display
            monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
            monkeypatch.setitem(sys.modules, "IPython.display", module)
            monkeypatch.setattr("rich.console._is_jupyter", lambda: True)

    @property
    def last(self) -> str:
        lines = [*self._notebook.pages, *self._stream.getvalue().splitlines()]
        return lines[-1]


@pytest.mark.parametrize("mode", [None, "parallel", "batch", "auto"])
@pytest.mark.parametrize("where", ["terminal", "notebook", "log"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", ["night", None], ids=["named", "nameless"])
def test_a_run_with_progress_ends_and_says_what_it_came_to(
    name: str | None,
    asynchronous: bool,
    where: str,
    mode: ModeName | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = Shown(where, monkeypatch)
    llm = LLM(FakeProvider(FakeServer()), batch=Batch(quiet=0.05, poll=0.01))
    run = Run(name, progress=True, total=len(TEXTS), mode=mode)

    async def main() -> None:
        async with run:
            await asyncio.gather(*map(llm, TEXTS))

    if asynchronous:
        asyncio.run(main())
    else:
        with run:
            llm.map_sync(TEXTS)
    who = "run" if name is None else f"run {name}"
    assert f"{who}: 3 calls in " in shown.last
    assert shown.last.endswith(": 3 answered")
    assert run.report().done == 3
    assert not is_drawing()
    assert name is None or find_run(name).state == "complete"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_named_run_with_progress_that_an_error_ends_raises_that_error(
    asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Shown("log", monkeypatch)
    run = Run("night", progress=True)

    async def main() -> None:
        async with run:
            raise KeyError("mine")

    def main_sync() -> None:
        with run:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main()) if asynchronous else main_sync()
    assert shown.last.startswith("run night: 0 calls in ")


def test_what_stays_of_the_progress_tells_failures_and_no_speed_of_known_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    llm = LLM(FakeProvider(FakeServer()))
    with Run("night"):
        llm.map_sync(TEXTS)
    shown = Shown("log", monkeypatch)
    with Run("night", progress=True) as run:
        llm.map_sync([*TEXTS, None])
    assert re.fullmatch(r"run night: 3 calls in [\d.]+ s: 3 from the journal", shown.last)
    assert run.report().summary() == shown.last
    report = RunReport(answered=2, failed=1, replayed=5, seconds=2.0, cost=0.5)
    assert report.summary() == (
        "run: 8 calls in 2.0 s (1.5/s): 2 answered, 5 from the journal, 1 failed, cost $0.50"
    )
    assert RunReport().summary() == "run: 0 calls in 0.0 s"
