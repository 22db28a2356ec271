"""An LLM in Anthropic's dialect against the simulator: real sockets, its rules of charging."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from llmflow import LLM, Quota, Retry
from llmflow.errors import (
    AuthenticationError,
    BillingError,
    ContextLengthError,
    ModelNotFoundError,
    ProviderError,
    TooLargeForLimitError,
)
from llmflow.limits.registry import forget_limiters
from llmflow.simulator import Faults, Simulator, SimulatorSettings

pytestmark = pytest.mark.http

TEXT = "Summarize: The tide rises twice a day. The moon pulls the water. Sailors know the times."
KEY = "sk-ant-test-123456"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    forget_limiters()


def simulator(**settings: Any) -> Simulator:
    return Simulator(SimulatorSettings(**{"latency": 0.0, **settings}))


def llm_for(sim: Simulator, **options: Any) -> LLM:
    return LLM("anthropic/claude-test", **{"base_url": sim.url, "api_key": KEY, **options})


async def test_complete_returns_everything_that_is_known() -> None:
    async with simulator() as sim:
        response = await llm_for(sim).complete(TEXT, system="Be brief.")
    assert "tide" in response.text
    assert response.finish_reason == "stop"
    assert response.usage.input_tokens > 10
    assert response.usage.output_tokens > 0
    assert (response.model, response.provider) == ("claude-test", "anthropic")
    assert response.request_id
    assert response.raw["stop_reason"] == "end_turn"
    assert pickle.loads(pickle.dumps(response)) == response


async def test_messages_with_a_system_role_are_understood() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
    async with simulator() as sim:
        response = await llm_for(sim, max_tokens=5).complete(messages)
    assert response.finish_reason == "length"
    assert response.usage.output_tokens <= 5


async def test_what_an_answer_may_be_at_most_costs_nothing() -> None:
    # Thirty answers of 64,000 tokens at most, under a limit of 6,000 a minute.
    async with simulator(itpm=600_000, otpm=6_000) as sim:
        llm = llm_for(sim, quota=Quota(itpm=600_000, otpm=6_000, burst_seconds=60))
        responses = await asyncio.gather(
            *(llm.complete(TEXT, max_tokens=64_000) for _ in range(30))
        )
        stats = sim.stats()
    assert sum(each.usage.output_tokens for each in responses) < 6_000
    assert (stats.answered, stats.rejections) == (30, 0)


async def test_the_limits_are_learned_from_the_headers_each_for_itself() -> None:
    async with simulator(rpm=6_000, itpm=600_000, otpm=60_000) as sim:
        llm = llm_for(sim)
        await llm(TEXT)
        limits = llm.limiter.statistics().limits
    assert {name: limits[name] for name in ("rpm", "itpm", "otpm")} == {
        "rpm": 6_000,
        "itpm": 600_000,
        "otpm": 60_000,
    }
    assert "tpm" not in limits


async def test_a_known_quota_is_kept_without_a_single_rejection() -> None:
    async with simulator(rpm=6_000, burst_seconds=1) as sim:
        llm = llm_for(sim, quota=Quota(rpm=6_000, burst_seconds=1))
        await asyncio.gather(*(llm(TEXT) for _ in range(150)))
        stats = sim.stats()
    assert (stats.answered, stats.rejections) == (150, 0)


async def test_a_rejection_is_waited_for_and_costs_no_attempt() -> None:
    # About 25 tokens a prompt: the bucket holds some ten of them, another key's included.
    async with simulator(itpm=15_000, burst_seconds=1, scope="all") as sim:
        llm = llm_for(sim, quota=Quota(rpm=60_000))
        other = llm_for(sim, quota=Quota(rpm=60_000), api_key="sk-ant-other-123456")
        responses = await asyncio.gather(*(each.complete(TEXT) for each in [llm, other] * 10))
        stats = sim.stats()
    assert stats.rejections > 0
    assert stats.answered == 20
    assert all(response.attempts == 1 for response in responses)


async def test_passing_faults_are_retried_until_every_item_is_answered() -> None:
    faults = Faults(server_error=0.1, overloaded=0.1, reset=0.1, garbage=0.1)
    async with simulator(faults=faults, seed=3) as sim:
        llm = llm_for(sim, retry=Retry(attempts=20, wait_initial=0.001))
        texts = await asyncio.gather(*(llm(TEXT) for _ in range(60)))
    assert all("tide" in text for text in texts)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"api_key": "other"}, AuthenticationError),
        ({"models": ("claude-else",)}, ModelNotFoundError),
        ({"credit_requests": 0}, BillingError),
        ({"credit_requests": 0, "credit_error": "spend_limit"}, BillingError),
        ({"credit_requests": 0, "credit_error": "balance"}, BillingError),
        ({"context_tokens": 8}, ContextLengthError),
    ],
)
async def test_what_cannot_succeed_is_sent_once_and_says_what_to_do(
    settings: dict[str, Any], kind: type[ProviderError]
) -> None:
    async with simulator(**settings) as sim:
        with pytest.raises(kind) as caught:
            await llm_for(sim)(TEXT)
        assert sim.stats().received == 1
    assert KEY not in str(caught.value) + repr(caught.value)
    assert caught.value.provider == "anthropic"


async def test_what_is_larger_than_the_known_quota_is_not_even_sent() -> None:
    async with simulator(itpm=15) as sim:
        with pytest.raises(TooLargeForLimitError, match="itpm"):
            await llm_for(sim, quota=Quota(itpm=15))(TEXT)
        assert sim.stats().received == 0
