"""Overload: the cap on requests in flight, the circuit breaker, and when an outage is one."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from llmflow.limits.congestion import OUTAGE_PATIENCE, Overload


def overload(now: float = 0.0) -> Overload:
    return Overload(now=now, jitter=lambda: 1.0)


def end(state: Overload, *, good: int = 0, bad: int = 0, in_flight: int, now: float) -> None:
    """Let so many requests end at once, sent just before."""
    for number in range(good + bad):
        if number < good:
            state.succeed(sent=now, in_flight=in_flight, now=now)
        else:
            state.fail(sent=now, in_flight=in_flight, now=now)


def test_single_failures_leave_the_cap_alone() -> None:
    state = overload()
    for second in range(20):
        end(state, good=43, bad=7, in_flight=50, now=float(second))
    assert state.cap == math.inf
    assert not state.is_open


def test_the_cap_is_halved_while_most_requests_fail_and_comes_back() -> None:
    state = overload()
    end(state, good=20, bad=80, in_flight=100, now=1.0)
    assert state.cap == 50.0
    end(state, good=10, bad=40, in_flight=50, now=2.0)
    assert state.cap == 25.0
    caps = []
    for second in range(3, 20):
        in_flight = int(min(100, state.cap))
        end(state, good=in_flight, in_flight=in_flight, now=float(second))
        caps.append(state.cap)
    assert caps == sorted(caps)
    assert caps[8] > 100.0


def test_where_nothing_succeeds_the_cap_falls_once_and_the_breaker_does_the_rest() -> None:
    state = overload()
    end(state, bad=100, in_flight=100, now=0.0)
    for second in range(1, 60):
        end(state, bad=10, in_flight=1, now=float(second))
    assert state.is_open
    assert state.cap == 50.0


def test_a_late_answer_of_before_is_no_sign_that_fewer_would_help() -> None:
    state = overload()
    end(state, bad=100, in_flight=100, now=1.0)
    assert state.cap == 50.0
    state.succeed(sent=0.5, in_flight=100, now=1.1)
    end(state, bad=10, in_flight=1, now=1.2)
    assert state.cap == 50.0


def test_a_handful_of_failures_opens_no_breaker_however_long_they_take() -> None:
    state = overload()
    for minute in range(19):
        assert state.fail(sent=60.0 * minute, in_flight=1, now=60.0 * minute + 30.0) is None
    assert not state.is_open


def test_many_failures_within_a_moment_open_no_breaker() -> None:
    state = overload()
    end(state, bad=100, in_flight=100, now=1.0)
    assert not state.is_open


def test_the_breaker_pauses_longer_and_longer_until_anything_is_answered() -> None:
    state = overload()
    end(state, bad=20, in_flight=20, now=0.0)
    pauses = [state.fail(sent=float(now), in_flight=1, now=float(now)) for now in range(2, 10)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0]
    state.succeed(sent=10.0, in_flight=1, now=11.0)
    assert not state.is_open
    assert state.fail(sent=12.0, in_flight=1, now=12.0) is None


def test_an_answer_of_any_kind_closes_the_breaker_but_not_a_failure_sent_before_it() -> None:
    state = overload()
    end(state, bad=25, in_flight=25, now=0.0)
    state.fail(sent=3.0, in_flight=1, now=3.0)
    assert state.is_open
    state.succeed(sent=3.5, in_flight=1, now=4.0)
    assert state.fail(sent=3.9, in_flight=1, now=4.1) is None
    assert not state.is_open


def test_time_in_which_nobody_asks_is_no_silence() -> None:
    state = overload()
    state.succeed(sent=0.0, in_flight=1, now=1.0)
    end(state, bad=25, in_flight=25, now=10_000.0)
    assert not state.is_open
    state.fail(sent=10_003.0, in_flight=1, now=10_003.0)
    assert state.is_open
    assert state.outage(10_003.0) is None
    assert state.outage(10_000.0 + OUTAGE_PATIENCE) == OUTAGE_PATIENCE


def test_a_number_that_the_provider_refused_is_not_tried_again_at_once() -> None:
    state = overload()
    for left in range(20, 9, -1):
        state.crowd(left, 0.0)
    assert state.cap == 10.0
    for tenth in range(1, 49):
        end(state, good=10, in_flight=10, now=tenth / 10)
    assert state.cap == 10.0
    end(state, good=10, in_flight=10, now=5.1)
    assert 10.0 < state.cap < 14.0
    # Refused again: twice as long.
    state.crowd(10, 5.2)
    end(state, good=10, in_flight=10, now=15.0)
    assert state.cap == 10.0
    end(state, good=10, in_flight=10, now=15.3)
    assert state.cap > 10.0


def test_a_clock_that_is_set_anew_changes_nothing() -> None:
    state, other = overload(), overload(1000.0)
    end(state, bad=30, in_flight=30, now=1.0)
    end(other, bad=30, in_flight=30, now=1001.0)
    state.move(1000.0)
    assert [each.fail(sent=1004.0, in_flight=1, now=1004.0) for each in (state, other)] == [
        1.0,
        1.0,
    ]
    assert state.outage(1302.0) == other.outage(1302.0) == 301.0


OUTCOMES = st.lists(
    st.tuples(
        st.sampled_from(["succeed", "fail", "crowd"]),
        st.floats(0.0, 100.0),
        st.integers(0, 2000),
        st.floats(0.0, 50.0),
    ),
    max_size=300,
)


@given(OUTCOMES)
def test_there_is_always_a_cap_of_at_least_one_and_a_pause_that_ends(
    outcomes: list[tuple[str, float, int, float]],
) -> None:
    state, now = overload(), 0.0
    for kind, passed, in_flight, took in outcomes:
        now += passed
        if kind == "crowd":
            state.crowd(in_flight, now)
        elif kind == "succeed":
            state.succeed(sent=now - took, in_flight=in_flight + 1, now=now)
            assert not state.is_open
        else:
            pause = state.fail(sent=now - took, in_flight=in_flight + 1, now=now)
            assert pause is None or 0.0 < pause <= 20.0
        assert state.cap >= 1.0
        assert not math.isnan(state.cap)
        assert 0.0 <= state.failing <= 1.0
