"""What was given up comes back: after rejections, stale replies, late timers and wrong headers."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.kinds import draw
from benchmarks.harness.world import run
from llmflow.limits.admission import Admission
from llmflow.limits.dimensions import Ticket
from llmflow.limits.learning import LearningBucket
from llmflow.limits.reported import Depth, Trust
from llmflow.types import Charge, Quota, QuotaSignal

pytestmark = pytest.mark.slow


def admission(quota: Quota | None = None) -> Admission:
    return Admission(quota or Quota(), max_in_flight=1000, now=0.0, jitter=lambda: 1.0)


def sent(admitting: Admission, now: float) -> Ticket:
    ticket = Ticket(Charge())
    assert admitting.admit_at_once(ticket, now)
    return ticket


def rpm(limit: float, remaining: float | None = None) -> list[QuotaSignal]:
    return [QuotaSignal("rpm", limit=limit, remaining=remaining)]


# --- replies that were overtaken -----------------------------------------------------------


def test_a_reply_that_was_overtaken_does_not_name_the_limit_of_before_again() -> None:
    admitting = admission()
    early, late = sent(admitting, 0.0), sent(admitting, 1.0)
    admitting.finish(late, None, 2.0, signals=rpm(6000.0))
    admitting.finish(early, None, 3.0, signals=rpm(2000.0))  # it took three times as long
    assert admitting.dimensions.limits() == {"rpm": 6000.0}
    admitting.finish(sent(admitting, 4.0), None, 5.0, signals=rpm(2000.0))
    assert admitting.dimensions.limits() == {"rpm": 2000.0}


def test_what_was_left_before_a_rejection_is_not_news_after_it() -> None:
    admitting = admission(Quota(rpm=6000))
    tickets = []
    for number in range(300):
        ticket = Ticket(Charge())
        if admitting.admit_at_once(ticket, number / 100):
            tickets.append(ticket)
    refused, *others = reversed(tickets)
    admitting.reject(refused, 0.01, 3.0, signals=rpm(6000.0, 0.0))
    for ticket in others:
        admitting.finish(ticket, None, 3.5, signals=rpm(6000.0, 1.0))
    # Half a second later a part of it has come in: there is no debt of what was sent before.
    assert admitting.dimensions.buckets[0].level > 0.0


def test_what_was_refused_was_not_spent() -> None:
    admitting = admission(Quota(rpm=6000))
    first = sent(admitting, 0.0)
    admitting.reject(first, 0.01, 0.1, signals=rpm(6000.0, 0.0))
    later = Ticket(Charge())
    admitting.enqueue(later)
    admitting.pump(0.2)
    assert later.mark[0] == 1.0


def test_no_probe_goes_before_what_opens_its_connection_has_arrived() -> None:
    """Probes that such requests leave nothing for were taken for a server that does not mean it."""
    admitting = admission(Quota(rpm=6000))
    tickets = []
    for _ in range(30):
        ticket = Ticket(Charge())
        ticket.says_when_it_leaves = True
        if admitting.admit_at_once(ticket, 0.0):
            tickets.append(ticket)
    first, *opening = tickets
    admitting.leave(first, 0.1)
    until = admitting.reject(first, 0.003, 0.15, signals=rpm(6000.0, 0.0))
    assert until == pytest.approx(0.15 + len(opening) / 100)
    for ticket in opening:
        admitting.leave(ticket, 0.2)
    assert admitting.dimensions.arriving() == 0.0


# --- what was given up comes back ----------------------------------------------------------


def test_what_was_let_in_since_a_rejection_need_not_be_answered_to_tell() -> None:
    """Answers may take longer than the way back is: silence is an answer, too."""
    admitting = admission(Quota(rpm=600))
    old = [sent(admitting, number / 10) for number in range(5)]
    refused = old.pop()
    admitting.reject(refused, 0.1, 0.5, signals=[])
    bucket = admitting.dimensions.buckets[0]
    share = bucket.share
    waiting = [Ticket(Charge()) for _ in range(10)]
    for ticket in waiting:
        admitting.enqueue(ticket)
    for now in (0.7, 1.0, 1.5, 2.0):
        admitting.pump(now)
    for number, ticket in enumerate(old):  # all of them sent before the rejection
        admitting.finish(ticket, None, 3.0 + number)
    assert bucket.share > share


@given(rate=st.floats(2.0, 500.0), late=st.floats(0.0, 0.04))
def test_late_timers_cost_no_part_of_the_rate_in_the_narrowest_window(
    rate: float, late: float
) -> None:
    bucket = LearningBucket("rpm", limit=rate * 60.0, burst_seconds=1.0, now=0.0)
    bucket.shorten(0.0)
    now = taken = 0.0
    while now < 30.0:
        bucket.refill(now)
        while bucket.delay(1.0) == 0.0:
            bucket.take(1.0)
            taken += 1.0
        now += bucket.delay(1.0) + late
    assert taken >= 0.95 * rate * 30.0 - 1.0


@pytest.mark.parametrize("rate", [0.05, 1.0])
def test_room_for_late_timers_is_not_more_than_the_provider_has(rate: float) -> None:
    bucket = LearningBucket("rpm", limit=rate * 60.0, burst_seconds=1.0, now=0.0)
    assert bucket.capacity == 1.0


# --- how much there can be -----------------------------------------------------------------


@given(levels=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=50), whole=st.booleans())
def test_the_depth_is_never_taken_for_more_than_a_second_too_much(
    levels: list[float], whole: bool
) -> None:
    rate, burst = 10.0, 20.0
    depth = Depth()
    for level in levels:
        left = level * rate * burst
        reset = burst - left / rate
        depth.note(left, float(math.ceil(reset)) if whole else reset, rate=rate, most=600.0)
    assert depth.value <= rate * (burst + 1.0) + 1e-6
    if not whole and min(levels) < 1.0:
        assert depth.value == pytest.approx(rate * burst)


def test_resets_in_whole_seconds_do_not_make_a_slice_twice_as_deep() -> None:
    depth = Depth()
    for left in (9.0, 5.0, 1.0):
        depth.note(left, 1.0, rate=10.0, most=600.0)
    assert depth.value == 11.0


# --- whether it is so ----------------------------------------------------------------------


def test_little_left_and_nothing_refused_is_tried_out() -> None:
    trust = Trust()
    for second in range(4):
        trust.note(0.0, held_back=True, now=float(second))
        assert trust.given
    trust.note(0.0, held_back=True, now=4.5)
    assert not trust.given


def test_who_uses_all_of_the_limit_has_nothing_to_try_out() -> None:
    trust = Trust()
    for second in range(60):
        trust.note(0.0, held_back=False, now=float(second))
    assert trust.given


def test_a_trial_that_is_refused_is_repeated_half_as_often() -> None:
    trust = Trust()
    trials = []
    for second in range(200):
        trust.note(0.0, held_back=True, now=float(second))
        if not trust.given:
            trials.append(second)
            trust.refuse(much_left=False)
    gaps = [after - before for before, after in itertools.pairwise(trials)]
    assert len(gaps) >= 3
    assert all(after > 1.7 * before for before, after in itertools.pairwise(gaps))


def test_headers_that_say_much_while_requests_are_refused_are_not_believed_again() -> None:
    trust = Trust()
    trust.refuse(much_left=True)
    trust.refuse(much_left=False)
    assert not trust.given


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["headers-on-429", "headers-stop", "wrong-headers", "wrong-minute", "limit-falls"]
)
def test_ten_seconds_after_the_cause_ended_the_quota_is_used_again(kind: str) -> None:
    used = []
    for index in range(20):
        setting = draw(kind, index, seed=11, in_flight=10_000)
        used.append(run(dataclasses.replace(setting)).back)
    used.sort()
    assert used[1] is not None
    assert used[1] >= 0.9
