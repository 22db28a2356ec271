"""Progress and the closing report say what happened, and get out of the way."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Quota
from llmflow.budget import Budget, Estimate
from llmflow.errors import ConnectionFailedError
from llmflow.jobs.file_report import FileProgress, Report
from llmflow.jobs.file_run import FileRun
from llmflow.rows import PromptTemplate, RowSource, open_output
from llmflow.rows.inputs import Reading
from llmflow.runs.report import RunReport
from llmflow.runs.run import Run
from llmflow.testing import ScriptedProvider
from llmflow.types import Response, Usage

PATIENCE = 90.0


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def job(tmp_path: Path) -> FileRun:
    rows = RowSource(lambda: iter([]), how=Reading(name="rows"))
    with open_output(tmp_path / "out.jsonl") as writer:
        return FileRun(LLM(ScriptedProvider()), rows, PromptTemplate("{text}"), writer)


def progress(
    job: FileRun,
    total: int | None = 100,
    stream: Any = None,
    run: Run | None = None,
    **options: Any,
) -> FileProgress:
    if run is None:
        run = Run()
        run.open()
    return FileProgress(job, job._llm, run, total=total, stream=stream, **options)


def line(shown: FileProgress) -> str:
    return shown.view().line()


def opened(**counts: int) -> Run:
    """Return a run without a journal that has counted this."""
    run = Run()
    run.open()
    for name, number in counts.items():
        run.session.tally.add(name, number)
    return run


class TestText:
    def test_it_tells_rate_and_time_left(self, job: FileRun) -> None:
        time = [0.0]
        shown = progress(job, now=lambda: time[0])
        time[0], job.counters.answered = 10.0, 40
        assert line(shown) == "4/s, 0 in flight, 15.0 s left"

    def test_the_rate_is_that_of_the_last_while(self, job: FileRun) -> None:
        time = [0.0]
        shown = progress(job, now=lambda: time[0])
        for second in range(200):
            time[0] = float(second)
            job.counters.answered += 1 if second < 100 else 10
            text = line(shown)
        assert text.startswith("10/s")

    def test_while_nothing_is_done_there_is_no_forecast(self, job: FileRun) -> None:
        time = [0.0]
        shown = progress(job, now=lambda: time[0])
        job.counters.answered = 20
        for second in range(300):
            time[0] = float(second)
            line(shown)
        assert line(shown) == "0/s, 0 in flight"

    def test_without_a_total_there_is_no_forecast(self, job: FileRun) -> None:
        job.counters.answered = 40
        assert "left" not in line(progress(job, None))

    def test_it_tells_what_went_wrong(self, job: FileRun) -> None:
        job.counters.failed = 2
        job.contact.trouble = ConnectionFailedError("refused")
        run = opened()
        usage = Usage(input_tokens=1, output_tokens=1)
        run.session.tally.answer(
            Response(
                text="x", usage=usage, finish_reason="stop", model="m", provider="p", cost=0.25
            )
        )
        text = line(progress(job, run=run))
        for part in ("2 failed", "$0.25", "no connection yet"):
            assert part in text

    @pytest.mark.virtual_time
    async def test_a_request_that_hangs_is_shown_with_its_age(self, job: FileRun) -> None:
        limiter = job._llm.limiter
        hung = await limiter.acquire()
        shown = progress(job)
        await asyncio.sleep(19.0)
        async with await limiter.acquire():
            assert line(shown).endswith("2 in flight")
            await asyncio.sleep(71.0)
            assert line(shown).endswith("2 in flight (oldest 1 min 30 s)")
        hung.release()
        assert line(shown).endswith("0 in flight")

    @pytest.mark.virtual_time
    async def test_it_names_the_limit_that_calls_wait_for(self, job: FileRun) -> None:
        limiter = job._llm.limiter
        limiter.retune(Quota(rpm=60))
        assert "limit" not in line(progress(job))
        calls = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
        await asyncio.sleep(2.5)
        assert line(progress(job)).endswith(", rpm is the limit")
        await asyncio.gather(*calls)
        assert "limit" not in line(progress(job))

    def test_what_the_journal_answers_does_not_spoil_the_forecast(self, job: FileRun) -> None:
        time = [0.0]
        run = opened()
        shown = progress(job, total=100_000, run=run, now=lambda: time[0])
        counters = job.counters
        for step in range(1, 9):
            run.session.tally.add("replayed", 5000)
            time[0], counters.answered = step / 4, step * 5000
            view = shown.view()
        assert view.line() == "20,000/s from the journal, 0 in flight, 40,000 from the journal"
        for step in range(1, 41):
            time[0], counters.answered = 2 + step / 4, 40_000 + step * 5
            view = shown.view()
        assert (view.rate, view.reading) == (pytest.approx(20.0), None)
        assert view.seconds_left == pytest.approx((100_000 - 40_200) / 20)

    async def test_what_the_journal_will_answer_is_not_waited_for(
        self, job: FileRun, tmp_path: Path
    ) -> None:
        run = Run("known", folder=tmp_path)
        run.open()
        run.session.known = 500
        time = [0.0]
        shown = progress(job, total=1000, run=run, now=lambda: time[0])
        for second in range(1, 11):
            run.session.tally.add("replayed", 40)
            time[0], job.counters.answered = float(second), second * 50
            view = shown.view()
        assert view.replayed == 400
        assert view.seconds_left == pytest.approx((1000 - 500 - 100) / 10)
        run.close()

    async def test_a_run_tells_its_budget_and_its_tokens(self, job: FileRun) -> None:
        with Run(budget=Budget(usd=5, requests=10)) as run:
            usage = Usage(input_tokens=1200, output_tokens=90)
            run.session.tally.answer(
                Response(text="x", usage=usage, finish_reason="stop", model="m", provider="p")
            )
            run.session.tally.add("shared", 2)
            reservation = run.ledger and run.ledger.reserve_nowait(Estimate(usd=1))
            assert reservation is not None
            reservation.settle(usd=0.41)
            first, second = progress(job, run=run).view().lines()
        assert first == "0/s"
        assert second == (
            "$0.41 of $5.00, 1 of 10 requests, 0 in flight, 2 shared, tokens 1.2k in, 90 out"
        )

    def test_the_quota_is_beside_the_rate(self, job: FileRun) -> None:
        job._llm.limiter.retune(Quota(rpm=600))
        assert line(progress(job)) == "0/s of 10/s (rpm), 0 in flight"

    def test_it_names_the_concurrency_when_nothing_else_binds(self, job: FileRun) -> None:
        job.concurrency = 0
        assert line(progress(job)).endswith("--concurrency 0 is the limit")

    async def test_while_it_stops_it_says_so(self, job: FileRun) -> None:
        job.interrupt()
        assert line(progress(job)).startswith("stopping, ") or line(progress(job)) == "stopping"
        await job.run()


def wait_for(stream: io.StringIO) -> None:
    """Wait until something is written, while nothing else runs."""
    deadline = time.monotonic() + PATIENCE
    while not stream.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestDisplays:
    def test_it_is_shown_while_the_event_loop_is_blocked(
        self, job: FileRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("llmflow.progress.display.Lines.seconds", 0.0)
        stream = io.StringIO()
        with progress(job, stream=stream):
            wait_for(stream)
        assert stream.getvalue().startswith("0 of 100 done, ")

    def test_news_are_shown_at_once(self, job: FileRun, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("llmflow.progress.display.Lines.seconds", 10 * PATIENCE)
        stream = io.StringIO()
        with progress(job, None, stream) as shown:
            shown.refresh()
            wait_for(stream)
        assert stream.getvalue().startswith("0 done, ")

    def test_a_stream_that_is_gone_does_not_stop_the_run(self, job: FileRun) -> None:
        with progress(job, stream=Broken()) as shown:
            shown.refresh()

    def test_without_a_stream_nothing_is_shown(self, job: FileRun) -> None:
        before = threading.active_count()
        with progress(job, stream=None):
            assert threading.active_count() == before

    def test_only_one_progress_is_shown(self, job: FileRun) -> None:
        first, second = io.StringIO(), io.StringIO()
        with progress(job, stream=first) as shown, progress(job, stream=second) as hidden:
            hidden.refresh()
            shown.refresh()
            wait_for(first)
        assert not second.getvalue()


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "model": "openai/x",
        "items": 1000,
        "answered": 990,
        "failed": 10,
        "remaining": 0,
        "requests": 1100,
        "rejected": 3,
        "input_tokens": 12_000,
        "output_tokens": 900,
        "cost": None,
        "seconds": 20.0,
        "limits": {"rpm": 500.0},
        "utilisation": {"rpm": 0.5},
        "bound_by": {"rpm": 0.9},
        "verdict": None,
        "output": "out.jsonl",
        "failures": "out.failed.jsonl",
        "reasons": {"ServerError": {"count": 10, "first": "openai/x: oops (HTTP 500)"}},
        "stopped_by": None,
    }
    return Report(**values | changes)


class TestReport:
    def test_its_lines(self) -> None:
        assert report().lines() == [
            "990 of 1,000 answered by openai/x in 20.0 s (50/s) -> out.jsonl",
            "requests 1,100, rate-limited (429) 3; tokens 12,000 in, 900 out",
            "quota used: 50% of 500 rpm",
            "10 failed -> out.failed.jsonl",
            "10 x ServerError, such as: openai/x: oops (HTTP 500)",
        ]

    def test_what_was_not_asked_counts_as_not_answered(self) -> None:
        assert report(remaining=500).lines()[0].startswith("990 of 1,500 answered")

    def test_cost_is_shown_where_it_is_known(self) -> None:
        assert report(cost=1.5).lines()[1].endswith("; cost $1.50")

    def test_it_says_that_there_is_no_quota(self) -> None:
        assert "none was set" in report(limits={}, utilisation={}).lines()[2]

    def test_what_bounded_the_run_follows_the_quota(self) -> None:
        assert report(verdict="limited by rpm").lines()[3] == "limited by rpm"

    def test_nothing_points_to_a_file_that_is_not_there(self) -> None:
        text = "\n".join(report(output=None, failures=None).lines())
        assert "->" not in text

    def test_rows_known_before_are_no_speed(self) -> None:
        run = RunReport(name="x", answered=990, replayed=600, cached=100, failed_before=10)
        assert "(14.5/s)" in report(run=run).lines()[0]

    def test_a_run_of_no_time_has_no_rate(self) -> None:
        assert "(0/s)" in report(seconds=0.0).lines()[0]

    def test_the_run_tells_what_was_not_asked_and_what_it_cost_in_all(self) -> None:
        run = RunReport(
            name="x",
            answered=500,
            replayed=400,
            shared=90,
            failed_before=3,
            cost=0.4,
            total_cost=1.4,
            prices_as_of="2026-11-24",
            budget={"usd": 5.0},
            spent={"usd": 1.4},
        )
        lines = report(run=run, cost=0.4, reasons={}).lines()
        assert lines[1].endswith("; cost $0.40 (prices of 2026-11-24), $1.40 over all sessions")
        assert lines[3:] == [
            "400 from the journal, 90 shared with an equal row in flight",
            "3 failed in an earlier session and were not retried",
            "budget spent: $1.40 of $5.00",
            "10 failed -> out.failed.jsonl",
        ]

    def test_its_keys_are_kept_and_the_run_is_one_more(self) -> None:
        plain, whole = report().to_dict(), report(run=RunReport(replayed=7)).to_dict()
        assert plain["run"] is None
        assert plain | {"run": 0} == whole | {"run": 0}
        assert whole["run"]["replayed"] == 7
        assert {"model", "items", "reasons", "stopped_by"} < set(plain)
