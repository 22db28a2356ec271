"""The price of a model's tokens."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any

from llmflow.arguments import values_by_name
from llmflow.errors import ConfigurationError
from llmflow.types import MarkedPrefix, Usage

_PER = 1_000_000


@values_by_name()
@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """US dollars per million tokens. None means "not priced, or unknown".

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
        longer: so many tokens, and the prices of longer prompts and their answers.

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
    longer: tuple[int, Price] | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            name, value = item.name, getattr(self, item.name)
            if name == "longer":
                _check_longer(value)
            elif value is not None or name in {"input", "output"}:
                object.__setattr__(self, name, _checked(name, value))

    def __repr__(self) -> str:
        given = ((item.name, getattr(self, item.name)) for item in fields(self))
        return f"Price({', '.join(f'{k}={v!r}' for k, v in given if v is not None)})"

    def __str__(self) -> str:
        if self.is_free:
            return "free"
        return f"${self.input:g} in, ${self.output:g} out per million tokens"

    @property
    def is_free(self) -> bool:
        """True if nothing costs anything, as with the simulator."""
        own = (getattr(self, item.name) for item in fields(self) if item.name != "longer")
        return not any(own) and (self.longer is None or self.longer[1].is_free)

    @property
    def has_batch(self) -> bool:
        """True if batch prices are known; else `cost` uses full prices."""
        return self.batch_input is not None and self.batch_output is not None

    def at(self, input_tokens: float) -> Price:
        """Return the prices for a prompt of this length."""
        price = self
        while price.longer is not None and input_tokens > price.longer[0]:
            price = price.longer[1]
        return price

    def cost(self, usage: Usage, *, batch: bool = False) -> float:
        """Return what an answer cost, in US dollars.

        Cached and written tokens are parts of the input, reasoning is part of the output.

        Args:
            usage: the tokens that the provider counted.
            batch: whether it was answered in a batch job.
        """
        price = self if self.longer is None else self.at(usage.input_tokens)
        if batch:
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

    def saved_by_cache(self, prefix: MarkedPrefix, *, batch: bool = False) -> float:
        """Return the saving by reading a prefix from the cache.

        >>> price = Price(input=3, output=15, cached_input=0.3, cache_write=3.75)
        >>> price.saved_by_cache(MarkedPrefix(b"", 10_000))
        0.0345

        Args:
            prefix: the marked beginning of a prompt.
            batch: whether it is asked in a batch job.
        """
        price = self.at(prefix.tokens)
        price = price.in_batch() if batch else price
        written = price.cache_write_1h if prefix.for_an_hour else None
        written = price.cache_write if written is None else written
        written = price.input if written is None else written
        read = price.input if price.cached_input is None else price.cached_input
        return prefix.tokens * max(0.0, written - read) / _PER

    def in_batch(self) -> Price:
        """Return the prices of a batch job; the usual if unknown.

        Cached tokens without a batch price of their own cost what others do there. Writing
        to the cache costs the same multiple of the input as outside (Anthropic's
        documentation of batches, August 2026: the discount stacks with the cache's).
        """
        return _in_batch(self) if self.has_batch else self


@functools.lru_cache(maxsize=256)
def _in_batch(price: Price) -> Price:
    assert price.batch_input is not None
    assert price.batch_output is not None
    prompts = min(1.0, price.batch_input / price.input) if price.input else 1.0
    answers = min(1.0, price.batch_output / price.output) if price.output else 1.0
    write = price.batch_cache_write
    return Price(
        input=price.batch_input,
        output=price.batch_output,
        cached_input=price.batch_cached_input,
        cache_write=_scaled(price.cache_write, prompts) if write is None else write,
        cache_write_1h=_scaled(price.cache_write_1h, prompts),
        reasoning=_scaled(price.reasoning, answers),
    )


def _scaled(price: float | None, share: float) -> float | None:
    return None if price is None else price * share


def _checked(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ConfigurationError(
            f"{name} must be a number of at least 0, in US dollars per million tokens; "
            f"got {value!r}"
        )
    return float(value)


def _check_longer(value: Any) -> None:
    if value is None:
        return
    pair = isinstance(value, tuple) and len(value) == 2
    if not pair or not isinstance(value[0], int) or not isinstance(value[1], Price):
        raise ConfigurationError(
            f"longer must be a number of tokens and a Price, such as (200_000, Price(...)); "
            f"got {value!r}"
        )
