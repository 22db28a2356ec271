"""Checks of usage: impossible numbers count as not reported."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from llmflow.types import Charge, Response, Usage

if TYPE_CHECKING:
    from llmflow.provider import Provider

_TIMES_THE_ESTIMATE: Final = 100
_UNBOUNDED_ANSWER: Final = 1024
# No model's context is smaller.
_ALWAYS_FITS: Final = 2048


def plausible(response: Response, provider: Provider, charge: Charge | None) -> Response:
    """Return an answer, without its usage if that cannot be.

    What is below zero would make calls free, and what is absurd would close a quota or a
    budget for good: above the model's context, or above 100 times the estimate where the
    context is not known.

    Args:
        response: the answer.
        provider: who gave it.
        charge: what it was expected to take; None where nobody knows.
    """
    usage = response.usage
    read, written = usage.input_tokens, usage.output_tokens
    total = read + written
    if read >= 0 and written >= 0:
        if charge is not None and total <= charge.input_tokens + charge.output_tokens:
            return response
        if total <= _ALWAYS_FITS and (
            charge is None or total <= _TIMES_THE_ESTIMATE * charge.input_tokens
        ):
            return response
        endpoint = getattr(provider, "endpoint", None) or None
        most: float = _context(f"{provider.name}/{provider.model}", endpoint)
        if not most and charge is not None:
            answer = charge.output_tokens or _UNBOUNDED_ANSWER
            most = _TIMES_THE_ESTIMATE * max(charge.tokens, charge.input_tokens + answer)
        if not most or total <= most:
            return response
    return replace(response, usage=Usage(), cost=None)


@functools.lru_cache(maxsize=256)
def _context(model: str, endpoint: str | None) -> int:
    """Return how many tokens a call of a model can use at the most; 0 where nobody knows."""
    from llmflow.pricing import context_of

    context = context_of(model, base_url=endpoint)
    if context is None or not context.max_input_tokens:
        return 0
    return context.max_input_tokens + (context.max_output_tokens or 0)
