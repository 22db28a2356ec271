"""What a job has answered is somebody's, whatever becomes of the call that asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Batch, Budget, Price, Run
from llmflow.errors import (
    BatchCancelledError,
    BudgetExceededError,
    ContentFilterError,
    JournalError,
    LLMFlowError,
    OutageError,
    ServerError,
)
from llmflow.items.idle import active_items
from llmflow.journal import read_jobs
from tests.batch.fakes import FakeBatchAPI, FakeProvider, FakeServer
from tests.batch.test_rounds import Echoes

QUICK = Batch(quiet=0.02, poll=0.005)
PRICE = Price(input=10, output=10, batch_input=5, batch_output=5)  # $75 for a million rows


def twice(server: FakeServer) -> int:
    """Return how many rows were paid for more than once."""
    return sum(count > 1 for count in Counter(server.billed).values())


def states(folder: Path) -> set[str]:
    return {each["state"] for each in read_jobs(folder / "run")}


async def session(server: FakeServer, folder: Path, count: int, **options: Any) -> list[Any]:
    llm = LLM(FakeProvider(server), batch=QUICK)
    async with Run("run", mode="batch", folder=folder, **options):
        calls = [llm(f"{n}") for n in range(count)]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)


class Fails(Echoes):
    """Ends while most of its items have their answers and wait for a slot."""

    fails = True

    async def exec_async(self, item: Any) -> Any:
        text = await super().exec_async(item)
        if item == 37 and self.fails:
            raise ValueError("a bug of the node's")
        await asyncio.sleep(0.01)
        return text


async def test_answers_of_items_that_wait_for_their_slot_are_kept(tmp_path: Path) -> None:
    server = FakeServer()
    for fails in (True, False):
        node = Fails(LLM(FakeProvider(server), batch=QUICK), concurrency_limit=2)
        node.fails = fails
        shared: dict[str, Any] = {"items": range(40)}
        with pytest.raises(ValueError, match="bug") if fails else contextlib.nullcontext():
            async with Run("run", mode="batch", folder=tmp_path):
                await node.run_async(shared)
    assert len(shared["answers"]) == 40
    assert (server.sizes, twice(server)) == ([40], 0)


class Away(FakeBatchAPI):
    """Gives no results until it is back."""

    back = False

    async def fetch(self, *args: Any) -> Any:
        if not self.back:
            raise ServerError("down", status=503)
        return await super().fetch(*args)


async def test_a_node_that_repeats_an_outage_submits_nothing_again(tmp_path: Path) -> None:
    server, provider = FakeServer(), FakeProvider(FakeServer())
    provider = FakeProvider(server)
    api = provider.batch = Away(server)  # type: ignore[misc, assignment]
    llm = LLM(provider, batch=Batch(quiet=0.02, poll=0.0001))
    with pytest.raises(OutageError):
        async with Run("run", mode="batch", folder=tmp_path):
            await Echoes(llm, max_retries=3).run_async({"items": range(5)})
    assert server.sizes == [5]
    api.back = True
    async with Run("run", mode="batch", folder=tmp_path) as run:
        await llm.collect()
        await run.settled()
    assert (server.sizes, twice(server), states(tmp_path)) == ([5], 0, {"done"})


async def test_an_answer_takes_the_place_of_an_earlier_failure(tmp_path: Path) -> None:
    server = FakeServer(
        fate=lambda prompt, job: (
            ContentFilterError("no") if job == 1 and prompt == "3" else f"batch: {prompt}"
        )
    )
    assert isinstance((await session(server, tmp_path, 5))[3], ContentFilterError)
    server.looks = 10**9
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(session(server, tmp_path, 5, retry_failed=True), 0.2)
    server.looks = 1
    llm = LLM(FakeProvider(server), batch=QUICK)
    async with Run("run", mode="batch", folder=tmp_path, retry_failed=True) as run:
        await llm.collect()
        await run.settled()
    assert await session(server, tmp_path, 5) == [f"batch: {n}" for n in range(5)]
    assert server.sizes == [5, 1]


async def test_a_call_that_outlives_its_run_fails(tmp_path: Path) -> None:
    llm = LLM(FakeProvider(FakeServer(looks=10**9)), batch=QUICK)
    async with Run("run", mode="batch", folder=tmp_path):
        call = asyncio.ensure_future(llm("1"))
        await asyncio.sleep(0.05)
    with pytest.raises(JournalError, match="the run is over"):
        await asyncio.wait_for(call, 5)


async def test_a_failure_that_nobody_foresaw_leaves_nobody_waiting() -> None:
    class Odd(FakeBatchAPI):
        async def status(self, *args: Any) -> Any:
            raise KeyError("id")

    provider = FakeProvider(FakeServer())
    provider.batch = Odd(FakeServer())  # type: ignore[misc]
    with pytest.raises(LLMFlowError, match="an unforeseen failure of a batch job: KeyError"):
        await asyncio.wait_for(LLM(provider, batch=QUICK, mode="batch")("1"), 5)


async def test_rows_of_calls_that_gave_up_stay_in_the_budget(tmp_path: Path) -> None:
    llm = LLM(FakeProvider(FakeServer(looks=30)), batch=QUICK, price=PRICE)
    async with Run("run", mode="batch", budget=Budget(usd=0.002), folder=tmp_path) as run:
        for turn in range(4):
            calls = asyncio.gather(*[llm(f"{turn} {n}") for n in range(15)])
            with contextlib.suppress(TimeoutError, BudgetExceededError):
                await asyncio.wait_for(calls, 0.08)
        await run.settled()
        assert run.ledger is not None
        assert run.totals is not None
        assert 0 < run.ledger.spent.usd <= 0.002
        assert run.ledger.spent.usd == pytest.approx(run.totals.cost)


async def test_what_auto_submits_is_reserved_at_the_price_of_batches(tmp_path: Path) -> None:
    llm = LLM(FakeProvider(FakeServer()), batch=QUICK, price=PRICE)
    async with Run("run", mode="auto", budget=Budget(usd=0.004), folder=tmp_path) as run:
        active_items().expected += 30
        try:
            for n in range(30):
                assert await llm.submit(f"{n}", max_tokens=10)
        finally:
            active_items().expected -= 30
        await run.settled()


async def test_outside_of_runs_a_deadline_begins_anew() -> None:
    server = FakeServer()
    llm = LLM(FakeProvider(server), batch=QUICK, mode="batch", deadline=1.0)
    assert await llm("1") == "batch: 1"
    await asyncio.sleep(1.05)
    assert await llm("2") == "batch: 2"
    assert server.live == []


async def test_outside_of_runs_a_deadline_does_not_count_jobs_that_are_done() -> None:
    """As of another account, or of calls a while ago: it was near before it had begun."""
    for count in (1, 3):
        server = FakeServer()
        llm = LLM(FakeProvider(server), batch=QUICK, mode="batch", deadline=4.0)
        answers = await asyncio.gather(*(llm(f"{n}") for n in range(count)))
        assert answers == [f"batch: {n}" for n in range(count)]
        await asyncio.sleep(3.2)


async def test_a_run_that_is_used_again_has_its_deadline_again(tmp_path: Path) -> None:
    server = FakeServer()
    for count in (2, 4):
        answers = await session(server, tmp_path, count, deadline=1.0, fallback="parallel")
        assert answers == [f"batch: {n}" for n in range(count)]
        await asyncio.sleep(1.05)


def test_a_loop_that_stands_still_is_left_to_itself(tmp_path: Path) -> None:
    llm = LLM(FakeProvider(FakeServer()), batch=QUICK)
    first = asyncio.new_event_loop()

    async def second() -> str:
        return await asyncio.wait_for(llm("2"), 5)

    with Run("run", mode="batch", folder=tmp_path):
        assert first.run_until_complete(llm("1")) == "batch: 1"
        assert asyncio.run(second()) == "batch: 2"
    first.close()


async def test_what_was_submitted_comes_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMFLOW_CACHE_DIR", str(tmp_path / "cache"))
    server = FakeServer()
    for name in ("one", "two"):
        llm = LLM(FakeProvider(server), batch=QUICK, cache=True)
        async with Run(name, mode="batch", folder=tmp_path) as run:
            for n in range(5):
                await llm.submit(f"{n}")
            await run.settled()
            assert [await llm(f"{n}") for n in range(5)] == [f"batch: {n}" for n in range(5)]
    assert sum(server.sizes) == 5


class Unheard(FakeBatchAPI):
    """Hears no request to cancel until it is back."""

    back = False

    async def cancel(self, *args: Any) -> None:
        if not self.back:
            raise ServerError("down", status=503)
        await super().cancel(*args)


async def test_a_job_that_nobody_could_cancel_is_not_given_up(tmp_path: Path) -> None:
    server = FakeServer(stuck={1})
    provider = FakeProvider(server)
    api = provider.batch = Unheard(server)  # type: ignore[misc, assignment]
    llm = LLM(provider, batch=Batch(quiet=0.01, poll=0.0002))
    async with Run("run", mode="batch", folder=tmp_path) as run:
        for n in range(5):
            await llm.submit(f"{n}")
        await run.submitted()
        assert sum(each.cancel_all() for each in run.session.all_batches) == 1
        with pytest.raises(TimeoutError):  # of a thousand polls
            await asyncio.wait_for(run.settled(), 0.3)
        assert states(tmp_path) == {"created"}
        api.back = True
        with contextlib.suppress(BatchCancelledError):
            await asyncio.wait_for(run.settled(), 10)
    assert states(tmp_path) == {"done"}
    assert [job.state for job in server.jobs.values()] == ["cancelled"]


async def test_a_provider_that_is_away_is_told_of_while_it_is(tmp_path: Path) -> None:
    server = FakeServer()
    provider = FakeProvider(server)
    api = provider.batch = Away(server)  # type: ignore[misc, assignment]
    llm = LLM(provider, batch=Batch(quiet=0.01, poll=0.01))
    async with Run("run", mode="batch", folder=tmp_path) as run:
        call = asyncio.ensure_future(llm("1"))
        async with asyncio.timeout(5):
            while run.batch_trouble is None:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
        assert "down (HTTP 503)" in str(run.batch_trouble)
        api.back = True
        assert await call == "batch: 1"
        assert run.batch_trouble is None
