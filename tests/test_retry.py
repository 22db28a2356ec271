"""The retry policy: what is sent again, when, and when it is given up."""

from __future__ import annotations

import asyncio
import random

import pytest
import tenacity
import tenacity.asyncio
from hypothesis import given
from hypothesis import strategies as st

from llmflow import LLM, Retry
from llmflow.errors import (
    AuthenticationError,
    BadReplyError,
    BillingError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    ContentFilterError,
    ContextLengthError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    TooLargeForLimitError,
)
from llmflow.retry import backoff
from llmflow.testing import ScriptedProvider


def now() -> float:
    return asyncio.get_running_loop().time()


@given(st.integers(1, 100_000), st.floats(0, 1e6), st.floats(0, 1e6), st.integers())
def test_backoff_stays_between_zero_and_its_ceiling(
    attempt: int, initial: float, maximum: float, seed: int
) -> None:
    wait = backoff(attempt, initial=initial, maximum=maximum, rng=random.Random(seed))
    assert 0.0 <= wait <= min(maximum, initial * 2.0 ** min(attempt - 1, 1000))


def test_backoff_is_spread_over_the_whole_range() -> None:
    rng = random.Random(1)
    waits = [backoff(4, initial=1.0, maximum=60.0, rng=rng) for _ in range(1000)]
    assert min(waits) < 0.5
    assert max(waits) > 7.5
    assert sum(waits) / 1000 == pytest.approx(4.0, rel=0.1)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "kind",
    [
        BadReplyError,
        ConflictError,
        ConnectionFailedError,
        OverloadedError,
        RequestTimeoutError,
        ServerError,
    ],
)
async def test_passing_failures_are_sent_again(kind: type[ProviderError]) -> None:
    provider = ScriptedProvider([kind("no"), kind("no"), "yes"])
    response = await LLM(provider).complete("Hi")
    assert (response.text, response.attempts) == ("yes", 3)
    assert response.waited == pytest.approx(now())


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "kind",
    [
        AuthenticationError,
        BillingError,
        ContentFilterError,
        ContextLengthError,
        InvalidRequestError,
        ModelNotFoundError,
        QuotaExhaustedError,
        TooLargeForLimitError,
    ],
)
async def test_final_failures_are_never_sent_again(kind: type[ProviderError]) -> None:
    provider = ScriptedProvider([kind("no")])
    with pytest.raises(kind) as caught:
        await LLM(provider)("Hi")
    assert len(provider.requests) == 1
    assert caught.value.attempts == 1
    assert (caught.value.provider, caught.value.model) == ("scripted", "model")


@pytest.mark.virtual_time
async def test_a_client_providers_attempt_that_takes_too_long_is_sent_again() -> None:
    provider = ScriptedProvider(latency=10.0)
    with pytest.raises(RequestTimeoutError, match=r"no answer within 2 s.*3 attempts"):
        await LLM(provider, timeout=2.0, retry=Retry(attempts=3))("Hi")
    assert len(provider.requests) == 3


@pytest.mark.virtual_time
async def test_a_server_given_delay_is_a_floor_and_never_shortened() -> None:
    provider = ScriptedProvider([OverloadedError("busy", retry_after=90.0), "yes"])
    await LLM(provider, retry=Retry(wait_max=1.0))("Hi")
    assert now() == pytest.approx(90.0)


@pytest.mark.virtual_time
async def test_attempts_are_total_attempts() -> None:
    provider = ScriptedProvider(default=ServerError("no"))
    with pytest.raises(ServerError) as caught:
        await LLM(provider, retry=Retry(attempts=4))("Hi")
    assert len(provider.requests) == caught.value.attempts == 4


@pytest.mark.virtual_time
async def test_the_total_time_is_kept() -> None:
    provider = ScriptedProvider(default=ServerError("no", retry_after=10.0))
    with pytest.raises(ServerError):
        await LLM(provider, retry=Retry(attempts=100, total=35.0))("Hi")
    assert now() == pytest.approx(30.0)
    assert len(provider.requests) == 4


@pytest.mark.virtual_time
async def test_a_rate_limit_costs_no_attempt_and_is_waited_out() -> None:
    rejections = [RateLimitError("slow", retry_after=20.0) for _ in range(10)]
    provider = ScriptedProvider([*rejections, "yes"])
    response = await LLM(provider, retry=Retry(attempts=1)).complete("Hi")
    assert (response.text, response.attempts) == ("yes", 1)
    assert response.waited == pytest.approx(200.0)


@pytest.mark.virtual_time
async def test_rate_limits_without_end_are_given_up_after_the_patience() -> None:
    provider = ScriptedProvider(default=lambda _: RateLimitError("slow", retry_after=20.0))
    llm = LLM(provider, retry=Retry(rate_limit_patience=100.0))
    with pytest.raises(RateLimitError, match="rate_limit_patience=100"):
        await llm("Hi")
    assert now() == pytest.approx(100.0)
    assert llm.limiter.statistics().in_flight == 0


@pytest.mark.virtual_time
async def test_a_request_that_waits_to_be_sent_again_holds_no_slot() -> None:
    from llmflow import Quota

    provider = ScriptedProvider(
        [ServerError("no", retry_after=50.0)],
        default="ok",
        latency=1.0,
        quota=Quota(max_concurrent=1),
    )
    llm = LLM(provider)
    failing = asyncio.create_task(llm("first"))
    await asyncio.sleep(0)
    await llm("second")
    assert now() == pytest.approx(2.0)
    await failing


@pytest.mark.virtual_time
async def test_tenacitys_own_objects_win_over_the_numbers() -> None:
    provider = ScriptedProvider(default=InvalidRequestError("no"))
    policy = Retry(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_fixed(7),
        retry=tenacity.retry_if_exception_type(InvalidRequestError),
    )
    with pytest.raises(InvalidRequestError) as caught:
        await LLM(provider, retry=policy)("Hi")
    assert (now(), caught.value.attempts) == (pytest.approx(14.0), 3)


@pytest.mark.virtual_time
async def test_calls_at_the_same_time_do_not_mix_up_their_attempts() -> None:
    def reply(request: object) -> ProviderError | str:
        text = request.messages[0]["content"]  # type: ignore[attr-defined]
        seen[text] = seen.get(text, 0) + 1
        return ServerError("no") if seen[text] <= int(text) else text

    seen: dict[str, int] = {}
    llm = LLM(ScriptedProvider(default=reply, latency=0.1), retry=Retry(attempts=8))
    responses = await asyncio.gather(*(llm.complete(str(i % 7)) for i in range(7)))
    assert [response.attempts for response in responses] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.virtual_time
async def test_cancelling_during_the_backoff_cancels() -> None:
    provider = ScriptedProvider(default=ServerError("no", retry_after=100.0))
    task = asyncio.create_task(LLM(provider)("Hi"))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"attempts": 0},
        {"stop": 5},
        {"attempts": 1.5},
        {"attempts": True},
        {"wait_max": -1},
        {"wait_max": "1"},
        {"wait_initial": None},
        {"total": -1},
    ],
)
def test_a_policy_out_of_range_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(arguments))):
        Retry(**arguments)  # type: ignore[arg-type]


@pytest.mark.virtual_time
async def test_a_policy_that_retries_nearly_everything_does_not_retry_a_cancellation() -> None:
    provider = ScriptedProvider(default=ServerError("no"), latency=1.0)
    policy = Retry(wait_max=0.1, retry=tenacity.retry_if_not_exception_type(BillingError))
    task = asyncio.create_task(LLM(provider, retry=policy)("Hi"))
    await asyncio.sleep(2.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == 2.5


@pytest.mark.virtual_time
async def test_a_rate_limit_beyond_patience_is_final_for_every_policy() -> None:
    provider = ScriptedProvider(
        [ServerError("no")], default=RateLimitError("slow", retry_after=20.0)
    )
    policy = Retry(rate_limit_patience=50.0, retry=tenacity.retry_if_exception_type(ProviderError))
    with pytest.raises(RateLimitError, match="rate_limit_patience=50"):
        await LLM(provider, retry=policy)("Hi")
    assert len(provider.requests) == 4


@pytest.mark.virtual_time
async def test_answers_are_not_retried_whatever_the_policy_says_of_results() -> None:
    provider = ScriptedProvider([ServerError("no")], default="ok")
    policy = Retry(
        retry=tenacity.retry_if_exception_type(ServerError) | tenacity.retry_if_result(bool)
    )
    assert await LLM(provider, retry=policy)("Hi") == "ok"
    assert len(provider.requests) == 2


@pytest.mark.virtual_time
async def test_an_asynchronous_predicate_is_awaited() -> None:
    async def never(_: BaseException) -> bool:
        return False

    provider = ScriptedProvider(default=ServerError("no"))
    policy = Retry(retry=tenacity.asyncio.retry_if_exception(never))  # type: ignore[arg-type]
    with pytest.raises(ServerError):
        await LLM(provider, retry=policy)("Hi")
    assert len(provider.requests) == 1


@pytest.mark.virtual_time
async def test_a_stop_by_time_counts_from_the_first_attempt_on_the_loops_clock() -> None:
    provider = ScriptedProvider(default=ServerError("no"), latency=20.0)
    policy = Retry(stop=tenacity.stop_after_delay(50), wait=tenacity.wait_none())
    with pytest.raises(ServerError):
        await LLM(provider, retry=policy)("Hi")
    assert now() == pytest.approx(60.0)


@pytest.mark.virtual_time
async def test_a_stop_object_wins_over_a_single_attempt() -> None:
    provider = ScriptedProvider(default=ServerError("no"))
    with pytest.raises(ServerError):
        await LLM(provider, retry=Retry(attempts=1, stop=tenacity.stop_after_attempt(3)))("Hi")
    assert len(provider.requests) == 3


@pytest.mark.virtual_time
async def test_patience_is_counted_anew_after_another_failure() -> None:
    slow, broken = RateLimitError("slow", retry_after=40.0), ServerError("no")
    provider = ScriptedProvider([slow, slow, broken, slow, slow, "yes"])
    policy = Retry(rate_limit_patience=100.0, wait_max=0.0)
    assert await LLM(provider, retry=policy)("Hi") == "yes"
    assert now() == pytest.approx(160.0, abs=0.1)


@pytest.mark.virtual_time
async def test_gates_are_passed_before_every_sending_also_after_a_rate_limit() -> None:
    class Gate:
        passed = 0

        async def acquire(self) -> None:
            self.passed += 1

    gate = Gate()
    provider = ScriptedProvider(
        [RateLimitError("slow", retry_after=1.0), ServerError("no")], default="ok"
    )
    await LLM(provider, gate=gate)("Hi")
    assert gate.passed == len(provider.requests) == 3
