"""Chance, repeatable: how long each admitted request takes, and what goes wrong with it."""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import NamedTuple

from llmflow.simulator.latency import Latency
from llmflow.simulator.settings import Faults

_NORMAL = NormalDist()


class Fate(NamedTuple):
    """What will happen to one request: a kind of fault or None, and seconds to its answer."""

    fault: str | None
    latency: float


class Dice:
    """Decide the fate of one request after another.

    Each request takes the same count of random numbers, so that the n-th one
    meets the same fate in every run with this seed, whatever the settings do to
    the others.

    >>> dice = Dice(Latency(seconds=0.2), Faults(), seed=1)
    >>> dice.roll()
    Fate(fault=None, latency=0.2)

    Args:
        latency: how long answers take.
        faults: what goes wrong, and how often.
        seed: the start of the sequence.

    """

    def __init__(self, latency: Latency, faults: Faults, *, seed: int) -> None:
        self._random = random.Random(seed)
        self._latency = latency
        self._factors = {"slow": faults.slow_factor, "straggler": faults.straggler_factor}
        self._thresholds: list[tuple[float, str]] = []
        total = 0.0
        for kind, probability in faults.table():
            total += probability
            if probability:
                self._thresholds.append((total, kind))

    def roll(self, *, output_tokens: int = 0) -> Fate:
        """Return the next request's fate."""
        chance, draw = self._random.random(), self._random.random()
        fault = next((kind for limit, kind in self._thresholds if chance < limit), None)
        latency = self._latency
        seconds = latency.seconds
        if latency.sigma:
            # The inverse has no value at 0.
            seconds *= math.exp(latency.sigma * _NORMAL.inv_cdf(min(max(draw, 1e-12), 1 - 1e-12)))
        elif latency.spread:
            seconds *= 1 + latency.spread * (2 * draw - 1)
        seconds += latency.per_output_token * output_tokens
        if fault == "overloaded":
            return Fate(fault, 0.0)
        return Fate(fault, seconds * self._factors.get(fault or "", 1.0))
