"""What llmflow offers to its users' tests: virtual time and a scripted provider."""

from __future__ import annotations

import asyncio
import time

import pytest

from llmflow import LLM, Quota, Retry
from llmflow.clock import SystemClock
from llmflow.errors import InvalidRequestError, ServerError, UsageError
from llmflow.testing import ScriptedProvider, VirtualLoop, run_virtual
from llmflow.types import Response, Usage


async def times(*waits: float) -> list[float]:
    seen = []
    for wait in waits:
        await asyncio.sleep(wait)
        seen.append(asyncio.get_running_loop().time())
    return seen


def test_an_hour_passes_in_no_time_and_exactly() -> None:
    started = time.perf_counter()
    assert run_virtual(times(0.1, 0.2, 3599.7)) == [0.1, 0.1 + 0.2, 0.1 + 0.2 + 3599.7]
    assert time.perf_counter() - started < 360.0  # a tenth of the hour: no machine is so busy


def test_time_stands_still_while_there_is_work() -> None:
    async def busy() -> float:
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert run_virtual(busy()) == 0.0


def test_a_timeout_fires_at_its_virtual_time() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(wait()) == 60.0


def test_the_time_of_day_goes_with_the_loop() -> None:
    async def wall() -> float:
        await asyncio.sleep(100)
        return SystemClock().wall()

    assert run_virtual(wall(), wall_start=1000.0) == 1100.0


def test_a_thread_may_wake_a_virtual_loop() -> None:
    async def wait() -> str:
        return await asyncio.to_thread(lambda: "done")

    assert run_virtual(wait()) == "done"


def test_waiting_for_nothing_is_an_error_instead_of_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmflow.testing.virtual_time._IDLE_LIMIT", 0.01)
    loop = VirtualLoop()
    task = loop.create_task(asyncio.Event().wait())
    with pytest.raises(RuntimeError, match="idle for ever"):
        loop.run_until_complete(task)
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()


def test_a_script_is_followed_and_requests_are_kept() -> None:
    answer = Response(text="whole", usage=Usage(), finish_reason="stop", model="m", provider="p")
    provider = ScriptedProvider(
        ["one", answer], default=lambda request: request.messages[0]["content"].upper()
    )
    llm = LLM(provider)

    async def ask() -> list[str]:
        return [await llm(text, temperature=0.5) for text in ("a", "b", "c")]

    assert run_virtual(ask()) == ["one", "whole", "C"]
    assert [request.messages[0]["content"] for request in provider.requests] == ["a", "b", "c"]
    assert provider.requests[0].temperature == 0.5


def test_latency_quota_and_errors_can_be_scripted() -> None:
    provider = ScriptedProvider(
        [InvalidRequestError("no")], default="ok", latency=2.0, quota=Quota(max_concurrent=3)
    )
    llm = LLM(provider)

    async def ask() -> list[object]:
        return await asyncio.gather(*(llm("x") for _ in range(9)), return_exceptions=True)

    results = run_virtual(ask())
    assert sum(isinstance(result, InvalidRequestError) for result in results) == 1
    assert provider.most_in_flight == 3


def test_one_scripted_error_for_many_calls_is_raised_anew_each_time() -> None:
    error = ServerError("no")
    llm = LLM(ScriptedProvider(default=error), retry=Retry(attempts=2))

    async def ask() -> list[BaseException | str]:
        return await asyncio.gather(llm("a"), llm("b"), return_exceptions=True)

    first, second = run_virtual(ask())
    assert first is not second
    assert str(first) == str(second) == "scripted/model: no (2 attempts)"
    assert (error.attempts, error.provider, error.__traceback__) == (1, None, None)


def test_a_script_at_its_end_says_so() -> None:
    async def ask() -> str:
        llm = LLM(ScriptedProvider(["one"]))
        return await llm("a") + await llm("b")

    with pytest.raises(InvalidRequestError, match="1 replies are used up"):
        run_virtual(ask())


def test_one_text_is_no_script() -> None:
    with pytest.raises(UsageError, match=r"such as \['text'\]"):
        ScriptedProvider("text")


async def test_virtual_time_inside_a_running_loop_is_refused() -> None:
    with pytest.raises(UsageError, match="runs already"):
        run_virtual(asyncio.sleep(1))
