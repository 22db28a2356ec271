"""A run in Python shows what it is doing, and tells in the end what it came to."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM
from llmflow.budget import Budget
from llmflow.errors import InvalidRequestError, ProviderError
from llmflow.pricing import PRICES_AS_OF, Price, price_of
from llmflow.progress.view import RunView
from llmflow.runs.report import RunReport
from llmflow.runs.run import Run
from llmflow.runs.run_progress import RunProgress
from llmflow.testing import ScriptedProvider
from llmflow.types import Quota, Request, Response, Usage
from tests.observing import is_drawing

PATIENCE = 90.0


def said(request: Request) -> Response:
    text = str(request.messages[0]["content"])
    if text == "bad":
        raise InvalidRequestError("no")
    usage = Usage(input_tokens=1000, output_tokens=500)
    return Response(text=text, usage=usage, finish_reason="stop", model="m", provider="p")


def model(**options: Any) -> LLM:
    return LLM(ScriptedProvider(default=said), price=Price(input=1, output=2), **options)


def progress(run: Run, **options: Any) -> RunProgress:
    assert run._session is not None
    return RunProgress(run._session, lambda: run.batch_jobs, stream=sys.stderr, **options)


class Stderr:
    """What was written to standard error so far."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Stderr:
    return Stderr(capsys)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a line of a log be shown at each look."""
    monkeypatch.setattr("llmflow.progress.display.Lines.seconds", 0.0)


class TestView:
    async def test_it_counts_calls_by_their_way(self, tmp_path: Path) -> None:
        llm = model()
        async with Run("one", folder=tmp_path):
            await llm("a")
            with pytest.raises(ProviderError):
                await llm("bad")
        time = [0.0]
        async with Run("one", folder=tmp_path, budget=Budget(usd=5)) as run:
            shown = progress(run, total=10, now=lambda: time[0])
            await llm("a")
            with pytest.raises(ProviderError):
                await llm("bad")
            time[0] = 0.5
            assert shown.view().reading == pytest.approx(4.0)
            for text in "bcde":
                await llm(text)
            time[0] = 2.5
            view = shown.view()
        assert (view.done, view.replayed, view.failed) == (6, 1, 1)
        assert (view.rate, view.seconds_left) == (pytest.approx(2.0), pytest.approx(2.0))
        assert view.traffic.requests == 4
        assert view.budget is not None
        assert view.lines()[1] == (
            "$0.01 of $5.00, 0 in flight, 1 failed, 1 from the journal, tokens 4k in, 2k out"
        )

    async def test_it_sees_the_limiters_of_its_calls_and_no_others(self) -> None:
        one, other, stranger = model(quota=Quota(rpm=600)), model(quota=Quota(rpm=60)), model()
        await one("before")
        async with Run() as run:
            shown = progress(run)
            assert shown.view().traffic.quota is None
            await one("x")
            await other("x")
            assert shown.view().traffic.quota == pytest.approx(11.0)
            assert shown.view().traffic.requests == 2
        await stranger("x")

    async def test_without_a_total_there_is_no_forecast(self) -> None:
        async with Run() as run:
            shown = progress(run)
            await model()("x")
            view = shown.view()
        assert view.seconds_left is None
        assert view.count == "1 done"


@pytest.mark.usefixtures("quick")
class TestShowing:
    async def test_it_is_shown_while_calls_are_made(self, stderr: Stderr) -> None:
        async with Run(progress=True, total=3):
            await model()("x")
            deadline = time.monotonic() + PATIENCE
            while "1 of 3 done" not in stderr.getvalue():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
        assert stderr.getvalue().splitlines()[-1].startswith("run: 1 call in ")

    def test_it_is_shown_while_the_program_blocks(self, stderr: Stderr) -> None:
        with Run(progress=True):
            deadline = time.monotonic() + PATIENCE
            while "0 done" not in stderr.getvalue():
                assert time.monotonic() < deadline
                time.sleep(0.01)

    async def test_nothing_is_shown_unasked(self, stderr: Stderr) -> None:
        before = threading.active_count()
        async with Run():
            await model()("x")
            assert threading.active_count() == before
        assert stderr.getvalue() == ""

    async def test_its_thread_ends_with_it(self, stderr: Stderr) -> None:
        async with Run(progress=True):
            names = [each.name for each in threading.enumerate()]
            assert "llmflow-progress" in names
        assert "llmflow-progress" not in [each.name for each in threading.enumerate()]
        assert not is_drawing()

    async def test_a_run_within_a_run_shows_nothing(self, stderr: Stderr) -> None:
        async with Run(progress=True):
            async with Run(progress=True):
                names = [each.name for each in threading.enumerate()]
            assert names.count("llmflow-progress") == 1
        assert stderr.getvalue().count("run: ") == 1

    async def test_a_stream_that_is_gone_does_not_end_the_run(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(io.StringIO):
            tried = threading.Event()

            def write(self, text: str) -> int:
                self.tried.set()
                raise BrokenPipeError

        monkeypatch.setattr(sys, "stderr", Broken())
        async with Run(progress=True):
            assert await asyncio.to_thread(Broken.tried.wait, PATIENCE)
            assert await model()("x") == "x"
        assert not is_drawing()

    async def test_without_a_standard_error_nothing_is_shown(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        async with Run(progress=True):
            assert await model()("x") == "x"

    async def test_a_body_that_raises_ends_it_too(self, stderr: Stderr) -> None:
        with pytest.raises(KeyError):
            async with Run(progress=True):
                raise KeyError
        assert not is_drawing()


def test_a_run_that_is_left_open_does_not_keep_the_process(tmp_path: Path) -> None:
    program = (
        "from llmflow.runs.run import Run\n"
        "import time\n"
        "run = Run(progress=True)\n"
        "run.open()\n"
        "time.sleep(0.4)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=dict(os.environ) | {"TERM": "xterm"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


class TestReport:
    async def test_it_tells_this_session_and_all_of_them(self, tmp_path: Path) -> None:
        llm = model()
        async with Run("one", folder=tmp_path):
            await llm("a")
            with pytest.raises(ProviderError):
                await llm("bad")
        async with Run("one", folder=tmp_path, budget=Budget(usd=5, tokens="1M")) as run:
            await llm("a")
            await llm("b")
            with pytest.raises(ProviderError):
                await llm("bad")
        report = run.report()
        assert (report.answered, report.replayed, report.failed_before) == (1, 1, 1)
        assert (report.cost, report.total_cost) == (pytest.approx(0.002), pytest.approx(0.004))
        assert report.money == "cost $0.002, $0.004 over all sessions"
        assert report.lines()[0].startswith("run one: 3 calls in ")
        assert str(report).splitlines()[1:] == [
            "1 answered, 1 from the journal, 1 failed before",
            f"requests 1, rate-limited (429) 0; tokens 1,000 in, 500 out; {report.money}",
            "budget spent: $0.004 of $5.00, 3k of 1M tokens",
            "Run(..., retry_failed=True) asks again what failed before.",
            "Running again takes what was answered from the journal, at no cost.",
        ]

    async def test_its_time_stands_still_when_the_run_is_over(self) -> None:
        async with Run() as run:
            pass
        assert run.report().seconds == run.report().seconds
        assert Run().report().seconds == 0.0

    async def test_public_prices_are_named_by_their_day(self) -> None:
        provider = ScriptedProvider(default=said, model="gpt-4.1-mini")
        provider.name = "openai"
        async with Run() as run:
            await LLM(provider)("x")
        assert price_of("openai/gpt-4.1-mini") is not None
        assert f"(prices of {PRICES_AS_OF})" in str(run.report())

    async def test_prices_of_ones_own_are_not(self) -> None:
        async with Run() as run:
            await model()("x")
        assert run.report().prices_as_of is None
        assert "cost $0.002" in str(run.report())

    async def test_a_run_that_keeps_nothing_promises_nothing(self) -> None:
        async with Run() as run:
            await model()("x")
        assert "again" not in str(run.report())

    def test_json_can_hold_it(self) -> None:
        import orjson

        values = orjson.loads(orjson.dumps(RunReport(name="x", budget={"usd": 1.0}).to_dict()))
        assert values["name"] == "x"
        assert values["budget"] == {"usd": 1.0}

    def test_a_reached_budget_is_named(self) -> None:
        report = RunReport(budget={"seconds": 60.0}, spent={"seconds": 60.0}, reached="seconds")
        assert "budget spent: 1 min of 1 min: seconds reached" in report.lines()


def test_the_view_of_nothing_is_short() -> None:
    assert RunView(done=0, total=None).line() == "0/s, 0 in flight"
