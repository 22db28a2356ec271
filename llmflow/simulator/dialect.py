"""What the simulator's engine asks of a dialect: its requests, its words, its way to charge."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from llmflow.simulator.answer import Answer
    from llmflow.simulator.quota import Charge, Decision, Domain
    from llmflow.simulator.settings import SimulatorSettings
    from llmflow.simulator.tools import Tool

Form = Literal["object"] | Mapping[str, Any] | None
"""Any JSON object, or what a schema allows, or plain text."""


class DialectError(Exception, ABC):
    """A reply that is an error: its status, its message, and an envelope of the dialect."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @abstractmethod
    def body(self, ident: str) -> bytes:
        """Return the error envelope for the request of this identifier."""


@dataclass(slots=True, kw_only=True)
class Call:
    """What every dialect reads of a request for an answer."""

    model: str
    prompt: str
    """The text to be answered: the last message of the user."""
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    form: Form
    charge: Charge
    """What it is charged on arrival."""
    choices: int = 1
    tool: Tool | None = None
    """The tool that must be called."""


class Dialect(Protocol):
    """One provider's language and rules. Times are those of the engine's clock.

    `ident` is the request's identifier, without the prefix that a dialect gives it.
    """

    rejections_cost: bool
    """Whether a rejected request is charged as a request."""
    broken: Mapping[str, DialectError]
    """The answer to each fault that has one."""
    garbage: tuple[tuple[str, bytes], ...]
    """Content types and bodies of answers that are none."""

    def key(self, headers: Mapping[str, str]) -> str:
        """Return what distinguishes one customer from another."""
        ...

    def bad_key(self, headers: Mapping[str, str]) -> DialectError | None:
        """Return the error for a missing or wrong key; None if it is right."""
        ...

    def read(self, headers: Mapping[str, str], body: bytes, *, now: float) -> Any:
        """Read a request into a `Call`, or raise a `DialectError`."""
        ...

    def headers(self, ident: str, latency: float) -> str:
        """Return the header lines of every answer."""
        ...

    def quota_headers(self, domain: Domain, *, now: float) -> str:
        """Return the header lines that show the state of a quota."""
        ...

    def rejection(self, decision: Decision, call: Any, *, now: float) -> DialectError:
        """Return the error that tells of a decision against a request."""
        ...

    def whole(self, call: Any, said: Answer, *, ident: str, now: float) -> bytes:
        """Return the body of an answer."""
        ...

    def events(self, call: Any, said: Answer, *, ident: str, now: float) -> list[bytes]:
        """Return the server-sent events of a streamed answer, the closing ones included."""
        ...

    def produced(self, said: Answer) -> int:
        """Return how many tokens are charged while the answer is produced."""
        ...

    def used(self, call: Any, said: Answer) -> Charge | None:
        """Return what an answered request is settled to; None if its charge stands."""
        ...

    def answered(self, call: Any, *, now: float) -> None:
        """Know that an answer was sent."""
        ...

    def model(self, headers: Mapping[str, str], name: str, *, now: float) -> bytes:
        """Return the body of a model, of the list of all without a name; raise if unknown."""
        ...

    def unknown(self, method: str, path: str) -> DialectError:
        """Return the error for a path that does not exist."""
        ...

    def not_allowed(self, allowed: str) -> DialectError:
        """Return the error for a method that a path does not accept."""
        ...

    def unreadable(self, status: int, message: str) -> DialectError:
        """Return the error for a request that was refused before it was read."""
        ...


def retry_headers(wait: float | None, settings: SimulatorSettings) -> str:
    """Return the headers that say when to come again, rounded up."""
    if wait is None:
        return ""
    text = f"retry-after: {max(1, math.ceil(wait - 1e-6))}\r\n" if settings.retry_after else ""
    if settings.retry_after_ms:
        text += f"retry-after-ms: {max(1, math.ceil(wait * 1000 - 1e-6))}\r\n"
    return text
