"""Batch mode against the simulated providers, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import orjson
import pytest

from llmflow import LLM, AsyncParallelBatchNode, Batch, Quota, Run
from llmflow.errors import (
    BatchCancelledError,
    InvalidRequestError,
    LLMFlowError,
    ProviderError,
)
from llmflow.simulator import BatchSettings, SimulatorSettings, SimulatorThread, serve_in_thread

pytestmark = pytest.mark.http

FAST: dict[str, Any] = {
    "seconds": 0.02,
    "validation_seconds": 0.01,
    "finalizing_seconds": 0.01,
    "cancel_seconds": 0.02,
}
QUICK = Batch(quiet=0.03, poll=0.01, rounds=10, few=0)
KEY = "sk-over-http"
DIALECTS = ("openai", "anthropic")


@contextlib.contextmanager
def provider(**batch: Any) -> Iterator[SimulatorThread]:
    """Serve a quick provider in which this goes wrong."""
    ways = BatchSettings(**{**FAST, **batch})
    with serve_in_thread(SimulatorSettings(latency=0.0, answer="echo", batch=ways)) as simulator:
        yield simulator


def llm_at(simulator: SimulatorThread, dialect: str = "openai", **options: Any) -> LLM:
    url = simulator.root_url if dialect == "anthropic" else simulator.url
    options.setdefault("batch", QUICK)
    return LLM(f"{dialect}/simulated", base_url=url, api_key=KEY, max_tokens=50, **options)


class Echoes(AsyncParallelBatchNode):
    """Asks once for each item; an error is an answer, too."""

    def __init__(self, llm: LLM, **options: Any) -> None:
        super().__init__(**options)
        self.llm = llm

    async def prep_async(self, shared: Any) -> Any:
        return shared["items"]

    async def exec_async(self, item: Any) -> Any:
        try:
            return await self.llm(prompt_of(item))
        except ProviderError as error:
            return error

    async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> None:
        shared["answers"] = exec_res


def prompt_of(item: int) -> str:
    return f"Item {item} of the list."


def prompts(count: int) -> list[str]:
    return [prompt_of(item) for item in range(count)]


def ask(
    llm: LLM, count: int = 60, *, run: Run | None = None, patience: float = 20.0, **options: Any
) -> list[Any]:
    """Ask for so many items through a node, and return the answers and errors."""
    options.setdefault("mode", "batch")
    shared: dict[str, Any] = {"items": range(count)}

    async def main() -> None:
        async with run or contextlib.nullcontext():
            await asyncio.wait_for(Echoes(llm, **options).run_async(shared), patience)

    asyncio.run(main())
    answers: list[Any] = shared["answers"]
    return answers


def check_paid_once(simulator: SimulatorThread, rows: int) -> None:
    bill = simulator.stats().batches
    assert (bill.rows_billed, bill.rows_billed_twice, bill.bodies_billed_twice) == (rows, 0, 0)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_parallel_and_batch_give_the_same_one_word_apart(dialect: str) -> None:
    with provider() as simulator:
        llm = llm_at(simulator, dialect, quota=Quota(rpm=60_000))
        in_parallel = ask(llm, 100, mode="parallel")
        assert simulator.stats().answered == 100
        assert ask(llm, 100, mode="batch") == in_parallel == prompts(100)
        assert simulator.stats().answered == 100
        assert simulator.stats().batches.jobs_created == 1
        check_paid_once(simulator, 100)


def test_a_run_that_changes_to_batch_asks_nothing_again() -> None:
    with provider() as simulator:
        llm = llm_at(simulator)
        assert ask(llm, 24, run=Run("changes"), mode="parallel") == prompts(24)
        run = Run("changes")
        assert ask(llm, 60, run=run) == prompts(60)
        assert run.statistics().replayed == 24
        assert simulator.stats().answered == 24
        check_paid_once(simulator, 36)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_failed_expired_and_missing_rows_are_all_recovered(dialect: str) -> None:
    with provider(error_rows=0.05, expired_rows=0.10, missing_rows=0.01) as simulator:
        assert ask(llm_at(simulator, dialect), 1000) == prompts(1000)
        bill = simulator.stats().batches
        assert bill.jobs_created > 1
        # Rows that went missing were paid for: nobody can know that. Of no other was it twice.
        assert 0 < bill.rows_billed_twice == bill.rows_billed - 1000 < 40


def test_errors_of_rows_that_would_fail_again_are_named_and_not_repeated() -> None:
    with provider(error_rows=0.2, row_error="invalid_request") as simulator:
        answers = ask(llm_at(simulator))
        failed = [each for each in answers if not isinstance(each, str)]
        assert failed
        assert all(isinstance(each, InvalidRequestError) for each in failed)
        assert simulator.stats().batches.jobs_created == 1


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "trouble",
    [
        {"duplicate_rows": 0.5},
        {"failed_polls": 0.5},
        {"hidden_polls": 2},
        {"lost_uploads": (1, 2)},
        {"lost_creates": (1,)},
        {"slow_jobs": (1,), "moving_counts": True},
    ],
    ids=lambda trouble: next(iter(trouble)),
)
def test_trouble_that_no_row_is_to_feel(trouble: dict[str, Any], dialect: str) -> None:
    with provider(**trouble) as simulator:
        assert ask(llm_at(simulator, dialect)) == prompts(60)
        assert simulator.stats().batches.jobs_created == 1
        check_paid_once(simulator, 60)


def test_results_that_are_lost_with_an_expired_job_are_asked_again() -> None:
    with provider(stuck_jobs=(1,), expired_results="none", expiry_seconds=0.3) as simulator:
        assert ask(llm_at(simulator)) == prompts(60)
        bill = simulator.stats().batches
        assert (bill.jobs_created, bill.rows_billed, bill.rows_billed_twice) == (2, 90, 30)


def test_a_known_limit_of_the_queue_is_kept() -> None:
    batch = Batch(quiet=0.05, poll=0.01, enqueued_tokens=300)
    with provider(queue_tokens=800) as simulator:
        assert ask(llm_at(simulator, batch=batch), 100) == prompts(100)
        states = [job["status"] for job in jobs_of(simulator)]
        assert len(states) > 1
        assert set(states) == {"completed"}
        check_paid_once(simulator, 100)


def test_a_limit_of_the_queue_is_learned_and_a_job_above_it_split() -> None:
    batch = Batch(quiet=0.05, poll=0.005)
    with provider(queue_tokens=800) as simulator:
        assert ask(llm_at(simulator, batch=batch), 100) == prompts(100)
        assert "failed" in [job["status"] for job in jobs_of(simulator)]
        check_paid_once(simulator, 100)


def test_a_full_queue_at_anthropic_is_waited_for() -> None:
    batch = Batch(quiet=0.05, poll=0.01, requests=20)
    with provider(queue_requests=50) as simulator:
        assert ask(llm_at(simulator, "anthropic", batch=batch), 100) == prompts(100)
        assert simulator.stats().batches.jobs_created == 5
        check_paid_once(simulator, 100)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stuck_job_is_completed_in_parallel(dialect: str) -> None:
    # That this is on time is tested on the virtual clock, in test_lateness.py.
    with provider(stuck_jobs=(1,)) as simulator:
        llm = llm_at(simulator, dialect, quota=Quota(rpm=60_000))
        answers = ask(llm, deadline=1.2, fallback="parallel")
        assert answers == prompts(60)
        assert simulator.stats().answered == 30
        check_paid_once(simulator, 30)


def test_what_the_provider_cancels_is_named_and_what_was_done_is_kept() -> None:
    with provider(stuck_jobs=(1,)) as simulator:

        async def main() -> list[Any]:
            shared: dict[str, Any] = {"items": range(60)}
            async with Run("cancelled"):
                node = Echoes(llm_at(simulator), mode="batch")
                asking = asyncio.create_task(node.run_async(shared))
                await asyncio.to_thread(cancel_at_half, simulator)
                await asyncio.wait_for(asking, 10)
            answers: list[Any] = shared["answers"]
            return answers

        answers = asyncio.run(main())
        kept = [each for each in answers if isinstance(each, str)]
        cancelled = [each for each in answers if isinstance(each, BatchCancelledError)]
        assert (len(kept), len(cancelled)) == (30, 30)
        again = Run("cancelled", retry_failed=True)
        assert ask(llm_at(simulator), run=again) == prompts(60)
        check_paid_once(simulator, 60)


def cancel_at_half(simulator: SimulatorThread) -> None:
    """Cancel the job as somebody does who has the key, once half of it is done."""
    while not (jobs := jobs_of(simulator)) or jobs[0]["request_counts"]["completed"] < 30:
        time.sleep(0.01)
    assert called(simulator, "POST", f"/batches/{jobs[0]['id']}/cancel")["status"] == "cancelling"


def jobs_of(simulator: SimulatorThread) -> list[dict[str, Any]]:
    """Return what OpenAI's API says of all jobs."""
    return list(called(simulator, "GET", "/batches?limit=100")["data"])


def called(simulator: SimulatorThread, method: str, path: str) -> dict[str, Any]:
    data = b"" if method == "POST" else None
    headers = {"authorization": f"Bearer {KEY}"}
    request = Request(f"{simulator.url}{path}", data, headers, method=method)
    with urlopen(request, timeout=10) as reply:
        answer: dict[str, Any] = orjson.loads(reply.read())
        return answer


def test_a_key_that_is_refused_is_said_once_and_nothing_is_sent_again() -> None:
    settings = SimulatorSettings(latency=0.0, api_key="sk-another", batch=BatchSettings(**FAST))
    with serve_in_thread(settings) as simulator:
        answers = ask(llm_at(simulator), 5)
        assert {type(each).__name__ for each in answers} == {"AuthenticationError"}
        assert all(isinstance(each, LLMFlowError) and KEY not in str(each) for each in answers)
        assert simulator.stats().batches.files_uploaded == 0
