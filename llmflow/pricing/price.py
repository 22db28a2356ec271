"""What a model's tokens cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from llmflow.errors import ConfigurationError
from llmflow.types import Usage

_PER = 1_000_000
_WHOLE = frozenset({"long_above"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens. None means "no price of its own, or none known".

    >>> Price(input=0.4, output=1.6, cached_input=0.1).cost(
    ...     Usage(input_tokens=1_000_000, output_tokens=100_000, cached_tokens=500_000)
    ... )
    0.41

    Only tokens are priced here: searches, images, audio and fees per request are not.

    Args:
        input: tokens of the prompt.
        output: tokens of the answer, those of its reasoning among them.
        cached_input: tokens of the prompt that the provider had in its cache.
        cache_write: tokens of the prompt that it put into its cache.
        cache_write_1h: those that it keeps for an hour, where that costs more.
        reasoning: tokens of the reasoning, where they cost something else than the answer.
        batch_input: tokens of the prompt in a batch job.
        batch_output: tokens of the answer in a batch job.
        batch_cached_input: cached tokens of the prompt in a batch job.
        batch_cache_write: tokens put into the cache in a batch job.
        long_above: tokens; a longer prompt, and its answer, cost the prices of `long`.
        long: those prices.

    Raises:
        ConfigurationError: a price is not a finite number of at least 0.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_1h: float | None = None
    reasoning: float | None = None
    batch_input: float | None = None
    batch_output: float | None = None
    batch_cached_input: float | None = None
    batch_cache_write: float | None = None
    long_above: int | None = None
    long: Price | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            if name == "long":
                if value is not None and not isinstance(value, Price):
                    raise ConfigurationError(f"long must be a Price; got {value!r}")
            elif value is not None:
                object.__setattr__(self, name, _checked(name, value))
            elif name in {"input", "output"}:
                raise ConfigurationError(f"{name} must be a number of dollars; got None")
        if (self.long is None) != (self.long_above is None):
            raise ConfigurationError("long and long_above say something only together")

    def __repr__(self) -> str:
        given = ((item.name, getattr(self, item.name)) for item in fields(self))
        return f"Price({', '.join(f'{k}={v!r}' for k, v in given if v is not None)})"

    def __str__(self) -> str:
        if self.is_free:
            return "free"
        return f"${self.input:g} in, ${self.output:g} out per million tokens"

    @property
    def is_free(self) -> bool:
        """Whether nothing costs anything, as with the simulator."""
        amounts = (getattr(self, item.name) for item in fields(self) if item.name != "long_above")
        return not any(
            each.output or each.input if isinstance(each, Price) else each for each in amounts
        )

    @property
    def has_batch(self) -> bool:
        """Whether it is known what a batch job costs; `cost` counts the full price if not."""
        return self.batch_input is not None and self.batch_output is not None

    def at(self, input_tokens: float) -> Price:
        """Return the prices for a prompt of this length."""
        price = self
        while price.long is not None and input_tokens > (price.long_above or 0):
            price = price.long
        return price

    def cost(self, usage: Usage, *, batch: bool = False) -> float:
        """Return what an answer cost, in US dollars.

        Cached and written tokens are parts of the input, reasoning is part of the output.

        Args:
            usage: the tokens that the provider counted.
            batch: whether it was answered in a batch job.
        """
        price = self.at(usage.input_tokens) if self.long is not None else self
        if batch and price.has_batch:
            price = price.in_batch()
        plain, output = price.input, price.output
        total = usage.input_tokens * plain + usage.output_tokens * output
        if usage.cached_tokens and price.cached_input is not None:
            total += usage.cached_tokens * (price.cached_input - plain)
        if usage.cache_write_tokens and price.cache_write is not None:
            total += usage.cache_write_tokens * (price.cache_write - plain)
            if usage.cache_write_1h_tokens and price.cache_write_1h is not None:
                total += usage.cache_write_1h_tokens * (price.cache_write_1h - price.cache_write)
        if usage.reasoning_tokens and price.reasoning is not None:
            total += usage.reasoning_tokens * (price.reasoning - output)
        return total / _PER if total > 0.0 else 0.0

    def in_batch(self) -> Price:
        """Return the prices of a batch job as prices.

        Cached tokens without a batch price of their own cost what others do there. Writing
        to the cache costs the same multiple of the input as outside (Anthropic's
        documentation of batches, August 2026: the discount stacks with the cache's).
        """
        if self.batch_input is None or self.batch_output is None:
            return self
        share = self.batch_input / self.input if self.input else 1.0
        write = self.batch_cache_write
        if write is None and self.cache_write is not None:
            write = self.cache_write * share
        changes: dict[str, Any] = {item.name: None for item in fields(self)}
        changes |= {"input": self.batch_input, "output": self.batch_output}
        changes |= {"cached_input": self.batch_cached_input, "cache_write": write}
        if self.cache_write_1h is not None:
            changes["cache_write_1h"] = self.cache_write_1h * share
        if self.reasoning is not None and self.output:
            changes["reasoning"] = self.reasoning * self.batch_output / self.output
        return replace(self, **changes)


def _checked(name: str, value: Any) -> float | int:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ConfigurationError(
            f"{name} must be a number of at least 0, in US dollars per million tokens; "
            f"got {value!r}"
        )
    if name in _WHOLE:
        return int(value)
    return float(value)
