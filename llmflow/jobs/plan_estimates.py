"""Uncertain amounts of a plan, and the samples they are estimated from.

A vocabulary counts a few million characters a second, and a million rows are more than
anybody waits for. What costs nothing is known of every text, its length; so the sample tells
tokens per character, and the lengths tell the rest: a ratio estimator (Cochran, Sampling
Techniques, third edition, chapter 6), much closer than the mean of the sample would be.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

MOST: Final = 20_000  # texts that are counted at the most, where not all are
_MOST_CHARACTERS: Final = 50_000_000
_FEWEST: Final = 100
_MASK: Final = 2**64 - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2**64 / the golden ratio


class Span(NamedTuple):
    """An uncertain amount: a likely value between two bounds.

    >>> Span.exactly(3) + Span(1, 2, 4)
    Span(low=4.0, likely=5.0, high=7.0)
    """

    low: float
    likely: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Span:
        """Return an amount that is known."""
        return cls(float(value), float(value), float(value))

    def __add__(self, other: object) -> Span:
        if not isinstance(other, Span):
            return NotImplemented
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def times(self, factor: float) -> Span:
        """Return so many times the amount; `factor` is at least 0."""
        # Nothing of what has no known bound is nothing, too.
        return Span(*(each * factor for each in self)) if factor else Span.exactly(0)

    def by(self, other: Span) -> Span:
        """Return the product with another uncertain amount."""
        return Span(self.low * other.low, self.likely * other.likely, self.high * other.high)

    def at_most(self, bound: float) -> Span:
        """Return the amount where nothing exceeds a bound."""
        return Span(*(min(each, bound) for each in self))

    @property
    def is_exact(self) -> bool:
        """True if it is known exactly."""
        return self.low == self.high


class Pairs:
    """Pairs of amounts, and their ratio with its error.

    With 1 as the first amount the ratio is the second one's mean.

    >>> lengths = Pairs()
    >>> for length in (10, 12, 14, 12):
    ...     lengths.add(1, length)
    >>> lengths.of_others(1_000_000).likely
    12.0
    """

    __slots__ = ("count", "x", "xx", "xy", "y", "yy")

    def __init__(self) -> None:
        self.count = 0
        self.x = self.y = self.xx = self.xy = self.yy = 0.0

    def add(self, x: float, y: float) -> None:
        """Take one thing's amounts."""
        self.count += 1
        self.x += x
        self.y += y
        self.xx += x * x
        self.xy += x * y
        self.yy += y * y

    def of_all(self, count: int) -> Span:
        """Return the ratio for `count` things, of which these are a sample."""
        return self._span(max(0.0, 1 - self.count / max(count, 1)) / max(self.count, 1))

    def of_others(self, count: int) -> Span:
        """Return the ratio for `count` other things of the same kind."""
        return self._span(1 / max(self.count, 1) + 1 / max(count, 1))

    def _span(self, share: float) -> Span:
        if not self.x:
            return Span.exactly(0)
        ratio = self.y / self.x
        squares = max(0.0, self.yy - 2 * ratio * self.xy + ratio * ratio * self.xx)
        if self.count == 1:  # one alone does not tell how they differ
            return Span(0.0, ratio, 2 * ratio) if share else Span.exactly(ratio)
        error = math.sqrt(share * squares / (self.count - 1)) / (self.x / self.count)
        half = _deviations(self.count - 1) * error
        return Span(max(0.0, ratio - half), ratio, ratio + half)


def _deviations(freedom: int) -> float:
    """Return Student's quantile of 97.5% (Abramowitz and Stegun, 26.7.5): 2.0 for 60.

    So the true value is within in 95 of 100 cases.
    """
    z = 1.96
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def spread(index: int) -> int:
    """Return a place between 0 and 2**64 for an index.

    Multiples of the golden ratio: the indices with the lowest places are spread evenly over
    all of them, however many there are, and keep no step with anything periodic in the input.
    """
    return index * _GOLDEN & _MASK


class TokenSample:
    """Lengths and tokens of an evenly spread sample, in bounded memory.

    While there are few texts it is all of them. When it becomes too large, every other one is
    dropped, and from then on only every other one is taken; and so on.

    Args:
        exact: whether all are counted, however many.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self.complete = True  # whether it is all of them
        self._exact = exact
        self._below = _MASK
        self._texts: list[tuple[int, int, int]] = []
        self._characters = 0
        self._counted = 0

    def __len__(self) -> int:
        return self._counted if self._exact else len(self._texts)

    def wants(self, index: int) -> bool:
        """Return whether the text of this index is to be counted."""
        return spread(index) <= self._below

    def add(self, index: int, characters: int, tokens: int) -> None:
        """Take what was counted of a text that was wanted."""
        if self._exact:
            self._counted += 1
            return
        self._texts.append((spread(index), characters, tokens))
        self._characters += characters
        while len(self._texts) > MOST or (
            self._characters > _MOST_CHARACTERS and len(self._texts) >= _FEWEST
        ):
            self.complete = False
            self._below >>= 1
            self._texts = [each for each in self._texts if each[0] <= self._below]
            self._characters = sum(characters for _, characters, _ in self._texts)

    def ratio(self, texts: int) -> Span:
        """Return the tokens per character of this many texts."""
        pairs = Pairs()
        for _, characters, tokens in self._texts:
            pairs.add(characters, tokens)
        return pairs.of_all(texts)
