"""Laws of latency: eight of them, each with a mean of its own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

Law = Callable[[random.Random, float, float], float]
"""Draws seconds from a generator, a mean in seconds, and the size of the answer (mean 1)."""


def _lognormal(sigma: float) -> Law:
    def draw(rng: random.Random, mean: float, size: float) -> float:
        return rng.lognormvariate(math.log(mean) - sigma * sigma / 2.0, sigma)

    return draw


def _constant(rng: random.Random, mean: float, size: float) -> float:
    return mean


def _uniform(rng: random.Random, mean: float, size: float) -> float:
    return mean * rng.uniform(0.5, 1.5)


def _exponential(rng: random.Random, mean: float, size: float) -> float:
    return mean * (0.4 + rng.expovariate(1.0 / 0.6))


def _bimodal(rng: random.Random, mean: float, size: float) -> float:
    # One in five takes five times as long as the others.
    return mean * (5.0 if rng.random() < 0.2 else 1.0) / 1.8 * rng.uniform(0.9, 1.1)


def _with_output(rng: random.Random, mean: float, size: float) -> float:
    return mean * (0.2 + 0.8 * size) * rng.uniform(0.9, 1.1)


LAWS: dict[str, Law] = {
    "constant": _constant,
    "uniform": _uniform,
    "lognormal-0.3": _lognormal(0.3),
    "lognormal-0.6": _lognormal(0.6),
    "lognormal-1.0": _lognormal(1.0),
    "exponential": _exponential,
    "bimodal": _bimodal,
    "output": _with_output,
}
