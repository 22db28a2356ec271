"""The user's own gates: any object that can be acquired."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from llmflow.errors import ConfigurationError


class Gate(Protocol):
    """Anything to pass before a call, such as an ``aiolimiter.AsyncLimiter``."""

    async def acquire(self) -> None:
        """Wait until one call may go."""
        ...


def as_gates(gate: Gate | Sequence[Gate] | None) -> tuple[Gate, ...]:
    """Return one gate, several or none as a tuple.

    Raises:
        ConfigurationError: something that is no gate.
    """
    if gate is None:
        return ()
    gates: tuple[Any, ...] = tuple(gate) if isinstance(gate, Sequence) else (gate,)
    for each in gates:
        if not callable(getattr(each, "acquire", None)):
            raise ConfigurationError(
                "a gate needs an acquire() to await, such as aiolimiter.AsyncLimiter(10, 1); "
                f"got {each!r}"
            )
    return gates
