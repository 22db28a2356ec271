"""What becomes of rows when jobs, or parts of them, fail: each ends answered or named."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.batch import Batch
from llmflow.errors import (
    AuthenticationError,
    BatchCancelledError,
    BatchRowLostError,
    BatchUnsupportedError,
    ContentFilterError,
    InvalidRequestError,
    LLMFlowError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QueueLimitError,
    ServerError,
)
from llmflow.provider import BatchInput, BatchLimits, BatchProblem, BatchState
from tests.batch.fakes import FakeProvider, FakeServer

QUICK = Batch(quiet=0.02, poll=0.005)


def ask(server: FakeServer, count: int = 20, **options: Any) -> list[Any]:
    """Ask for this many prompts in batch mode; return answers and errors."""
    options.setdefault("mode", "batch")
    llm = LLM(FakeProvider(server), batch=options.pop("batch", QUICK), **options)

    async def main() -> list[Any]:
        calls = [llm(f"{n}") for n in range(count)]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 90)

    return asyncio.run(main())


def answers(count: int = 20) -> list[str]:
    return [f"batch: {n}" for n in range(count)]


def test_rows_without_a_line_go_into_the_next_round() -> None:
    lost = {"3", "4", "11"}
    server = FakeServer(fate=lambda p, job: None if job == 1 and p in lost else f"batch: {p}")
    assert ask(server) == answers()
    assert server.sizes == [20, 3]


def test_rows_that_fail_for_a_passing_reason_go_into_the_next_round() -> None:
    server = FakeServer(
        fate=lambda p, job: OverloadedError("busy") if job == 1 and p == "7" else f"batch: {p}"
    )
    assert ask(server) == answers()
    assert server.sizes == [20, 1]


def test_rows_that_fail_for_good_are_named_and_not_asked_again() -> None:
    server = FakeServer(fate=lambda p, job: ContentFilterError("no") if p == "7" else f"batch: {p}")
    results = ask(server)
    assert isinstance(results[7], ContentFilterError)
    assert server.sizes == [20]


@pytest.mark.parametrize("state", ["expired", "cancelled"])
def test_partial_results_of_a_job_that_ended_early_count(state: BatchState) -> None:
    server = FakeServer(
        ends=lambda number: state if number == 1 else "succeeded",
        fate=lambda p, job: None if job == 1 and int(p) % 2 else f"batch: {p}",
    )
    results = ask(server)
    if state == "expired":
        assert results == answers()
        assert server.sizes == [20, 10]
    else:  # somebody did that: it is not done again behind his back
        assert all(isinstance(each, BatchCancelledError) for each in results[1::2])
        assert results[::2] == answers()[::2]
        assert server.sizes == [20]


def test_a_row_that_is_always_lost_fails_in_the_end() -> None:
    server = FakeServer(fate=lambda p, job: None if p == "7" else f"batch: {p}")
    results = ask(server, batch=Batch(quiet=0.02, poll=0.005, rounds=3))
    assert isinstance(results[7], BatchRowLostError)
    assert results[7].attempts == 3
    assert server.sizes == [20, 1, 1]


def bad_line(*bad: str, named: bool = True) -> Any:
    """Return what refuses a job for the first of these rows, as a provider that stops there."""

    def problems(number: int, rows: list[tuple[str, str]]) -> list[BatchProblem]:
        for line, (_, prompt) in enumerate(rows, start=1):
            if prompt in bad:
                error = InvalidRequestError("bad row", code="invalid_request")
                return [BatchProblem(error, line if named else None)]
        return []

    return problems


@pytest.mark.parametrize("named", [True, False], ids=["named", "to be found by halving"])
@pytest.mark.parametrize("bad", [("7",), ("0", "1", "2", "19")])
def test_a_bad_row_fails_alone(bad: tuple[str, ...], named: bool) -> None:
    server = FakeServer(problems=bad_line(*bad, named=named))
    results = ask(server)
    for n, result in enumerate(results):
        if str(n) in bad:
            assert isinstance(result, InvalidRequestError)
        else:
            assert result == f"batch: {n}"
    assert Counter(server.billed).most_common(1)[0][1] == 1


def test_a_job_that_is_refused_for_a_row_at_once_is_halved_too() -> None:
    def refuses(number: int, rows: BatchInput) -> ProviderError | None:
        bad = b'"prompt":"7"' in rows.path.read_bytes()
        return InvalidRequestError("a row is bad", status=400) if bad else None

    server = FakeServer(refuses=refuses)
    results = ask(server)
    assert isinstance(results.pop(7), InvalidRequestError)
    assert results == [each for n, each in enumerate(answers()) if n != 7]


@pytest.mark.parametrize(
    "error",
    [ModelNotFoundError("no such model", status=404), AuthenticationError("no", status=401)],
)
def test_what_no_job_would_survive_fails_all_rows_at_once(error: ProviderError) -> None:
    server = FakeServer(refuses=lambda number, rows: error)
    results = ask(server, 5)
    assert all(isinstance(each, type(error)) for each in results)
    assert len({id(each) for each in results}) == 5
    assert server.calls.count("create") == 1


def test_a_create_without_an_answer_is_looked_for_and_not_repeated() -> None:
    server = FakeServer(loses_reply_of=[1])
    assert ask(server) == answers()
    assert server.sizes == [20]
    assert "find" in server.calls


def test_a_create_that_really_failed_is_repeated() -> None:
    server = FakeServer(
        refuses=lambda number, rows: ServerError("oops", status=500) if number < 3 else None
    )
    assert ask(server) == answers()
    assert server.sizes == [20]


def test_a_full_queue_is_waited_for() -> None:
    server = FakeServer(
        refuses=lambda number, rows: QueueLimitError("full", status=429) if number < 3 else None
    )
    assert ask(server) == answers()
    assert server.sizes == [20]


def test_a_job_above_the_limit_of_the_queue_is_split_by_what_the_provider_says() -> None:
    def refuses(number: int, rows: BatchInput) -> ProviderError | None:
        tokens = rows.requests * 10
        return QueueLimitError("too much", status=400, limit=100) if tokens > 100 else None

    server = FakeServer(refuses=refuses)
    assert ask(server) == answers()
    assert all(size <= 10 for size in server.sizes)


def test_a_job_that_fails_later_for_the_queue_is_sent_again() -> None:
    def problems(number: int, rows: list[tuple[str, str]]) -> list[BatchProblem]:
        return [BatchProblem(QueueLimitError("enqueued token limit"))] if number == 1 else []

    server = FakeServer(problems=problems)
    assert ask(server) == answers()
    assert server.sizes == [20, 20]
    assert Counter(server.billed).most_common(1)[0][1] == 1


def test_a_known_limit_lets_jobs_go_one_after_the_other() -> None:
    server = FakeServer(limits=BatchLimits(enqueued_tokens=120, requests=10), looks=3)
    most = 0
    original = FakeServer.sizes

    def refuses(number: int, rows: BatchInput) -> ProviderError | None:
        nonlocal most
        running = sum(len(j.rows) for j in server.jobs.values() if j.state in ("queued", "running"))
        most = max(most, (running + rows.requests) * 10)
        return None

    server.refuses = refuses
    assert ask(server, 50) == answers(50)
    assert most <= 120
    assert original


def test_the_first_answer_of_a_row_counts_and_foreign_rows_do_not() -> None:
    server = FakeServer()
    fetch = FakeProvider(server).batch

    class Doubling(type(fetch)):  # type: ignore[misc]
        async def fetch(self, status: Any, folder: Any, channel: Any) -> Any:
            (path,) = await super().fetch(status, folder, channel)
            lines = path.read_bytes()
            foreign = b'{"custom_id":"somebody-else","text":"no"}\n{"cut off'
            path.write_bytes(lines + b"\n" + lines.replace(b"batch:", b"twice:") + b"\n" + foreign)
            return [path]

    provider = FakeProvider(server)
    provider.batch = Doubling(server)
    llm = LLM(provider, batch=QUICK, mode="batch")

    async def main() -> Any:
        return await asyncio.gather(*(llm(f"{n}") for n in range(20)))

    assert asyncio.run(main()) == answers()


def test_leftovers_that_are_few_go_in_parallel_where_that_is_the_fallback() -> None:
    server = FakeServer(fate=lambda p, job: None if p in ("3", "4") else f"batch: {p}")
    results = ask(server, fallback="parallel")
    assert results[3:5] == ["live: 3", "live: 4"]
    assert server.sizes == [20]


def test_without_a_batch_api_the_fallback_is_parallel_and_else_an_error() -> None:
    server = FakeServer()
    with pytest.raises(BatchUnsupportedError, match="fallback"):
        LLM(FakeProvider(server, has_batch=False), mode="batch").run("1")
    llm = LLM(FakeProvider(server, has_batch=False), mode="batch", fallback="parallel")
    assert llm.run("1") == "live: 1"


def test_at_its_deadline_a_stuck_job_is_cancelled_and_only_what_is_missing_asked() -> None:
    server = FakeServer(
        stuck=[1], fate=lambda p, job: f"batch: {p}" if int(p) < 12 else None, looks=10**9
    )
    # How early that is, is tested on the virtual clock, in test_lateness.py.
    results = ask(server, deadline=1.2, fallback="parallel", batch=Batch(quiet=0.02, poll=0.02))
    assert results == [*answers(12), *(f"live: {n}" for n in range(12, 20))]
    assert sorted(server.live, key=int) == [str(n) for n in range(12, 20)]
    assert server.calls.count("cancel") == 1


def test_what_is_answered_is_in_the_journal_and_not_asked_again() -> None:
    server = FakeServer()

    async def main() -> list[str]:
        llm = LLM(FakeProvider(server), batch=QUICK)
        async with Run("whole", mode="batch"):
            return await asyncio.gather(*(llm(f"{n}") for n in range(20)))

    assert asyncio.run(main()) == answers()
    assert asyncio.run(main()) == answers()
    assert server.sizes == [20]


def test_a_run_that_was_stopped_goes_on_with_its_job() -> None:
    server = FakeServer(looks=10**9)

    async def main(seconds: float) -> list[str]:
        llm = LLM(FakeProvider(server), batch=QUICK)
        async with Run("stopped", mode="batch") as run:
            calls = asyncio.gather(*(llm(f"{n}") for n in range(20)))
            result = await asyncio.wait_for(calls, seconds)
            assert run.statistics().answered == 20
            return result

    with pytest.raises(TimeoutError):
        asyncio.run(main(0.3))
    assert server.sizes == [20]
    server.looks = 1
    assert asyncio.run(main(10)) == answers()
    assert server.sizes == [20]
    assert Counter(server.billed).most_common(1)[0][1] == 1


def test_an_answer_that_nobody_waits_for_is_kept() -> None:
    server = FakeServer(looks=10**9)

    async def main(prompts: list[str], seconds: float) -> list[str]:
        llm = LLM(FakeProvider(server), batch=QUICK)
        async with Run("others", mode="batch"):
            return await asyncio.wait_for(asyncio.gather(*(llm(p) for p in prompts)), seconds)

    with pytest.raises(TimeoutError):
        asyncio.run(main([f"{n}" for n in range(20)], 0.3))
    server.looks = 1
    # The next session asks one of them only; the others' answers come with the same job.
    assert asyncio.run(main(["3"], 10)) == ["batch: 3"]
    assert asyncio.run(main([f"{n}" for n in range(20)], 10)) == answers()
    assert server.sizes == [20]


def test_a_disk_that_is_full_is_said_and_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmflow.batch.spool.os.fsync", full)
    server = FakeServer()
    results = ask(server, 3)
    assert all(isinstance(each, LLMFlowError) for each in results)
    assert "No space left" in str(results[0])
    assert not server.jobs


def test_what_is_submitted_is_answered_into_the_journal() -> None:
    server = FakeServer()

    async def main() -> list[str]:
        llm = LLM(FakeProvider(server), batch=QUICK)
        async with Run("submitted", mode="batch") as run:
            asked = [await llm.submit(f"{n}") for n in range(20)]
            again = [await llm.submit(f"{n}", temperature=0) for n in (1, 1, 1)]
            await run.submitted()
            assert [each.state for each in run.batch_jobs] == ["created"]
            await run.settled()
            assert asked == [True] * 20
            assert again == [True, False, False]
            assert run.statistics().in_flight == 0
            shared = [await llm("1", temperature=0) for _ in range(3)]
            assert shared == ["batch: 1"] * 3
            return [await llm(f"{n}") for n in range(20)]

    assert asyncio.run(main()) == answers()
    assert server.sizes == [21]


def test_a_submitted_job_is_collected_by_a_later_session() -> None:
    server = FakeServer(looks=10**9)

    async def main(*, submit: bool) -> list[str] | None:
        llm = LLM(FakeProvider(server), batch=QUICK)
        async with Run("detached", mode="batch") as run:
            for n in range(20):
                assert await llm.submit(f"{n}") == submit or not submit
            await run.submitted()
            if submit:
                return None
            await run.settled()
            return [await llm(f"{n}") for n in range(20)]

    assert asyncio.run(main(submit=True)) is None
    server.looks = 1
    assert asyncio.run(main(submit=False)) == answers()
    assert server.sizes == [20]
