"""Shared answers in a run's journal: nothing that was answered is asked again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from llmflow import LLM, Run
from llmflow.errors import ContentFilterError
from llmflow.journal import Journal
from llmflow.testing import ScriptedProvider
from tests.runs.asking import asked, numbered


class Gate:
    """Holds answers back while they are being written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened = asyncio.Event()
        self.reached = asyncio.Event()
        put = Journal.put

        async def held(journal: Journal, *args: Any, **options: Any) -> None:
            self.reached.set()
            await self.opened.wait()
            await put(journal, *args, **options)

        monkeypatch.setattr(Journal, "put", held)


async def test_while_an_answer_is_being_written_an_equal_call_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider, gate = numbered(), Gate(monkeypatch)
    llm = LLM(provider, dedupe=True)
    async with Run("run"):
        first = asyncio.create_task(llm("Hi"))
        await gate.reached.wait()
        late = [asyncio.create_task(llm("Hi")) for _ in range(3)]
        await asyncio.sleep(0)
        gate.opened.set()
        texts = await asyncio.gather(first, *late)
    async with Run("run") as run:
        again = [await llm("Hi") for _ in range(4)]
        assert run.statistics().replayed == 4
    assert texts == again == ["1. Hi"] * 4


async def test_an_answer_that_was_got_outlives_the_call_that_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider, gate = numbered(), Gate(monkeypatch)
    llm = LLM(provider, dedupe=True)
    async with Run("run"):
        first = asyncio.create_task(llm("Hi"))
        other = asyncio.create_task(llm("Hi"))
        await gate.reached.wait()
        first.cancel()
        await asyncio.wait((first,))
        late = asyncio.create_task(llm("Hi"))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await asyncio.gather(other, late) == ["1. Hi"] * 2
    assert first.cancelled()
    assert asked(provider) == ["Hi"]


async def test_shared_answers_are_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    llm = LLM(numbered(), dedupe=True)
    async with Run("run") as run:
        first = [asyncio.create_task(llm("Hi")) for _ in range(2)]
        await gate.reached.wait()
        late = [asyncio.create_task(llm("Hi")) for _ in range(2)]
        await asyncio.sleep(0)
        gate.opened.set()
        await asyncio.gather(*first, *late)
        assert run.totals is not None
        assert run.totals.requests == 1
        statistics = run.statistics()
    assert (statistics.answered, statistics.shared, statistics.done) == (1, 3, 4)


async def test_where_the_one_that_asks_is_cancelled_its_place_is_answered() -> None:
    provider = numbered(latency=0.02)
    llm = LLM(provider, dedupe=True)
    async with Run("run"):
        calls = [asyncio.create_task(llm("Hi")) for _ in range(3)]
        await asyncio.sleep(0.01)
        calls[0].cancel()
        await asyncio.wait(calls)
    async with Run("run") as run:
        assert await asyncio.gather(*(llm("Hi") for _ in range(3))) == ["2. Hi"] * 3
        assert run.statistics().replayed == 3


async def test_a_failure_counts_for_everybody_who_shared_it() -> None:
    llm = LLM(ScriptedProvider([ContentFilterError("no")], latency=0.01), dedupe=True)
    async with Run("run") as run:
        errors = await asyncio.gather(*(llm("Hi") for _ in range(3)), return_exceptions=True)
        assert run.statistics().failed == run.statistics().done == 3
        assert run.statistics().requests == 1
    assert sorted(each.source for each in errors if isinstance(each, ContentFilterError)) == [
        "provider",
        "shared",
        "shared",
    ]


async def test_what_a_call_was_answered_once_it_is_answered_always() -> None:
    llm = LLM(numbered(latency=0.01), temperature=0)
    async with Run("run"):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(llm("A"), 0.001)
        before = [await llm("A"), await llm("A")]
    async with Run("run"):
        after = await asyncio.gather(llm("A"), llm("A"), llm("A"))
    assert list(after[:2]) == before


async def session(rng: random.Random, llm: LLM, prompts: list[str], *, cruel: bool) -> Counter[str]:
    """Ask in one order, cancel some if `cruel`, and return what was answered how often."""
    calls = []
    for prompt in prompts:
        calls.append(asyncio.create_task(llm(prompt)))
        if cruel and rng.random() < 0.5:
            await asyncio.sleep(rng.uniform(0, 0.004))
        if cruel and rng.random() < 0.4:
            rng.choice(calls).cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    pairs = zip(prompts, answers, strict=True)
    return Counter(prompt for prompt, answer in pairs if isinstance(answer, str))


@pytest.mark.parametrize("seed", range(40))
async def test_nothing_that_was_answered_is_asked_again(seed: int) -> None:
    rng = random.Random(seed)
    prompts = [rng.choice("ABCD") for _ in range(rng.randint(1, 40))]
    provider = numbered(latency=rng.choice([0.0, 0.003, 0.01]))
    llm = LLM(provider, dedupe=True)
    async with Run("run"):
        answered = await session(rng, llm, prompts, cruel=True)
    provider.requests.clear()
    async with Run("run") as run:
        assert await session(rng, llm, prompts, cruel=False) == Counter(prompts)
        assert run.statistics().replayed >= answered.total()
    left = Counter(prompts) - answered
    assert not Counter(asked(provider)) - left
    provider.requests.clear()
    async with Run("run"):
        assert await session(rng, llm, prompts, cruel=False) == Counter(prompts)
    assert provider.requests == []


@pytest.mark.parametrize("seed", range(10))
async def test_with_threads_and_loops_of_their_own_nothing_is_asked_again(seed: int) -> None:
    rng = random.Random(seed)
    provider = numbered(latency=0.005)
    llm = LLM(provider, dedupe=True)

    async def many(count: int) -> list[str]:
        return await asyncio.gather(*(llm("A") for _ in range(count)))

    counts = [rng.randint(1, 6) for _ in range(3)]
    async with Run("run"):
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, many(each)) for each in counts))
    provider.requests.clear()
    async with Run("run"):
        await many(sum(counts))
    assert provider.requests == []
