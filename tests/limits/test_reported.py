"""The balance of a limit: of which moment replies speak, and what somebody else takes."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.limits.admission import Admission
from llmflow.limits.dimensions import Ticket
from llmflow.limits.reported import Reported
from llmflow.types import Charge, Quota, QuotaSignal
from tests.examples import examples

RATE = 100.0
DEPTH = 6000.0


def played(
    *, at_reply: bool, seed: int, others: float = 0.0, seconds: float = 6.0
) -> tuple[Reported, float]:
    """Spend a deep bucket at a growing pace; return what was made of it, and what is left.

    Args:
        at_reply: whether headers speak of the moment at which the answer leaves.
        seed: of the latencies.
        others: what somebody else spends for each request from here.
        seconds: how long.
    """
    rng = random.Random(seed)
    reported = Reported(RATE, 0.0)
    left = DEPTH
    spent = 0.0
    replies: list[tuple[float, float, float, float]] = []
    spent_at: dict[int, float] = {}
    for tick in range(int(seconds * 100)):
        now = tick / 100
        left = min(DEPTH, left + RATE / 100)
        for _ in range(1 + tick // 40):
            spent += 1.0
            left -= 1.0 + others
            replies.append((now + rng.uniform(0.5, 1.5), now, spent, left))
        due = sorted(each for each in replies if each[0] <= now)
        replies = [each for each in replies if each[0] > now]
        spent_at[tick] = spent
        for _, sent_at, sent, then in due:
            reported.note(
                left if at_reply else then,
                sent_at=sent_at,
                sent=sent,
                spent=spent,
                now=now,
                is_full=False,
            )
    return reported, left


@pytest.mark.parametrize("at_reply", [True, False])
@examples(15)
@given(seed=st.integers(0, 1000))
def test_the_moment_of_which_replies_speak_is_found(at_reply: bool, seed: int) -> None:
    reported, left = played(at_reply=at_reply, seed=seed)
    assert reported.at_reply == at_reply
    level, _ = reported.level(RATE, spent=spent_in(6.0), now=5.99)
    assert level == pytest.approx(left, abs=RATE / 5)


def test_slow_changes_of_pace_tell_the_moment_between_rounded_numbers() -> None:
    """From one group of replies to the next, the pace changes by less than the rounding hides."""
    reported = Reported(20.0, 0.0)
    spent, sent, sent_by = 0.0, 0.0, {}
    for tick in range(1500):
        now = tick / 100
        pace = 30.0 + 20.0 * math.sin(now)  # requests per second, each answered after 4 s
        spent += pace / 100
        sent_by[tick] = spent
        if tick >= 400 and tick % 3 == 0:
            left = 800.0 + 20.0 * now - spent
            sent = sent_by[tick - 400]
            reported.note(
                round(left / 10.0) * 10.0,
                sent_at=now - 4.0,
                sent=sent,
                spent=spent,
                now=now,
                is_full=False,
            )
    assert reported.at_reply


def spent_in(seconds: float) -> float:
    return float(sum(1 + tick // 40 for tick in range(int(seconds * 100))))


@examples(15)
@given(seed=st.integers(0, 1000))
def test_whoever_is_alone_may_spend_nearly_all(seed: int) -> None:
    assert played(at_reply=False, seed=seed)[0].portion > 0.8
    assert played(at_reply=True, seed=seed)[0].portion > 0.8


@examples(15)
@given(seed=st.integers(0, 1000))
def test_beside_somebody_else_half_is_kept(seed: int) -> None:
    assert played(at_reply=False, seed=seed, others=1.0)[0].portion <= 0.55
    assert played(at_reply=True, seed=seed, others=1.0)[0].portion <= 0.55


def test_until_a_reply_says_otherwise_half_is_kept() -> None:
    assert Reported(RATE, 0.0).portion == 0.5


def test_a_request_that_waits_for_its_connection_is_not_taken_to_have_arrived() -> None:
    state = Admission(Quota(rpm=6000), max_in_flight=100, now=0.0)
    first, second = Ticket(Charge()), Ticket(Charge())
    for ticket in (first, second):
        ticket.says_when_it_leaves = True
        assert state.admit_at_once(ticket, 0.0)
    state.leave(first, 0.1)
    assert first.mark[0] == 1.0
    assert first.left_at == 0.1
    state.leave(second, 0.3)
    assert second.mark[0] == 2.0
    # The server had 4 left after the first; the second has gone out since, and 0.3 s passed.
    state.finish(first, None, 0.4, signals=[QuotaSignal("rpm", 6000, 4, 0.96)])
    level = state.dimensions.buckets[0].level_at(0.4)
    assert level == pytest.approx(4 - 1 + 30 + 10 + 1)


def test_a_request_that_never_left_is_forgotten_when_it_ends() -> None:
    state = Admission(Quota(rpm=6000), max_in_flight=100, now=0.0)
    ticket = Ticket(Charge())
    ticket.says_when_it_leaves = True
    assert state.admit_at_once(ticket, 0.0)
    state.fail(ticket, 0.2, overloaded=True)
    assert not ticket.is_opening
    assert state.dimensions._opening == [0.0] * 4


def test_an_answer_without_headers_lets_a_share_rise_after_a_429_that_had_them() -> None:
    """A gateway that sends headers only with a 429 says nothing while all is well."""
    state = Admission(Quota(rpm=300), max_in_flight=100, now=0.0)
    (bucket,) = state.dimensions.buckets

    def ask(now: float, *, refused: bool = False) -> None:
        ticket = Ticket(Charge())
        if not state.admit_at_once(ticket, now):
            return
        if refused:
            state.reject(ticket, 0.5, now + 0.1, signals=[QuotaSignal("rpm", 300, 0, 1.0)])
        else:
            state.finish(ticket, None, now + 0.1)

    ask(0.0, refused=True)
    for step in range(1, 20):
        ask(step * 0.5)
    assert bucket.share == 1.0, "the first named the limit"
    ask(10.0, refused=True)
    assert bucket.share < 1.0
    for step in range(40):
        ask(11.0 + step * 0.25)
    assert bucket.share == 1.0
