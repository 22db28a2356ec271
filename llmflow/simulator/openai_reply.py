"""Answers of the OpenAI chat dialect: whole, or as server-sent events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from llmflow.simulator.answer import Answer
from llmflow.simulator.openai_request import ChatRequest
from llmflow.simulator.tools import Tool


def usage(chat: ChatRequest, said: Answer) -> dict[str, Any]:
    """Return the usage object of an answer."""
    output = said.tokens * chat.choices
    return {
        "prompt_tokens": chat.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": chat.prompt_tokens + output,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _finish(said: Answer) -> str:
    if said.cut:
        return "length"
    return "stop" if said.tool is None else "tool_calls"


def _tool_call(tool: Tool, text: str, *, ident: str, choice: int) -> dict[str, Any]:
    named = {"name": tool.name}
    inner = (
        {"type": "custom", "custom": {**named, "input": text}}
        if tool.schema is None
        else {"type": "function", "function": {**named, "arguments": text}}
    )
    return {"id": f"call_{ident}{choice}", **inner}


def _message(said: Answer, *, ident: str, choice: int) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said.text,
        "refusal": None,
        "annotations": [],
    }
    if said.tool is not None:
        message["content"] = None
        message["tool_calls"] = [_tool_call(said.tool, said.text, ident=ident, choice=choice)]
    return message


def completion(chat: ChatRequest, said: Answer, *, ident: str, created: int) -> bytes:
    """Return the body of a successful reply."""
    return orjson.dumps(
        {
            "id": f"chatcmpl-{ident}",
            "object": "chat.completion",
            "created": created,
            "model": chat.model,
            "choices": [
                {
                    "index": index,
                    "message": _message(said, ident=ident, choice=index),
                    "logprobs": None,
                    "finish_reason": _finish(said),
                }
                for index in range(chat.choices)
            ],
            "usage": usage(chat, said),
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }
    )


def chunks(chat: ChatRequest, said: Answer, *, ident: str, created: int) -> list[bytes]:
    """Return the server-sent events of a streamed reply, the closing ones included."""
    base = {
        "id": f"chatcmpl-{ident}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": chat.model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }
    nothing_yet = {"usage": None} if chat.include_usage else {}

    def event(deltas: Iterable[dict[str, Any]], finish: str | None = None) -> bytes:
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            for index, delta in enumerate(deltas)
        ]
        return _event({**base, "choices": choices, **nothing_yet})

    each = [_deltas(said, ident=ident, choice=index) for index in range(chat.choices)]
    events = [event(deltas) for deltas in zip(*each, strict=True)]
    events.append(event([{}] * chat.choices, _finish(said)))
    if chat.include_usage:
        events.append(_event({**base, "choices": [], "usage": usage(chat, said)}))
    events.append(b"data: [DONE]\n\n")
    return events


def _deltas(said: Answer, *, ident: str, choice: int) -> list[dict[str, Any]]:
    """Return what a stream brings of an answer, part by part."""
    if said.tool is None:
        begun: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        return [begun, *({"content": text} for text in said.pieces())]
    call = {"index": 0, **_tool_call(said.tool, "", ident=ident, choice=choice)}
    begun = {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None}
    kind, field = ("custom", "input") if said.tool.schema is None else ("function", "arguments")
    parts = [{"index": 0, kind: {field: text}} for text in said.pieces()]
    return [begun, *({"tool_calls": [part]} for part in parts)]


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
