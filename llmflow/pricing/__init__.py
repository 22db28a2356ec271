"""Prices of models: a dated table, and arithmetic on it.

>>> from llmflow.pricing import price_of
>>> from llmflow.types import Usage
>>> price = price_of("openai/gpt-6-luna")
>>> price.cost(Usage(input_tokens=1000, output_tokens=200))
0.0002
"""

from llmflow.pricing.price import Price
from llmflow.pricing.table import FREE, Context, as_of, context_of, price_of, source

__all__ = ["FREE", "PRICES_AS_OF", "Context", "Price", "context_of", "price_of", "source"]

PRICES_AS_OF: str
"""The day that the prices are of, to be shown wherever one is quoted."""


def __getattr__(name: str) -> str:
    if name == "PRICES_AS_OF":
        return as_of()  # reading the table takes milliseconds: not before somebody asks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
