"""One refused input is one failed row; a refusal of all is looked at once more."""

from __future__ import annotations

import asyncio

import pytest

from llmflow import LLM, Budget, Run
from llmflow.calls.refusals import PAUSE_SECONDS
from llmflow.errors import (
    AuthenticationError,
    BudgetExceededError,
    ContentFilterError,
    ModelNotFoundError,
    ProviderError,
    ServerError,
)
from llmflow.simulator import SimulatorSettings
from llmflow.testing import ScriptedProvider
from llmflow.types import Quota, Request, Response, WireReply
from tests.event_loops import abandon
from tests.simulated import play, prompts

SETTINGS = SimulatorSettings(answer="echo", latency=1.0)
MODELS = ["openai/bench", "anthropic/bench"]
PAGE = b"<!DOCTYPE html><html><title>Attention Required!</title></html>"
WRONG_KEY = b'{"error": {"message": "Unauthorized", "type": "invalid_request_error"}}'


def page(status: int) -> WireReply:
    return WireReply(status, {"content-type": "text/html"}, PAGE, 0.0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("status", [400, 403])
def test_a_page_after_answers_is_one_failed_input(model: str, status: int) -> None:
    refused = 0

    def firewall(now: float) -> WireReply | None:
        nonlocal refused
        if now > 5.0 and refused < 3:
            refused += 1
            return page(status)
        return None

    outcome = play(SETTINGS, prompts(200), quota=Quota(rpm=1200), trouble=firewall, model=model)
    assert outcome.errors == {"ContentFilterError": 3}
    error = next(each for each in outcome.results[0] if isinstance(each, ContentFilterError))
    assert error.status == status
    assert error.attempts == 1
    assert error.model == "bench"


@pytest.mark.parametrize("model", MODELS)
def test_a_refusal_in_json_is_no_page_whatever_it_is_labelled(model: str) -> None:
    def revoked(now: float) -> WireReply | None:
        if now < 5.0:
            return None
        return WireReply(403, {"content-type": "text/html; charset=utf-8"}, WRONG_KEY, 0.0)

    outcome = play(SETTINGS, prompts(200), quota=Quota(rpm=1200), trouble=revoked, model=model)
    assert set(outcome.errors) == {"AuthenticationError"}


@pytest.mark.parametrize("model", MODELS)
def test_a_page_before_any_answer_ends_all(model: str) -> None:
    outcome = play(SETTINGS, prompts(20), trouble=lambda now: page(403), model=model)
    assert outcome.errors == {"AuthenticationError": 20}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_burst_of_refusals_after_answers_is_one_pause_and_few_probes(
    model: str, status: int
) -> None:
    arrived: list[float] = []

    def rotating(now: float) -> WireReply | None:
        if 2.0 <= now < 4.0:
            arrived.append(now)
            return WireReply(status, {}, WRONG_KEY, 0.0)
        return None

    slow = SimulatorSettings(answer="echo", latency=0.5)
    outcome = play(slow, prompts(1200), quota=Quota(rpm=24_000), trouble=rotating, model=model)
    assert not outcome.errors
    # What was on its way when the first refusal came; after it nothing is sent but after the pause.
    assert max(arrived) - min(arrived) < 0.1
    resumed = min(at for at, _ in outcome.arrivals if at > max(arrived))
    assert resumed - min(arrived) == pytest.approx(PAUSE_SECONDS, abs=0.2)
    again = [each for each in outcome.results[0] if isinstance(each, Response)]
    assert sum(each.attempts - 1 for each in again) == len(arrived)


@pytest.mark.parametrize("model", MODELS)
def test_a_second_refusal_of_the_same_call_ends_all(model: str) -> None:
    arrived: list[float] = []

    def revoked(now: float) -> WireReply | None:
        if now < 5.0:
            return None
        arrived.append(now)
        return WireReply(401, {}, WRONG_KEY, 0.0)

    outcome = play(SETTINGS, prompts(200), quota=Quota(rpm=1200), trouble=revoked, model=model)
    assert outcome.errors["AuthenticationError"] == sum(outcome.errors.values()) > 50
    first = min(arrived)
    assert len([each for each in arrived if each < first + 1.0]) < 40
    probes = [each for each in arrived if each > first + 1.0]
    assert len(probes) <= 2  # the next in the queue goes as the probe comes back
    assert probes[0] - first == pytest.approx(PAUSE_SECONDS, abs=0.1)


@pytest.mark.virtual_time
async def test_two_hundred_refused_at_once_send_one_probe() -> None:
    broken = False

    def reply(request: Request) -> str | ProviderError:
        return AuthenticationError("no", status=401) if broken else "fine"

    provider = ScriptedProvider(default=reply, latency=1.0, quota=Quota(rpm=600_000))
    llm = LLM(provider)
    await llm.complete("first")
    broken = True
    loop = asyncio.get_running_loop()
    began, before = loop.time(), len(provider.requests)
    outcomes = await asyncio.gather(
        *(llm.complete(f"{number}") for number in range(200)), return_exceptions=True
    )
    assert {type(each) for each in outcomes} == {AuthenticationError}
    assert 200 <= len(provider.requests) - before <= 202
    assert loop.time() - began == pytest.approx(1.0 + PAUSE_SECONDS + 1.0)


@pytest.mark.virtual_time
async def test_the_same_call_probes_and_is_answered() -> None:
    script = ["one", ModelNotFoundError("gone", status=404), "two"]
    provider = ScriptedProvider(script, default="more")
    llm = LLM(provider)
    await llm.complete("first")
    loop = asyncio.get_running_loop()
    began = loop.time()
    response = await llm.complete("second")
    assert (response.text, response.attempts) == ("two", 2)
    assert loop.time() - began == pytest.approx(PAUSE_SECONDS)
    assert [each.messages[0]["content"] for each in provider.requests] == [
        "first",
        "second",
        "second",
    ]


@pytest.mark.virtual_time
async def test_a_probe_that_meets_another_failure_is_sent_again_and_still_is_the_probe() -> None:
    no = AuthenticationError("no", status=401)
    provider = ScriptedProvider(["one", no, ServerError("oops", status=500), no], default="more")
    llm = LLM(provider)
    await llm.complete("first")
    with pytest.raises(AuthenticationError) as caught:
        await llm.complete("second")
    assert caught.value.attempts == 3
    assert len(provider.requests) == 4


@pytest.mark.virtual_time
async def test_a_probe_that_is_cancelled_leaves_nobody_waiting() -> None:
    refuse = False

    def reply(request: Request) -> str | ProviderError:
        return AuthenticationError("no", status=401) if refuse else "fine"

    provider = ScriptedProvider(default=reply)
    llm = LLM(provider)
    await llm.complete("first")
    refuse = True
    calls = [asyncio.ensure_future(llm.complete(f"{number}")) for number in range(5)]
    await asyncio.sleep(1.0)
    refuse = False
    calls[0].cancel()
    await asyncio.wait(calls)
    assert calls[0].cancelled()
    assert [each.result().text for each in calls[1:]] == ["fine"] * 4


@pytest.mark.virtual_time
async def test_where_nothing_has_worked_a_refusal_is_the_end_at_once() -> None:
    provider = ScriptedProvider([AuthenticationError("no", status=401)], default="more")
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(AuthenticationError):
        await LLM(provider).complete("first")
    assert loop.time() == began


@pytest.mark.virtual_time
async def test_a_map_has_one_failed_item_for_a_page_and_goes_on() -> None:
    def reply(request: Request) -> str | ProviderError:
        if request.messages[0]["content"] == "5":
            return AuthenticationError("<html>blocked</html>", status=403)
        return "fine"

    results = await LLM(ScriptedProvider(default=reply)).map(map(str, range(10)))
    assert [each.index for each in results.failed] == [5]
    assert isinstance(results.failed[0].error, ContentFilterError)


@pytest.mark.virtual_time
async def test_a_map_survives_one_refusal_of_the_key_and_not_two() -> None:
    no = AuthenticationError("no", status=401)
    script = ["a", "b", no]
    llm = LLM(ScriptedProvider(script, default="fine"))
    results = await llm.map(map(str, range(10)), concurrency=1)
    assert not results.failed
    assert max(each.response.attempts for each in results if each.response) == 2
    llm = LLM(ScriptedProvider([*script, no], default="fine"))
    with pytest.raises(AuthenticationError):
        await llm.map(map(str, range(10)), concurrency=1)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("requests", "answered"), [(3, 0), (4, 1), (5, 2)])
async def test_calls_that_wait_for_a_probe_keep_no_request_from_it(
    requests: int, answered: int
) -> None:
    refused: list[str] = []

    def reply(request: Request) -> str | ProviderError:
        prompt = request.messages[0]["content"]
        if prompt == "first" or prompt in refused:
            return "fine"
        refused.append(prompt)
        return AuthenticationError("no", status=401)

    llm = LLM(ScriptedProvider(default=reply, latency=1.0))
    async with Run(budget=Budget(requests=requests)) as run:
        await llm.complete("first")
        calls = asyncio.gather(llm.complete("a"), llm.complete("b"), return_exceptions=True)
        outcomes = await asyncio.wait_for(calls, 600.0)
        assert sum(isinstance(each, Response) for each in outcomes) == answered
        assert sum(isinstance(each, BudgetExceededError) for each in outcomes) == 2 - answered
        assert run.ledger is not None
        assert run.ledger.spent.requests == requests


def _refusing_once(prompts: set[str]) -> LLM:
    def reply(request: Request) -> str | ProviderError:
        prompt = request.messages[0]["content"]
        if prompt not in prompts:
            return "fine"
        prompts.remove(prompt)
        return AuthenticationError("no", status=401)

    return LLM(ScriptedProvider(default=reply))


def test_a_probe_whose_loop_was_closed_is_made_by_the_next_refused_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmflow.calls.refusals.PAUSE_SECONDS", 0.5)
    llm = _refusing_once({"a", "b"})
    loop = asyncio.new_event_loop()
    loop.run_until_complete(llm.complete("first"))
    prober = loop.create_task(llm.complete("a"))
    abandon(prober)
    loop.run_until_complete(asyncio.sleep(0.1))
    assert not prober.done()
    loop.close()

    async def ask() -> Response:
        return await asyncio.wait_for(llm.complete("b"), 60.0)

    assert asyncio.run(ask()).attempts == 2


def test_a_probe_whose_loop_is_closed_meanwhile_is_made_by_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("llmflow.calls.refusals.PAUSE_SECONDS", 0.5)
    llm = _refusing_once({"a", "b"})
    loop = asyncio.new_event_loop()
    loop.run_until_complete(llm.complete("first"))
    prober = loop.create_task(llm.complete("a"))
    abandon(prober)
    loop.run_until_complete(asyncio.sleep(0.1))

    async def ask() -> Response:
        waiting = asyncio.ensure_future(llm.complete("b"))
        await asyncio.sleep(0.2)
        loop.close()
        return await asyncio.wait_for(waiting, 60.0)

    assert asyncio.run(ask()).attempts == 2
    assert not prober.done()
