"""Predicts the output tokens of requests from earlier answers.

Reserving ``max_tokens`` for each request would leave most of an output limit unused;
reserving nothing would overrun it. What similar requests produced is in between.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final

from llmflow.types import Charge

# Three answers in four are no longer than what is reserved; the rest is settled later.
QUANTILE: Final = 0.75
_MEMORY: Final = 64
_REFRESH: Final = 8
_KINDS: Final = 256
_FIRST_GUESS: Final = 256.0
_LEAST_RATIO, _MOST_RATIO = 0.25, 4.0


class _Kind:
    """What requests of one kind came to."""

    __slots__ = ("count", "input_ratio", "output", "outputs")

    def __init__(self) -> None:
        self.outputs: deque[float] = deque(maxlen=_MEMORY)
        self.count = 0
        self.output = _FIRST_GUESS
        self.input_ratio = 1.0

    def learn(self, charge: Charge, actual: Charge) -> None:
        self.outputs.append(actual.output_tokens)
        self.count += 1
        if self.count <= _REFRESH or self.count % _REFRESH == 0:
            ranked = sorted(self.outputs)
            self.output = ranked[min(len(ranked) - 1, int(QUANTILE * len(ranked)))]
        if charge.input_tokens > 0.0:
            ratio = actual.input_tokens / charge.input_tokens
            ratio = min(_MOST_RATIO, max(_LEAST_RATIO, ratio))
            self.input_ratio += (ratio - self.input_ratio) / min(self.count, _MEMORY)


class Expectation:
    """Learns what requests of each kind come to.

    >>> expectation = Expectation()
    >>> asked = Charge(1, 0, 500, 4096)
    >>> for _ in range(10):
    ...     expectation.learn("summaries", asked, Charge(1, 0, 450, 80))
    >>> expectation.of("summaries", asked)
    Charge(requests=1, tokens=530.0, input_tokens=450.0, output_tokens=80)
    """

    def __init__(self) -> None:
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._all = _Kind()

    def of(self, kind: Hashable, most: Charge) -> Charge:
        """Return what a request is expected to be charged.

        `kind` is what it has in common with others, such as its system prompt; `most` is its
        estimated input, and the most that it can produce.
        """
        known = self._kinds.get(kind) or self._all
        produced = known.output
        if 0.0 < most.output_tokens < produced:
            produced = most.output_tokens
        read = most.input_tokens * known.input_ratio
        return Charge(most.requests, read + produced, read, produced)

    def learn(self, kind: Hashable, most: Charge, actual: Charge) -> None:
        """Take note of what a request came to."""
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = _Kind()
            if len(self._kinds) > _KINDS:
                self._kinds.popitem(last=False)
        known.learn(most, actual)
        self._all.learn(most, actual)
