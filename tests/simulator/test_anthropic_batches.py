"""Anthropic's batch API of the simulator, with Anthropic's official SDK as its client."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from llmflow.simulator import Simulator, SimulatorSettings
from llmflow.simulator.batch_settings import BatchSettings
from llmflow.simulator.batches import bodies

pytestmark = pytest.mark.http

anthropic: Any = pytest.importorskip("anthropic")


def settings(**batch: Any) -> SimulatorSettings:
    fast = {"seconds": 0.0, "cancel_seconds": 0.0}
    return SimulatorSettings(latency=0, batch=BatchSettings(**{**fast, **batch}))


def client(sim: Simulator, key: str = "sk-right") -> Any:
    return anthropic.AsyncAnthropic(base_url=sim.root_url, api_key=key, max_retries=0)


def row(number: int, **params: Any) -> dict[str, Any]:
    asked = {
        "model": "claude-x",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": f'Item "{number}" ]}}.'}],
    }
    return {"custom_id": f"r-{number}", "params": {**asked, **params}}


def rows(count: int) -> list[dict[str, Any]]:
    return [row(n) for n in range(count)]


async def ended(sdk: Any, job: Any) -> Any:
    async with asyncio.timeout(20):
        while job.processing_status != "ended":
            await asyncio.sleep(0.005)
            job = await sdk.messages.batches.retrieve(job.id)
    return job


async def results(sdk: Any, job: Any) -> dict[str, Any]:
    lines = [line async for line in await sdk.messages.batches.results(job.id)]
    return {line.custom_id: line.result for line in lines}


async def test_a_job_answers_as_live_requests_do() -> None:
    async with Simulator(settings()) as sim, client(sim) as sdk:
        asked = rows(50)
        job = await sdk.messages.batches.create(requests=asked)
        job = await ended(sdk, job)
        assert (job.request_counts.succeeded, job.request_counts.processing) == (50, 0)
        lines = [line async for line in await sdk.messages.batches.results(job.id)]
        assert sorted(r.custom_id for r in lines) == sorted(r["custom_id"] for r in asked)
        assert [r.custom_id for r in lines] != [r["custom_id"] for r in asked]
        said = next(r.result.message for r in lines if r.custom_id == "r-7")
        live = await sdk.messages.create(**asked[7]["params"])
        assert (said.content[0].text, said.usage.service_tier) == (live.content[0].text, "batch")
        deleted = await sdk.messages.batches.delete(job.id)
        assert deleted.type == "message_batch_deleted"
        assert [j async for j in sdk.messages.batches.list()] == []


async def test_a_wrong_row_fails_alone() -> None:
    wrong = [row(1, stream=True), row(2, max_tokens=0), row(3, messages=[]), row(4)]
    async with Simulator(settings()) as sim, client(sim) as sdk:
        job = await ended(sdk, await sdk.messages.batches.create(requests=wrong))
        got = await results(sdk, job)
        assert [got[f"r-{n}"].type for n in (1, 2, 3, 4)] == ["errored"] * 3 + ["succeeded"]
        assert got["r-1"].error.error.type == "invalid_request_error"
        assert sim.stats().batches.rows_billed == 1


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        [row(1), row(1)],
        [{"params": {}}],
        [{"custom_id": "a"}],
        [{"custom_id": "a b", "params": {}}],
        [{"custom_id": "a" * 65, "params": {}}],
        rows(5),
    ],
)
async def test_a_wrong_list_is_refused_at_once(wrong: list[Any]) -> None:
    async with Simulator(settings(max_requests=4)) as sim, client(sim) as sdk:
        with pytest.raises(anthropic.BadRequestError):
            await sdk.messages.batches.create(requests=wrong)
        assert sim.stats().batches.jobs_created == 0


async def test_a_stuck_job_can_be_cancelled_and_keeps_what_it_did() -> None:
    async with Simulator(settings(stuck_jobs=(1,), queue_requests=10)) as sim, client(sim) as sdk:
        job = await sdk.messages.batches.create(requests=rows(10))
        counts = (await sdk.messages.batches.retrieve(job.id)).request_counts
        assert (counts.processing, counts.succeeded) == (10, 0)
        with pytest.raises(anthropic.NotFoundError, match="no available results"):
            await sdk.get(f"/v1/messages/batches/{job.id}/results", cast_to=object)
        with pytest.raises(anthropic.BadRequestError):
            await sdk.messages.batches.delete(job.id)
        with pytest.raises(anthropic.RateLimitError):
            await sdk.messages.batches.create(requests=rows(1))
        async with client(sim, "sk-other") as stranger:
            with pytest.raises(anthropic.NotFoundError):
                await stranger.messages.batches.retrieve(job.id)
        assert (await sdk.messages.batches.cancel(job.id)).processing_status == "canceling"
        job = await ended(sdk, job)
        assert (job.request_counts.succeeded, job.request_counts.canceled) == (5, 5)
        kinds = [result.type for result in (await results(sdk, job)).values()]
        assert (kinds.count("succeeded"), kinds.count("canceled")) == (5, 5)


async def test_a_lost_creation_is_found_in_the_list_page_by_page() -> None:
    async with Simulator(settings(lost_creates=(2,))) as sim, client(sim) as sdk:
        first = await sdk.messages.batches.create(requests=rows(1))
        with pytest.raises(anthropic.APIConnectionError):
            await sdk.messages.batches.create(requests=rows(2))
        found = [job async for job in sdk.messages.batches.list(limit=1)]
        assert [sum(job.request_counts.to_dict().values()) for job in found] == [2, 1]
        page = await sdk.messages.batches.list(limit=1, before_id=first.id)
        assert ([job.id for job in page.data], page.has_more) == ([found[0].id], False)


async def test_a_row_is_billed_once_over_a_restart_and_twice_in_two_jobs(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    stuck = settings(state=state, stuck_jobs=(1,))
    async with Simulator(stuck) as sim, client(sim) as sdk:
        job = await sdk.messages.batches.create(requests=rows(10))
        async with asyncio.timeout(20):
            while sim.stats().batches.rows_billed < 5:
                await sdk.messages.batches.retrieve(job.id)
    async with Simulator(settings(state=state)) as sim, client(sim) as sdk:
        await ended(sdk, job)
        counts = sim.stats().batches
        assert (counts.jobs_created, counts.rows_billed, counts.rows_billed_twice) == (1, 10, 0)
        await ended(sdk, await sdk.messages.batches.create(requests=rows(3)))
        counts = sim.stats().batches
        assert (counts.jobs_created, counts.rows_billed) == (2, 13)
        assert (counts.rows_billed_twice, counts.bodies_billed_twice) == (3, 3)


def test_a_list_is_read_element_by_element() -> None:
    asked = [{"a": 'x"]}\\', "b": [{}, []]}, {}, {"c": "\\\\" * 50}]
    body = json.dumps({"requests": asked}, indent=1).encode()
    got = bodies.elements(body, "requests")
    assert [json.loads(element) for element in got] == asked
    for wrong in (body[:-1], body + b"x", b"{}", b"", b'{"requests":[1]}', body[:40]):
        with pytest.raises(bodies.ListError):
            list(bodies.elements(wrong, "requests"))
