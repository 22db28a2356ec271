"""What a call is expected to come to, before it is made."""

from __future__ import annotations

import math
from typing import Final

from llmflow.budget.value import Estimate
from llmflow.pricing import Price
from llmflow.tokens import estimate_tokens
from llmflow.types import Charge, Request

DEFAULT_OUTPUT: Final = 1024
"""Tokens of an answer that are expected while nothing is known."""

_BOUNDS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class OutputForecast:
    """How long the answers of a run are: a high quantile of those that came.

    Placeholder.
    """

    def __init__(self, *, most: int | None = None) -> None:
        self.most = most

    def observe(self, output_tokens: int) -> None:
        """Learn from an answer."""

    @property
    def tokens(self) -> int:
        """The output tokens to reserve for the next answer."""
        return min(DEFAULT_OUTPUT, self.most or DEFAULT_OUTPUT)


def estimate(
    request: Request,
    price: Price | None,
    *,
    charge: Charge | None = None,
    expected_output: float = DEFAULT_OUTPUT,
    batch: bool = False,
) -> Estimate:
    """Placeholder."""
    return Estimate()
