"""Prompts and answers as span attributes, where that is enabled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final

from llmflow.parts import VALUES, Text, plain
from llmflow.types import Request, Response

VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_YES: Final = {"true", "span_only", "span_and_event"}


def is_wanted() -> bool:
    """Return whether the environment asks for content in spans."""
    return os.environ.get(VARIABLE, "").strip().lower() in _YES


def of_request(request: Request) -> dict[str, str]:
    """Return the attributes that hold what is asked."""
    found = {"gen_ai.input.messages": _json([_message(each) for each in request.messages])}
    if request.system is not None:
        found["gen_ai.system_instructions"] = _json(_parts(request.system))
    return found


def of_response(response: Response) -> dict[str, str]:
    """Return the attribute that holds the answer."""
    message: dict[str, Any] = {
        "role": "assistant",
        "parts": [*_parts(response.text), *map(_part, response.outputs)],
        "finish_reason": response.finish_reason or "unknown",
    }
    return {"gen_ai.output.messages": _json([message])}


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": str(message.get("role")), "parts": _parts(message.get("content"))}


def _parts(content: Any) -> list[Any]:
    """Return a message's parts: a text as one part, whatever else as the provider takes it."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "content": content}]
    if not isinstance(content, list | tuple):
        return [{"type": "unknown", "content": content}]
    return [_part(each) for each in content]


def _part(part: Any) -> Any:
    if isinstance(part, Mapping):
        is_text = part.get("type") == "text"
        return {"type": "text", "content": part.get("text")} if is_text else part
    if isinstance(part, Text):
        return {"type": "text", "content": part.text}
    if type(part) in VALUES:  # of bytes only how many there are
        return {"type": part.kind, **plain(part, lambda data: f"{len(data)} bytes")}
    return part


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
