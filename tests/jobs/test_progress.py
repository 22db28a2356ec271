"""Progress and the closing report say what happened, and get out of the way."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Quota
from llmflow.errors import ConnectionFailedError
from llmflow.jobs.display import Bar, Lines, display_for
from llmflow.jobs.job import Job
from llmflow.jobs.progress import Progress
from llmflow.jobs.report import Report, duration
from llmflow.rows import PromptTemplate, RowSource, open_output
from llmflow.testing import ScriptedProvider


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.fixture
def job(tmp_path: Path) -> Job:
    rows = RowSource(lambda: iter([]), name="rows")
    with open_output(tmp_path / "out.jsonl") as writer:
        return Job(LLM(ScriptedProvider()), rows, PromptTemplate("{text}"), writer)


def progress(job: Job, total: int | None = 100, stream: Any = None, **options: Any) -> Progress:
    return Progress(job, job._llm.limiter, total=total, stream=stream, **options)


class TestText:
    def test_it_tells_rate_and_time_left(self, job: Job) -> None:
        time = [0.0]
        shown = progress(job, now=lambda: time[0])
        time[0], job.counters.answered = 10.0, 40
        assert shown.text() == "4.0/s, 0 in flight, 15.0 s left"

    def test_the_rate_is_that_of_the_last_while(self, job: Job) -> None:
        time = [0.0]
        shown = progress(job, now=lambda: time[0])
        for second in range(200):
            time[0] = float(second)
            job.counters.answered += 1 if second < 100 else 10
            text = shown.text()
        assert text.startswith("10.0/s")

    def test_while_nothing_is_done_there_is_no_forecast(self, job: Job) -> None:
        time = [0.0]
        shown = progress(job, now=lambda: time[0])
        job.counters.answered = 20
        for second in range(300):
            time[0] = float(second)
            shown.text()
        assert shown.text() == "0.0/s, 0 in flight"

    def test_without_a_total_there_is_no_forecast(self, job: Job) -> None:
        job.counters.answered = 40
        assert "left" not in progress(job, None).text()

    def test_it_tells_what_went_wrong(self, job: Job) -> None:
        job.counters.failed, job.counters.cost = 2, 0.25
        job.contact.trouble = ConnectionFailedError("refused")
        text = progress(job).text()
        for part in ("2 failed", "$0.2500", "no connection yet"):
            assert part in text

    @pytest.mark.virtual_time
    async def test_it_names_the_limit_that_calls_wait_for(self, job: Job) -> None:
        limiter = job._llm.limiter
        limiter.retune(Quota(rpm=60))
        assert "limit" not in progress(job).text()
        calls = [asyncio.create_task(limiter.acquire()) for _ in range(5)]
        await asyncio.sleep(2.5)
        assert progress(job).text().endswith(", rpm is the limit")
        await asyncio.gather(*calls)
        assert "limit" not in progress(job).text()

    async def test_while_it_stops_it_says_so(self, job: Job) -> None:
        job.interrupt()
        assert progress(job).text().startswith("stopping: 0 answers on their way")
        await job.run()


class TestDisplays:
    @pytest.mark.virtual_time
    async def test_lines_come_every_ten_seconds(self, job: Job) -> None:
        stream = io.StringIO()
        async with progress(job, stream=stream):
            await asyncio.sleep(35.0)
        lines = stream.getvalue().splitlines()
        assert len(lines) == 3
        assert lines[0].startswith("0 of 100 done, ")

    @pytest.mark.virtual_time
    async def test_news_are_shown_at_once(self, job: Job) -> None:
        stream = io.StringIO()
        async with progress(job, None, stream) as shown:
            await asyncio.sleep(1.0)
            shown.refresh()
            await asyncio.sleep(1.0)
        assert stream.getvalue().startswith("0 done, ")

    async def test_a_stream_that_is_gone_does_not_stop_the_run(self, job: Job) -> None:
        async with progress(job, stream=Broken()) as shown:
            shown.refresh()
            await asyncio.sleep(0.01)

    async def test_without_a_stream_nothing_is_shown(self, job: Job) -> None:
        async with progress(job, stream=None):
            await asyncio.sleep(0)

    def test_a_bar_takes_itself_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        stream = Terminal()
        bar = display_for(stream, 2000)
        assert isinstance(bar, Bar)
        bar.show(1000, "10.0/s, [red]5 in flight")
        assert "1,000/2,000" in stream.getvalue()
        assert "[red]5" in stream.getvalue()
        bar.close()
        assert stream.getvalue().endswith(("\x1b[2K", "\x1b[1A\x1b[2K"))

    @pytest.mark.parametrize("width", [10, 46, 100, 300])
    def test_a_bar_is_one_line_and_leaves_room(
        self, width: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        stream = Terminal()
        bar = Bar(stream, None)
        stream.truncate(0)
        bar.show(7, "word " * 40)
        assert "\n" not in stream.getvalue()
        bar.close()

    def test_a_dumb_terminal_gets_lines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(display_for(Terminal(), None), Lines)


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
        assert report(cost=1.5).lines()[1].endswith("; cost $1.5000")

    def test_it_says_that_there_is_no_quota(self) -> None:
        assert "none was set" in report(limits={}, utilisation={}).lines()[2]

    def test_what_bounded_the_run_follows_the_quota(self) -> None:
        assert report(verdict="bounded by rpm").lines()[3] == "bounded by rpm"

    def test_nothing_points_to_a_file_that_is_not_there(self) -> None:
        text = "\n".join(report(output=None, failures=None).lines())
        assert "->" not in text

    def test_a_run_of_no_time_has_no_rate(self) -> None:
        assert "(0/s)" in report(seconds=0.0).lines()[0]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.04, "0.0 s"), (61, "1 min 1 s"), (3725, "1 h 2 min"), (864_000, "10 days")],
    )
    def test_durations_are_written_as_people_do(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text
