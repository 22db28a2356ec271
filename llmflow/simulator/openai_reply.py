"""Answers of the OpenAI chat dialect: whole, or as server-sent events."""

from __future__ import annotations

from typing import Any

import orjson

from llmflow.simulator.answer import Answer
from llmflow.simulator.openai_request import ChatRequest


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
    return "length" if said.cut else "stop"


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

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            for index in range(chat.choices)
        ]
        return _event({**base, "choices": choices, **nothing_yet})

    events = [event({"role": "assistant", "content": "", "refusal": None})]
    events += [event({"content": text}) for text in said.pieces()]
    events.append(event({}, _finish(said)))
    if chat.include_usage:
        events.append(_event({**base, "choices": [], "usage": usage(chat, said)}))
    events.append(b"data: [DONE]\n\n")
    return events


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"
