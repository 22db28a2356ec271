"""An LLM against the simulator: real sockets, real quotas, real faults."""

from __future__ import annotations

import asyncio
import pickle
import sys
from types import ModuleType

import aiolimiter
import pytest

from llmflow import LLM, Quota, Retry, Timeout
from llmflow.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ConnectionFailedError,
    ContextLengthError,
    InvalidRequestError,
    MissingKeyError,
    ModelNotFoundError,
    ProviderError,
    RequestTimeoutError,
    ServerError,
    TooLargeForLimitError,
    UsageError,
)
from llmflow.limits.registry import forget_limiters
from llmflow.simulator import Faults, Simulator, SimulatorSettings, serve_in_thread
from llmflow.testing import ScriptedProvider

TEXT = "Summarize: The tide rises twice a day. The moon pulls the water. Sailors know the times."


@pytest.fixture(autouse=True)
def _fresh_limiters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    forget_limiters()


def simulator(**settings: object) -> Simulator:
    return Simulator(SimulatorSettings(**{"latency": 0.0, **settings}))  # type: ignore[arg-type]


def llm_for(sim: Simulator, **options: object) -> LLM:
    settings = {"base_url": sim.url, "api_key": "sk-test-123456", **options}
    return LLM("openai/gpt-test", **settings)  # type: ignore[arg-type]


async def test_a_call_returns_the_text() -> None:
    async with simulator() as sim:
        assert "tide" in await llm_for(sim)(TEXT)


async def test_complete_returns_everything_that_is_known() -> None:
    async with simulator() as sim:
        response = await llm_for(sim).complete(TEXT, system="Be brief.", max_tokens=50)
    assert response.text
    assert response.finish_reason == "stop"
    assert response.usage.input_tokens > 10
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert (response.model, response.provider) == ("gpt-test", "openai")
    assert response.request_id
    assert response.cost is None
    assert response.attempts == 1
    assert response.raw["object"] == "chat.completion"
    assert pickle.loads(pickle.dumps(response)) == response


async def test_messages_and_options_reach_the_provider() -> None:
    async with simulator() as sim:
        llm = llm_for(sim, max_tokens=5, options={"seed": 7})
        response = await llm.complete([{"role": "user", "content": TEXT}], temperature=0.2)
    assert response.finish_reason == "length"
    assert response.usage.output_tokens <= 5


async def test_a_known_quota_is_kept_without_a_single_rejection() -> None:
    async with simulator(rpm=6000, burst_seconds=1) as sim:
        llm = llm_for(sim, quota=Quota(rpm=6000, burst_seconds=1))
        await asyncio.gather(*(llm(TEXT) for _ in range(150)))
        stats = sim.stats()
    assert stats.answered == 150
    assert stats.rejections == 0


async def test_without_a_known_quota_every_call_is_answered_all_the_same() -> None:
    # A provider that enforces less than its headers say.
    settings = {"rpm": 6000, "burst_seconds": 0.2, "quota_headers": "minute"}
    async with simulator(**settings, retry_after_ms=True) as sim:
        llm = llm_for(sim)
        responses = await asyncio.gather(*(llm.complete(TEXT) for _ in range(250)))
        stats = sim.stats()
        limits = llm.limiter.statistics().limits
    assert len(responses) == 250
    assert stats.rejections > 0
    assert all(response.attempts == 1 for response in responses)  # a 429 costs no attempt
    assert limits["rpm"] == 6000


async def test_a_cold_start_without_a_quota_is_no_storm_of_rejections() -> None:
    async with simulator(rpm=1200, burst_seconds=1, latency=0.05) as sim:
        llm = llm_for(sim)
        await asyncio.gather(*(llm(TEXT) for _ in range(100)))
        stats = sim.stats()
    assert stats.answered == 100
    assert stats.rejections <= 5


async def test_passing_faults_are_retried_until_every_item_is_answered() -> None:
    faults = Faults(server_error=0.1, overloaded=0.1, reset=0.1, garbage=0.1)
    async with simulator(faults=faults, seed=3) as sim:
        llm = llm_for(sim, retry=Retry(attempts=20, wait_initial=0.001))
        responses = await asyncio.gather(*(llm.complete(TEXT) for _ in range(100)))
        stats = sim.stats()
    assert all("tide" in response.text for response in responses)
    assert sum(response.attempts for response in responses) == stats.received
    assert max(response.attempts for response in responses) > 1


async def test_a_hanging_answer_is_given_up_and_asked_again() -> None:
    async with simulator(faults=Faults(hang=0.5), seed=1) as sim:
        llm = llm_for(sim, timeout=0.2, retry=Retry(attempts=30, wait_initial=0.001))
        assert await llm(TEXT)
        hopeless = llm_for(sim, timeout=0.05, retry=Retry(attempts=1))
        with pytest.raises(RequestTimeoutError, match=r"no answer within 0\.05 s"):
            await asyncio.gather(*(hopeless(TEXT) for _ in range(10)))


async def test_attempts_run_out_with_the_last_error_and_their_number() -> None:
    async with simulator(faults=Faults(server_error=1.0)) as sim:
        llm = llm_for(sim, retry=Retry(attempts=3, wait_initial=0.001))
        with pytest.raises(ServerError, match="3 attempts") as caught:
            await llm(TEXT)
        assert sim.stats().received == 3
    assert caught.value.attempts == 3
    assert caught.value.provider == "openai"
    assert caught.value.model == "gpt-test"


@pytest.mark.parametrize(
    ("settings", "kind", "remedy"),
    [
        ({"api_key": "other"}, AuthenticationError, "Check the API key"),
        ({"models": ("gpt-else",)}, ModelNotFoundError, "Check the model's name"),
        ({"credit_requests": 0}, BillingError, "Add credit"),
        ({"context_tokens": 8}, ContextLengthError, "Shorten the prompt"),
        ({"tpm": 15}, TooLargeForLimitError, "Shorten the prompt"),
    ],
)
async def test_what_cannot_succeed_is_sent_once_and_says_what_to_do(
    settings: dict[str, object], kind: type[ProviderError], remedy: str
) -> None:
    async with simulator(**settings) as sim:
        with pytest.raises(kind, match=remedy) as caught:
            await llm_for(sim)(TEXT)
        assert sim.stats().received == 1
    assert "sk-test-123456" not in str(caught.value) + repr(caught.value)
    restored = pickle.loads(pickle.dumps(caught.value))
    assert (type(restored), str(restored)) == (kind, str(caught.value))


async def test_what_is_larger_than_the_known_quota_is_not_even_sent() -> None:
    async with simulator(tpm=15) as sim:
        llm = llm_for(sim, quota=Quota(tpm=15))
        with pytest.raises(TooLargeForLimitError, match=r"needs \d+ of tpm, and the limit is 15"):
            await llm(TEXT)
        assert sim.stats().received == 0


async def test_an_invalid_request_is_not_retried() -> None:
    async with simulator() as sim:
        with pytest.raises(InvalidRequestError):
            await llm_for(sim)([{"role": "user", "content": 5}])
        assert sim.stats().received == 1


@pytest.mark.http
async def test_no_server_is_a_connection_error_that_names_the_place() -> None:
    llm = LLM("openai/x", base_url="http://127.0.0.1:9/v1", retry=Retry(attempts=1))
    with pytest.raises(ConnectionFailedError, match=r"cannot connect to 127\.0\.0\.1:9"):
        await llm("Hello")


async def test_a_failed_call_gives_its_slot_back() -> None:
    async with simulator(faults=Faults(server_error=1.0)) as sim:
        llm = llm_for(sim, retry=Retry(attempts=2, wait_initial=0.001))
        await asyncio.gather(*(llm(TEXT) for _ in range(20)), return_exceptions=True)
    assert llm.limiter.statistics().in_flight == 0
    assert llm.limiter.statistics().waiting == 0


async def test_a_cancelled_call_gives_its_slot_back() -> None:
    async with simulator(faults=Faults(hang=1.0)) as sim:
        llm = llm_for(sim, quota=Quota(max_concurrent=3))
        tasks = [asyncio.create_task(llm(TEXT)) for _ in range(10)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert llm.limiter.statistics().in_flight == 0
    assert llm.limiter.statistics().waiting == 0


async def test_max_concurrent_is_what_the_server_sees() -> None:
    async with simulator(latency=0.02) as sim:
        llm = llm_for(sim, quota=Quota(max_concurrent=4))
        await asyncio.gather(*(llm(TEXT) for _ in range(20)))
        assert sim.stats().max_in_flight == 4


async def test_a_users_own_aiolimiter_is_one_more_gate() -> None:
    async with simulator() as sim:
        gate = aiolimiter.AsyncLimiter(5, 0.25)
        llm = llm_for(sim, gate=gate)
        started = asyncio.get_running_loop().time()
        await asyncio.gather(*(llm(TEXT) for _ in range(10)))
        # Five at once, then one every 0.05 s.
        assert asyncio.get_running_loop().time() - started >= 0.25 * 0.98


async def test_same_provider_key_and_model_share_one_limiter() -> None:
    async with simulator() as sim:
        one, two = llm_for(sim), llm_for(sim)
        other_key = llm_for(sim, api_key="sk-other-123456")
        other_model = LLM("openai/other", base_url=sim.url)
        assert one.limiter is two.limiter
        assert len({id(each.limiter) for each in (one, other_key, other_model)}) == 3
        llm_for(sim, quota=Quota(rpm=60))
        assert one.limiter.quota == Quota(rpm=60)
        with pytest.warns(UserWarning, match="changed from"):
            llm_for(sim, quota=Quota(rpm=120))


def test_one_object_works_in_many_event_loops_one_after_another() -> None:
    with serve_in_thread(SimulatorSettings(latency=0.0)) as sim:
        llm = LLM("openai/x", base_url=sim.url)
        for _ in range(5):
            assert asyncio.run(llm(TEXT))


def test_run_answers_without_an_event_loop_again_and_again() -> None:
    with serve_in_thread(SimulatorSettings(latency=0.0)) as sim:
        llm = LLM("openai/x", base_url=sim.url)
        assert llm.run(TEXT) == llm.run(TEXT)
        assert llm.complete_sync(TEXT).usage.input_tokens > 0


async def test_run_inside_a_running_loop_says_what_to_write() -> None:
    with pytest.raises(UsageError, match=r"await llm\(\.\.\.\)"):
        LLM("openai/x", base_url="http://127.0.0.1:9/v1").run("Hello")


async def test_run_works_in_a_notebook_whose_kernel_runs_a_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))
    with serve_in_thread(SimulatorSettings(latency=0.0)) as sim:
        llm = LLM("openai/x", base_url=sim.url)
        assert llm.run(TEXT) == await llm(TEXT)


def test_the_embedded_simulator_answers_without_a_key() -> None:
    llm = LLM("sim/demo")
    assert "tide" in llm.run(TEXT)
    assert llm.limiter.quota.rpm == 600


def test_a_missing_key_is_named_with_the_variable() -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        LLM("openai/gpt-4.1-mini").prepare()


@pytest.mark.parametrize("key", ["sk-abc\n", "sk-ключ-123456"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be sent") as caught:
        LLM("openai/x", api_key=key).prepare()
    assert key.strip() not in str(caught.value)


def test_repr_shows_no_secret() -> None:
    llm = LLM("openai/x", api_key="sk-secret-123456", quota=Quota(rpm=5))
    shown = repr(llm) + repr(llm.provider) + repr(llm.provider.domain)
    assert "secret" not in shown
    assert repr(llm) == "LLM('openai/x', quota=Quota(rpm=5.0))"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "nope/x"}, "nope/x"),
        ({"model": "openai/"}, "names a provider but no model"),
        ({"model": "openai"}, "write openai/MODEL"),
        ({"model": ""}, "must be a string"),
        ({"model": object()}, "object is no provider: it lacks name, model"),
        ({"api_key": 5}, "api_key must be a string"),
        ({"system": 5}, "system must be a string"),
        ({"options": 5}, "options must be a dict"),
        ({"model": 5}, "must be a string"),
        ({"quota": 5}, "must be a Quota"),
        ({"retry": 5}, "must be a Retry"),
        ({"timeout": 0}, "seconds above 0"),
        ({"timeout": True}, "seconds above 0"),
        ({"gate": 5}, "needs an acquire"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://host:port/v1"}, "base_url"),
        ({"base_url": "http://user:pw@host/v1"}, "no user, password"),
    ],
)
@pytest.mark.http
def test_a_wrong_setting_is_named_with_its_remedy(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        LLM(**{"model": "openai/x", **arguments}).prepare()  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [5, None, b"text", [], [{"content": "x"}], ["text"]])
async def test_a_prompt_of_the_wrong_kind_is_refused(prompt: object) -> None:
    with pytest.raises(UsageError, match="prompt"):
        await LLM("openai/x", base_url="http://127.0.0.1:9/v1")(prompt)  # type: ignore[arg-type]


def test_timeout_and_quota_can_be_pasted_back() -> None:
    for value in (Timeout(total=5.0), Quota(rpm=5, tpm="2k"), Retry(attempts=2)):
        assert eval(repr(value)) == value


@pytest.mark.parametrize("value", [0, -1, "many", "", True, float("nan"), float("inf")])
def test_a_quota_that_is_no_number_above_zero_is_refused(value: object) -> None:
    with pytest.raises(ConfigurationError, match="rpm must be a number above 0"):
        Quota(rpm=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model", "messages", "max_tokens", "stream"])
async def test_an_option_that_is_llmflows_own_is_refused(name: str) -> None:
    llm = LLM("openai/x", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ConfigurationError, match=f"{name!r} cannot be one of the options"):
        LLM("openai/x", options={name: 5})
    if name != "max_tokens":  # that one is an argument of the call
        with pytest.raises(ConfigurationError, match=f"{name!r} cannot be one of the options"):
            await llm("Hello", **{name: 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_one_synchronous_call_leaves_the_others_alone(
    kind: type[BaseException],
) -> None:
    class Gate:
        async def acquire(self) -> None:
            raise kind

    with pytest.raises(kind):
        LLM(ScriptedProvider(), gate=Gate()).run("Hello")
    assert LLM(ScriptedProvider()).run("Hello") == "ok"
