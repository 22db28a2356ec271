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

    A conversation that begins with a system message gets them there: some servers refuse a second
    one. The user's own words stay as they are.

    >>> with_instructions(Request(model="m", messages=()), "Answer with JSON.").system
    'Answer with JSON.'
    """
    first = request.messages[0] if request.messages else {}
    content = first.get("content")
    begins = first.get("role") in _SYSTEM_ROLES and isinstance(content, str)
    if request.system is None and begins:
        message = {**first, "content": f"{content}\n\n{instructions}"}
        return replace(request, messages=(message, *request.messages[1:]))
    before = f"{request.system}\n\n" if request.system else ""
    return replace(request, system=before + instructions)
