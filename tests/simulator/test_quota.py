"""Admission on an injected clock: what is let in, what is charged, what is hinted."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.simulator import SimulatorSettings
from llmflow.simulator.quota import Charge, Ledger


def ledger(**settings: object) -> Ledger:
    chosen = SimulatorSettings(**settings)  # type: ignore[arg-type]
    return Ledger(chosen, now=0.0, rejections_cost=chosen.rejections_cost)


def test_a_full_minute_is_admitted_at_once_by_default() -> None:
    book = ledger(rpm=60)
    reasons = [book.admit("k", Charge(1), now=0.0).reason for _ in range(61)]
    assert reasons == [None] * 60 + ["rpm"]


def test_a_burst_of_one_second_admits_one_seconds_worth() -> None:
    book = ledger(rpm=600, burst_seconds=1)
    assert [book.admit("k", Charge(1), now=0.0).reason for _ in range(11)] == [None] * 10 + ["rpm"]


def test_refill_is_continuous() -> None:
    book = ledger(rpm=60, burst_seconds=1)
    assert [book.admit("k", Charge(1), now=t).reason for t in (0, 0.5, 1, 1.9, 2)] == [
        None,
        "rpm",
        None,
        "rpm",
        None,
    ]


def test_a_flood_gets_the_quota_and_not_less() -> None:
    """Rejections must not push the bucket down for ever: a client 1% too fast still gets 100%."""
    for pace in (0.99, 0.5, 0.01):
        book = ledger(rpm=60, burst_seconds=1)
        times = [n * pace for n in range(int(600 / pace))]
        admitted = sum(book.admit("k", Charge(1), now=t).reason is None for t in times)
        assert 300 <= admitted <= 602


def test_a_rejection_for_tokens_costs_a_request() -> None:
    book = ledger(rpm=60, tpm=100)
    book.admit("k", Charge(100), now=0.0)
    refusal = book.admit("k", Charge(50), now=0.0)
    assert refusal.reason == "tpm"
    assert refusal.domain.shown["rpm"].level == 58
    cheap = ledger(rpm=60, tpm=100, rejections_cost=False)
    cheap.admit("k", Charge(100), now=0.0)
    assert cheap.admit("k", Charge(50), now=0.0).domain.shown["rpm"].level == 59


def test_one_request_above_the_limit_is_never_admissible() -> None:
    refusal = ledger(tpm=1000).admit("k", Charge(1001), now=0.0)
    assert (refusal.reason, refusal.retry_after) == ("too_large", None)


def test_one_request_above_the_burst_is_admitted_by_a_full_bucket_and_leaves_debt() -> None:
    book = ledger(tpm=600, burst_seconds=1)
    assert book.admit("k", Charge(100), now=0.0).reason is None
    refusal = book.admit("k", Charge(100), now=0.0)
    assert refusal.reason == "tpm"
    assert refusal.retry_after == pytest.approx(10)
    assert book.admit("k", Charge(100), now=9.9).reason == "tpm"
    assert book.admit("k", Charge(100), now=10.0).reason is None


def test_scopes_have_their_own_quota() -> None:
    book = ledger(rpm=1)
    assert [book.admit(scope, Charge(1), now=0.0).reason for scope in ("a", "b", "a")] == [
        None,
        None,
        "rpm",
    ]


def test_daily_limits_refill_over_the_day() -> None:
    book = ledger(rpd=2, tpd=1000)
    assert book.admit("k", Charge(10), now=0).reason is None
    assert book.admit("k", Charge(10), now=0).reason is None
    refusal = book.admit("k", Charge(10), now=0)
    assert refusal.reason == "rpd"
    assert refusal.retry_after == pytest.approx(43_200)
    assert book.admit("k", Charge(10), now=43_200).reason is None


def test_concurrency_is_freed_by_release() -> None:
    book = ledger(max_concurrent=1)
    first = book.admit("k", Charge(1), now=0)
    assert book.admit("k", Charge(1), now=0).reason == "concurrency"
    book.release(first, now=1)
    assert book.admit("k", Charge(1), now=1).reason is None


def test_credit_ends() -> None:
    book = ledger(credit_requests=2)
    assert [book.admit("k", Charge(1), now=0).reason for _ in range(3)] == [
        None,
        None,
        "insufficient_quota",
    ]


def test_a_charge_stands_or_is_settled_to_what_was_used() -> None:
    for used, levels in ((None, [900, 940, 960]), (Charge(30, 10, 20), [970, 990, 980])):
        book = ledger(tpm=1000, itpm=1000, otpm=1000)
        decision = book.admit("k", Charge(100, 60, 40), now=0)
        book.release(decision, now=0, used=used)
        shown = decision.domain.shown
        assert [shown[name].level for name in ("tpm", "itpm", "otpm")] == levels


def test_an_answer_is_charged_evenly_while_it_is_produced() -> None:
    book = ledger(tpm=6000, otpm=600)
    decision = book.admit("k", Charge(100, 100), now=0)
    book.produce(decision, 300, seconds=10, now=0)
    shown = book.admit("k", Charge(0), now=5).domain.shown
    # Of the output, 5 s at 30 - 10 a second; the other refills faster than it is drained.
    assert (shown["otpm"].level, shown["tpm"].level) == (500, 6000)
    assert book.release(decision, now=10, used=Charge(400, 100, 300)) == 400
    assert shown["otpm"].level == pytest.approx(400)
    assert shown["otpm"].drain == pytest.approx(0)
    decision.domain.refill(20)
    assert shown["otpm"].level == pytest.approx(500)


def test_debt_from_output_shuts_the_door_until_a_token_is_there() -> None:
    book = ledger(otpm=60, burst_seconds=10)
    decision = book.admit("k", Charge(1, 1), now=0)
    book.produce(decision, 39, seconds=0, now=0)
    book.release(decision, now=0, used=Charge(40, 1, 39))
    refusal = book.admit("k", Charge(1, 1), now=0)
    assert refusal.reason == "otpm"
    assert refusal.retry_after == pytest.approx(30)
    assert book.admit("k", Charge(1, 1), now=30).reason is None


@given(
    answers=st.lists(
        st.tuples(st.floats(0, 3), st.floats(0, 3), st.integers(0, 50)), min_size=1, max_size=20
    )
)
def test_what_is_produced_is_charged_once_however_answers_overlap(
    answers: list[tuple[float, float, int]],
) -> None:
    # A bucket so slow and deep that no refill hides what was taken.
    book = ledger(otpm=1e-3, burst_seconds=6e10)
    domain = book.admit("k", Charge(0), now=0).domain
    before = domain.shown["otpm"].level
    events = [(start, n, "begin") for n, (start, _, _) in enumerate(answers)]
    events += [(start + seconds, n, "end") for n, (start, seconds, _) in enumerate(answers)]
    decisions = {}
    for now, n, what in sorted(events, key=lambda event: event[0]):
        _, seconds, tokens = answers[n]
        if what == "begin":
            decisions[n] = book.admit("k", Charge(0), now=now)
            book.produce(decisions[n], tokens, seconds=seconds, now=now)
        else:
            book.release(decisions[n], now=now, used=Charge(tokens, 0, tokens))
    taken = before - domain.shown["otpm"].level
    assert taken == pytest.approx(sum(tokens for _, _, tokens in answers), abs=1e-2)


def test_traffic_may_grow_by_the_factor_and_no_faster() -> None:
    book = ledger(ramp=2, ramp_window=10, ramp_floor=600, burst_seconds=1)
    per_window = []
    for window in range(8):
        times = [window * 10 + n / 100 for n in range(1000)]
        let_in = [book.admit("k", Charge(1, 1), now=t).reason is None for t in times]
        per_window.append(sum(let_in))
    # Ten a second at once; when the average has come to half of that, twice the average.
    assert per_window[0] == pytest.approx(10 * 10, rel=0.3)
    growth = [after / before for before, after in pairwise(per_window[2:])]
    assert all(1 <= each <= 2.8 for each in growth)
    assert per_window[-1] == 1000


def test_steady_traffic_below_the_floor_never_meets_the_ramp() -> None:
    book = ledger(ramp=1.1, ramp_window=10, ramp_floor=600, burst_seconds=1)
    reasons = {book.admit("k", Charge(1, 1), now=n / 9.9).reason for n in range(1000)}
    assert reasons == {None}


def test_the_schedule_changes_the_limit_in_time() -> None:
    book = ledger(rpm=60, burst_seconds=1, schedule=((10, 2.0), (20, 0.5)))
    admitted = [t / 10 for t in range(300) if book.admit("k", Charge(1), now=t / 10).reason is None]
    per_phase = [sum(low <= t < low + 10 for t in admitted) for low in (0, 10, 20)]
    assert per_phase[0] == 10
    assert 20 <= per_phase[1] <= 22
    assert 4 <= per_phase[2] <= 7
    late = ledger(rpm=60, schedule=((10, 2.0),))
    decision = late.admit("new", Charge(1), now=11)
    assert decision.domain.shown["rpm"].limit == 120


def test_the_minute_account_is_shown_but_admits_nothing() -> None:
    book = ledger(rpm=600, burst_seconds=1, quota_headers="minute")
    decisions = [book.admit("k", Charge(1), now=0) for _ in range(11)]
    assert decisions[-1].reason == "rpm"
    shown = decisions[-1].domain.shown["rpm"]
    assert (shown.limit, shown.level) == (600, 590)


def test_quotas_of_many_keys_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmflow.simulator.quota._MAX_DOMAINS", 10)
    book = ledger(rpm=60)
    for n in range(1000):
        assert book.admit(f"key{n}", Charge(1), now=float(n)).reason is None
    assert len(book._domains) <= 10


_arrivals = st.lists(
    st.tuples(st.floats(0, 5, allow_nan=False), st.integers(1, 400)), min_size=1, max_size=60
)


@given(
    arrivals=_arrivals,
    rpm=st.integers(1, 2000),
    tpm=st.integers(400, 50_000),
    burst=st.sampled_from([0.5, 1.0, 5.0, 60.0]),
    start=st.floats(0, 1e6),
)
def test_no_window_admits_more_than_rate_and_capacity(
    arrivals: list[tuple[float, int]], rpm: int, tpm: int, burst: float, start: float
) -> None:
    book = Ledger(SimulatorSettings(rpm=rpm, tpm=tpm, burst_seconds=burst), now=start)
    now = start
    admitted: list[tuple[float, int]] = []
    for gap, tokens in arrivals:
        now += gap
        if book.admit("k", Charge(tokens), now=now).reason is None:
            admitted.append((now, tokens))
    # What a request above the capacity leaves as debt is let in on top.
    for limit, sizes in ((rpm, [1] * len(admitted)), (tpm, [tokens for _, tokens in admitted])):
        rate, capacity = limit / 60, limit / 60 * burst
        debt = max([0.0, *(size - capacity for size in sizes)])
        for first in range(len(admitted)):
            for last in range(first, len(admitted)):
                window = admitted[last][0] - admitted[first][0]
                total = sum(sizes[first : last + 1])
                assert total <= (rate * window + capacity + debt) * (1 + 1e-5) + 1e-5


@given(
    arrivals=_arrivals,
    rpm=st.integers(1, 2000),
    tpm=st.integers(400, 50_000),
    burst=st.sampled_from([0.5, 1.0, 60.0]),
    start=st.floats(0, 1e6),
)
def test_the_retry_hint_is_exact(
    arrivals: list[tuple[float, int]], rpm: int, tpm: int, burst: float, start: float
) -> None:
    book = Ledger(
        SimulatorSettings(rpm=rpm, tpm=tpm, rpd=50, tpd=9000, burst_seconds=burst), now=start
    )
    now = start
    for gap, tokens in arrivals:
        now += gap
        decision = book.admit("k", Charge(tokens), now=now)
        if decision.reason is None:
            continue
        assert decision.retry_after is not None
        assert decision.retry_after > 0
        now += decision.retry_after
        assert book.admit("k", Charge(tokens), now=now).reason is None
