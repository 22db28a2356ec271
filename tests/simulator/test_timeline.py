"""The course of a run, for plots."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from llmflow.simulator import Engine, SimulatorSettings, SimulatorStats, Timeline
from llmflow.simulator.stats import TimelineTally

BODY = b'{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}'


def test_each_event_is_in_its_span() -> None:
    target = Engine(SimulatorSettings(rpm=2, refund=True, latency=0.5), now=100.0)
    replies = [
        target.receive("POST", "/v1/chat/completions", headers={}, body=BODY, now=now)
        for now in (100.0, 100.3, 100.4)
    ]
    for reply, now in zip(replies, (100.6, 100.8, 100.8), strict=True):
        target.end(reply, now=now)
    assert target.stats().timeline == Timeline(
        bin_seconds=0.25,
        admitted=(1, 1, 0, 0),
        rejected=(0, 1, 0, 0),
        answered=(0, 0, 1, 1),
        max_in_flight=(1, 2, 2, 1),
        tokens_charged=(10.0, 10.0, -2.0, -2.0),
    )


def test_it_survives_json() -> None:
    target = Engine(SimulatorSettings(), now=0.0)
    target.receive("POST", "/v1/chat/completions", headers={}, body=BODY, now=1.0)
    stats = target.stats()
    assert SimulatorStats.from_dict(orjson.loads(orjson.dumps(stats.to_dict()))) == stats


def test_a_quiet_span_keeps_what_is_in_flight() -> None:
    tally = TimelineTally(now=0.0)
    tally.admit(1, 1, now=0.0)
    tally.admit(1, 2, now=0.1)
    tally.end(0, 1, now=0.2)
    tally.end(0, 0, now=1.0)
    assert tally.snapshot().max_in_flight == (2, 1, 1, 1, 1)


@given(gaps=st.lists(st.floats(0, 1e5), min_size=1, max_size=30))
def test_any_length_fits_and_nothing_is_lost(gaps: list[float]) -> None:
    tally, now = TimelineTally(now=0.0), 0.0
    for gap in gaps:
        now += gap
        tally.admit(3, 1, now=now)
        tally.reject(now=now)
        tally.answer(now=now)
        tally.end(-1, 0, now=now)
    timeline = tally.snapshot()
    columns = [
        timeline.admitted,
        timeline.rejected,
        timeline.answered,
        timeline.max_in_flight,
        timeline.tokens_charged,
    ]
    assert {len(column) for column in columns} == {int(now / timeline.bin_seconds) + 1}
    assert len(timeline.admitted) <= 2400
    assert sum(timeline.admitted) == sum(timeline.rejected) == sum(timeline.answered) == len(gaps)
    assert sum(timeline.tokens_charged) == 2 * len(gaps)
    assert max(timeline.max_in_flight) == 1
