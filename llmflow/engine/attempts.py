"""One call of ``exec`` after another for the same item.

The count belongs to the call, never to the node: many items of one node can be
at different attempts at the same moment.
"""

from __future__ import annotations

import asyncio
import math
from contextvars import ContextVar, Token

from llmflow.errors import (
    BudgetExceededError,
    ConfigurationError,
    LLMFlowError,
    ProviderError,
    UsageError,
)

_current: ContextVar[Attempt | None] = ContextVar("llmflow_attempt", default=None)


class Attempt:
    """The attempt of an owner that this task is in, from 0.

    Visible, through a context variable, to everything that the attempt calls.
    """

    __slots__ = ("index", "outer", "owner")

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.index = 0
        self.outer: Attempt | None = None

    def enter(self) -> Token[Attempt | None]:
        """Make this the current attempt of the running context."""
        self.outer = _current.get()
        return _current.set(self)

    def leave(self, token: Token[Attempt | None]) -> None:
        """Undo `enter`."""
        _current.reset(token)

    async def pause(self, seconds: float) -> None:
        """Wait before the next attempt."""
        await asyncio.sleep(seconds)


def worth_repeating(error: Exception) -> bool:
    """Return whether another attempt can come to anything else.

    It cannot where the program itself says no: a used-up budget, a journal that cannot be
    written, a wrong setting. What a provider says may change.
    """
    if isinstance(error, ConfigurationError | BudgetExceededError):
        return False
    return (
        not isinstance(error, LLMFlowError) or isinstance(error, ProviderError) or not error.fatal
    )


def current_attempt(owner: object) -> Attempt | None:
    """Return the running context's attempt of this owner, if any."""
    attempt = _current.get()
    while attempt is not None and attempt.owner is not owner:
        attempt = attempt.outer
    return attempt


def check_seconds(name: str, value: object, *, above: bool = False) -> None:
    """Refuse what is no number of seconds.

    Raises:
        UsageError: it is none, or below the bound.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or math.isnan(value) or value < 0 or (above and value == 0):  # type: ignore[arg-type, operator]
        bound = "a number of seconds above 0" if above else "a number of seconds, 0 or more"
        raise UsageError(f"{name} must be {bound}; got {value!r}")
