"""Answers of the Anthropic dialect: whole, or as server-sent events."""

from __future__ import annotations

from typing import Any

import orjson

from llmflow.simulator.answer import Answer
from llmflow.simulator.anthropic_request import MessagesRequest
from llmflow.simulator.tools import Tool


def usage(call: MessagesRequest, output_tokens: int, *, tier: str = "standard") -> dict[str, Any]:
    """Return the usage object; its three kinds of input exclude each other."""
    written = call.written
    long = written if written and call.marks[-1].is_long else 0
    return {
        "input_tokens": call.prompt_tokens - call.cached - written,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": call.cached,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written - long,
            "ephemeral_1h_input_tokens": long,
        },
        "output_tokens": output_tokens,
        "service_tier": tier,
        "inference_geo": "not_available",
    }


def _stop_reason(said: Answer) -> str:
    if said.cut:
        return "max_tokens"
    return "end_turn" if said.tool is None else "tool_use"


def _content(said: Answer, ident: str) -> list[dict[str, Any]]:
    if said.tool is not None and said.text:
        # What was cut is no JSON any more, and an object is what a client reads here.
        value = {} if said.cut else orjson.loads(said.text)
        return [{**_tool_use(said.tool, ident), "input": value}]
    return [{"type": "text", "text": said.text}] if said.text else []


def _tool_use(tool: Tool, ident: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{ident}", "name": tool.name, "input": {}}


def message(call: MessagesRequest, said: Answer, *, ident: str, tier: str = "standard") -> bytes:
    """Return the body of a successful reply."""
    return orjson.dumps(
        {
            "id": f"msg_{ident}",
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": _content(said, ident),
            "stop_reason": _stop_reason(said),
            "stop_sequence": None,
            "usage": usage(call, said.tokens, tier=tier),
        }
    )


def events(call: MessagesRequest, said: Answer, *, ident: str) -> list[bytes]:
    """Return the server-sent events of a streamed reply, the closing ones included."""
    begun: dict[str, Any] = {
        "id": f"msg_{ident}",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage(call, 1 if said.tokens else 0),
    }
    parts = [_event("message_start", message=begun)]
    if said.text:
        block = {"type": "text", "text": ""} if said.tool is None else _tool_use(said.tool, ident)
        parts.append(_event("content_block_start", index=0, content_block=block))
    parts.append(_event("ping"))
    if said.text:
        kind, field = (
            ("text_delta", "text") if said.tool is None else ("input_json_delta", "partial_json")
        )
        parts += [
            _event("content_block_delta", index=0, delta={"type": kind, field: piece})
            for piece in said.pieces()
        ]
        parts.append(_event("content_block_stop", index=0))
    delta = {"stop_reason": _stop_reason(said), "stop_sequence": None}
    parts.append(_event("message_delta", delta=delta, usage=usage(call, said.tokens)))
    parts.append(_event("message_stop"))
    return parts


def _event(kind: str, **data: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **data}))
