"""The law of the time that answers take."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

from llmflow.errors import ConfigurationError
from llmflow.simulator.checks import number

DEFAULT_MEAN = 0.5
DEFAULT_SIGMA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long an answer takes, measured from the admission of its request.

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
        for item in fields(self):
            number(f"latency.{item.name}", getattr(self, item.name))
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
        """Return the law of a simulator whose latency is not set: lognormal around 0.5 s.

        >>> Latency.usual() == Latency.around(0.5, sigma=0.5)
        True
        """
        return cls.around(DEFAULT_MEAN, sigma=DEFAULT_SIGMA)

    @property
    def mean(self) -> float:
        """Seconds that answers take on average, without `per_output_token`."""
        return self.seconds * math.exp(self.sigma**2 / 2)
