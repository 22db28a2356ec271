"""A run says what kept it from being faster, and nothing where it does not know."""

from __future__ import annotations

from typing import Any

import pytest

from llmflow import LimiterStatistics, Quota
from llmflow.jobs.bottleneck import RunFacts, explain_bottleneck
from llmflow.limits.learned_limits import LearnedLimit


def statistics(bound_by: dict[str, float], **changes: Any) -> LimiterStatistics:
    values: dict[str, Any] = {
        "waiting": 0,
        "in_flight": 0,
        "admitted": 1000,
        "rejected": 0,
        "paused_for": 0.0,
        "paused_until": None,
        "max_in_flight": 1000,
        "window": 1000,
        "limits": {"rpm": 600.0},
        "learned": {},
        "shares": {"rpm": 1.0},
        "burst_seconds": {"rpm": 1.0},
        "levels": {"rpm": 0.0},
        "utilisation": {"rpm": 0.97},
    }
    return LimiterStatistics(**values | changes, bound_by=bound_by)


def of(bound_by: dict[str, float], *, limiter: Any = None, **changes: Any) -> str | None:
    values: dict[str, Any] = {
        "learned": (),
        "quota": Quota(rpm=600),
        "seconds": 100.0,
        "cpu_seconds": 5.0,
        "requests": 1000,
        "rejected": 0,
        "rows": 1000,
        "concurrency": 100,
        "row_seconds": 9000.0,
        "once": False,
        "stopped": False,
    }
    return explain_bottleneck(
        RunFacts(statistics=statistics(bound_by, **limiter or {}), **values | changes)
    )


def learned(limit: float, *, estimated: bool = False) -> LearnedLimit:
    return LearnedLimit(dimension="rpm", limit=limit, burst_seconds=1.0, estimated=estimated)


def test_a_limit_that_calls_waited_for() -> None:
    assert of({"rpm": 0.92}) == (
        "limited by rpm (92% of the time): a higher request limit would make it faster"
    )
    assert str(of({"rpm": 0.1, "tpm": 0.8})).startswith("limited by tpm (80% of the time)")


def test_a_limit_that_was_set_lower_than_it_is() -> None:
    assert of({"rpm": 0.9}, quota=Quota(rpm=100), learned=[learned(500)]) == (
        "limited by rpm (90% of the time): 100 is set, and the provider names 500"
    )


def test_a_limit_that_was_found_by_trying() -> None:
    assert of({"rpm": 0.9}, quota=Quota(), learned=[learned(5812, estimated=True)]) == (
        "limited by rpm (90% of the time): the provider takes about 5,812, found by trying"
    )


def test_others_that_use_the_same_quota() -> None:
    shared = {"shares": {"rpm": 0.62}, "utilisation": {"rpm": 0.6}}
    assert of({"rpm": 0.95}, limiter=shared) == (
        "limited by rpm (95% of the time): others seem to use this quota too; this run got "
        "about 60% of rpm"
    )


@pytest.mark.parametrize(
    "limiter",
    [
        {"shares": {"rpm": 0.8}, "utilisation": {"rpm": 0.9}},  # a rejection a moment ago
        {"shares": {"rpm": 1.0}, "utilisation": {"rpm": 0.6}},  # others are gone, or never were
    ],
)
def test_nobody_is_accused_without_a_reason(limiter: dict[str, Any]) -> None:
    assert "others" not in str(of({"rpm": 0.95}, limiter=limiter))


def test_pauses() -> None:
    assert of({"rpm": 0.8, "pause": 0.1, "probe": 0.04}, rejected=12) == (
        "limited by rpm (80% of the time): a higher request limit would make it faster; "
        "paused 14% of the time for rate limits (429)"
    )
    assert of({"rpm": 0.2, "pause": 0.6}, rejected=12) == (
        "paused 60% of the time for rate limits (429)"
    )
    assert of({"pause": 0.6}) == "paused 60% of the time because nothing was answered"


def test_a_run_that_was_stopped_is_not_called_slow() -> None:
    assert of({}, row_seconds=9900.0, stopped=True) is None
    assert of({}, rows=20, stopped=True) is None


def test_a_run_that_was_stopped_did_not_pause_for_the_provider() -> None:
    assert "paused" not in str(of({"rpm": 0.9, "pause": 3.0}, rejected=12, stopped=True))


def test_the_concurrency() -> None:
    assert of({"rpm": 0.1}) == "limited by --concurrency 100: a higher one would make it faster"


def test_answers_that_all_were_under_way_at_once() -> None:
    assert of({}, rows=90) == (
        "limited by the answers' own latency: all rows were under way at once"
    )


def test_rows_that_came_slowly() -> None:
    assert of({}, row_seconds=50.0, once=True) == "limited by how fast rows came in"
    assert of({}, row_seconds=50.0) is None


def test_a_processor_that_had_no_more_to_give() -> None:
    assert str(of({}, cpu_seconds=97.0)).startswith("limited by this computer's processor")


def test_calls_in_flight() -> None:
    few = {"max_in_flight": 8, "window": 8}
    assert of({"in_flight": 0.9}, limiter=few, quota=Quota(max_concurrent=8)) == (
        "limited by max_concurrent (8 in flight): a higher one would make it faster"
    )
    assert "open files" in str(of({"in_flight": 0.9}))
    assert "fewer are sent at once" in str(of({"in_flight": 0.9}, limiter={"window": 40}))


def test_a_start_without_a_rate() -> None:
    assert "--rpm" in str(of({"start": 0.6}))


@pytest.mark.parametrize("changes", [{"seconds": 1.9}, {"requests": 19}])
def test_a_short_run_says_nothing(changes: dict[str, Any]) -> None:
    assert of({"rpm": 0.9}, **changes) is None
