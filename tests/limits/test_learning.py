"""What admission learns from headers and rejections, and what it must not conclude."""

from __future__ import annotations

import asyncio
import math

import pytest

from llmflow import Limiter
from llmflow.errors import RampLimitError
from llmflow.limits.admission import Admission
from llmflow.limits.dimensions import Ticket
from llmflow.limits.learned_limits import LearnedLimit
from llmflow.limits.learning import LearningBucket
from llmflow.types import Charge, Quota, QuotaSignal


def admission(quota: Quota | None = None, *, start: int | None = None) -> Admission:
    return Admission(quota or Quota(), max_in_flight=1000, start_in_flight=start, now=0.0)


def admit(state: Admission, now: float, *, count: int = 1) -> list[Ticket]:
    """Have so many requests admitted at once."""
    tickets = [Ticket(Charge(1, 10, 10, 0)) for _ in range(count)]
    for ticket in tickets:
        assert state.admit_at_once(ticket, now)
    return tickets


def bucket(state: Admission, name: str) -> LearningBucket:
    found = state.dimensions.bucket(name)
    assert found is not None
    return found


def test_what_another_program_has_spent_is_missing_here_too() -> None:
    state = admission(Quota(rpm=6000))
    (ticket,) = admit(state, 0.0)
    state.finish(ticket, None, 0.5, signals=[QuotaSignal("rpm", 6000, 3, 0.97)])
    # 3 were left, half a second's worth has come since; a tenth of a second is tolerance.
    assert bucket(state, "rpm").level == pytest.approx(3 + 50 + 10 + 1)


def test_half_of_a_deep_account_is_spent_at_a_time() -> None:
    state = admission(Quota(rpm=6000))
    (ticket,) = admit(state, 0.0)
    state.finish(ticket, None, 0.0, signals=[QuotaSignal("rpm", 6000, 5999, 0.01)])
    assert bucket(state, "rpm").level == pytest.approx((5999 - 25) / 2)


def test_a_deep_account_is_no_leave_to_exceed_a_lower_configured_limit() -> None:
    state = admission(Quota(rpm=600))
    before = bucket(state, "rpm").capacity
    (ticket,) = admit(state, 0.0)
    state.finish(ticket, None, 0.0, signals=[QuotaSignal("rpm", 6000, 5999, 0.01)])
    assert bucket(state, "rpm").level <= before


@pytest.mark.parametrize("reset", [math.nan, math.inf, -math.inf, -5.0, 0.0])
def test_a_reset_that_is_no_time_is_not_reckoned_with(reset: float) -> None:
    told, silent = admission(Quota(rpm=600)), admission(Quota(rpm=600))
    for state, seconds in ((told, reset), (silent, None)):
        for second in range(20):
            (ticket,) = admit(state, float(second))
            signal = QuotaSignal("rpm", 600, 8, seconds)
            state.finish(ticket, None, second + 0.5, signals=[signal])
    assert bucket(told, "rpm").level == bucket(silent, "rpm").level
    assert bucket(told, "rpm").share == bucket(silent, "rpm").share == 1.0


def test_a_limit_of_next_to_nothing_is_not_believed() -> None:
    state = admission()
    (ticket,) = admit(state, 0.0)
    state.finish(ticket, None, 0.5, signals=[QuotaSignal("rpm", 1e-300)])
    state.dimensions.recall(
        [LearnedLimit(dimension="tpm", limit=1e-300, burst_seconds=1.0, estimated=False)], 1.0
    )
    assert state.dimensions.limits() == {}


def test_a_rejection_for_tokens_says_nothing_of_requests() -> None:
    state = admission(Quota(rpm=6000))
    (ticket,) = admit(state, 0.0)
    level = bucket(state, "rpm").level
    state.reject(ticket, 1.0, 0.01, dimension="tpm")
    assert bucket(state, "rpm").share == 1.0
    assert bucket(state, "rpm").level >= level


def test_a_rejection_for_the_day_does_not_slow_down_the_minutes() -> None:
    state = admission(Quota(rpm=6000))
    tickets = admit(state, 0.0, count=5)
    state.reject(tickets[0], 1.0, 0.01, dimension="rpd")
    assert bucket(state, "rpm").share == 1.0
    assert state.dimensions.limits() == {"rpm": 6000.0}


def guessed() -> tuple[Admission, list[Ticket]]:
    """Return an admission that has just guessed a request limit, and what is in flight."""
    state = admission()
    for tenth in range(20):
        for ticket in admit(state, tenth / 10, count=5):
            state.finish(ticket, None, tenth / 10 + 0.05)
    tickets = admit(state, 2.0, count=5)
    state.reject(tickets[0], 1.0, 2.01)
    assert bucket(state, "rpm").estimated
    return state, tickets[1:]


def test_a_guess_is_corrected_by_what_was_refused_besides() -> None:
    state, tickets = guessed()
    before = state.dimensions.limits()["rpm"]
    for ticket in tickets:
        state.reject(ticket, 1.0, 2.02)
    assert state.dimensions.limits()["rpm"] < before


def test_a_limit_that_is_named_after_a_guess_is_not_corrected_like_a_guess() -> None:
    state, tickets = guessed()
    state.finish(tickets[0], None, 2.02, signals=[QuotaSignal("rpm", 6000)])
    state.reject(tickets[1], 1.0, 2.03)
    assert not bucket(state, "rpm").estimated
    assert bucket(state, "rpm").limit == 6000.0


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -1.0, 0.0])
def test_a_wait_that_is_no_time_is_no_hint(seconds: float) -> None:
    state = admission(Quota(rpm=600))
    (ticket,) = admit(state, 0.0)
    assert 0.0 < state.reject(ticket, seconds, 1.0) <= 2.0


def test_a_share_that_was_given_up_comes_back_while_all_is_well() -> None:
    state = admission(Quota(rpm=6000))
    (ticket,) = admit(state, 0.0)
    state.reject(ticket, 0.1, 0.01)
    assert bucket(state, "rpm").share < 1.0
    for tenth in range(10, 1000):
        state.pump(tenth / 10)
        for ticket in admit(state, tenth / 10):
            state.finish(ticket, None, tenth / 10 + 0.05)
    assert bucket(state, "rpm").share == 1.0
    assert bucket(state, "rpm").window == 1.0


def test_traffic_that_grew_too_fast_is_halved_and_grows_more_slowly() -> None:
    shares = {}
    for kind in ("ramp", "rate"):
        state = admission(Quota(rpm=6000))
        (ticket,) = admit(state, 0.0)
        if kind == "ramp":
            state.reject(ticket, 0.1, 0.01, kind=RampLimitError)
            assert bucket(state, "rpm").share == 0.5
        else:
            state.reject(ticket, 0.1, 0.01)
        began = bucket(state, "rpm").share
        for tenth in range(12, 30):
            for ticket in admit(state, tenth / 10):
                state.finish(ticket, None, tenth / 10 + 0.05)
        shares[kind] = bucket(state, "rpm").share - began
    assert 0.0 < shares["ramp"] < 0.5 * shares["rate"]


def test_a_guess_does_not_grow_while_nobody_needs_more() -> None:
    state, tickets = guessed()
    for ticket in tickets:
        state.finish(ticket, None, 2.5)
    began = bucket(state, "rpm").effective_limit
    for second in range(5, 500):
        for ticket in admit(state, float(second)):
            state.finish(ticket, None, second + 0.5)
    assert bucket(state, "rpm").effective_limit == began


def test_what_one_run_has_learned_the_next_begins_with() -> None:
    state, _ = guessed()
    state.observe([QuotaSignal("tpm", 90_000)], 3.0)
    again = admission()
    again.dimensions.recall(state.dimensions.learned(), 0.0)
    limits, before = again.dimensions.limits(), state.dimensions.limits()
    assert limits["tpm"] == before["tpm"] == 90_000
    assert 0.8 * before["rpm"] <= limits["rpm"] <= before["rpm"]
    assert bucket(again, "rpm").estimated


@pytest.mark.virtual_time
async def test_a_limit_that_is_named_later_gives_nothing_back_for_earlier_requests() -> None:
    limiter = Limiter()
    early = await limiter.acquire(Charge(1.0, 500.0, 400.0, 100.0))
    await asyncio.sleep(1.0)
    limiter.observe([QuotaSignal(dimension="otpm", limit=6000.0)])
    early.settle(Charge(1.0, 410.0, 400.0, 10.0))
    assert limiter.statistics().utilisation["otpm"] >= 0.0
