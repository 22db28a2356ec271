"""A cache primer: one row goes first, and the others find their marked beginning in the cache."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, Batch, Run
from llmflow.batch.record import JobRecord
from llmflow.errors import ConfigurationError
from llmflow.journal import read_jobs
from llmflow.pricing import Price
from llmflow.simulator import BatchSettings, SimulatorSettings, SimulatorThread, serve_in_thread
from llmflow.types import Response
from tests.batch.fakes import FakeProvider, FakeServer

GUIDE = "Answer with the words that you were asked with. " * 120
OTHER = "Say nothing but what was said to you before this. " * 120
PRICE = Price(input=3, output=15, cached_input=0.3, cache_write=3.75, cache_write_1h=6)
COLD = Batch(quiet=0.05, poll=0.02)
PRIMED = Batch(quiet=0.05, poll=0.02, primer=True)


@pytest.fixture
def sim() -> Iterator[SimulatorThread]:
    batch = BatchSettings(seconds=0.05, validation_seconds=0, finalizing_seconds=0)
    with serve_in_thread(SimulatorSettings(latency=0, answer="echo", batch=batch)) as served:
        yield served


def at(sim: SimulatorThread, **options: Any) -> LLM:
    settings = {
        "system": GUIDE,
        "options": {"cache_system": "1h"},
        "price": PRICE,
        "batch": PRIMED,
        **options,
    }
    return LLM("anthropic/claude-x", base_url=sim.url, api_key="sk-ant-right", **settings)


def asked(*calls: tuple[LLM, list[str]]) -> tuple[list[Response], Run]:
    """Ask all at once in batch mode."""

    async def main(folder: Path) -> tuple[list[Response], Run]:
        async with Run("primed", mode="batch", folder=folder) as run:
            waiting = [llm.complete(prompt) for llm, prompts in calls for prompt in prompts]
            return await asyncio.wait_for(asyncio.gather(*waiting), 20), run

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(main(Path(folder)))


def items(count: int, name: str = "Item") -> list[str]:
    return [f"{name} {n}." for n in range(count)]


def cached(responses: list[Response]) -> list[bool]:
    return [each.usage.cached_tokens > 1024 for each in responses]


def test_one_row_writes_what_all_others_read(sim: SimulatorThread) -> None:
    responses, run = asked((at(sim), items(20)))
    assert [each.text for each in responses] == items(20)
    assert cached(responses) == [False] + [True] * 19
    assert responses[0].usage.cache_write_1h_tokens > 1024
    assert [job.requests for job in run.batch_jobs] == [1, 19]
    assert run.report().decisions == {"cache primer first": 1}


def test_without_it_every_row_writes(sim: SimulatorThread) -> None:
    plain, _ = asked((at(sim, batch=COLD), items(20)))
    assert cached(plain) == [False] * 20
    assert all(each.usage.cache_write_tokens > 1024 for each in plain)


def test_it_saves_what_it_says(sim: SimulatorThread) -> None:
    llm = at(sim)
    marked = llm.provider.marked_prefix(_request(llm))  # type: ignore[union-attr]
    said = 19 * PRICE.saved_by_cache(marked, batch=True)
    cold = sum(each.cost or 0 for each in asked((at(sim, batch=COLD), items(20, "A")))[0])
    warm = sum(each.cost or 0 for each in asked((llm, items(20, "B")))[0])
    assert cold - warm == pytest.approx(said, rel=0.25)  # here tokens are estimated, not there


def test_each_marked_beginning_has_a_row_in_it(sim: SimulatorThread) -> None:
    responses, run = asked((at(sim), items(10)), (at(sim, system=OTHER), items(10, "Other")))
    assert [job.requests for job in run.batch_jobs] == [2, 18]
    assert cached(responses) == ([False] + [True] * 9) * 2


def test_a_later_file_waits_for_the_same_primer(sim: SimulatorThread) -> None:
    llm = at(sim, batch=Batch(quiet=0.5, poll=0.02, primer=True, requests=5))
    responses, run = asked((llm, items(12)))
    assert cached(responses).count(False) == 1
    assert [job.requests for job in run.batch_jobs] == [1, 4, 5, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"system": "Be brief."},  # shorter than what is ever cached
        {"options": {}},
        {"price": Price(input=3, output=15)},  # reading costs what writing does
    ],
)
def test_where_it_saves_nothing_there_is_none(sim: SimulatorThread, options: Any) -> None:
    _, run = asked((at(sim, **options), items(6)))
    assert [job.requests for job in run.batch_jobs] == [6]


def test_where_no_price_is_known_the_report_says_so(sim: SimulatorThread) -> None:
    _, run = asked((at(sim, price=None), items(6)))
    assert [job.requests for job in run.batch_jobs] == [6]
    assert list(run.report().decisions) == ["no cache primer: no price says that it saves anything"]


def test_rows_that_share_nothing_wait_for_nothing(sim: SimulatorThread) -> None:
    calls = [(at(sim, system=f"{n}. {GUIDE}"), ["Hi."]) for n in range(4)]
    _, run = asked(*calls)
    assert [job.requests for job in run.batch_jobs] == [4]


def test_one_that_fails_holds_nobody_up(sim: SimulatorThread) -> None:
    failing = BatchSettings(
        seconds=0.05, validation_seconds=0, stuck_jobs=(1,), stuck_at=0, expiry_seconds=0.3
    )
    settings = SimulatorSettings(latency=0, answer="echo", batch=failing)
    with serve_in_thread(settings) as served:
        responses, run = asked((at(served), items(6)))
    assert [each.text for each in responses] == items(6)
    assert [job.requests for job in run.batch_jobs][:2] == [1, 5]


def test_submitted_means_that_all_is_at_the_provider(sim: SimulatorThread, tmp_path: Path) -> None:
    async def main() -> None:
        async with Run("night", mode="batch", folder=tmp_path) as run:
            llm = at(sim)
            for prompt in items(6):
                await llm.submit(prompt)
            await asyncio.wait_for(run.submitted(), 20)

    asyncio.run(main())
    assert sim.stats().batches.jobs_created == 2
    assert [each["requests"] for each in read_jobs(tmp_path / "night")] == [1, 5]


def test_a_job_says_what_it_waits_for() -> None:
    record = JobRecord(tag="b", queue="q", provider="p", model="m", after="a")
    assert JobRecord.of(record.plain()).after == "a"


def test_a_provider_without_marks_has_none() -> None:
    server = FakeServer()
    llm = LLM(FakeProvider(server), batch=PRIMED, price=PRICE)
    asked((llm, items(6)))
    assert server.sizes == [6]


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match="primer must be True or False; got 'yes'"):
        Batch(primer="yes")  # type: ignore[arg-type]


def _request(llm: LLM) -> Any:
    return llm.call_for("Item 0.")[1].request
