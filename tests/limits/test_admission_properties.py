"""What must hold of admission for every sequence of events."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmflow.errors import (
    ConcurrencyLimitError,
    OutageError,
    RampLimitError,
    RateLimitError,
    TooLargeForLimitError,
)
from llmflow.limits.admission import Admission
from llmflow.limits.dimensions import ADMITTED, OVER, WAITING, Ticket
from llmflow.types import Charge, Quota, QuotaSignal

pytestmark = pytest.mark.slow

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["enqueue", "finish", "fail", "reject", "cancel", "wait", "pause"]),
        st.integers(0, 200),
        st.floats(0.0, 3.0),
    ),
    max_size=120,
)


class World:
    """Drives an `Admission` through events, as the limiter does."""

    def __init__(self, quota: Quota, cap: int) -> None:
        self.now = 0.0
        self.admission = Admission(quota, max_in_flight=cap, now=0.0)
        self.tickets: list[Ticket] = []
        self.log: list[tuple[float, Ticket]] = []

    def do(self, kind: str, size: int, seconds: float) -> None:
        admission = self.admission
        if kind == "enqueue":
            ticket = Ticket(Charge(tokens=float(size)))
            self.tickets.append(ticket)
            if admission.admit_at_once(ticket, self.now):
                self.log.append((self.now, ticket))
            else:
                admission.enqueue(ticket)
        elif kind == "wait":
            self.now += seconds
        elif kind == "pause":
            admission.pause_until(self.now + seconds, self.now)
        else:
            self.end(kind, size, seconds)
        self.pump()

    def end(self, kind: str, size: int, seconds: float) -> None:
        wanted = (WAITING, ADMITTED) if kind == "cancel" else (ADMITTED,)
        able = [ticket for ticket in self.tickets if ticket.state in wanted]
        if not able:
            return
        ticket = able[size % len(able)]
        if kind == "finish":
            self.admission.finish(ticket, Charge(tokens=float(size)), self.now)
        elif kind == "fail":
            self.admission.fail(ticket, self.now)
        elif kind == "cancel":
            self.admission.cancel(ticket)
        else:
            self.admission.reject(ticket, seconds, self.now)
            self.admission.enqueue(ticket)

    def pump(self) -> float | None:
        before = [ticket for ticket in self.tickets if ticket.state == WAITING]
        delay = self.admission.pump(self.now)
        for ticket in before:
            if ticket.state == ADMITTED:
                self.log.append((self.now, ticket))
        return delay

    def drain(self) -> None:
        """End what is in flight and let time pass until nobody waits."""
        for _ in range(10_000):
            for ticket in self.tickets:
                if ticket.state == ADMITTED:
                    self.admission.finish(ticket, None, self.now)
            delay = self.pump()
            if not self.admission.waiting and not self.admission.in_flight:
                return
            self.now += delay or 0.0
        raise AssertionError("a waiter was never woken")


@given(EVENTS)
def test_every_waiter_is_woken_in_the_end(events: list[tuple[str, int, float]]) -> None:
    world = World(Quota(rpm=600, tpm=6000), cap=5)
    for event in events:
        world.do(*event)
    world.drain()
    assert all(ticket.state == OVER for ticket in world.tickets)
    assert world.admission.in_flight == 0


@given(EVENTS)
def test_the_in_flight_cap_holds_and_is_counted_right(
    events: list[tuple[str, int, float]],
) -> None:
    world = World(Quota(rpm=6000), cap=3)
    for event in events:
        world.do(*event)
        in_flight = sum(ticket.state == ADMITTED for ticket in world.tickets)
        assert world.admission.in_flight == in_flight <= 3
        waiting = sum(ticket.state == WAITING for ticket in world.tickets)
        assert world.admission.waiting == waiting


@given(EVENTS)
def test_whoever_waits_is_admitted_in_the_order_of_arrival(
    events: list[tuple[str, int, float]],
) -> None:
    world = World(Quota(rpm=600, tpm=6000), cap=5)
    for kind, size, seconds in events:
        before = len(world.log)
        world.do(kind, size, seconds)
        numbers = [ticket.number for _, ticket in world.log[before:]]
        assert numbers == sorted(numbers)
        head = [t.number for t in world.tickets if t.state == WAITING]
        if numbers and head:
            assert max(numbers) < min(head)


@given(
    st.lists(st.tuples(st.floats(0.0, 2.0), st.integers(1, 900)), min_size=1, max_size=150),
    st.floats(0.2, 5.0),
)
def test_no_window_lets_through_more_than_the_quota_and_one_burst(
    arrivals: list[tuple[float, int]], burst: float
) -> None:
    quota = Quota(rpm=600, tpm=60_000, burst_seconds=burst)
    world = World(quota, cap=1_000_000)
    for gap, size in arrivals:
        world.do("wait", 0, gap)
        world.do("enqueue", size, 0.0)
    while (delay := world.pump()) is not None:
        world.now += delay
    log = world.log
    assert len(log) == len(arrivals)
    capacity = {bucket.name: bucket.capacity for bucket in world.admission.dimensions.buckets}
    for first in range(len(log)):
        requests = tokens = 0.0
        for moment, ticket in log[first:]:
            window = moment - log[first][0]
            requests += 1
            # What went before this ticket fits; its own size may exceed the bucket as a debt.
            assert tokens <= capacity["tpm"] + 1000.0 * window + 900 + 1e-6
            tokens += ticket.charge.tokens
            assert requests <= max(1.0, capacity["rpm"]) + 10.0 * window + 1e-6


@given(EVENTS, st.floats(0.1, 50.0))
def test_a_pause_is_a_floor(events: list[tuple[str, int, float]], pause: float) -> None:
    world = World(Quota(rpm=6000), cap=50)
    for event in events:
        world.do(*event)
    until = world.now + pause
    world.admission.pause_until(until, world.now)
    before = len(world.log)
    for event in events:
        world.do(*event)
    assert all(moment >= until for moment, _ in world.log[before:])


@given(st.lists(st.tuples(st.integers(1, 70), st.integers(0, 200)), max_size=60))
def test_settling_conserves_what_is_charged(charges: list[tuple[int, int]]) -> None:
    world = World(Quota(tpm=6_000_000), cap=10_000)
    bucket = world.admission.dimensions.buckets[0]
    for reserved, actual in charges:
        ticket = Ticket(Charge(tokens=float(reserved)))
        assert world.admission.admit_at_once(ticket, 0.0)
        world.admission.finish(ticket, Charge(tokens=float(actual)), 0.0)
    assert bucket.charged == sum(actual for _, actual in charges)
    assert bucket.level == bucket.capacity - bucket.charged


# --- what a server may say -------------------------------------------------------------------

ANY = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, -1.0, 1e-300, 1e300])
SIGNALS = st.lists(
    st.builds(
        QuotaSignal,
        dimension=st.sampled_from(["rpm", "tpm", "itpm", "otpm", "rpd", "tpd", "x", ""]),
        limit=st.none() | ANY | st.floats(1.0, 1e7),
        remaining=st.none() | ANY | st.floats(0.0, 1e7),
        reset=st.none() | ANY | st.floats(0.0, 100.0),
    ),
    max_size=4,
)
TALK = st.lists(
    st.tuples(
        st.sampled_from(["ask", "finish", "reject", "ramp", "crowd", "fail", "break", "wait"]),
        SIGNALS,
        st.none() | ANY | st.floats(0.0, 5.0),
        st.sampled_from([None, "rpm", "tpm", "otpm", "rpd", "nonsense"]),
    ),
    max_size=80,
)
KINDS = {"reject": RateLimitError, "ramp": RampLimitError, "crowd": ConcurrencyLimitError}


def sound(admission: Admission) -> None:
    """See that what admission reckons with are numbers that it can reckon with."""
    for bucket in admission.dimensions.buckets:
        assert math.isfinite(bucket.level)
        assert bucket.level <= max(bucket.capacity, bucket.limit)
        assert 0.0 < bucket.rate < math.inf
        assert 0.0 < bucket.capacity < math.inf
        assert bucket.share > 0.0
        assert bucket.estimated or bucket.share <= 1.0
        assert 0.0 < bucket.window <= bucket.window_ceiling
        assert math.isfinite(bucket.gain)
    assert admission.overload.cap >= 1.0
    assert admission.paused_until < math.inf


@given(TALK, st.sampled_from([Quota(), Quota(rpm=600, tpm=60_000), Quota(otpm=100, rpd=50)]))
def test_whatever_a_server_says_the_arithmetic_stays_sound(
    talk: list[tuple[str, list[QuotaSignal], float | None, str | None]], quota: Quota
) -> None:
    now = 0.0
    admission = Admission(quota, max_in_flight=20, start_in_flight=4, now=now)
    tickets: list[Ticket] = []
    for kind, signals, number, dimension in talk:
        usual = number is not None and 0.0 <= number <= 100.0
        now += number if number is not None and usual else 0.1
        ticket = next((each for each in tickets if each.state == ADMITTED), None)
        if kind == "ask":
            new = Ticket(Charge(1, 20, 10, 10))
            tickets.append(new)
            with contextlib.suppress(TooLargeForLimitError):
                if not admission.admit_at_once(new, now):
                    admission.enqueue(new)
        elif ticket is not None and kind == "finish":
            admission.finish(ticket, Charge(1, 25, 10, 15), now, signals=signals)
        elif ticket is not None and kind in KINDS:
            until = admission.reject(
                ticket, number, now, kind=KINDS[kind], dimension=dimension, signals=signals
            )
            assert until >= now
            admission.enqueue(ticket)
        elif ticket is not None and kind != "wait":
            admission.fail(ticket, now, overloaded=kind == "break", signals=signals)
        delay = admission.pump(now)
        assert delay is None or delay > 0.0
        assert 0 <= admission.in_flight <= 20
        sound(admission)


@given(EVENTS, st.floats(-1e6, 1e6))
def test_a_clock_that_is_set_anew_loses_nobody(
    events: list[tuple[str, int, float]], shift: float
) -> None:
    world = World(Quota(rpm=600, tpm=6000), cap=5)
    for event in events:
        world.do(*event)
    world.now += shift
    world.pump()
    world.drain()
    assert all(ticket.state == OVER for ticket in world.tickets)


@given(EVENTS, st.floats(0.1, 100.0))
def test_refusing_all_leaves_nobody_waiting_and_ends_in_time(
    events: list[tuple[str, int, float]], seconds: float
) -> None:
    world = World(Quota(rpm=600, tpm=6000), cap=5)
    for event in events:
        world.do(*event)
    admission, until = world.admission, world.now + seconds
    admission.refuse_all(OutageError("down"), until, world.now)
    assert admission.waiting == 0
    assert not any(ticket.state == WAITING for ticket in world.tickets)
    with pytest.raises(OutageError):
        admission.admit_at_once(Ticket(Charge()), world.now)
    with pytest.raises(OutageError):
        admission.check_refusal(world.now + seconds / 2)
    admission.check_refusal(until)
    world.now = until
    world.do("enqueue", 1, 0.0)
    world.drain()
    assert admission.in_flight == 0


@given(
    st.lists(st.tuples(st.floats(0.0, 0.2), st.integers(1, 60)), min_size=1, max_size=200),
    st.floats(1.0, 60.0),
    st.floats(0.05, 1.0),
)
def test_a_pace_spreads_what_is_saved_up_and_a_share_holds_in_every_window(
    arrivals: list[tuple[float, int]], burst: float, share: float
) -> None:
    world = World(Quota(tpm=6000, burst_seconds=burst), cap=1_000_000)
    bucket = world.admission.dimensions.buckets[0]
    bucket.use(share)
    held: list[float] = []
    """What the pace bucket could hold when each was admitted: a faster pace holds more."""

    def advance(kind: str, size: int, seconds: float) -> float | None:
        most = bucket.pace_capacity
        world.do(kind, size, seconds)
        delay = world.pump()
        held.extend([most] * (len(world.log) - len(held)))
        return delay

    for gap, size in arrivals:
        advance("wait", 0, gap)
        delay = advance("enqueue", size, 0.0)
    while delay is not None:
        delay = advance("wait", 0, delay)
    log = world.log
    assert len(log) == len(held) == len(arrivals)
    for first in range(len(log)):
        tokens = 0.0
        at_once = 0.0
        for moment, ticket in log[first:]:
            window = moment - log[first][0]
            assert tokens <= bucket.capacity + share * 100.0 * window + 1e-6
            if window == 0.0:
                assert at_once <= held[first] + 1e-6
                at_once += ticket.charge.tokens
            tokens += ticket.charge.tokens
