"""Protocol of a dialect: its requests, words and charges."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import orjson

from llmflow.simulator.schema_value import fill_schema

if TYPE_CHECKING:
    from llmflow.simulator.batches.api import BatchAPI
    from llmflow.simulator.batches.store import JobRecord, Store
    from llmflow.simulator.quota import Charge, Decision, Domain
    from llmflow.simulator.settings import SimulatorSettings

Form = Literal["object"] | Mapping[str, Any] | None
"""Any JSON object, or what a schema allows, or plain text."""


class DialectError(Exception, ABC):
    """An error reply: status, message, and the dialect's envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @abstractmethod
    def body(self, ident: str) -> bytes:
        """Return the error envelope for the request of this identifier."""


_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that must be called.

    Args:
        name: its name.
        schema: the JSON schema of its input; None for a tool that takes free text.

    """

    name: str
    schema: Mapping[str, Any] | None

    def input(self, text: str) -> str:
        """Return the plainest input that the schema allows, containing `text`."""
        if self.schema is None:
            return text
        value = fill_schema(self.schema, text)
        return orjson.dumps(value if isinstance(value, dict) else {}).decode()


@dataclass(slots=True, kw_only=True)
class Call:
    """A request for an answer, as far as all dialects read it."""

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


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer, or a tool's input, and whether ``max_tokens`` has cut it."""

    text: str
    tokens: int
    cut: bool = False
    tool: Tool | None = None

    def pieces(self) -> list[str]:
        """Return the text as a stream brings it: word by word."""
        return _PIECE.findall(self.text)


class Dialect(Protocol):
    """One provider's language and rules. Times are those of the engine's clock.

    `ident` is the request's identifier, without the prefix that a dialect gives it.
    """

    path: str
    """Where answers are asked for, below the version."""
    batch_paths: tuple[str, ...]
    """Where its batch API is."""
    upload_path: str
    """Where large bodies are sent to."""
    rejections_cost: bool
    """Whether a rejected request is charged as a request."""
    broken: Mapping[str, DialectError]
    """The answer to each fault that has one."""
    garbage: tuple[tuple[str, bytes], ...]
    """Content types and bodies of answers that are none."""

    @staticmethod
    def claims(path: str, headers: Mapping[str, str]) -> bool:
        """Return whether a request for something else is in this dialect."""
        ...

    def key(self, headers: Mapping[str, str]) -> str:
        """Return what distinguishes one customer from another."""
        ...

    def check_key(self, headers: Mapping[str, str]) -> None:
        """Raise the error for a missing or wrong key."""
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
        """Return the final charge of an answered request; None: as before."""
        ...

    def answered(self, call: Any, *, now: float) -> None:
        """Know that an answer was sent."""
        ...

    def model(self, headers: Mapping[str, str], name: str, *, now: float) -> bytes:
        """Return the body of a model, or of the list of all."""
        ...

    def batch_api(self, store: Store, carry: Callable[[JobRecord], object]) -> BatchAPI:
        """Return the batch API, with files and jobs in a store."""
        ...

    def unknown(self, method: str, path: str) -> DialectError:
        """Return the error for a path that does not exist."""
        ...

    def not_allowed(self, allowed: str) -> DialectError:
        """Return the error for a method that a path does not accept."""
        ...

    def unreadable(self, status: int, message: str) -> DialectError:
        """Return the error for a request refused before it was read."""
        ...


def retry_headers(wait: float | None, settings: SimulatorSettings) -> str:
    """Return the headers that say when to come again, rounded up."""
    if wait is None:
        return ""
    text = f"retry-after: {max(1, math.ceil(wait - 1e-6))}\r\n" if settings.retry_after else ""
    if settings.retry_after_ms:
        text += f"retry-after-ms: {max(1, math.ceil(wait * 1000 - 1e-6))}\r\n"
    return text
