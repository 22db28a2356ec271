"""Answers of the OpenAI chat dialect: whole, or as server-sent events."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from llmflow.simulator.openai_request import ChatRequest
from llmflow.simulator.summary import answer_text, count_tokens, cut_to_tokens, fill_schema

_PIECE = re.compile(r"\s*\S+|\s+$")


@dataclass(slots=True, kw_only=True)
class Answer:
    """What the simulated model says."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int


def answer(chat: ChatRequest, *, style: str) -> Answer:
    """Let the simulated model answer."""
    text = answer_text(chat.prompt, style=style, max_tokens=chat.max_tokens)
    wanted = (chat.response_format or {}).get("type")
    if wanted == "json_object":
        text = orjson.dumps({"answer": text}).decode()
    elif wanted == "json_schema":
        outer = (chat.response_format or {}).get("json_schema")
        schema = outer.get("schema") if isinstance(outer, Mapping) else None
        value = fill_schema(schema if isinstance(schema, Mapping) else {}, text)
        text = orjson.dumps(value).decode()
    if chat.max_tokens is None or count_tokens(text) <= chat.max_tokens:
        return Answer(text=text, finish_reason="stop", tokens=count_tokens(text))
    text = cut_to_tokens(text, chat.max_tokens)
    return Answer(text=text, finish_reason="length", tokens=count_tokens(text))


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


def completion(chat: ChatRequest, said: Answer, *, ident: str, created: int) -> bytes:
    """Return the body of a successful reply."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": said.text,
        "refusal": None,
        "annotations": [],
    }
    return orjson.dumps(
        {
            "id": f"chatcmpl-{ident}",
            "object": "chat.completion",
            "created": created,
            "model": chat.model,
            "choices": [
                {
                    "index": index,
                    "message": message,
                    "logprobs": None,
                    "finish_reason": said.finish_reason,
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

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            for index in range(chat.choices)
        ]
        return _event({**base, "choices": choices, **nothing_yet})

    events = [event({"role": "assistant", "content": "", "refusal": None})]
    events += [event({"content": text}) for text in _PIECE.findall(said.text)]
    events.append(event({}, said.finish_reason))
    if chat.include_usage:
        events.append(_event({**base, "choices": [], "usage": usage(chat, said)}))
    events.append(b"data: [DONE]\n\n")
    return events


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
