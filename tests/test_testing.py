"""What llmflow offers to its users' tests: virtual time and a scripted provider."""

from __future__ import annotations

import asyncio
import time
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from llmflow import LLM, Quota, Retry
from llmflow.clock import SystemClock
from llmflow.errors import InvalidAnswerError, InvalidRequestError, ServerError, UsageError
from llmflow.testing import ScriptedProvider, VirtualLoop, run_virtual
from llmflow.typed.methods import OutputMethod
from llmflow.types import Request, Response, Usage


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


class _Review(BaseModel):
    title: str
    score: int


def test_a_scripted_answer_may_be_data_or_a_model() -> None:
    review = _Review(title="Tides", score=3)
    provider = ScriptedProvider([review, {"title": "Tides", "score": 3}, '{"title": "Tides"}'])
    llm = LLM(provider, output_type=_Review, reasks=0)
    assert llm.complete_sync("One").parsed == review
    assert llm.complete_sync("Two").parsed == review
    with pytest.raises(InvalidAnswerError, match="score"):
        llm.complete_sync("Three")
    wanted = provider.requests[0].output
    assert wanted is not None
    assert (wanted.name, sorted(wanted.schema["properties"])) == ("Review", ["score", "title"])


def test_a_default_may_answer_what_the_schema_wants() -> None:
    def reply(request: Request) -> dict[str, Any]:
        assert request.output is not None
        return dict.fromkeys(request.output.schema["properties"], 1)

    llm = LLM(ScriptedProvider(default=reply))
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert llm.complete_sync("One", output_type=schema).parsed == {"a": 1}


def test_a_scripted_provider_knows_every_method_of_asking_for_a_schema() -> None:
    for method in get_args(OutputMethod):
        llm = LLM(ScriptedProvider(['{"title": "a", "score": 1}']), output_method=method)
        assert llm.complete_sync("One", output_type=_Review).parsed.score == 1
