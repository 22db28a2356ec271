"""Latency and faults: repeatable chance for each admitted request."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import NamedTuple, Self

from llmflow.errors import ConfigurationError
from llmflow.simulator.checks import check_fields, number

DEFAULT_MEAN = 0.5
DEFAULT_SIGMA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Distribution of an answer's seconds, measured from admission.

    A constant, unless a law is set: uniform with `spread`, lognormal with `sigma`. A simulator
    without any setting of its latency has `Latency.usual()`, which has a tail as real
    answers have.

    >>> Latency(seconds=0.8, sigma=0.4).seconds
    0.8

    Args:
        seconds: the constant, the middle of the uniform, or the median of the lognormal one.
            The mean of the latter is ``seconds * exp(sigma ** 2 / 2)``; see `around`.
        spread: half the width of a uniform distribution, as a fraction of `seconds`: 0 to 1.
        sigma: standard deviation of the logarithm of a lognormal distribution.
        per_output_token: seconds added for every token of the answer.

    Raises:
        ConfigurationError: a value is out of range, or both `spread` and `sigma` are given.

    """

    seconds: float = DEFAULT_MEAN
    spread: float = 0.0
    sigma: float = 0.0
    per_output_token: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, prefix="latency.")
        if self.spread > 1:
            raise ConfigurationError(
                f"latency.spread must be at most 1, a fraction of seconds; got {self.spread!r}"
            )
        if self.spread and self.sigma:
            raise ConfigurationError(
                "latency.spread (uniform) and latency.sigma (lognormal) exclude each other; "
                f"got {self.spread!r} and {self.sigma!r}; set one of them to 0"
            )

    @classmethod
    def around(cls, mean: float, *, sigma: float, per_output_token: float = 0.0) -> Self:
        """Return a lognormal law with this mean.

        >>> Latency.around(1.0, sigma=0.6).mean
        1.0

        Args:
            mean: seconds that answers take on average, without `per_output_token`.
            sigma: standard deviation of the logarithm: at 0.5 one answer in a hundred
                takes 2.8 times the mean.
            per_output_token: seconds added for every token of the answer.

        Raises:
            ConfigurationError: a value is out of range.

        """
        sigma = number("latency.sigma", sigma)
        seconds = number("latency.mean", mean) * math.exp(-(sigma**2) / 2)
        return cls(seconds=seconds, sigma=sigma, per_output_token=per_output_token)

    @classmethod
    def usual(cls) -> Self:
        """Return the default law: lognormal around 0.5 s.

        >>> Latency.usual() == Latency.around(0.5, sigma=0.5)
        True
        """
        return cls.around(DEFAULT_MEAN, sigma=DEFAULT_SIGMA)

    @property
    def mean(self) -> float:
        """Seconds that answers take on average, without `per_output_token`."""
        return self.seconds * math.exp(self.sigma**2 / 2)


_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities of faults of an admitted request.

    Which requests are hit follows from the seed and the ordinal of the
    admitted request alone, so that a run can be repeated.

    >>> Faults(server_error=0.05, reset=0.01).reset
    0.01

    Args:
        server_error: HTTP 500 after the usual latency.
        overloaded: HTTP 503 ``server_is_overloaded`` at once; 529 ``overloaded_error``
            in the Anthropic dialect.
        reset: the connection is cut with a TCP reset after the usual latency.
        hang: no answer until the client leaves.
        garbage: HTTP 200 with a body that is HTML, cut-off JSON or plain text.
        slow: an answer that takes `slow_factor` times as long.
        slow_factor: see `slow`.
        straggler: an answer that takes `straggler_factor` times as long.
        straggler_factor: see `straggler`.

    Raises:
        ConfigurationError: a value is out of range, or the probabilities exceed 1 together.

    """

    server_error: float = 0.0
    overloaded: float = 0.0
    reset: float = 0.0
    hang: float = 0.0
    garbage: float = 0.0
    slow: float = 0.0
    slow_factor: float = 3.0
    straggler: float = 0.0
    straggler_factor: float = 10.0

    def __post_init__(self) -> None:
        check_fields(self, prefix="faults.")
        total = sum(probability for _, probability in self.table())
        if total > 1 + 1e-9:
            raise ConfigurationError(
                f"the probabilities of faults must not exceed 1 together; got {total:g}; lower some"
            )

    def table(self) -> tuple[tuple[str, float], ...]:
        """Return each kind of fault with its probability."""
        kinds = ("server_error", "overloaded", "reset", "hang", "garbage", "slow", "straggler")
        return tuple((kind, float(getattr(self, kind))) for kind in kinds)


def thresholds(shares: Iterable[tuple[str, float]]) -> list[tuple[float, str]]:
    """Return kinds with the sum of shares up to each."""
    names, parts = zip(*shares, strict=True)
    sums = zip(parts, accumulate(parts), names, strict=True)
    return [(limit, name) for share, limit, name in sums if share]


def pick(limits: list[tuple[float, str]], chance: float) -> str | None:
    """Return the kind that a chance falls to, if any."""
    return next((kind for limit, kind in limits if chance < limit), None)


class Fate(NamedTuple):
    """The fault of one request, or None, and seconds to its answer."""

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
    """

    def __init__(self, latency: Latency, faults: Faults, *, seed: int) -> None:
        self._random = random.Random(seed)
        self._latency = latency
        self._factors = {"slow": faults.slow_factor, "straggler": faults.straggler_factor}
        self._thresholds = thresholds(faults.table())

    def roll(self, *, output_tokens: int = 0) -> Fate:
        """Return the next request's fate."""
        chance, draw = self._random.random(), self._random.random()
        fault = pick(self._thresholds, chance)
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
