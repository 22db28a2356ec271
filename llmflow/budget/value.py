"""Budget of a run, and states of its ledger, as values."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from llmflow.arguments import values_by_name
from llmflow.errors import ConfigurationError
from llmflow.pricing import Price
from llmflow.types import parse_amount

DIMENSIONS: Final = ("usd", "tokens", "requests", "seconds")


class Spent(NamedTuple):
    """Amounts spent: US dollars, input and output tokens, and requests."""

    usd: float = 0.0
    tokens: float = 0.0
    requests: float = 0.0


class Estimate(NamedTuple):
    """The upper estimate of a call's cost."""

    usd: float = 0.0
    tokens: float = 0.0
    requests: float = 1.0


@values_by_name()
@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most a run may spend. None means "no limit".

    >>> Budget(usd=5, tokens="2M")
    Budget(usd=5.0, tokens=2000000.0)

    Args:
        usd: US dollars, over all sessions of the run.
        tokens: tokens, input and output together, likewise.
        requests: requests sent to the provider, those sent again among them, likewise.
        seconds: how long one session may go on asking; what is under way then is finished.

    Raises:
        ConfigurationError: a value is not a number above zero.
    """

    usd: float | str | None = None
    tokens: float | str | None = None
    requests: float | str | None = None
    seconds: float | str | None = None

    def __post_init__(self) -> None:
        for name in DIMENSIONS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, parse_amount(value, name=name))

    def __repr__(self) -> str:
        given = ((item.name, getattr(self, item.name)) for item in fields(self))
        return f"Budget({', '.join(f'{k}={v!r}' for k, v in given if v is not None)})"

    def check_price(self, model: str, price: Price | None) -> None:
        """Check that what a model costs is known, where dollars are limited.

        Args:
            model: the model string, ``provider/model``.
            price: its price, or None.

        Raises:
            ConfigurationError: it is not; the message says where to write it down.
        """
        if price is None and self.usd is not None:
            provider, slash, name = model.partition("/")
            table = f'[providers.{provider}.models."{name}"]' if slash else "the model's table"
            raise ConfigurationError(
                f"a budget in dollars needs the price of {model}, which is not known: write "
                f"price = {{ input = ..., output = ... }} (US dollars per million tokens) into "
                f"{table} of llmflow.toml, or, in Python, limit tokens instead: Budget(tokens=...)"
            )


class Remaining(NamedTuple):
    """The rest of the budget per unit; None where unlimited."""

    usd: float | None
    tokens: float | None
    requests: float | None
    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerState:
    """The state of a ledger at one moment.

    Args:
        budget: what may be spent.
        spent: what was, earlier sessions of the run included.
        reserved: what the calls under way may still come to.
        under_way: how many calls those are.
        waiting: calls that wait for one of them to need less than it reserved.
        seconds: how long this session has been going.
        reached: the limit that has ended the run, such as ``"usd"``; None while it goes on.
    """

    budget: Budget
    spent: Spent
    reserved: Spent
    under_way: int
    waiting: int
    seconds: float
    reached: str | None
