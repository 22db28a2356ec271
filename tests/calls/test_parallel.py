"""Live calls: what becomes of a request whose attempts fail."""

from __future__ import annotations

import re

import pytest

from llmflow.errors import ConnectionFailedError, ProviderError, QuotaExhaustedError
from llmflow.retry import Retry
from llmflow.simulator import Faults, SimulatorSettings
from llmflow.transport import Timeout
from llmflow.types import Quota, Response, WireReply
from tests.simulated import play, prompts

SETTINGS = SimulatorSettings(answer="echo", latency=1.0)


def test_attempts_are_not_counted_while_nobody_is_answered() -> None:
    def down(now: float) -> ProviderError | None:
        return ConnectionFailedError("refused") if now < 120.0 else None

    outcome = play(SETTINGS, prompts(10), trouble=down)
    assert not outcome.errors
    answered = [each for each in outcome.results[0] if isinstance(each, Response)]
    assert max(each.attempts for each in answered) > 3
    assert outcome.seconds <= 150.0


def test_attempts_are_counted_while_others_are_answered() -> None:
    broken = SimulatorSettings(answer="echo", latency=0.1, faults=Faults(server_error=0.5))
    outcome = play(broken, prompts(200), quota=Quota(rpm=600), retry=Retry(attempts=2))
    assert 0.15 * 200 < outcome.errors["ServerError"] < 0.35 * 200
    for each in outcome.results[0]:
        assert isinstance(each, (Response, ProviderError))
        assert each.attempts <= 2


@pytest.mark.parametrize("patience", [60.0, 3600.0])
def test_a_pause_that_is_longer_than_anybody_waits_ends_all_calls_at_once(patience: float) -> None:
    def closed(now: float) -> WireReply:
        body = b'{"error": {"message": "later", "type": "requests", "code": "rate_limit_exceeded"}}'
        return WireReply(429, {"retry-after": "7200"}, body, 0.0)

    outcome = play(
        SETTINGS, prompts(100), trouble=closed, retry=Retry(rate_limit_patience=patience)
    )
    assert outcome.errors == {"QuotaExhaustedError": 100}
    assert outcome.seconds < 1.0
    error = outcome.results[0][0]
    assert isinstance(error, QuotaExhaustedError)
    assert f"rate_limit_patience={patience:.0f}" in str(error)
    assert re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\d UTC", str(error))


def test_a_wait_for_the_quota_counts_neither_as_attempt_nor_as_time_of_the_call() -> None:
    strict = SimulatorSettings(rpm=60, burst_seconds=1, answer="echo", latency=1.0)
    outcome = play(strict, prompts(20))
    assert outcome.stats.rejections > 0
    answered = [each for each in outcome.results[0] if isinstance(each, Response)]
    assert len(answered) == 20
    assert {each.attempts for each in answered} == {1}
    # One exchange, or two with that of a rejection, took a second each.
    longest = max(each.waited for each in answered)
    assert outcome.seconds - 2.1 < longest < outcome.seconds - 0.9


def test_requests_that_hang_are_given_up_and_sent_again() -> None:
    hanging = SimulatorSettings(answer="echo", latency=0.5, faults=Faults(hang=0.2))
    outcome = play(hanging, prompts(200), quota=Quota(rpm=6000), timeout=Timeout(total=5.0))
    assert not outcome.errors
    assert outcome.seconds < 40.0


def test_a_request_that_is_wrong_is_no_sign_of_an_outage() -> None:
    def wrong(now: float) -> WireReply:
        body = b'{"error": {"message": "no", "type": "invalid_request_error", "code": null}}'
        return WireReply(400, {}, body, 0.0)

    outcome = play(SETTINGS, prompts(200), trouble=wrong)
    assert outcome.errors == {"InvalidRequestError": 200}
    assert not outcome.limiters[0].is_down
    assert len(outcome.arrivals) == 200


def test_what_was_refused_admission_was_not_sent_and_is_no_attempt() -> None:
    sent = 0

    def closed(now: float) -> WireReply:
        nonlocal sent
        sent += 1
        body = b'{"error": {"message": "later", "type": "requests", "code": "rate_limit_exceeded"}}'
        return WireReply(429, {"retry-after": "7200"}, body, 0.0)

    outcome = play(SETTINGS, prompts(100), trouble=closed, quota=Quota(rpm=60))
    errors = [each for each in outcome.results[0] if isinstance(each, ProviderError)]
    assert len(errors) == 100
    assert sent < 100
    assert sum(each.attempts for each in errors) == sent


def test_a_named_delay_of_hours_is_waited_for_as_long_as_for_the_quota_of_a_day() -> None:
    def closed(now: float) -> WireReply | None:
        body = b'{"error": {"message": "try again in 2 hours", "code": "rate_limit_exceeded"}}'
        return WireReply(429, {}, body, 0.0) if now < 7000.0 else None

    patient = Retry(daily_limit_patience=10_000.0)
    outcome = play(SETTINGS, prompts(20), trouble=closed, retry=patient)
    assert not outcome.errors
    assert 7200.0 <= outcome.seconds < 7300.0
