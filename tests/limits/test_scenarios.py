"""Whole runs against a simulated provider, on the virtual clock: how long, how many refused.

The bounds are those of the benchmarks where there is one, else what was measured and a
margin. A ratio is the time taken over the least that the quota allows.
"""

from __future__ import annotations

import math
from typing import Any

import pytest

from llmflow.errors import ConnectionFailedError, ProviderError, QuotaExhaustedError
from llmflow.retry import Retry
from llmflow.simulator import Faults, SimulatorSettings
from llmflow.types import Quota, WireReply
from tests.simulated import Outcome, Trouble, play, prompts, varied_prompts

pytestmark = pytest.mark.slow

RPM = Quota(rpm=6000, burst_seconds=1)
BLIND = {"quota_headers": "off", "retry_after": False, "retry_text": False}
SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])


def settings(**changes: Any) -> SimulatorSettings:
    """Return 6,000 RPM in slices of one second and answers after one second, but for `changes`."""
    usual = {"rpm": 6000, "burst_seconds": 1, "answer": "echo", "latency": 1.0}
    return SimulatorSettings(**{**usual, **changes})


def expect(outcome: Outcome, ideal: float, *, ratio: float, rejected: float) -> None:
    """See that all was answered, in time, and that few were refused."""
    assert not outcome.errors
    assert 0.99 < outcome.seconds / ideal <= ratio
    assert outcome.rejected <= rejected


# --- the benchmarks' scenarios -----------------------------------------------------------


@SEEDS
def test_a_known_request_limit_is_used_up_and_not_overrun(seed: int) -> None:
    outcome = play(settings(), prompts(2000), quota=RPM, seed=seed)
    expect(outcome, 20.0, ratio=1.03, rejected=0.003)


@pytest.mark.parametrize("quota", [Quota(tpm=600_000, burst_seconds=1), None])
def test_a_token_limit_is_used_up_by_requests_of_all_sizes(quota: Quota | None) -> None:
    texts = varied_prompts(1500, tokens=300)
    tokens = sum(max(16, math.ceil(len(text) / 4)) for text in texts)
    outcome = play(settings(rpm=None, tpm=600_000), texts, quota=quota)
    expect(outcome, (tokens - 10_000) / 10_000 + 1.0, ratio=1.05, rejected=0.01)


@pytest.mark.parametrize(
    ("limits", "told", "ratio"),
    [
        ({"itpm": 200_000, "otpm": 40_000}, True, 1.08),
        ({"itpm": 200_000, "otpm": 40_000}, False, 1.08),
        ({"itpm": 2_000_000, "otpm": 10_000}, True, 1.08),
        ({"itpm": 2_000_000, "otpm": 10_000}, False, 1.08),
    ],
)
def test_input_and_output_limits_are_used_up_though_output_is_not_known_before(
    limits: dict[str, float], told: bool, ratio: float
) -> None:
    texts = varied_prompts(600, tokens=300)
    quota = Quota(**limits, burst_seconds=1) if told else None  # type: ignore[arg-type]
    outcome = play(settings(rpm=None, **limits), texts, quota=quota, model="anthropic/bench")
    used = {"itpm": outcome.stats.input_tokens, "otpm": outcome.stats.output_tokens}
    ideal = max(
        60.0 * used[name] / limits[name] for name in limits
    )  # a second of burst, one to answer
    expect(outcome, ideal, ratio=ratio, rejected=0.01)


@SEEDS
def test_a_limit_that_only_headers_name_is_used_up(seed: int) -> None:
    outcome = play(settings(), prompts(2000), seed=seed)
    expect(outcome, 20.0, ratio=1.10, rejected=0.01)


@SEEDS
@pytest.mark.parametrize(
    ("latency", "ratio"), [(0.2, 1.35), (1.0, 1.35), (3.0, 1.35), (10.0, 1.35)]
)
def test_a_limit_that_nothing_names_is_found(latency: float, ratio: float, seed: int) -> None:
    outcome = play(settings(**BLIND, latency=latency), prompts(2000), seed=seed)
    expect(outcome, 19.0 + latency, ratio=ratio, rejected=0.05)


@pytest.mark.parametrize("quota", [Quota(rpm=6000), None])
def test_what_has_been_saved_up_is_spent(quota: Quota | None) -> None:
    outcome = play(settings(burst_seconds=60), prompts(8000), quota=quota)
    expect(outcome, 21.0, ratio=1.10, rejected=0.01)


def test_two_programs_that_do_not_know_of_each_other_share_a_limit_fairly() -> None:
    shares = []
    for seed in range(1, 7):
        outcome = play(settings(), prompts(4000), quota=RPM, clients=2, seed=seed)
        expect(outcome, 40.0, ratio=1.10, rejected=0.01)
        share = outcome.share(0, until=min(outcome.finished))
        assert 0.35 <= share <= 0.65
        shares.append(share)
    assert 0.40 <= sum(shares) / len(shares) <= 0.60


@SEEDS
def test_a_limit_that_is_halved_and_comes_back_is_followed(seed: int) -> None:
    schedule = ((0, 1), (5, 0.5), (15, 1))
    outcome = play(settings(schedule=schedule), prompts(2000), quota=RPM, seed=seed)
    expect(outcome, 25.0, ratio=1.10, rejected=0.02)


@SEEDS
def test_one_failure_in_seven_loses_nothing_and_little_time(seed: int) -> None:
    faults = Faults(server_error=0.05, overloaded=0.05, reset=0.03, garbage=0.01)
    outcome = play(settings(latency=0.5, faults=faults), prompts(1000), quota=RPM, seed=seed)
    expect(outcome, (1000 / 0.86 - 100) / 100 + 0.5, ratio=1.15, rejected=0.01)


# --- providers that mislead --------------------------------------------------------------


@pytest.mark.parametrize("quota", [Quota(rpm=6000), None])
def test_headers_of_another_account_than_the_enforced_one_are_seen_through(
    quota: Quota | None,
) -> None:
    outcome = play(settings(quota_headers="minute"), prompts(2000), quota=quota)
    expect(outcome, 20.0, ratio=1.10, rejected=0.01)


def test_slices_shorter_than_a_second_are_found() -> None:
    enforced = settings(burst_seconds=0.25, quota_headers="minute")
    outcome = play(enforced, prompts(2000), quota=Quota(rpm=6000))
    expect(outcome, 20.75, ratio=1.10, rejected=0.01)


@pytest.mark.parametrize(
    ("changes", "quota", "rejected"),
    [
        ({}, Quota(tpm=600_000), 0.05),
        ({}, None, 0.05),
        ({"quota_headers": "off"}, Quota(tpm=600_000), 0.06),
    ],
)
def test_a_server_that_charges_more_than_expected_is_not_stormed(
    changes: dict[str, Any], quota: Quota | None, rejected: float
) -> None:
    texts = varied_prompts(1000, tokens=300)
    tokens = sum(math.ceil(len(text) / 4) + 400 for text in texts)
    strict = settings(rpm=None, tpm=600_000, charge="sum", **changes)
    outcome = play(strict, texts, quota=quota, max_tokens=400)
    expect(outcome, (tokens - 10_000) / 10_000 + 1.0, ratio=1.05, rejected=rejected)


def test_what_a_server_gives_back_is_used() -> None:
    texts = varied_prompts(1000, tokens=300)
    strict = settings(rpm=None, tpm=600_000, charge="sum", refund=True)
    outcome = play(strict, texts, quota=Quota(tpm=600_000), max_tokens=400)
    used = outcome.stats.input_tokens + outcome.stats.output_tokens
    expect(outcome, used / 10_000, ratio=1.10, rejected=0.01)


@pytest.mark.parametrize(
    "manners",
    [
        {"rejections_cost": False},
        {"retry_after": False, "retry_text": False},
        {"retry_text": False, "quota_headers": "off"},  # whole seconds, and nothing else
        {"retry_text": False, "quota_headers": "off", "retry_after_ms": True},
    ],
    ids=["rejections-free", "no-retry-after", "whole-seconds", "milliseconds"],
)
def test_a_limit_is_found_with_whatever_a_rejection_says(manners: dict[str, Any]) -> None:
    outcome = play(settings(**manners), prompts(2000))
    expect(outcome, 20.0, ratio=1.20, rejected=0.02)


def test_minutes_that_begin_anew_by_the_clock_are_no_storm() -> None:
    seen: dict[int, int] = {}

    def window(now: float) -> WireReply | None:
        minute = int(now // 60)
        seen[minute] = seen.get(minute, 0) + 1
        return None if seen[minute] <= 600 else refused(429, "rate_limit_exceeded")

    outcome = play(settings(rpm=None), prompts(3000), trouble=window)
    assert not outcome.errors
    assert outcome.seconds <= 330.0
    assert sum(status == 429 for _, status in outcome.arrivals) <= 0.05 * 3000


@pytest.mark.parametrize("quota", [None, Quota(rpm=6000), Quota(max_concurrent=10)])
def test_a_limit_on_what_is_in_flight_is_found(quota: Quota | None) -> None:
    crowded = settings(rpm=None if quota is None else 6000, max_concurrent=10)
    outcome = play(crowded, prompts(1000), quota=quota, model="anthropic/bench")
    expect(outcome, 100.0, ratio=1.10, rejected=0.03)


def test_traffic_that_may_not_grow_fast_grows_slowly() -> None:
    texts = prompts(3000, characters=4000)
    steep = settings(rpm=None, ramp=1.5, ramp_window=60.0, ramp_floor="500k")
    outcome = play(steep, texts, model="anthropic/bench")
    assert not outcome.errors
    assert outcome.rejected <= 0.03
    assert outcome.seconds <= 600.0


@pytest.mark.parametrize("latency", [0.3, 6.0])
def test_answers_that_take_very_different_times_change_nothing(latency: float) -> None:
    varied = {"seconds": latency, "sigma": 0.8}
    outcome = play(settings(latency=varied), prompts(2000), quota=RPM)
    assert not outcome.errors
    assert outcome.rejected <= 0.003
    assert outcome.arrivals[-1][0] == pytest.approx(19.0, rel=0.03)


# --- trouble -----------------------------------------------------------------------------


def refused(status: int, code: str) -> WireReply:
    body = f'{{"error": {{"message": "no", "type": "{code}", "code": "{code}"}}}}'
    return WireReply(status, {}, body.encode(), 0.0)


def unreachable() -> ProviderError:
    return ConnectionFailedError("refused")


def between(first: float, last: float, *, status: int | None) -> Trouble:
    """Return an outage: this status, or no connection at all."""

    def trouble(now: float) -> WireReply | ProviderError | None:
        if not first <= now < last:
            return None
        return unreachable() if status is None else refused(status, "server_error")

    return trouble


OUTAGES = pytest.mark.parametrize("status", [503, 500, None])


@SEEDS
@OUTAGES
def test_an_outage_costs_its_time_and_hardly_a_request(status: int | None, seed: int) -> None:
    outage = between(5.0, 35.0, status=status)
    outcome = play(settings(), prompts(2000), quota=RPM, trouble=outage, seed=seed)
    assert sum(outcome.errors.values()) <= 4  # whose last attempt was before it was clear
    assert 50.0 <= outcome.seconds <= 80.0
    # Once it is clear that nobody is answered, one request at a time finds out.
    assert sum(10.0 <= moment < 35.0 for moment, _ in outcome.arrivals) <= 10


@OUTAGES
@pytest.mark.parametrize("begin", [0.0, 5.0])
def test_an_outage_without_end_ends_every_call(begin: float, status: int | None) -> None:
    outage = between(begin, math.inf, status=status)
    outcome = play(settings(), prompts(2000), quota=RPM, trouble=outage)
    assert outcome.errors["OutageError"] >= 0.99 * (2000 - outcome.stats.answered)
    assert 300.0 <= outcome.seconds <= 400.0


def test_twenty_failures_after_a_break_are_no_outage() -> None:
    """Minutes in which nobody asked are no silence of the provider's."""

    def trouble(now: float) -> WireReply | ProviderError | None:
        return unreachable() if now < 0.5 else None

    outcome = play(settings(), prompts(200), quota=RPM, trouble=trouble, idle_seconds=900.0)
    assert not outcome.errors


def test_a_daily_quota_ends_every_call_and_says_until_when() -> None:
    outcome = play(settings(rpd=500), prompts(1000))
    assert outcome.stats.answered == 500
    assert outcome.errors == {"QuotaExhaustedError": 500}
    assert outcome.seconds < 10.0
    failed = [each for each in outcome.results[0] if isinstance(each, QuotaExhaustedError)]
    assert all(each.retry_after and each.retry_after > 60.0 for each in failed)


def test_a_daily_quota_is_waited_for_where_that_is_wanted() -> None:
    patient = Retry(daily_limit_patience=100_000.0)
    outcome = play(settings(rpd=500), prompts(520), retry=patient)
    assert not outcome.errors
    assert outcome.seconds == pytest.approx(20 * 86_400 / 500, rel=0.02)
