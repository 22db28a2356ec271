"""Every row ends as an answer, as a failure, or as not asked; the counts add up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from llmflow import LLM, Run
from llmflow.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ContentFilterError,
    InputError,
    OverloadedError,
    RateLimitError,
)
from llmflow.jobs.file_report import FileProgress, Report
from llmflow.jobs.file_run import FileRun
from llmflow.jobs.reachability import Reachability
from llmflow.rows import PromptTemplate, RowSource, RowWriter, open_output
from llmflow.rows.inputs import Reading
from llmflow.testing import ScriptedProvider
from llmflow.types import Quota, Request

pytestmark = pytest.mark.virtual_time


def texts(count: int) -> list[dict[str, Any]]:
    return [{"text": f"text {number}"} for number in range(count)]


def source(rows: Iterable[Any], *, once: bool = False) -> RowSource:
    def start() -> Iterator[dict[str, Any]]:
        for row in rows:
            if isinstance(row, Exception):
                raise row
            yield row

    return RowSource(start, how=Reading(name="rows"), once=once)


async def reported(job: FileRun) -> Report:
    """Run a job, and return its report."""
    async with Run() as run:
        progress = FileProgress(job, job._llm, run, total=None, stream=None)
        await job.run()
        return progress.report(output=None, failures=None, stopped_by=None)


class Setting:
    """A job, its provider, and what came out of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "out.jsonl"
        self.writer: RowWriter = open_output(self.path)

    def job(self, provider: ScriptedProvider, rows: Iterable[Any], **options: Any) -> FileRun:
        contact = options.pop("contact", None) or Reachability(now=asyncio.get_running_loop().time)
        llm = LLM(provider, retry=contact.policy())
        template = PromptTemplate("Say: {text}")
        return FileRun(llm, source(rows), template, self.writer, contact=contact, **options)

    def answers(self) -> list[dict[str, Any]]:
        self.writer.commit()
        return [orjson.loads(line) for line in self.path.read_bytes().splitlines()]

    def failures(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.writer.failed_path.read_bytes().splitlines()]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    made.writer.abort()


def echo(request: Request) -> str:
    return str(request.messages[0]["content"])


def at(seconds: float, action: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(seconds, action)


class TestAllIsWell:
    async def test_every_row_is_answered_once(self, setting: Setting) -> None:
        job = setting.job(ScriptedProvider(default=echo, latency=1.0), texts(500))
        await job.run()
        assert job.counters.answered == 500
        answers = sorted(setting.answers(), key=lambda row: row["index"])
        assert [row["response"] for row in answers] == [f"Say: text {n}" for n in range(500)]
        assert [row["index"] for row in answers] == list(range(500))

    async def test_no_more_rows_are_under_way_than_asked_for(self, setting: Setting) -> None:
        provider = ScriptedProvider(latency=1.0)
        job = setting.job(provider, texts(100), concurrency=7)
        await job.run()
        assert provider.most_in_flight == 7
        assert asyncio.get_running_loop().time() == pytest.approx(15.0, abs=0.1)

    async def test_the_source_is_read_no_further_than_needed(self, setting: Setting) -> None:
        read: list[int] = []

        def rows() -> Iterator[dict[str, Any]]:
            for number, row in enumerate(texts(1000)):
                read.append(number)
                yield row

        job = setting.job(ScriptedProvider(latency=1.0), rows(), concurrency=5)
        at(0.5, job.interrupt)
        await job.run()
        assert len(read) == 5

    async def test_tokens_add_up(self, setting: Setting) -> None:
        job = setting.job(ScriptedProvider(default="four"), texts(10))
        done = await reported(job)
        assert (done.answered, done.input_tokens, done.output_tokens) == (10, 30, 10)

    async def test_a_wrong_answer_counts_also_where_the_next_request_fails(
        self, setting: Setting
    ) -> None:
        job = setting.job(ScriptedProvider(["four", ContentFilterError("no")]), texts(1))
        job._llm.validate = lambda _: False
        done = await reported(job)
        assert (done.failed, done.reasked) == (1, 1)
        assert (done.input_tokens, done.output_tokens) == (3, 1)

    async def test_a_source_that_can_be_read_once_is_read_by_a_thread(
        self, setting: Setting
    ) -> None:
        provider = ScriptedProvider(default=echo)
        rows = source(texts(300), once=True)
        job = FileRun(LLM(provider), rows, PromptTemplate("{text}"), setting.writer)
        await job.run()
        assert sorted(row["index"] for row in setting.answers()) == list(range(300))


class TestFailures:
    async def test_a_row_that_fails_for_good_stands_beside_the_others(
        self, setting: Setting
    ) -> None:
        provider = ScriptedProvider(["one", ContentFilterError("not this"), "three"])
        job = setting.job(provider, texts(3), concurrency=1)
        await job.run()
        assert (job.counters.answered, job.counters.failed, job.stopped_by) == (2, 1, None)
        assert [row["index"] for row in setting.answers()] == [0, 2]
        (failure,) = setting.failures()
        assert failure["index"] == 1
        assert failure["error"]["type"] == "ContentFilterError"
        assert "not this" in failure["error"]["message"]

    async def test_a_row_without_the_field_fails_alone(self, setting: Setting) -> None:
        job = setting.job(ScriptedProvider(), [{"text": "a"}, {"txt": "b"}, {"text": "c"}])
        await job.run()
        assert (job.counters.answered, job.counters.failed) == (2, 1)
        setting.writer.commit()
        assert "row 1 has no field 'text'" in setting.failures()[0]["error"]["message"]

    async def test_passing_failures_are_tried_again(self, setting: Setting) -> None:
        job = setting.job(ScriptedProvider([OverloadedError("busy")] * 3, default="ok"), texts(20))
        await job.run()
        assert (job.counters.answered, job.counters.failed) == (20, 0)

    async def test_a_rate_limit_is_waited_out(self, setting: Setting) -> None:
        job = setting.job(
            ScriptedProvider([RateLimitError("slow down", retry_after=30.0)], default="ok"),
            texts(3),
        )
        await job.run()
        assert job.counters.answered == 3
        assert asyncio.get_running_loop().time() >= 30.0


class TestTimes:
    async def test_it_adds_up_how_long_rows_were_under_way(self, setting: Setting) -> None:
        job = setting.job(ScriptedProvider(latency=10.0), texts(6), concurrency=3)
        assert job.concurrency == 3
        await job.run()
        assert job.counters.row_seconds == pytest.approx(60.0, abs=2.0)


class TestStops:
    async def test_a_fatal_error_takes_no_more_rows_and_keeps_the_answers(
        self, setting: Setting
    ) -> None:
        replies = ["one", "two", *[AuthenticationError("wrong key")] * 2]
        provider = ScriptedProvider(replies)
        job = setting.job(provider, texts(100), concurrency=1)
        await job.run()
        assert isinstance(job.stopped_by, AuthenticationError)
        assert (job.counters.answered, job.counters.failed) == (2, 0)
        assert len(provider.requests) == 4  # the third row was asked once more, to find out

    async def test_one_refusal_of_a_key_that_has_worked_ends_nothing(
        self, setting: Setting
    ) -> None:
        provider = ScriptedProvider(["one", AuthenticationError("wrong key")], default="fine")
        job = setting.job(provider, texts(10), concurrency=1)
        await job.run()
        assert job.stopped_by is None
        assert (job.counters.answered, job.counters.failed) == (10, 0)

    async def test_a_page_in_place_of_an_answer_is_one_failed_row(self, setting: Setting) -> None:
        page = AuthenticationError("<!DOCTYPE html><title>Blocked</title>", status=403)
        provider = ScriptedProvider(["one", page], default="fine")
        job = setting.job(provider, texts(10), concurrency=1)
        await job.run()
        assert job.stopped_by is None
        assert (job.counters.answered, job.counters.failed) == (9, 1)
        assert len(setting.answers()) == 9
        failures = setting.failures()
        assert failures[0]["error"]["type"] == "ContentFilterError"
        assert failures[0]["error"]["status"] == 403

    async def test_after_a_fatal_error_answers_on_their_way_still_count(
        self, setting: Setting
    ) -> None:
        def reply(request: Request) -> Any:
            return AuthenticationError("no") if "text 5" in echo(request) else "fine"

        provider = ScriptedProvider(default=reply, latency=1.0)
        job = setting.job(provider, texts(100), concurrency=10)
        await job.run()
        assert job.stopped_by is not None
        assert 9 <= job.counters.answered == len(provider.requests) - 2

    async def test_after_a_fatal_error_rows_that_wait_for_quota_are_not_sent(
        self, setting: Setting
    ) -> None:
        provider = ScriptedProvider(
            default=AuthenticationError("no"), quota=Quota(rpm=1), latency=1.0
        )
        job = setting.job(provider, texts(100), concurrency=50)
        await job.run()
        assert len(provider.requests) == 1
        assert asyncio.get_running_loop().time() < 2.0

    async def test_a_source_that_breaks_stops_the_job_with_its_error(
        self, setting: Setting
    ) -> None:
        rows = [*texts(10), InputError("line 11 is broken")]
        job = setting.job(ScriptedProvider(latency=1.0), rows)
        await job.run()
        assert str(job.stopped_by) == "line 11 is broken"
        assert job.counters.answered == 10

    async def test_a_bug_is_raised_and_leaves_no_task(self, setting: Setting) -> None:
        def reply(request: Request) -> str:
            raise ZeroDivisionError

        job = setting.job(ScriptedProvider(default=reply), texts(10))
        with pytest.raises(ZeroDivisionError):
            await job.run()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_where_nobody_was_ever_reached_it_stops(self, setting: Setting) -> None:
        def reply(request: Request) -> ConnectionFailedError:
            error = ConnectionFailedError("cannot connect")
            error.__cause__ = ConnectionRefusedError()
            return error

        job = setting.job(ScriptedProvider(default=reply), texts(10_000))
        await job.run()
        assert isinstance(job.stopped_by, ConnectionFailedError)
        assert job.contact.lost
        assert asyncio.get_running_loop().time() < 10.0

    async def test_a_provider_that_goes_away_later_fails_rows_one_by_one(
        self, setting: Setting
    ) -> None:
        provider = ScriptedProvider(["first"], default=ConnectionFailedError("gone"))
        job = setting.job(provider, texts(4), concurrency=1)
        await job.run()
        assert (job.counters.answered, job.counters.failed, job.stopped_by) == (1, 3, None)


class TestInterrupts:
    async def test_what_is_in_flight_comes_to_its_end(self, setting: Setting) -> None:
        provider = ScriptedProvider(latency=10.0)
        job = setting.job(provider, texts(100), concurrency=8)
        at(3.0, job.interrupt)
        await job.run()
        assert job.interrupted
        assert (job.counters.answered, job.counters.failed) == (8, 0)
        assert asyncio.get_running_loop().time() == pytest.approx(10.0, abs=0.1)

    async def test_rows_that_wait_for_quota_are_dropped(self, setting: Setting) -> None:
        provider = ScriptedProvider(latency=5.0, quota=Quota(rpm=60))
        job = setting.job(provider, texts(100), concurrency=50)
        at(2.5, job.interrupt)
        await job.run()
        assert job.counters.answered == len(provider.requests) == 3
        assert asyncio.get_running_loop().time() < 8.0

    async def test_a_row_that_waits_to_be_sent_again_does_not_hold_it_up(
        self, setting: Setting
    ) -> None:
        provider = ScriptedProvider(default=OverloadedError("busy", retry_after=500.0))
        job = setting.job(provider, texts(3))
        at(1.0, job.interrupt)
        await job.run()
        assert asyncio.get_running_loop().time() < 2.0
        assert job.counters.failed == 0

    async def test_a_rate_limit_during_the_drain_does_not_hold_it_up(
        self, setting: Setting
    ) -> None:
        provider = ScriptedProvider(
            default=RateLimitError("slow down", retry_after=900.0), latency=2.0
        )
        job = setting.job(provider, texts(3))
        at(1.0, job.interrupt)
        await job.run()
        assert asyncio.get_running_loop().time() < 3.0

    async def test_asked_twice_it_drops_what_is_in_flight(self, setting: Setting) -> None:
        job = setting.job(ScriptedProvider(latency=100.0), texts(50))
        at(1.0, job.interrupt)
        at(2.0, job.interrupt)
        await job.run()
        assert asyncio.get_running_loop().time() == pytest.approx(2.0)
        assert job.counters.done == job.counters.in_flight == 0

    async def test_while_no_row_comes_it_ends_at_once(self, setting: Setting) -> None:
        released = threading.Event()

        def rows() -> Iterator[dict[str, Any]]:
            released.wait(30)
            yield from texts(1)

        stalled = source(rows(), once=True)
        job = FileRun(LLM(ScriptedProvider()), stalled, PromptTemplate("{text}"), setting.writer)
        at(3.0, job.interrupt)
        await job.run()
        released.set()
        assert job.interrupted
        assert asyncio.get_running_loop().time() == pytest.approx(3.0)

    async def test_another_run_of_the_process_goes_on(
        self, setting: Setting, tmp_path: Path
    ) -> None:
        provider = ScriptedProvider(latency=1.0, quota=Quota(rpm=60))
        llm = LLM(provider)
        runs, writers = [], []
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir()
            writers.append(writer := open_output(folder / "out.jsonl"))
            template = PromptTemplate("Say: {text}")
            runs.append(FileRun(llm, source(texts(10)), template, writer, concurrency=5))
        at(2.5, runs[0].interrupt)
        await asyncio.gather(*(each.run() for each in runs))
        for writer in writers:
            writer.abort()
        assert runs[0].counters.answered < 10
        assert runs[1].counters.answered == 10
        assert asyncio.get_running_loop().time() < 20.0
