"""Asks for JSON in words, where a server takes no schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from llmflow.types import Request


def instructions_for(schema: Mapping[str, Any]) -> str:
    """Return instructions to answer with JSON that fits a schema.

    >>> print(instructions_for({"type": "object"}))
    Answer with one JSON object only: no other text, no code fence. It must fit this JSON schema:
    {"type":"object"}
    """
    return (
        "Answer with one JSON object only: no other text, no code fence. "
        f"It must fit this JSON schema:\n{orjson.dumps(schema).decode()}"
    )


def with_instructions(request: Request, instructions: str) -> Request:
    """Return a request whose system text ends with instructions.

    >>> with_instructions(Request(model="m", messages=()), "Answer with JSON.").system
    'Answer with JSON.'
    """
    before = f"{request.system}\n\n" if request.system else ""
    return replace(request, system=before + instructions)
