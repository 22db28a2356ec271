"""Hedging: when a second request goes out, who wins, and what it never does."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import deque
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow import LLM, Hedge, Limiter, Quota, Retry, Timeout, Usage
from llmflow.calls.hedge import Hedging
from llmflow.errors import (
    AuthenticationError,
    ConfigurationError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
)
from llmflow.limits.registry import forget_limiters
from llmflow.simulator import Faults, Simulator, SimulatorSettings
from llmflow.testing import ScriptedProvider, run_virtual
from llmflow.types import Request, Response

EAGER = Hedge(percentile=0.9, budget=0.5, minimum=0.0)
KNOWN = 40
SLOW = 1.1 * 1.0
"""When a request is slow for which all before it took a second."""
ONCE = Retry(attempts=1)


class Paced(ScriptedProvider):
    """Gives each call, in order, a latency and a reply; at the end, "ok" after a second."""

    def __init__(self, *, quota: Quota | None = None) -> None:
        super().__init__(quota=quota)
        self.script: deque[tuple[float, str | Exception]] = deque()
        self.sent_at: list[float] = []
        self.cancelled = 0

    async def complete(self, request: Request, *, timeout: float) -> Response:
        self.sent_at.append(now())
        seconds, reply = self.script.popleft() if self.script else (1.0, "ok")
        response = await super().complete(request, timeout=timeout)
        self.in_flight += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_flight -= 1
        if isinstance(reply, Exception):
            raise reply
        return replace(response, text=reply)


def now() -> float:
    return asyncio.get_running_loop().time()


async def warm(llm: LLM, count: int = KNOWN) -> None:
    """Let the LLM see that answers take a second."""
    await asyncio.gather(*(llm("Hi") for _ in range(count)))


async def warmed(*script: tuple[float, str | Exception], **options: Any) -> tuple[LLM, Paced]:
    """Return an LLM that knows its provider, which follows the script from now on."""
    provider = Paced(quota=options.pop("provider_quota", None))
    llm = LLM(provider, **{"hedge": EAGER, "retry": ONCE, **options})
    await warm(llm)
    provider.script.extend(script)
    provider.sent_at.clear()
    return llm, provider


def nothing_is_left_over(llm: LLM, provider: Paced) -> bool:
    statistics = llm.limiter.statistics()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return (statistics.in_flight, statistics.waiting, provider.in_flight, others) == (
        0,
        0,
        0,
        set(),
    )


async def timed(call: Awaitable[Any]) -> tuple[Any, float]:
    """Return what a call comes to, an error as well, and how long it took."""
    began = now()
    (outcome,) = await asyncio.gather(call, return_exceptions=True)
    return outcome, now() - began


# --- when ----------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_slow_request_is_sent_again_and_the_second_answer_wins() -> None:
    llm, provider = await warmed((60.0, "late"), (1.0, "soon"))
    response, took = await timed(llm.complete("Hi"))
    assert (response.text, response.attempts, response.waited) == ("soon", 1, 0.0)
    assert took == pytest.approx(SLOW + 1.0)
    assert (llm.hedged, provider.cancelled) == (1, 1)
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_the_first_answer_wins_if_it_comes_first() -> None:
    llm, provider = await warmed((SLOW + 0.5, "late"), (1.0, "second"))
    assert await timed(llm("Hi")) == ("late", pytest.approx(SLOW + 0.5))
    assert (llm.hedged, provider.cancelled) == (1, 1)
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_both_answers_at_the_same_moment_are_one_answer() -> None:
    llm, provider = await warmed((SLOW + 1.0, "first"), (1.0, "second"))
    answer, took = await timed(llm("Hi"))
    assert answer in ("first", "second")
    assert took == pytest.approx(SLOW + 1.0)
    assert nothing_is_left_over(llm, provider)
    assert await llm("Hi") == "ok"


@pytest.mark.virtual_time
async def test_a_usual_request_is_sent_once() -> None:
    llm, provider = await warmed(*[(1.0, "ok")] * 50)
    await warm(llm, 50)
    assert (llm.hedged, len(provider.sent_at)) == (0, 50)


@pytest.mark.virtual_time
async def test_without_a_hedge_nothing_is_sent_twice() -> None:
    llm, provider = await warmed((60.0, "late"), hedge=None)
    assert await timed(llm("Hi")) == ("late", 60.0)
    assert (llm.hedged, len(provider.sent_at)) == (0, 1)


@pytest.mark.virtual_time
async def test_nothing_is_sent_twice_before_enough_is_known() -> None:
    provider = Paced()
    llm = LLM(provider, hedge=EAGER)
    await warm(llm, 29)
    provider.script.append((60.0, "late"))
    assert await timed(llm("Hi")) == ("late", 60.0)
    assert llm.hedged == 0


@pytest.mark.virtual_time
async def test_every_attempt_is_given_its_least_time() -> None:
    llm, provider = await warmed((60.0, "late"), hedge=Hedge(budget=0.5, minimum=5.0))
    assert await timed(llm("Hi")) == ("ok", pytest.approx(6.0))
    assert provider.sent_at[1] - provider.sent_at[0] == pytest.approx(5.0)


@pytest.mark.virtual_time
async def test_waiting_for_the_quota_is_not_slowness() -> None:
    provider = Paced()
    llm = LLM(provider, hedge=EAGER, quota=Quota(rpm=60, burst_seconds=1))
    await warm(llm, 100)
    assert llm.hedged == 0
    assert now() > 90.0


# --- what it may cost ----------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_provider_that_becomes_slow_as_a_whole_is_not_asked_everything_twice() -> None:
    llm, provider = await warmed(*[(30.0, "slow")] * 400, hedge=Hedge(budget=0.02))
    await warm(llm, 400)
    assert llm.hedged == int((KNOWN + 400) * 0.02)
    assert len(provider.sent_at) == 400 + llm.hedged


@given(
    budget=st.floats(0.001, 0.999),
    steps=st.lists(st.sampled_from(["request", "spend", "refund"]), max_size=200),
)
def test_the_budget_is_never_exceeded(budget: float, steps: list[str]) -> None:
    hedging, out = Hedging(Hedge(budget=budget)), 0
    for step in steps:
        if step == "request":
            hedging.requests += 1
        elif step == "spend":
            allowed = out + 1 <= budget * hedging.requests
            assert hedging.spend() == allowed
            out += allowed
        elif out:
            hedging.refund()
            out -= 1
        assert hedging.hedged == out
        assert out <= budget * hedging.requests


@given(st.lists(st.floats(0.01, 100.0), min_size=300, max_size=300), st.floats(0.05, 0.99))
def test_the_share_of_slow_answers_is_what_was_asked_for(
    latencies: list[float], percentile: float
) -> None:
    hedging = Hedging(Hedge(percentile=percentile, minimum=0.0))
    for seconds in latencies:
        hedging.learn(seconds)
    assert hedging.patience is not None
    usual, slow = hedging.patience / 1.1, (1.0 - percentile) * 300
    assert sum(seconds > usual * (1 + 1e-9) for seconds in latencies) <= slow + 1e-6
    assert sum(seconds >= usual * (1 - 1e-9) for seconds in latencies) >= slow - 1e-6


def test_only_recent_answers_count() -> None:
    hedging = Hedging(Hedge(minimum=0.0))
    for seconds in [10.0] * 300 + [1.0] * 300:
        hedging.learn(seconds)
    assert hedging.patience == pytest.approx(1.1)


@pytest.mark.virtual_time
async def test_stragglers_that_were_cut_short_still_count_as_slow() -> None:
    # Else the percentile would fall with every one of them, and reach ever quicker answers.
    rng = random.Random(1)
    script = [(60.0 if rng.random() < 0.2 else rng.uniform(1.0, 2.0), "ok") for _ in range(1000)]
    llm, _ = await warmed(*script, hedge=Hedge(percentile=0.7, budget=0.9, minimum=0.0))
    for _ in range(30):
        await warm(llm, 20)
    hedging = llm._mode.hedging
    assert hedging is not None
    assert llm.hedged > 0.15 * hedging.requests
    # Seven in ten of all are seven in eight of those that are no stragglers.
    assert hedging.patience == pytest.approx(1.1 * (1.0 + 0.7 / 0.8), rel=0.05)


# --- the quota comes first -----------------------------------------------------------------


@pytest.mark.virtual_time
async def test_nothing_is_sent_twice_while_others_wait_but_afterwards_it_is() -> None:
    llm, provider = await warmed(
        (60.0, "late"), *[(5.0, "ok")] * 3, provider_quota=Quota(max_concurrent=2)
    )
    started = now()
    straggler = asyncio.create_task(llm("Hi"))
    await asyncio.sleep(0.0)
    await asyncio.gather(*(llm("Hi") for _ in range(3)))
    assert (llm.hedged, now() - started) == (0, 15.0)
    # 1.1 s, then half as long again each time: the next look is at 18.8 s.
    assert await straggler == "ok"
    assert now() - started == pytest.approx(SLOW * 1.5**7 + 1.0)
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_the_second_request_is_charged_like_any_other() -> None:
    llm, provider = await warmed((60.0, "late"), provider_quota=Quota(rpm=60, burst_seconds=1))
    await asyncio.sleep(60.0)
    straggler = asyncio.create_task(llm("Hi"))
    await asyncio.sleep(SLOW + 0.01)
    assert llm.hedged == 1
    assert llm.limiter.statistics().admitted == KNOWN + 2
    await llm("Hi")
    await straggler
    assert provider.sent_at[2] - provider.sent_at[1] >= 0.99


@pytest.mark.virtual_time
async def test_a_second_request_that_finds_no_quota_is_not_sent_and_not_counted() -> None:
    llm, provider = await warmed((30.0, "late"), provider_quota=Quota(max_concurrent=1))
    assert await timed(llm("Hi")) == ("late", 30.0)
    assert (llm.hedged, len(provider.sent_at)) == (0, 1)
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_a_permit_that_is_not_waited_for_is_no_wait() -> None:
    limiter = Limiter(Quota(max_concurrent=1))
    permit = limiter.acquire_nowait()
    assert permit is not None
    assert limiter.acquire_nowait() is None
    await asyncio.sleep(10.0)
    permit.settle()
    assert limiter.statistics().bound_by == {}
    assert limiter.acquire_nowait() is not None


@pytest.mark.virtual_time
async def test_nothing_is_sent_twice_while_most_calls_fail() -> None:
    failures: list[tuple[float, str | Exception]] = [(0.1, ServerError("broken"))] * 19
    llm, provider = await warmed((20.0, "late"), *failures)
    straggler = asyncio.create_task(llm("Hi"))
    await asyncio.sleep(0.0)
    await asyncio.gather(*(llm("Hi") for _ in range(19)), return_exceptions=True)
    assert await straggler == "late"
    assert (llm.hedged, len(provider.sent_at)) == (0, 20)


class Turnstile:
    """A gate that takes half a second."""

    def __init__(self) -> None:
        self.passed = 0

    async def acquire(self) -> None:
        self.passed += 1
        await asyncio.sleep(0.5)


@pytest.mark.virtual_time
async def test_the_second_request_passes_the_users_gates() -> None:
    gate = Turnstile()
    llm, provider = await warmed((60.0, "late"), gate=gate)
    assert await timed(llm("Hi")) == ("ok", pytest.approx(0.5 + SLOW + 0.5 + 1.0))
    assert gate.passed == KNOWN + 2
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_the_users_gates_are_left_alone_while_others_wait() -> None:
    gate = Turnstile()
    script = [(60.0, "late"), *[(30.0, "ok")] * 3]
    llm, _ = await warmed(*script, gate=gate, provider_quota=Quota(max_concurrent=2))
    calls = [asyncio.create_task(llm("Hi")) for _ in range(4)]
    await asyncio.sleep(40.0)
    assert llm.limiter.waiting == 1
    assert gate.passed == KNOWN + 4
    await asyncio.gather(*calls)


# --- when something fails ------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_if_the_second_fails_the_first_goes_on() -> None:
    llm, provider = await warmed((60.0, "late"), (1.0, ServerError("broken")))
    assert await timed(llm("Hi")) == ("late", 60.0)
    assert (llm.hedged, len(provider.sent_at)) == (1, 2)
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_if_the_first_fails_the_second_goes_on() -> None:
    llm, provider = await warmed((SLOW + 0.5, ServerError("broken")), (10.0, "saved"))
    failing, began = llm.limiter.failing, now()
    call = asyncio.create_task(llm.complete("Hi"))
    await asyncio.sleep(SLOW + 0.6)
    assert llm.limiter.failing > failing  # known at once, not when all is over
    assert llm.limiter.statistics().in_flight == 1
    response = await call
    assert (response.text, response.attempts, response.waited) == ("saved", 1, 0.0)
    assert now() - began == pytest.approx(SLOW + 10.0)
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [0.2, 0.5, 2.0])
async def test_if_both_fail_the_failure_is_that_of_the_first(seconds: float) -> None:
    script = ((SLOW + 0.5, ServerError("first")), (seconds, AuthenticationError("second")))
    llm, provider = await warmed(*script)
    error, took = await timed(llm("Hi"))
    assert isinstance(error, ServerError)
    assert (error.message, error.attempts) == ("first", 1)
    assert took == pytest.approx(SLOW + max(0.5, seconds))
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_a_failed_attempt_is_retried_and_may_be_hedged_again() -> None:
    script = [(SLOW + 0.5, ServerError("broken")), (0.2, ServerError("broken"))]
    llm, provider = await warmed(*script, (60.0, "late"), retry=Retry(attempts=2))
    response = await llm.complete("Hi")
    assert (response.text, response.attempts) == ("ok", 2)
    assert (llm.hedged, len(provider.sent_at)) == (2, 4)


@pytest.mark.virtual_time
async def test_a_rejection_of_the_second_ends_it_and_pauses_the_domain() -> None:
    rejection = RateLimitError("slow down", retry_after=7.0)
    llm, provider = await warmed((20.0, "late"), (0.1, rejection))
    straggler = asyncio.create_task(llm.complete("Hi"))
    await asyncio.sleep(SLOW + 0.2)
    statistics = llm.limiter.statistics()
    assert (statistics.rejected, statistics.in_flight) == (1, 1)
    assert statistics.paused_for == pytest.approx(6.9)
    assert await llm("Hi") == "ok"
    assert provider.sent_at[-1] - provider.sent_at[1] == pytest.approx(7.1)
    response = await straggler
    assert (response.text, response.attempts) == ("late", 1)
    assert (llm.hedged, len(provider.sent_at)) == (1, 3)


@pytest.mark.virtual_time
async def test_a_rejection_of_the_first_pauses_the_domain_at_once() -> None:
    rejection = RateLimitError("slow down", retry_after=7.0)
    llm, provider = await warmed((SLOW + 0.5, rejection), (3.0, "saved"))
    call = asyncio.create_task(llm("Hi"))
    await asyncio.sleep(SLOW + 0.6)
    assert llm.limiter.statistics().paused_for == pytest.approx(6.9)
    assert await call == "saved"
    assert llm.limiter.statistics().rejected == 1
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_a_pause_beyond_all_patience_does_not_end_what_may_still_be_answered() -> None:
    rejection = RateLimitError("slow down", retry_after=100.0)
    patient = Retry(attempts=1, rate_limit_patience=10.0)
    llm, provider = await warmed((SLOW + 0.5, rejection), (3.0, "saved"), retry=patient)
    assert await timed(llm("Hi")) == ("saved", pytest.approx(SLOW + 3.0))
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_if_both_are_rejected_the_request_is_sent_again_after_the_pause() -> None:
    rejection = RateLimitError("slow down", retry_after=7.0)
    llm, provider = await warmed((SLOW + 0.5, rejection), (1.0, rejection))
    response = await llm.complete("Hi")
    assert (response.text, response.attempts) == ("ok", 1)
    assert llm.limiter.statistics().rejected == 2
    assert provider.sent_at[2] - provider.sent_at[1] == pytest.approx(8.0)
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_a_spent_day_that_the_second_meets_is_told_to_the_others() -> None:
    spent = QuotaExhaustedError("no more today", retry_after=3600.0)
    llm, _ = await warmed((20.0, "late"), (0.1, spent))
    straggler = asyncio.create_task(llm("Hi"))
    await asyncio.sleep(SLOW + 0.2)
    with pytest.raises(QuotaExhaustedError, match="no more today"):
        await llm("Hi")
    assert await straggler == "late"


@pytest.mark.virtual_time
async def test_a_time_out_of_the_first_waits_for_the_second() -> None:
    llm, provider = await warmed((60.0, "late"), (9.5, "saved"), timeout=Timeout(total=10.0))
    assert await timed(llm("Hi")) == ("saved", pytest.approx(SLOW + 9.5))
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
async def test_an_answer_in_the_moment_of_the_time_out_leaves_no_cancellation_behind() -> None:
    llm, provider = await warmed((60.0, "late"), (10.0 - SLOW, "saved"), timeout=10.0)
    answer, took = await timed(llm("Hi"))
    assert answer == "saved" or isinstance(answer, RequestTimeoutError)
    assert took == pytest.approx(10.0)
    assert await llm("Hi") == "ok"
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
@pytest.mark.parametrize("first", [True, False])
async def test_a_bug_in_the_provider_reaches_the_caller_as_it_is(first: bool) -> None:
    bug = ZeroDivisionError("a bug")
    script = [(SLOW + 1.0, bug), (60.0, "ok")] if first else [(60.0, "ok"), (1.0, bug)]
    llm, provider = await warmed(*script)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await llm("Hi")
    assert nothing_is_left_over(llm, provider)


# --- cancellation --------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_cancelling_the_call_cancels_both_requests() -> None:
    llm, provider = await warmed((60.0, "late"), (60.0, "later"))
    call = asyncio.create_task(llm("Hi"))
    await asyncio.sleep(SLOW + 1.0)
    assert provider.in_flight == 2
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert provider.cancelled == 2
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [0.5, SLOW, SLOW + 0.5, SLOW + 1.0, SLOW + 2.0])
async def test_a_limit_around_the_call_is_kept(seconds: float) -> None:
    llm, provider = await warmed((SLOW + 0.5, ServerError("broken")), (60.0, "later"))
    began = now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await llm("Hi")
    assert now() - began == pytest.approx(seconds)
    assert nothing_is_left_over(llm, provider)


@pytest.mark.virtual_time
@pytest.mark.parametrize("then", ["an answer", "a failure"])
async def test_a_client_that_swallows_its_cancellation_leaves_none_behind(then: str) -> None:
    class Stubborn(Paced):
        async def complete(self, request: Request, *, timeout: float) -> Response:
            try:
                return await super().complete(request, timeout=timeout)
            except asyncio.CancelledError:
                if then == "a failure":
                    raise ServerError("interrupted") from None
                return Response(
                    text="rest", usage=Usage(), finish_reason="stop", model="m", provider="p"
                )

    provider = Stubborn()
    llm = LLM(provider, hedge=EAGER, retry=ONCE)
    await warm(llm)
    failing = llm.limiter.failing
    provider.script.append((60.0, "late"))
    answer, took = await timed(llm("Hi"))
    assert (answer, took) == ("rest" if then == "an answer" else "ok", pytest.approx(SLOW + 1.0))
    assert llm.limiter.failing < failing  # it was we who broke it off

    provider.script.append((60.0, "late"))
    await llm("Hi")
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert nothing_is_left_over(llm, provider)


def test_cancelling_at_any_moment_leaves_nothing_over() -> None:
    async def main(seed: int) -> int:
        rng = random.Random(seed)

        def outcome() -> tuple[float, str | Exception]:
            seconds = rng.choice([0.5, 1.0, SLOW, SLOW + 0.5, 2 * SLOW, 30.0])
            errors = [ServerError("broken"), RateLimitError("slow down", retry_after=0.3)]
            return seconds, rng.choice(["ok", "ok", "ok", *errors])

        llm, provider = await warmed(
            *(outcome() for _ in range(500)), retry=Retry(attempts=3), timeout=10.0
        )
        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(llm("Hi")))
            await asyncio.sleep(rng.choice([0.0, 0.1, 0.5]))
            if rng.random() < 0.4:
                rng.choice(tasks).cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(end) for end in ends}
        assert kinds <= {str, asyncio.CancelledError, ServerError, RequestTimeoutError}
        assert all(task.cancelling() == 0 or task.cancelled() for task in tasks)
        assert nothing_is_left_over(llm, provider)
        return llm.hedged

    assert sum(run_virtual(main(seed)) for seed in range(20)) > 100


@pytest.mark.virtual_time
async def test_a_race_leaves_no_garbage_for_the_collector() -> None:
    llm, _ = await warmed()
    await llm("Hi")
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            await llm("Hi")
        assert gc.collect() < 100
    finally:
        gc.enable()


# --- the value -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("percentile", 95),
        ("percentile", 0.0),
        ("percentile", True),
        ("percentile", float("nan")),
        ("budget", 0),
        ("budget", "2%"),
        ("budget", 1.0),
        ("minimum", -1.0),
        ("minimum", float("inf")),
        ("minimum", None),
    ],
)
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"hedge {name} must be"):
        Hedge(**{name: value})  # type: ignore[arg-type]


def test_a_hedge_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"hedge must be a Hedge, .* got 0\.95"):
        LLM("sim/demo", hedge=0.95)  # type: ignore[arg-type]


# --- over HTTP -----------------------------------------------------------------------------


@pytest.mark.virtual_time(sockets=True)
async def test_a_run_has_fewer_stragglers_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    count, budget = 300, 0.1

    async def run(hedge: Hedge | None) -> tuple[int, int, int]:
        forget_limiters()
        faults = Faults(straggler=0.05, straggler_factor=20)
        settings = SimulatorSettings(latency=0.05, faults=faults, seed=4)
        async with Simulator(settings) as sim:
            llm = LLM("openai/gpt-test", base_url=sim.url, api_key="sk-test-123456", hedge=hedge)
            queue, late, answered = iter(range(count)), 0, 0

            async def work() -> None:
                nonlocal late, answered
                for _ in queue:
                    began = now()
                    text = await llm("Summarize: The tide rises.")
                    answered += bool(text)
                    late += now() - began > 0.9

            await asyncio.gather(*(work() for _ in range(20)))
            assert answered == count
            statistics = llm.limiter.statistics()
            assert (statistics.in_flight, statistics.waiting) == (0, 0)
            return late, llm.hedged, sim.stats().received

    plain, _, once = await run(None)
    hedged, number, received = await run(Hedge(percentile=0.9, budget=budget, minimum=0.1))
    assert once == count
    assert 5 <= number <= budget * count
    # A hedge whose call is answered before it is sent never comes to the server.
    assert count < received <= count + number
    assert plain >= 8
    assert hedged <= 0.7 * plain, (hedged, plain)
