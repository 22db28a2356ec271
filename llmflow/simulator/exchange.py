"""A request, its answer and its refusal in any dialect."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, Literal, Self

import orjson

from llmflow.simulator.quota import Charge
from llmflow.simulator.wrong_answer import WrongKind

Form = Literal["object"] | Mapping[str, Any] | None
"""Any JSON object, or what a schema allows, or plain text."""


class DialectError(Exception, ABC):
    """An error reply: its status and what its envelope may hold."""

    forms: ClassVar[Mapping[str, tuple[Any, ...]]]
    """The errors that the simulator itself gives, by name: status, message, and more if any."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str | None = None,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code

    @classmethod
    def of(cls, form: str, /, **facts: object) -> Self:
        """Return an error of `forms`, with these facts in its message."""
        status, message, *more = cls.forms[form]
        return cls(status, message.format(**facts), **(more[0] if more else {}))

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
        read: whether the service itself reads its input, so that it is always an object.

    """

    name: str
    schema: Mapping[str, Any] | None
    read: bool = False


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
    offered: Sequence[Tool] = ()
    """The tools that may be called instead."""
    messages: Sequence[Mapping[str, Any]] = ()
    """The messages of the request, as it has them."""
    system: object = None
    """Instructions that are not among them."""


@dataclass(slots=True, kw_only=True)
class Answer:
    """An answer, or a tool's input, and whether ``max_tokens`` has cut it."""

    text: str
    tokens: int
    cut: bool = False
    tool: Tool | None = None
    wrong: WrongKind | None = None
    """What is wrong with it on purpose."""

    def pieces(self) -> list[str]:
        """Return the text as a stream brings it: word by word."""
        return _PIECE.findall(self.text)


@cache
def import_shapes(module: str) -> ModuleType:
    """Import shapes, with the first request or before it."""
    return import_module(f"llmflow.simulator.{module}")


def load_object(raw: bytes) -> dict[str, Any] | None:
    """Return a body's JSON object, None if it is something else."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def bearer(headers: Mapping[str, str]) -> str:
    """Return the token of the authorization, or an empty text."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
