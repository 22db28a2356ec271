"""What models cost: a dated table made from public prices, and the arithmetic on it."""

from llmflow.pricing.price import Price

__all__ = ["Price"]
