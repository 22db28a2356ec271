"""Asks for JSON in words, where a server takes no schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from llmflow.surrogates import well_formed_value
from llmflow.types import Request

_SYSTEM_ROLES: Final = frozenset({"system", "developer"})


def instructions_for(schema: Mapping[str, Any]) -> str:
    """Return instructions to answer with JSON that fits a schema.

    >>> print(instructions_for({"type": "object"}))
    Answer with one JSON object only: no other text, no code fence. It must fit this JSON schema:
    {"type":"object"}
    """
    return (
        "Answer with one JSON object only: no other text, no code fence. "
        f"It must fit this JSON schema:\n{schema_text(schema)}"
    )


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a schema as JSON, with lone surrogates replaced."""
    try:
        return orjson.dumps(schema).decode()
    except TypeError:
        return orjson.dumps(well_formed_value(schema)).decode()


def with_instructions(request: Request, instructions: str) -> Request:
    """Return a request whose system text ends with instructions.

    >>> with_instructions(Request(model="m", messages=()), "Answer with JSON.").system
    'Answer with JSON.'
    """
    messages = list(request.messages)
    system = add_instructions(instructions, request.system, messages)
    return replace(request, system=system, messages=tuple(messages))


def add_instructions(
    instructions: str, system: str | None, messages: list[Mapping[str, Any]]
) -> str | None:
    """Return the system text with instructions at its end.

    A conversation that begins with a system message gets them there, in this list: some servers
    refuse a second one. The user's own words stay as they are.
    """
    if system:
        return f"{system}\n\n{instructions}"
    first = messages[0] if messages else {}
    content = first.get("content")
    if system is None and first.get("role") in _SYSTEM_ROLES and isinstance(content, str):
        messages[0] = {**first, "content": f"{content}\n\n{instructions}"}
        return None
    return instructions
