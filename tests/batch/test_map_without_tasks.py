"""A map in batch mode has no task for an item that a job answers, and loses none for that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from llmflow import LLM, AsyncNode, Batch, Budget, Price, Response, Run
from llmflow.errors import ConfigurationError, ContentFilterError, ServerError
from tests.batch.fakes import FakeProvider, FakeServer

MANY = 200
QUICK = Batch(quiet=0.02, poll=0.005)
TEXTS = [f"{n}" for n in range(MANY)]


def llm_at(server: FakeServer, **options: Any) -> LLM:
    options = {"batch": QUICK, "mode": "batch"} | options
    return LLM(FakeProvider(server), **options)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("name", ["run", None])
async def test_all_items_wait_without_tasks(
    tmp_path: Path, name: str | None, ordered: bool
) -> None:
    server, most = FakeServer(looks=3), 0
    async with Run(name, **({"folder": tmp_path} if name else {})) as run:
        stream = llm_at(server).map(TEXTS, ordered=ordered)
        found = []
        async for result in stream:
            most = max(most, len(asyncio.all_tasks()))
            found.append((result.index, result.text))
        assert run.statistics().answered == MANY
    assert most < 20
    assert found == [*enumerate(f"batch: {text}" for text in TEXTS)] if ordered else sorted(found)
    assert sorted(index for index, _ in found) == list(range(MANY))
    assert server.sizes == [MANY]
    assert (stream.counts.answered, stream.counts.delivered) == (MANY, MANY)


async def test_a_second_map_takes_the_answers_from_the_journal(tmp_path: Path) -> None:
    server = FakeServer()
    for _ in range(2):
        async with Run("run", folder=tmp_path):
            results = await llm_at(server).map([*TEXTS, *TEXTS])
            assert results.texts() == [f"batch: {text}" for text in [*TEXTS, *TEXTS]]
    assert server.sizes == [2 * MANY]


@pytest.mark.parametrize("name", ["run", None])
async def test_only_what_is_not_accepted_gets_a_task(tmp_path: Path, name: str | None) -> None:
    def fate(prompt: str, number: int) -> Any:
        return "better" if "not accepted" in prompt else f"batch: {prompt}"

    def no_sevens(response: Response) -> bool:
        return "7" not in response.text

    wrong = [each for each in TEXTS if "7" in each]
    server, most = FakeServer(fate=fate, looks=3), 0
    for attempt in range(2 if name else 1):
        async with Run(name, **({"folder": tmp_path} if name else {})) as run:
            stream = llm_at(server).map(TEXTS, validate=no_sevens)
            found = {}
            async for result in stream:
                if len(found) < MANY - len(wrong):
                    most = max(most, len(asyncio.all_tasks()))
                found[result.item] = result.text
            done = run.statistics()
            assert (done.answered, done.replayed) == ((0, MANY) if attempt else (MANY, 0))
            assert (done.reasked, done.in_flight) == (len(wrong), 0)
        assert [found[each] for each in wrong] == ["better"] * len(wrong)
        assert sorted(found) == sorted(TEXTS)
    assert server.sizes == [MANY, len(wrong)], "nothing is asked twice"
    assert most < len(wrong) + 20


async def test_failures_are_results(tmp_path: Path) -> None:
    def fate(prompt: str, number: int) -> Any:
        return ContentFilterError("no") if prompt == "7" else f"batch: {prompt}"

    async with Run("run", folder=tmp_path) as run:
        results = await llm_at(FakeServer(fate=fate)).map(TEXTS)
        assert [each.index for each in results.failed] == [7]
        assert run.statistics().failed == 1


async def test_leftovers_are_asked_live(tmp_path: Path) -> None:
    def fate(prompt: str, number: int) -> Any:
        return ServerError("oops", status=500) if prompt in ("1", "2") else f"batch: {prompt}"

    server = FakeServer(fate=fate)
    async with Run("run", folder=tmp_path):
        results = await llm_at(server, fallback="parallel").map(TEXTS, concurrency=1)
    assert sorted(server.live) == ["1", "2"]
    assert len(results.failed) == 0


async def test_what_was_not_sent_is_left_out_when_the_map_ends_early(tmp_path: Path) -> None:
    server = FakeServer()
    async with Run("run", folder=tmp_path) as run:
        stream = llm_at(server, batch=Batch(quiet=0.2, poll=0.005)).map(TEXTS)
        waiting = asyncio.ensure_future(stream)
        while stream.counts.read < MANY:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        assert run.statistics().in_flight == MANY
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert run.statistics().in_flight == 0
        await asyncio.sleep(0.4)
        assert server.sizes == []
        # Nothing was answered: the next map asks the same rows.
        results = await llm_at(server).map(TEXTS)
        assert results.texts() == [f"batch: {text}" for text in TEXTS]
    assert server.sizes == [MANY]
    async with Run("run", folder=tmp_path) as run:
        await llm_at(server).map(TEXTS)
        assert run.statistics().replayed == MANY


async def test_what_was_sent_comes_into_the_journal_all_the_same(tmp_path: Path) -> None:
    server = FakeServer(looks=5)
    async with Run("run", folder=tmp_path) as run:
        stream = llm_at(server).map(TEXTS)
        waiting = asyncio.ensure_future(stream)
        while not server.jobs:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await run.settled()
        results = await llm_at(server).map(TEXTS)
        assert results.texts() == [f"batch: {text}" for text in TEXTS]
    assert server.sizes == [MANY]


async def test_what_the_budget_does_not_cover_waits_for_room(tmp_path: Path) -> None:
    price = Price(input=10, output=10, batch_input=5, batch_output=5)
    async with Run("run", folder=tmp_path, budget=Budget(requests=MANY // 2)) as run:
        with pytest.raises(Exception, match="budget"):
            await llm_at(FakeServer(), price=price).map(TEXTS)
        assert run.statistics().answered == MANY // 2


async def test_an_item_without_a_prompt_is_a_failure() -> None:
    def prompt(item: str) -> str:
        return "" if item != "3" else str(1 / 0)

    results = await llm_at(FakeServer()).map(TEXTS, prompt=prompt)
    assert [each.index for each in results.failed] == [3]


async def test_a_map_within_an_item_waits_as_its_item_does() -> None:
    server = FakeServer()

    class Ask(AsyncNode):
        async def exec_async(self, prep_res: Any) -> Any:
            slow = Batch(quiet=0.6, poll=0.005)
            return (await llm_at(server, batch=slow).map(TEXTS[:5])).texts()

        async def post_async(self, shared: Any, prep_res: Any, exec_res: Any) -> Any:
            shared["texts"] = exec_res

    shared: dict[str, Any] = {}
    await Ask(timeout=0.5).run_async(shared)
    assert shared["texts"] == [f"batch: {text}" for text in TEXTS[:5]]


async def test_another_event_loop_is_refused(tmp_path: Path) -> None:
    server = FakeServer(looks=10_000)
    async with Run("run", folder=tmp_path):
        llm = llm_at(server)
        waiting = asyncio.ensure_future(llm.map(["a"]))
        while not server.jobs:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)

        def elsewhere() -> Any:
            return asyncio.run(_collected(llm))

        with pytest.raises(ConfigurationError, match="event loop"):
            await asyncio.to_thread(elsewhere)
        waiting.cancel()
        await asyncio.wait([waiting])


async def _collected(llm: LLM) -> Any:
    return await llm.map(["b"])
