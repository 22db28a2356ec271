"""The ideal of the benchmarks' runs: what a client reaches that knows everything."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ideal import ideal_of, ideal_of_run
from llmflow.simulator import Admission, Admissions, Engine, Latency, SimulatorSettings
from tests.examples import examples

pytestmark = pytest.mark.slow

WALL = 1_795_000_000
RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"


def requests(*latencies: float, tokens: float = 0.0, produced: int = 0) -> list[Admission]:
    return [Admission(0.0, each, tokens, tokens, 0.0, produced, None) for each in latencies]


def rpm(**more: Any) -> SimulatorSettings:
    return SimulatorSettings(rpm=6000, burst_seconds=1, **more)


def test_with_one_latency_it_is_what_comes_in_and_that_latency() -> None:
    assert ideal_of(rpm(), requests(*[1.0] * 2000)) == pytest.approx(19.0 + 1.0)
    deep = SimulatorSettings(rpm=6000, burst_seconds=60)
    assert ideal_of(deep, requests(*[1.0] * 6000)) == pytest.approx(1.0)
    assert ideal_of(deep, requests(*[1.0] * 8000)) == pytest.approx(20.0 + 1.0)


def test_a_slow_answer_counts_where_it_was_drawn() -> None:
    early, late = [1.0] * 2000, [1.0] * 2000
    early[100], late[-1] = 12.0, 12.0
    assert ideal_of(rpm(), requests(*early)) == pytest.approx(20.0)
    assert ideal_of(rpm(), requests(*late)) == pytest.approx(19.0 + 12.0)


def test_what_the_schedule_and_others_take_comes_later() -> None:
    half = rpm(schedule=((0, 1), (5, 0.5), (15, 1)))
    assert ideal_of(half, requests(*[1.0] * 2000)) == pytest.approx(24.0 + 1.0)
    # 2 s of the schedule are over when the client begins.
    assert ideal_of(half, requests(*[1.0] * 2000), begin=2.0) == pytest.approx(24.0 + 1.0)
    assert ideal_of(half, requests(*[1.0] * 450), begin=2.0) == pytest.approx(4.0 + 1.0)
    sparse = SimulatorSettings(rpm=300, burst_seconds=1, others=((0, 0.6), (10, 0)))
    assert ideal_of(sparse, requests(*[1.0] * 300)) == pytest.approx(10 + (295 - 20) / 5 + 1.0)


def test_tokens_are_counted_as_they_were_charged() -> None:
    settings = SimulatorSettings(tpm=600_000, burst_seconds=1)
    assert ideal_of(settings, requests(*[1.0] * 100, tokens=200.0)) == pytest.approx(1.0 + 1.0)
    # One that is larger than the bucket waits until it is full, and the next pays the debt.
    huge = requests(0.0, 0.0, tokens=30_000.0)
    assert ideal_of(settings, huge) == pytest.approx(3.0)


def test_output_that_is_produced_at_once_leaves_a_debt() -> None:
    settings = SimulatorSettings(otpm=6000, burst_seconds=1)
    # The third one needs a token: 300 - 100 have to come in before.
    three = requests(0.0, 0.0, 0.0, produced=150)
    assert ideal_of(settings, three) == pytest.approx(0.51 + 1.5)


def test_output_is_charged_while_it_is_produced() -> None:
    settings = SimulatorSettings(otpm=6000, burst_seconds=1)
    # Both begin at once, for nothing is produced yet.
    assert ideal_of(settings, requests(2.0, 2.0, produced=200)) == pytest.approx(2.0)


def test_what_is_produced_meanwhile_keeps_the_next_one_waiting() -> None:
    settings = SimulatorSettings(rpm=60, otpm=6000, burst_seconds=1)
    first, second = requests(10.0, 1.0, produced=2500)
    # 250 tokens a second leave the bucket and 100 come in: at 1 s, when a request fits, the
    # debt is 50; it grows to 1,400 until 10 s, and 14.01 s later a token fits.
    assert ideal_of(settings, [first, second]) == pytest.approx(10.0 + 14.01 + 1.0)


def test_more_admissions_than_were_recorded_have_no_ideal() -> None:
    seen = Admissions(started=0.0, rows=tuple(requests(1.0)), dropped=1)
    with pytest.raises(ValueError, match="raise `record`"):
        ideal_of_run(rpm(), seen, began=0.0)


def test_limits_that_it_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="limits per minute only"):
        ideal_of(SimulatorSettings(rpd=100), requests(1.0))


PATHS = ("/v1/chat/completions", "/v1/messages")
HEADERS = {"authorization": "Bearer k", "x-api-key": "k", "anthropic-version": "2023-06-01"}
BODY = b'{"model":"m","max_tokens":%d,"messages":[{"role":"user","content":"a b"}]}'


@examples(60)
@given(
    seed=st.integers(0, 10_000),
    path=st.sampled_from(PATHS),
    gap=st.floats(0.001, 0.3),
    quota=st.sampled_from(
        [
            {"rpm": 600},
            {"rpm": 600, "tpm": 3000},
            {"rpm": 600, "burst_seconds": 30},
            {"itpm": 2000},
            {"rpm": 600, "schedule": ((0, 1), (2, 0.3), (5, 1))},
            {"rpm": 600, "others": ((1, 0.7), (4, 0))},
        ]
    ),
)
def test_no_run_is_faster_than_its_ideal(
    seed: int, path: str, gap: float, quota: dict[str, Any]
) -> None:
    rng = random.Random(seed)
    settings = SimulatorSettings(
        **{"burst_seconds": 1, **quota},
        latency=Latency.around(1.0, sigma=0.6, per_output_token=0.01),
        record=1000,
        seed=seed,
    )
    engine = Engine(settings, now=0.0, wall=WALL)
    now, ends = 0.0, []
    for _ in range(120):
        now += rng.uniform(0, 2 * gap)
        body = BODY % rng.randint(1, 40)
        reply = engine.receive("POST", path, headers=HEADERS, body=body, now=now)
        if reply.status == 200:
            ends.append(now + reply.delay)
    ideal = ideal_of_run(settings, engine.admissions(), began=0.0)
    assert 0.0 < ideal <= max(ends) + 1e-6


@pytest.mark.parametrize("name", ["deep_tail_reply", "shared"])
def test_a_named_scenario_is_measured_against_the_latencies_of_its_run(
    name: str, tmp_path: Path
) -> None:
    command = [sys.executable, str(RUN), name, "--here", "--n", "20"]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "LLMFLOW_STATE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60)
    result = json.loads(done.stdout)
    assert (result["n"], result["lost"]) == (20, 0)
    assert result["ideal"] > 0.5
    assert result["ratio"] >= 1.0
