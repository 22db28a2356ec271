"""``mode="auto"`` and the two fallbacks: which way calls go, and that it is said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmflow import LLM, Budget, Price, Quota, Run
from llmflow.batch import Batch
from llmflow.errors import QuotaExhaustedError
from llmflow.events import BatchDecided, Event
from llmflow.types import Request, Response
from tests.batch.fakes import FakeProvider, FakeServer
from tests.batch.test_rounds import Echoes

QUICK = Batch(quiet=0.02, poll=0.005)
HALF = Price(input=1.0, output=1.0, batch_input=0.5, batch_output=0.5)


def run(server: FakeServer, count: int, **options: Any) -> tuple[list[str], list[str]]:
    """Ask for so many items in a run; return the answers and what was decided."""
    llm = LLM(
        FakeProvider(server),
        batch=QUICK,
        quota=options.pop("quota", None),
        price=options.pop("price", None),
    )
    heard: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, BatchDecided):
            heard.append(event.decision)

    async def main() -> list[str]:
        async with Run(budget=options.pop("budget", None), on_event=hear):
            shared: dict[str, Any] = {"items": range(count)}
            await Echoes(llm, **{"mode": "auto", **options}).run_async(shared)
            answers: list[str] = shared["answers"]
            return answers

    return asyncio.run(main()), heard


def test_what_is_in_time_goes_in_parallel() -> None:
    server = FakeServer()
    answers, heard = run(server, 30, quota=Quota(rpm=6000), deadline="6h")
    assert answers[0] == "live: 0"
    assert not server.jobs
    assert heard == ["parallel: 30 calls take about 0.3 s in parallel"]


def test_what_is_too_slow_for_the_deadline_goes_into_a_batch() -> None:
    server = FakeServer()
    answers, heard = run(server, 30, quota=Quota(rpm=2), deadline="10m")
    assert answers == [f"batch: {n}" for n in range(30)]
    assert heard == ["batch: 30 calls take about 15 min in parallel: too long for 10 min"]


def test_a_map_is_decided_by_how_many_items_it_has() -> None:
    server = FakeServer()
    llm = LLM(FakeProvider(server), batch=QUICK, quota=Quota(rpm=2), mode="auto", deadline="10m")
    assert llm.map_sync([f"{n}" for n in range(30)]).texts()[29] == "batch: 29"
    assert not server.live


def test_what_is_beyond_a_daily_quota_goes_into_a_batch() -> None:
    server = FakeServer()
    answers, heard = run(server, 30, quota=Quota(rpd=20))
    assert answers[29] == "batch: 29"
    assert heard == ["batch: 30 calls are more than the daily quota"]


def test_what_is_too_dear_in_parallel_goes_into_a_batch_at_half_the_price() -> None:
    server = FakeServer()
    # 10 tokens in and up to 10 out: 30 calls come to 0.6 cents, and to 0.3 in a batch.
    answers, heard = run(
        server,
        30,
        price=Price(input=10, output=10, batch_input=5, batch_output=5),
        budget=Budget(usd=0.005),
    )
    assert answers[0] == "batch: 0"
    assert heard[0].startswith("batch: 30 calls cost about $")


def test_without_a_batch_api_auto_is_parallel() -> None:
    server = FakeServer()
    llm = LLM(FakeProvider(server, has_batch=False), quota=Quota(rpm=1))
    shared: dict[str, Any] = {"items": [1]}
    asyncio.run(Echoes(llm, mode="auto", deadline=1).run_async(shared))
    assert shared["answers"] == ["live: 1"]


class Exhausted(FakeProvider):
    """Has a daily quota of five."""

    async def complete(self, request: Request, *, timeout: float) -> Response:
        if len(self.fake.live) >= 5:
            raise QuotaExhaustedError("the day is over", status=429)
        return await super().complete(request, timeout=timeout)


@pytest.mark.parametrize("options", [{"mode": "parallel", "fallback": "batch"}, {"mode": "auto"}])
def test_a_parallel_run_goes_on_as_a_batch_when_its_daily_quota_is_used_up(
    options: dict[str, Any],
) -> None:
    server = FakeServer()
    llm = LLM(Exhausted(server), batch=QUICK)
    shared: dict[str, Any] = {"items": range(20)}
    asyncio.run(Echoes(llm, concurrency_limit=2, **options).run_async(shared))
    assert len(server.live) == 5
    assert sum(server.sizes) == 15
    assert sorted(each.split(": ")[1] for each in shared["answers"]) == sorted(map(str, range(20)))


def test_an_answer_of_a_job_costs_the_batch_price() -> None:
    async def main() -> tuple[float | None, float | None]:
        batch = LLM(FakeProvider(FakeServer()), batch=QUICK, mode="batch", price=HALF)
        live = LLM(FakeProvider(FakeServer()), price=HALF)
        return (await batch.complete("1")).cost, (await live.complete("1")).cost

    in_batch, in_parallel = asyncio.run(main())
    assert in_parallel == pytest.approx(15e-6)
    assert in_batch == pytest.approx(7.5e-6)
