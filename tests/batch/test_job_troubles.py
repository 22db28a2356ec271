"""What a provider, or somebody else, does to a job: nothing is paid twice, or lost, for it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.batch.record import JobRecord
from llmflow.errors import (
    BatchCancelledError,
    BatchRowLostError,
    InvalidRequestError,
    OutageError,
    ProviderError,
    QueueLimitError,
    RateLimitError,
    ServerError,
    TooLargeForLimitError,
)
from llmflow.journal import read_jobs
from llmflow.provider import BatchInput, BatchLimits, BatchProblem, BatchRow, BatchStatus
from llmflow.simulator import BatchSettings, SimulatorSettings, serve_in_thread
from llmflow.transport import StreamChannel
from tests.batch.fakes import FakeBatchAPI, FakeJob, FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.005)
SIZE = 20


def ask(api: FakeBatchAPI, count: int = SIZE, **options: Any) -> list[Any]:
    """Ask for so many prompts in batch mode; return answers and errors."""
    provider = FakeProvider(api._server)
    provider.batch = api
    options.setdefault("mode", "batch")
    llm = LLM(provider, batch=options.pop("batch", QUICK), **options)

    async def main() -> list[Any]:
        calls = [llm(f"{n}") for n in range(count)]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 50)

    return asyncio.run(main())


def answers(count: int = SIZE) -> list[str]:
    return [f"batch: {n}" for n in range(count)]


def deleted(server: FakeServer) -> list[bool]:
    return [job.deleted for job in server.jobs.values()]


# --- results that are not there -----------------------------------------------------------------


class LateResults(FakeBatchAPI):
    """Results that are there only after so many looks."""

    def __init__(self, server: FakeServer, late: int, *, named: bool, counted: bool = True) -> None:
        super().__init__(server)
        self.late, self.named, self.counted = late, named, counted

    async def fetch(self, status: Any, folder: Any, channel: Any) -> Any:
        if self.named and self.late > 0:
            self.late -= 1
            raise InvalidRequestError("No such File object", status=404)
        return await super().fetch(status, folder, channel)

    def _status(self, job: FakeJob) -> BatchStatus:
        status = super()._status(job)
        if not status.has_ended:
            return status
        if not self.named and self.late > 0:
            self.late -= 1
            status = replace(status, results=())
        return replace(status, succeeded=len(job.rows) if self.counted else None)


@pytest.mark.parametrize("named", [True, False], ids=["404", "no name yet"])
def test_results_that_are_late_are_looked_for_again(named: bool) -> None:
    server = FakeServer()
    assert ask(LateResults(server, 2, named=named)) == answers()
    assert server.sizes == [SIZE]


@pytest.mark.parametrize(("named", "counted"), [(True, True), (False, True), (True, False)])
def test_results_that_never_come_are_neither_deleted_nor_paid_again(
    named: bool, counted: bool
) -> None:
    server = FakeServer()
    results = ask(LateResults(server, 10**9, named=named, counted=counted))
    assert all(isinstance(each, OutageError) for each in results)
    assert "Nothing is asked again" in str(results[0])
    assert (server.sizes, deleted(server)) == ([SIZE], [False])


def test_the_next_session_finds_the_results_that_never_came(tmp_path: Path) -> None:
    server = FakeServer()
    run = Run("run", folder=tmp_path, mode="batch")

    async def within(run: Run, late: int) -> list[Any]:
        provider = FakeProvider(server)
        provider.batch = LateResults(server, late, named=True)
        llm = LLM(provider, batch=QUICK)
        async with run:
            calls = [llm(f"{n}") for n in range(5)]
            return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)

    assert all(isinstance(each, OutageError) for each in asyncio.run(within(run, 10**9)))
    assert asyncio.run(within(Run("run", folder=tmp_path, mode="batch"), 0)) == answers(5)
    assert server.sizes == [5]


def test_cancelling_gives_up_the_results_that_never_come(tmp_path: Path) -> None:
    server = FakeServer()
    provider = FakeProvider(server)
    provider.batch = LateResults(server, 10**9, named=True)
    llm = LLM(provider, batch=Batch(quiet=0.02, poll=0.3))

    async def main() -> list[Any]:
        async with Run("run", folder=tmp_path, mode="batch") as run:
            calls = asyncio.gather(*(llm(f"{n}") for n in range(5)), return_exceptions=True)
            while "status" not in server.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for each in run.session.all_batches:
                each.cancel_all()
            return await asyncio.wait_for(calls, 10)

    results = asyncio.run(main())
    assert all(isinstance(each, BatchCancelledError) for each in results)
    assert (server.sizes, deleted(server)) == ([5], [False])


def test_a_job_without_any_success_has_its_rows_asked_again() -> None:
    class Nothing(FakeBatchAPI):
        def _status(self, job: FakeJob) -> BatchStatus:
            status = super()._status(job)
            first = job.id == "job-1" and status.has_ended
            return replace(status, results=(), succeeded=0) if first else status

    server = FakeServer()
    assert ask(Nothing(server)) == answers()
    assert server.sizes == [SIZE, SIZE]


# --- results that nobody can read ---------------------------------------------------------------


class Unreadable(FakeBatchAPI):
    def read(self, line: bytes) -> BatchRow:
        raise ValueError("no result of a batch job")


class Foreign(FakeBatchAPI):
    def read(self, line: bytes) -> BatchRow:
        return super().read(line)._replace(custom_id="request-1")


@pytest.mark.parametrize("kind", [Unreadable, Foreign])
def test_results_of_which_no_line_is_known_are_kept_and_not_paid_again(
    kind: type[FakeBatchAPI],
) -> None:
    server = FakeServer()
    results = ask(kind(server))
    assert all(isinstance(each, OutageError) for each in results)
    assert "Nothing is asked again" in str(results[0])
    assert (server.sizes, deleted(server)) == ([SIZE], [False])


def test_lines_that_cannot_be_read_are_counted_in_a_decision(tmp_path: Path) -> None:
    class Damaged(FakeBatchAPI):
        def read(self, line: bytes) -> BatchRow:
            row = super().read(line)
            assert row.response is not None
            if row.response.text == "batch: 3" and len(self._server.jobs) == 1:
                raise ValueError("cut off")
            return row

    server, decisions = FakeServer(), list[Any]()
    provider = FakeProvider(server)
    provider.batch = Damaged(server)

    async def main() -> list[Any]:
        async with Run("run", folder=tmp_path, mode="batch", on_event=decisions.append):
            llm = LLM(provider, batch=QUICK)
            return await asyncio.gather(*(llm(f"{n}") for n in range(SIZE)))

    assert asyncio.run(main()) == answers()
    assert server.sizes == [SIZE, 1]
    assert any("unreadable results" in str(each) for each in decisions)


# --- jobs that somebody cancels -----------------------------------------------------------------


def test_a_job_that_somebody_cancels_is_not_made_again_whatever_its_own_word() -> None:
    class Ended(FakeBatchAPI):
        """Says of each job no more than that it has ended, as Anthropic does."""

        def _status(self, job: FakeJob) -> BatchStatus:
            status = super()._status(job)
            return replace(status, native="ended") if status.has_ended else status

    lost = BatchRowLostError("cancelled", code="cancelled")
    server = FakeServer(fate=lambda prompt, job: lost if int(prompt) % 2 else f"batch: {prompt}")
    results = ask(Ended(server))
    assert results[::2] == answers()[::2]
    assert all(isinstance(each, BatchCancelledError) for each in results[1::2])
    assert server.sizes == [SIZE]


@pytest.mark.parametrize("model", ["openai/gpt-x", "anthropic/claude-x"])
def test_a_job_that_is_cancelled_beside_a_process_is_not_made_again(model: str) -> None:
    batch = BatchSettings(seconds=1.5, validation_seconds=0, finalizing_seconds=0, cancel_seconds=0)
    with serve_in_thread(SimulatorSettings(latency=0, answer="echo", batch=batch)) as sim:
        key = "sk-ant-right" if model.startswith("anthropic") else "sk-right"
        llm = LLM(model, base_url=sim.url, api_key=key, batch=Batch(quiet=0.02, poll=0.02))

        async def main() -> list[Any]:
            async with Run(mode="batch") as run:
                calls = asyncio.gather(
                    *(llm(f"Item {n}.") for n in range(10)), return_exceptions=True
                )
                while not run.batch_jobs or not run.batch_jobs[0].job:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await llm.provider.batch.cancel(  # type: ignore[attr-defined]
                    run.batch_jobs[0].job, StreamChannel()
                )
                return await asyncio.wait_for(calls, 10)

        results = asyncio.run(main())
        assert any(isinstance(each, BatchCancelledError) for each in results)
        assert all(isinstance(each, (str, BatchCancelledError)) for each in results)
        assert sim.stats().batches.jobs_created == 1


def test_a_user_s_cancellation_ends_the_rows_that_no_job_has_sent(tmp_path: Path) -> None:
    server = FakeServer(looks=10**9, limits=BatchLimits(requests=5, jobs=1))
    llm = LLM(FakeProvider(server), batch=QUICK)

    async def main() -> list[Any]:
        async with Run("run", mode="batch", folder=tmp_path) as run:
            calls = [asyncio.ensure_future(llm(f"{n}")) for n in range(10)]
            while len(run.batch_jobs) < 2:  # noqa: ASYNC110 - a journal has no event
                await asyncio.sleep(0.01)
            for each in run.session.all_batches:
                each.cancel_all()
            return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)

    results = asyncio.run(main())
    assert sum(isinstance(each, BatchCancelledError) for each in results) >= 5
    assert not server.live


# --- jobs that are found ------------------------------------------------------------------------


class Tagless(FakeBatchAPI):
    """Jobs without tags: found by their number of rows."""

    async def find(self, rows: BatchInput, known: Any, channel: Any) -> BatchStatus | None:
        self._server.calls.append("find")
        for job in reversed(list(self._server.jobs.values())):
            if len(job.rows) == rows.requests and job.id not in known:
                return self._status(job)
        return None

    def _status(self, job: FakeJob) -> BatchStatus:
        return replace(super()._status(job), tag=None)


def with_foreign_job(**options: Any) -> FakeServer:
    """Return a server with somebody's job of as many rows, at which the first create fails."""
    server = FakeServer(
        refuses=lambda number, rows: ServerError("oops", status=502) if number == 1 else None,
        **options,
    )
    server.jobs["job-99"] = FakeJob(
        "job-99", "", [(f"request-{n}", f"theirs {n}") for n in range(SIZE)], state="running"
    )
    return server


def test_somebody_else_s_job_that_was_found_is_left_and_an_own_one_made() -> None:
    server = with_foreign_job()
    assert ask(Tagless(server)) == answers()
    assert [len(job.rows) for job in server.jobs.values()] == [SIZE, SIZE]
    assert deleted(server)[0] is False
    assert max(Counter(server.billed).values()) == 1


def test_an_own_job_that_was_found_is_used() -> None:
    server = FakeServer(loses_reply_of=[1])
    assert ask(Tagless(server)) == answers()
    assert server.sizes == [SIZE]


def test_a_job_that_may_be_somebody_else_s_is_not_cancelled_at_the_deadline() -> None:
    server = with_foreign_job(looks=60)
    results = ask(Tagless(server), deadline=1.5, fallback="parallel")
    assert results == [f"live: {n}" for n in range(SIZE)]
    assert "cancel" not in server.calls
    assert server.jobs["job-99"].state == "succeeded"


def test_a_job_that_may_exist_is_not_made_again_when_it_cannot_be_looked_for() -> None:
    class Blind(FakeBatchAPI):
        async def find(self, rows: Any, known: Any, channel: Any) -> Any:
            raise InvalidRequestError("lists are not for this key", status=400)

    server = FakeServer(loses_reply_of=[1])
    results = ask(Blind(server))
    assert all(isinstance(each, OutageError) for each in results)
    assert server.sizes == [SIZE]


def test_two_models_do_not_take_one_job_when_an_answer_is_lost() -> None:
    class Slow(Tagless):
        """Says what the second job is called when the first one was looked for."""

        async def create(self, rows: Any, uploaded: Any, channel: Any) -> BatchStatus:
            status = await super().create(rows, uploaded, channel)
            while "find" not in self._server.calls:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)
            return status

    class Served(FakeProvider):
        base_url = "http://127.0.0.1:9"

    server = FakeServer(loses_reply_of=[1])

    async def main() -> None:
        async with Run(mode="batch"):
            calls = list[Any]()
            for model in "xy":
                provider = Served(server, model=model)
                provider.batch = Slow(server)
                llm = LLM(provider, batch=QUICK)
                calls += [llm(f"{model} {n}") for n in range(5)]
            await asyncio.wait_for(asyncio.gather(*calls), 10)

    asyncio.run(main())
    assert server.sizes == [5, 5]
    assert len(server.billed) == 10


def test_what_a_record_knows_of_others_survives_the_journal() -> None:
    record = JobRecord(tag="t", queue="q", provider="p", model="m", others=("a", "b"), found=True)
    plain = record.plain()
    assert JobRecord.of({**plain, "others": list(plain["others"])}) == record


# --- what is too large, or refused for nobody in particular -------------------------------------


def test_a_row_that_never_fits_is_named_and_the_upload_is_used_again() -> None:
    def refuses(number: int, rows: BatchInput) -> ProviderError:
        return QueueLimitError("too much", status=400, limit=5 if number > 3 else None)

    server = FakeServer(refuses=refuses)
    (result,) = ask(FakeBatchAPI(server), 1, batch=Batch(quiet=0.02, poll=0.0005))
    assert isinstance(result, TooLargeForLimitError)
    assert (server.calls.count("upload"), server.calls.count("create")) == (1, 4)
    assert server.calls.count("clean_up") == 1


def test_a_full_queue_of_unknown_size_splits_nothing() -> None:
    server = FakeServer(
        refuses=lambda number, rows: QueueLimitError("full", status=429) if number < 9 else None
    )
    assert ask(FakeBatchAPI(server), batch=Batch(quiet=0.02, poll=0.0005)) == answers()
    assert (server.sizes, server.calls.count("upload")) == ([SIZE], 1)


@pytest.mark.parametrize("at", ["create", "job"])
def test_a_refusal_of_every_row_takes_few_jobs(at: str) -> None:
    def refusal(number: int) -> InvalidRequestError:
        return InvalidRequestError(f"req_{number}: no batches for this model", status=400)

    server = FakeServer()
    if at == "create":
        server.refuses = lambda number, rows: refusal(number)
    else:
        server.problems = lambda number, rows: [BatchProblem(refusal(number))]
    results = ask(FakeBatchAPI(server), 64)
    assert all(isinstance(each, InvalidRequestError) for each in results)
    assert len({id(each) for each in results}) == 64
    assert server.calls.count("create") <= 32  # and not 127
    assert server.calls.count("clean_up") == server.calls.count("create")


# --- what takes long at the deadline ------------------------------------------------------------


class SlowUpload(FakeBatchAPI):
    async def upload(self, rows: Any, channel: Any) -> Any:
        raise RateLimitError("slow down", status=429, retry_after=60)


class HangingUpload(FakeBatchAPI):
    async def upload(self, rows: Any, channel: Any) -> Any:
        await asyncio.sleep(60)


class SlowCreate(FakeBatchAPI):
    async def create(self, rows: Any, uploaded: Any, channel: Any) -> Any:
        raise RateLimitError("slow down", status=429, retry_after=60)


class DeafToCancel(FakeBatchAPI):
    async def cancel(self, job: Any, channel: Any) -> None:
        pass


class FailingCancel(FakeBatchAPI):
    async def cancel(self, job: Any, channel: Any) -> None:
        raise ServerError("no", status=503, retry_after=60)


@pytest.mark.parametrize(
    "kind", [SlowUpload, HangingUpload, SlowCreate, DeafToCancel, FailingCancel]
)
def test_nothing_that_takes_long_holds_rows_up_at_the_deadline(
    kind: Callable[[FakeServer], FakeBatchAPI],
) -> None:
    began = time.monotonic()
    batch = Batch(quiet=0.02, poll=0.03)
    results = ask(kind(FakeServer(looks=10**9)), 1, batch=batch, deadline=1.5, fallback="parallel")
    assert results == ["live: 0"]
    assert time.monotonic() - began < 30  # each of the kinds would take 60 or for ever


def test_a_cancellation_is_written_down_before_it_is_sent(tmp_path: Path) -> None:
    seen = list[Any]()

    class Watching(FakeBatchAPI):
        async def cancel(self, job: Any, channel: Any) -> None:
            seen.extend(each.get("cancel") for each in read_jobs(tmp_path / "run"))
            await super().cancel(job, channel)

    server = FakeServer(looks=10**9)
    provider = FakeProvider(server)
    provider.batch = Watching(server)

    async def main() -> None:
        async with Run("run", folder=tmp_path, mode="batch", deadline=1.5, fallback="parallel"):
            await asyncio.wait_for(LLM(provider, batch=QUICK)("0"), 10)

    asyncio.run(main())
    assert seen == ["deadline"]
