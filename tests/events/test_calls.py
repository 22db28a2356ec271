"""What is told of a call, from its start to its one end."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import replace

import pytest

from llmflow import Quota, Retry, Usage
from llmflow.calls.hedge import Hedge
from llmflow.errors import (
    AuthenticationError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    ServerError,
)
from llmflow.events import (
    DomainPaused,
    Event,
    RequestAdmitted,
    RequestCancelled,
    RequestEvent,
    RequestFailed,
    RequestFinished,
    RequestHedged,
    RequestRejected,
    RequestRetried,
    RequestStarted,
    current_run_id,
    observed,
    subscribe,
)
from llmflow.testing import ScriptedProvider
from llmflow.types import Request, Response
from tests.observing import SECRET_ANSWER, SECRET_PROMPT, Asker, kinds_of

pytestmark = pytest.mark.virtual_time

ENDS = (RequestFinished, RequestFailed, RequestCancelled)


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    events: list[Event] = []
    with subscribe(events.append):
        yield events


def only(events: list[Event], kind: type[Event]) -> Event:
    (found,) = [each for each in events if type(each) is kind]
    return found


async def test_a_call_that_is_answered_is_started_admitted_and_finished(heard: list[Event]) -> None:
    response = await Asker(ScriptedProvider([SECRET_ANSWER], latency=2.0)).ask(max_tokens=50)
    assert kinds_of(heard) == ["request_started", "request_admitted", "request_finished"]
    start, admitted, end = heard
    assert isinstance(start, RequestStarted)
    assert isinstance(admitted, RequestAdmitted)
    assert isinstance(end, RequestFinished)
    assert {each.call_id for each in (start, admitted, end)} == {start.call_id}
    assert {(each.provider, each.model) for each in (start, end)} == {("scripted", "model")}
    assert start.request is not None
    assert start.request.max_tokens == 50
    assert (admitted.attempt, admitted.waited) == (1, 0.0)
    assert end.response is response
    assert (end.usage, end.attempts, end.source) == (response.usage, 1, "provider")
    assert end.seconds == pytest.approx(2.0)
    assert end.at - start.at == pytest.approx(2.0)
    assert SECRET_PROMPT not in repr(heard)
    assert SECRET_ANSWER not in repr(heard)


async def test_the_wait_for_the_quota_is_told_at_the_admission(heard: list[Event]) -> None:
    asker = Asker(ScriptedProvider(), quota=Quota(rpm=60))
    await asyncio.gather(*(asker.ask() for _ in range(3)))
    waits = [each.waited for each in heard if isinstance(each, RequestAdmitted)]
    assert waits[0] == 0.0
    assert waits == sorted(waits)
    assert waits[2] > 1.0


async def test_a_rate_limit_is_told_with_its_pause_and_costs_no_attempt(heard: list[Event]) -> None:
    limit = RateLimitError("slow down", retry_after=5.0, dimension="tpm")
    response = await Asker(ScriptedProvider([limit, "ok"])).ask()
    assert kinds_of(heard) == [
        "request_started",
        "request_admitted",
        "request_rejected",
        "domain_paused",
        "request_admitted",
        "request_finished",
    ]
    rejected, paused, again = heard[2:5]
    assert isinstance(rejected, RequestRejected)
    assert isinstance(paused, DomainPaused)
    assert isinstance(again, RequestAdmitted)
    assert (rejected.attempt, rejected.retry_after, rejected.dimension) == (1, 5.0, "tpm")
    assert rejected.seconds is not None
    assert rejected.seconds >= 5.0
    assert (paused.seconds, paused.reason) == (rejected.seconds, "slow down")
    assert (again.attempt, response.attempts) == (1, 1)
    assert again.waited == pytest.approx(rejected.seconds)


async def test_a_pause_that_many_calls_meet_with_is_told_once(heard: list[Event]) -> None:
    limits = [RateLimitError("slow down", retry_after=5.0) for _ in range(20)]
    asker = Asker(ScriptedProvider(limits, default="ok", latency=0.1))
    await asyncio.gather(*(asker.ask() for _ in range(20)))
    assert kinds_of(heard).count("request_rejected") == 20
    assert kinds_of(heard).count("domain_paused") == 1


async def test_a_pause_that_becomes_much_longer_is_told_again(heard: list[Event]) -> None:
    limits = [
        RateLimitError("slow down", retry_after=5.0),
        RateLimitError("slow down much more", retry_after=60.0),
    ]
    asker = Asker(ScriptedProvider(limits, default="ok", latency=0.1))
    await asyncio.gather(*(asker.ask() for _ in range(2)))
    pauses = [each for each in heard if isinstance(each, DomainPaused)]
    assert [each.reason for each in pauses] == ["slow down", "slow down much more"]


async def test_each_further_attempt_is_told_with_what_went_wrong(heard: list[Event]) -> None:
    broken = [ServerError("broken", status=500), ServerError("broken again", retry_after=7.0)]
    await Asker(ScriptedProvider([*broken, "ok"])).ask()
    retries = [each for each in heard if isinstance(each, RequestRetried)]
    assert [(each.attempt, each.error.message) for each in retries] == [
        (1, "broken"),
        (2, "broken again"),
    ]
    assert retries[1].delay == 7.0
    assert kinds_of(heard)[-2:] == ["request_admitted", "request_finished"]
    last = only(heard, RequestFinished)
    assert isinstance(last, RequestFinished)
    assert last.attempts == 3
    assert last.waited >= 7.0


async def test_a_call_that_fails_for_good_ends_with_its_error(heard: list[Event]) -> None:
    asker = Asker(ScriptedProvider(default=ServerError("broken")), retry=Retry(attempts=3))
    with pytest.raises(ServerError) as caught:
        await asker.ask()
    end = only(heard, RequestFailed)
    assert isinstance(end, RequestFailed)
    assert end.error is caught.value
    assert (end.attempts, end.source) == (3, "provider")
    assert kinds_of(heard).count("request_retried") == 2


async def test_what_is_not_retried_is_not_told_as_retried(heard: list[Event]) -> None:
    asker = Asker(ScriptedProvider(default=AuthenticationError("no")))
    with pytest.raises(AuthenticationError):
        await asker.ask()
    assert kinds_of(heard) == ["request_started", "request_admitted", "request_failed"]


async def test_a_daily_quota_is_told_as_a_rejection_that_nobody_waits_for(
    heard: list[Event],
) -> None:
    with pytest.raises(QuotaExhaustedError):
        await Asker(ScriptedProvider([QuotaExhaustedError("all used", dimension="rpd")])).ask()
    rejected = only(heard, RequestRejected)
    assert isinstance(rejected, RequestRejected)
    assert (rejected.seconds, rejected.dimension) == (None, "rpd")
    assert "domain_paused" not in kinds_of(heard)


@pytest.mark.parametrize("seconds", [1.0, 4.0], ids=["waiting for the quota", "in flight"])
async def test_a_cancelled_call_ends_as_cancelled(heard: list[Event], seconds: float) -> None:
    asker = Asker(ScriptedProvider(latency=10.0), quota=Quota(rpm=20, burst_seconds=1))
    tasks = [asyncio.create_task(asker.ask()) for _ in range(2)]
    await asyncio.sleep(seconds)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert [type(each) for each in heard if isinstance(each, ENDS)] == [
        RequestCancelled,
        RequestFinished,
    ]
    end = only(heard, RequestCancelled)
    assert isinstance(end, RequestCancelled)
    assert end.seconds == pytest.approx(seconds)


async def test_every_call_that_starts_has_one_end(heard: list[Event]) -> None:
    replies: list[str | ProviderError] = [
        "ok",
        ServerError("broken"),
        RateLimitError("slow", retry_after=1.0),
        AuthenticationError("no"),
    ] * 50
    asker = Asker(ScriptedProvider(replies, default="ok", latency=0.5), retry=Retry(attempts=2))
    tasks = [asyncio.create_task(asker.ask()) for _ in range(100)]
    for task in tasks[::7]:
        asyncio.get_running_loop().call_later(0.7, task.cancel)
    await asyncio.wait(tasks)
    begun = [each.call_id for each in heard if isinstance(each, RequestStarted)]
    ended = [each.call_id for each in heard if isinstance(each, ENDS)]
    assert len(begun) == 100
    assert sorted(begun) == sorted(ended)
    assert {type(each) for each in heard} >= set(ENDS)


async def test_a_second_request_is_told_as_hedged(heard: list[Event]) -> None:
    provider = ScriptedProvider(latency=1.0)
    asker = Asker(provider, hedge=Hedge(percentile=0.9, budget=0.5, minimum=0.0))
    await asyncio.gather(*(asker.ask() for _ in range(40)))
    heard.clear()
    provider._latency = 3.0
    await asker.ask()
    assert kinds_of(heard) == [
        "request_started",
        "request_admitted",
        "request_hedged",
        "request_finished",
    ]
    hedged = only(heard, RequestHedged)
    assert isinstance(hedged, RequestHedged)
    assert hedged.seconds == pytest.approx(1.1)
    assert {each.call_id for each in heard if isinstance(each, RequestEvent)} == {hedged.call_id}


async def test_what_a_second_request_meets_with_is_told_of_the_same_call(
    heard: list[Event],
) -> None:
    script: deque[tuple[float, str | ProviderError]] = deque([(1.0, "ok")] * 40)
    script += [(3.0, "ok"), (0.1, RateLimitError("slow", retry_after=1.0))]

    def reply(request: Request) -> str | ProviderError:
        provider._latency, answer = script.popleft()
        return answer

    provider = ScriptedProvider(default=reply)
    asker = Asker(provider, hedge=Hedge(percentile=0.9, budget=0.5, minimum=0.0))
    await asyncio.gather(*(asker.ask() for _ in range(40)))
    heard.clear()
    await asker.ask()
    assert kinds_of(heard)[2:] == [
        "request_hedged",
        "request_rejected",
        "domain_paused",
        "request_finished",
    ]
    assert len({each.call_id for each in heard if isinstance(each, RequestEvent)}) == 1


async def test_all_events_of_a_call_name_its_run_and_no_others_do(heard: list[Event]) -> None:
    limit = RateLimitError("slow", retry_after=1.0)
    asker = Asker(ScriptedProvider([limit, ServerError("broken")], default="ok"))
    await asker.ask(run_id="mine")
    assert {each.run_id for each in heard} == {"mine"}
    assert len(heard) == 8
    heard.clear()
    assert current_run_id.get() is None
    await asker.ask()
    assert {each.run_id for each in heard} == {None}


async def test_the_run_around_a_call_is_the_calls_run(heard: list[Event]) -> None:
    token = current_run_id.set("around")
    await Asker(ScriptedProvider()).ask()
    current_run_id.reset(token)
    assert {each.run_id for each in heard} == {"around"}


async def test_where_an_answer_is_from_is_told(heard: list[Event]) -> None:
    known = Response(
        text="", usage=Usage(), finish_reason="stop", model="m", provider="p", source="journal"
    )

    async def from_the_journal() -> Response:
        return replace(known, waited=0.0)

    await observed(from_the_journal, call_id=1, provider="p", model="m")
    end = only(heard, RequestFinished)
    assert isinstance(end, RequestFinished)
    assert end.source == "journal"


async def test_a_hook_that_fails_breaks_no_call(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError

    with subscribe(broken):
        response = await Asker(ScriptedProvider([ServerError("x"), "ok"])).ask()
    assert response.text == "ok"
    assert [each.message for each in caplog.records if each.exc_info] != []


async def test_an_abandoned_call_tells_nothing_while_it_is_collected(heard: list[Event]) -> None:
    call = Asker(ScriptedProvider(latency=1.0)).ask()
    call.send(None)
    heard.clear()
    call.close()
    assert heard == []


async def test_log_lines_carry_their_facts_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="llmflow")
    limit = RateLimitError("slow", retry_after=2.0, dimension="rpm")
    asker = Asker(ScriptedProvider([limit, ServerError("broken", retry_after=3.0), "ok"]))
    await asker.ask(run_id="mine")
    paused, retried = (vars(each) for each in caplog.records)
    assert paused["dimension"] == "rpm"
    assert paused["seconds"] >= 2.0
    assert paused["retry_after"] == 2.0
    assert retried["error"] == "ServerError"
    assert (retried["attempt"], retried["delay"]) == (1, 3.0)
    for each in (paused, retried):
        assert (each["provider"], each["model"], each["run_id"]) == ("scripted", "model", "mine")
        assert each["call_id"] == paused["call_id"]


async def test_a_pause_is_logged_once_as_news(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="llmflow")
    limits = [RateLimitError("slow down", retry_after=5.0) for _ in range(10)]
    asker = Asker(ScriptedProvider(limits, default="ok", latency=0.1))
    await asyncio.gather(*(asker.ask() for _ in range(10)))
    lines = [each for each in caplog.records if "all calls pause" in each.getMessage()]
    assert [each.levelname for each in lines].count("INFO") == 1
    assert len(lines) == 10
