"""Equal calls in flight at the same time share one, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import random

import pytest

from llmflow import LLM
from llmflow.calls.in_flight import Coalescer, InFlight
from llmflow.errors import ContentFilterError
from llmflow.testing import ScriptedProvider
from llmflow.types import Request

pytestmark = pytest.mark.virtual_time


def numbered() -> ScriptedProvider:
    """Return a provider whose answers tell how often it was asked."""
    asked = 0

    def answer(request: Request) -> str:
        nonlocal asked
        asked += 1
        return f"answer {asked}"

    return ScriptedProvider(default=answer, latency=1.0)


async def test_at_temperature_0_equal_calls_in_flight_share_one() -> None:
    provider = numbered()
    llm = LLM(provider, temperature=0)
    texts = await asyncio.gather(*(llm("Hi") for _ in range(20)), llm("Hello"))
    assert texts == ["answer 1"] * 20 + ["answer 2"]
    assert len(provider.requests) == 2


async def test_an_equal_call_afterwards_is_a_call_of_its_own() -> None:
    llm = LLM(numbered(), temperature=0)
    assert [await llm("Hi"), await llm("Hi")] == ["answer 1", "answer 2"]


async def test_where_answers_are_drawn_every_call_draws_its_own() -> None:
    for options in ({}, {"temperature": 0.7}, {"temperature": 0, "dedupe": False}):
        llm = LLM(numbered(), **options)  # type: ignore[arg-type]
        assert len(set(await asyncio.gather(*(llm("Hi") for _ in range(5))))) == 5


async def test_dedupe_shares_at_any_temperature() -> None:
    llm = LLM(numbered(), temperature=1.0, dedupe=True)
    assert len(set(await asyncio.gather(*(llm("Hi") for _ in range(5))))) == 1


async def test_what_differs_in_any_parameter_is_not_equal() -> None:
    provider = numbered()
    llm = LLM(provider, dedupe=True)
    answers = await asyncio.gather(
        llm("Hi"), llm("Hi", max_tokens=5), llm("Hi", system="Be brief."), llm("Hi", top_p=0.5)
    )
    assert len(set(answers)) == 4


async def test_the_order_of_options_makes_no_difference() -> None:
    provider = numbered()
    llm = LLM(provider, dedupe=True)
    await asyncio.gather(llm("Hi", top_p=0.5, seed=1), llm("Hi", seed=1, top_p=0.5))
    assert len(provider.requests) == 1


async def test_a_shared_answer_says_so() -> None:
    llm = LLM(numbered(), dedupe=True)
    one, other = await asyncio.gather(llm.complete("Hi"), llm.complete("Hi"))
    assert (one.source, other.source) == ("provider", "shared")
    assert one == other


async def test_a_failure_is_everybodys_each_with_an_error_of_its_own() -> None:
    llm = LLM(ScriptedProvider([ContentFilterError("no")], latency=1.0), dedupe=True)
    errors = await asyncio.gather(*(llm("Hi") for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in errors] == [ContentFilterError] * 3
    assert len({id(each) for each in errors}) == 3


async def test_where_the_one_that_asks_is_cancelled_another_asks() -> None:
    provider = numbered()
    llm = LLM(provider, dedupe=True)
    calls = [asyncio.create_task(llm("Hi")) for _ in range(3)]
    await asyncio.sleep(0.5)
    calls[0].cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == ["answer 2"] * 2


async def test_whoever_is_cancelled_the_others_are_answered() -> None:
    rng = random.Random(1)
    for _ in range(50):
        llm = LLM(numbered(), dedupe=True)
        calls = [asyncio.create_task(llm("Hi")) for _ in range(6)]
        doomed = rng.sample(calls, rng.randint(0, 5))
        for call in doomed:
            await asyncio.sleep(rng.uniform(0, 0.3))
            call.cancel()
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*calls, return_exceptions=True)
        for call, answer in zip(calls, answers, strict=True):
            assert call in doomed or isinstance(answer, str)


async def lead() -> tuple[Coalescer, InFlight]:
    sharing = Coalescer()
    group = sharing.join("key", 0)
    assert await group.lead(0)
    return sharing, group


def test_a_call_that_is_collected_outside_of_its_loop_keeps_nobody_waiting() -> None:
    async def again(sharing: Coalescer) -> bool:
        async with asyncio.timeout(5):
            return await sharing.join("key", 1).lead(1)

    with asyncio.Runner() as runner:
        sharing, group = runner.run(lead())
        group.give_up(0)
        assert runner.run(again(sharing))


def test_those_who_wait_are_told_when_the_call_that_asks_is_collected() -> None:
    async def wait(group: InFlight) -> asyncio.Task[bool]:
        group.enter(1)
        waiting = asyncio.create_task(group.lead(1))
        await asyncio.sleep(0)
        return waiting

    async def result(waiting: asyncio.Task[bool]) -> bool:
        async with asyncio.timeout(5):
            return await waiting

    with asyncio.Runner() as runner:
        _, group = runner.run(lead())
        waiting = runner.run(wait(group))
        group.give_up(0)
        assert runner.run(result(waiting))


def test_nothing_is_left_of_calls_whose_loop_was_closed_under_them() -> None:
    with asyncio.Runner() as runner:
        sharing, group = runner.run(lead())
    group.give_up(0)
    assert not any(sharing._loops.values())
