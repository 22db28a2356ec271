"""Random settings of the benchmarks' harness, a few per kind, and the harness itself.

``python -m benchmarks.harness`` runs 200 of each; what is measured there is in
``benchmarks/README.md``.
"""

from __future__ import annotations

import statistics

import pytest

from benchmarks.harness.kinds import KINDS, draw
from benchmarks.harness.report import Summary, quantile
from benchmarks.harness.world import run

pytestmark = pytest.mark.slow

SEED = 3  # neither the one that rules are tuned on nor the one they are reported on
SETTINGS = 12


def summary(kind: str, count: int = SETTINGS) -> Summary:
    """Return what comes of some settings of a kind."""
    result = Summary(kind)
    for index in range(count):
        result.add(index, run(draw(kind, index, seed=SEED, in_flight=10_000)))
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_is_the_same_setting_and_the_same_outcome(kind: str) -> None:
    setting = draw(kind, 0, seed=SEED, in_flight=10_000)
    assert setting == draw(kind, 0, seed=SEED, in_flight=10_000)
    assert setting != draw(kind, 0, seed=SEED + 1, in_flight=10_000)
    if setting.n < 1_000:
        assert run(setting) == run(setting)


@pytest.mark.parametrize(
    ("kind", "ratio", "rejected"),
    [
        ("deep", 1.07, 0.2),
        ("unknown+deep", 1.12, 0.2),
        ("rpm", 1.04, 0.1),
        ("tpm", 1.04, 0.1),
        ("unknown", 1.20, 1.2),
        ("shared-deep", 1.10, 2.0),
        ("shared", 1.15, 5.0),
        ("minute-headers", 1.06, 1.8),
        ("headers-on-429", 1.25, 3.0),
    ],
)
def test_random_settings_are_answered_in_time_with_few_rejections(
    kind: str, ratio: float, rejected: float
) -> None:
    """The mean of rejections, in percent, and all ratios but the worst."""
    result = summary(kind)
    assert result.missing == 0
    assert min(result.ratios) >= 1.0
    assert quantile(result.ratios, 0.9) <= ratio, result.worst(2)
    assert statistics.fmean(result.rejected) <= rejected, result.worst(2)
