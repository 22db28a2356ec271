"""The harness that judges admission: its provider is strict, and its ideal is the least."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.__main__ import main
from benchmarks.harness.client import Client, Item
from benchmarks.harness.ideal import Passage, ideal, schedule
from benchmarks.harness.kinds import KINDS, draw
from benchmarks.harness.laws import LAWS
from benchmarks.harness.provider import Provider
from benchmarks.harness.report import Summary, write
from benchmarks.harness.setting import Setting
from benchmarks.harness.world import Outcome, World
from tests.examples import examples

pytestmark = pytest.mark.slow

RESIDUE = 1e-6


class Scripted:
    """A client that does without admission: it sends at times of its own."""

    def __init__(
        self,
        setting: Setting,
        rng: random.Random,
        *,
        send: Callable[[Item, float], None],
        wake: Callable[..., None],
        start: float,
    ) -> None:
        self.setting = setting
        self.start = start
        self.inbox: list[Any] = []
        self.idle_connections = setting.n  # none has to be opened
        self.send = send

    def free(self, now: float) -> float:
        return now

    def begin(self, items: list[Item]) -> None:
        raise NotImplementedError

    def leave(self, item: Item, now: float) -> None:
        """It needs no connection."""

    def answered(self, item: Item, now: float) -> None:
        assert item.passed


class Clairvoyant(Scripted):
    """Knows all that was drawn, and sends so that each request arrives when there is room."""

    def begin(self, items: list[Item]) -> None:
        items = sorted(items, key=lambda item: item.there)  # the way of one delays no other
        passages = [Passage(i.amount, self.start + i.there, 0.0) for i in items]
        times = schedule(self.setting, passages)
        for item, time in zip(items, times, strict=True):
            self.send(item, time - item.there)


class Reckless(Scripted):
    """Sends all at once, and again when it may."""

    def begin(self, items: list[Item]) -> None:
        for item in items:
            self.send(item, self.start)

    def answered(self, item: Item, now: float) -> None:
        assert item.reply is not None
        if not item.reply.accepted:
            assert item.reply.retry_after is not None
            self.send(item, now + item.reply.retry_after)


def drawn(kind: str, index: int, n: int) -> Setting:
    """Return a short setting of a kind that is neither tuned on nor reported."""
    return replace(draw(kind, index, seed=4, in_flight=10_000), n=n)


kinds_of_one = st.sampled_from([kind for kind in KINDS if not kind.startswith("share")])
indexes = st.integers(0, 10_000)


def play(setting: Setting, make_client: Callable[..., Any]) -> Outcome:
    return World(setting, make_client).run()


@examples(60)
@given(kinds_of_one, indexes, st.integers(1, 150))
def test_a_client_that_knows_everything_reaches_the_ideal_without_a_rejection(
    kind: str, index: int, n: int
) -> None:
    outcome = play(drawn(kind, index, n), Clairvoyant)
    assert outcome.rejections == outcome.missing == 0
    assert outcome.seconds == pytest.approx(outcome.ideal, rel=1e-9)


@examples(60)
@given(st.sampled_from(list(KINDS)), indexes, st.integers(1, 150))
def test_nobody_is_faster_than_the_ideal(kind: str, index: int, n: int) -> None:
    setting = drawn(kind, index, n)
    for client in (Client, Reckless):
        outcome = play(setting, client)
        assert outcome.seconds >= outcome.ideal - RESIDUE


requests = st.lists(
    st.tuples(st.floats(0.0, 2.0), st.floats(0.1, 5.0)), min_size=1, max_size=60
)  # seconds since the one before, and what it asks for


@given(requests, st.sampled_from([0.0, 0.6]))
def test_the_provider_lets_through_what_the_quota_allows_and_nothing_else(
    arrivals: list[tuple[float, float]], taken: float
) -> None:
    setting = Setting(seed=0, n=1, rate=3.0, burst=2.0, taken=taken, taken_for=4.0)
    provider = Provider(setting)

    def come(since: float, until: float) -> float:
        slow = max(0.0, min(until, 4.0) - min(since, 4.0))
        return 3.0 * (until - since - taken * slow)

    passed: list[tuple[float, float]] = []
    now = 0.0
    for pause, amount in arrivals:
        now += pause
        # A token bucket is full at every moment or not: the worst past decides.
        spent, most = amount, amount
        for time, before in reversed(passed):
            spent += before
            most = max(most, spent - come(time, now))
        reply = provider.arrive(amount, now)
        if abs(most - 6.0) > RESIDUE:
            assert reply.accepted == (most < 6.0)
        if reply.accepted:
            passed.append((now, amount))


@given(requests, st.booleans())
def test_a_rejection_names_the_time_at_which_there_is_room(
    arrivals: list[tuple[float, float]], whole: bool
) -> None:
    setting = Setting(seed=0, n=1, rate=3.0, burst=2.0, whole_seconds=whole)
    provider = Provider(setting)
    now = 0.0
    for pause, amount in arrivals:
        now += pause
        reply = provider.arrive(amount, now)
        while not reply.accepted:
            assert reply.retry_after is not None
            assert reply.retry_after > 0.0
            if not whole:  # to the millisecond, and not earlier
                assert not provider.arrive(amount, now + reply.retry_after - 0.002).accepted
            now += reply.retry_after
            reply = provider.arrive(amount, now)


def test_headers_speak_of_the_bucket_at_the_moment_they_are_stamped() -> None:
    setting = Setting(seed=0, n=1, rate=10.0, burst=6.0)
    provider = Provider(setting)
    first = provider.arrive(1.0, 0.0)
    assert (first.limit, first.remaining, first.reset) == (600.0, 59.0, 0.1)
    provider.arrive(20.0, 0.05)
    later = provider.headers(1.0)
    assert (later.remaining, later.reset) == (49.0, 1.1)


def test_headers_can_be_rounded_and_without_reset_and_of_another_bucket() -> None:
    setting = Setting(
        seed=0, n=1, rate=10.0, header_burst=60.0, rounding=10, reset=False, whole_seconds=True
    )
    provider = Provider(setting)
    reply = provider.arrive(6.0, 0.0)
    assert (reply.remaining, reply.reset) == (590.0, None)
    refused = provider.arrive(6.0, 0.0)
    assert not refused.accepted
    assert (refused.remaining, refused.retry_after) == (590.0, 1.0)


def test_answers_stamped_at_the_reply_tell_of_what_was_spent_meanwhile() -> None:
    told: dict[str, list[float | None]] = {"admission": [], "reply": []}

    class Watching(Clairvoyant):
        def answered(self, item: Item, now: float) -> None:
            assert item.reply is not None
            told[self.setting.stamp].append(item.reply.remaining)

    for stamp in told:
        play(Setting(seed=0, n=20, rate=0.5, burst=40.0, stamp=stamp), Watching)
    assert sorted(told["admission"], key=str) == sorted(map(float, range(20)), key=str)
    assert set(told["reply"]) == {0.0}  # all had been let through when the first left


def test_a_loop_that_is_kept_from_its_work_handles_replies_in_clumps() -> None:
    handled: list[float] = []

    class Watching(Client):
        def answered(self, item: Item, now: float) -> None:
            handled.append(now)
            super().answered(item, now)

    usual = Setting(seed=5, n=200, rate=50.0, law="uniform")
    play(usual, Watching)
    assert len(set(handled)) == 200
    handled.clear()
    play(replace(usual, stall=0.3, stall_every=0.3), Watching)
    assert len(set(handled)) < 150
    handled.clear()
    play(replace(usual, cpu=0.01), Watching)
    assert min(b - a for a, b in itertools.pairwise(handled)) > 0.0099


def test_the_ideal_is_the_latest_of_the_earliest_moments_and_their_latencies() -> None:
    setting = Setting(seed=0, n=4, rate=2.0, burst=1.0)
    # Two fit at once, the third and fourth after half a second each.
    passages = [Passage(1.0, 0.0, after) for after in (0.5, 3.0, 1.0, 1.5)]
    assert schedule(setting, passages) == pytest.approx([0.0, 0.0, 0.5, 1.0])
    assert ideal(setting, passages) == 3.0
    assert ideal(setting, [*passages[:3], Passage(1.0, 0.0, 2.5)]) == pytest.approx(3.5)


@pytest.mark.parametrize("law", LAWS)
def test_laws_of_latency_have_the_mean_that_they_are_given(law: str) -> None:
    rng = random.Random(0)
    sizes = [rng.lognormvariate(-0.32, 0.8) for _ in range(40_000)]
    seconds = [LAWS[law](rng, 2.0, size) for size in sizes]
    assert math.fsum(seconds) / len(seconds) == pytest.approx(2.0, rel=0.03)
    assert min(seconds) > 0.0


def test_the_command_prints_a_row_per_kind_and_the_worst_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["rpm", "limit-falls", "--settings=2", "--seed=4", "--worst=1", "--processes=1"])
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "seed 4"
    assert [row.split()[0] for row in rows[2:4]] == ["rpm", "limit-falls"]
    assert "p95 <= 1.03x, rejected p95 <= 0%" in rows[2]
    worst = next(row for row in rows[5:] if row.startswith("rpm "))
    index = worst.split()[1].rstrip(":")
    main(["rpm", "--only", index, "--seed", "4"])
    assert capsys.readouterr().out.strip() == worst


def outcome_with(**changes: Any) -> Outcome:
    """Return the outcome of ten seconds that could not have been fewer, but for `changes`."""
    usual = {
        "setting": Setting(seed=0, n=1_000, rate=100.0),
        "seconds": 10.0,
        "ideal": 10.0,
        "rejections": 0,
        "missing": 0,
        "shares": (1.0,),
        "back": None,
    }
    return Outcome(**{**usual, **changes})


def test_the_table_of_the_page_is_written_between_its_marks(tmp_path: Path) -> None:
    summary = Summary("rpm")
    for seconds in (10.0, 10.2, 10.4):
        summary.add(0, outcome_with(seconds=seconds))
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- random settings -->\nold\n<!-- end -->\nafter\n", "utf-8")
    write([summary], wide=False, page=page)
    lines = page.read_text("utf-8").splitlines()
    assert lines[:2] == ["before", "<!-- random settings -->"]
    assert lines[-2:] == ["<!-- end -->", "after"]
    assert lines[4].startswith("| `rpm` | RPM in slices of 1 s, told; 3 settings | 1.020 | 1.040 |")
    assert lines[4].endswith("| **no** |")
    assert "old" not in lines


@pytest.mark.parametrize(
    ("kind", "changes", "met"),
    [
        ("deep", {"seconds": 10.4}, True),
        ("deep", {"seconds": 10.5}, False),
        ("deep", {"rejections": 4}, False),
        ("deep", {"missing": 1}, False),
        ("shared-deep", {"rejections": 19}, True),
        ("shared-deep", {"rejections": 20}, False),
        ("limit-falls", {"seconds": 20.0, "back": 0.95}, True),
        ("limit-falls", {"back": 0.9}, False),
        ("minute-headers", {"seconds": 20.0}, None),
    ],
)
def test_a_kind_is_judged_by_its_target(
    kind: str, changes: dict[str, Any], met: bool | None
) -> None:
    summary = Summary(kind)
    summary.add(0, outcome_with(**changes))
    assert summary.met is met
