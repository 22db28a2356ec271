"""What must hold of admission for every sequence of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmflow.limits.admission import Admission
from llmflow.limits.ticket import ADMITTED, OVER, WAITING, Ticket
from llmflow.types import Charge, Quota

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
