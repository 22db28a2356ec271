"""Errors, headers and answers of the OpenAI dialect, in the service's formats.

Clients match on these texts, so they are kept verbatim as far as they are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from llmflow.simulator.exchange import Answer, Call, DialectError, Tool

_FORMS: Mapping[str, tuple[Any, ...]] = {
    "server_error": (
        500,
        "The server had an error while processing your request. Sorry about that!",
    ),
    "overloaded": (
        503,
        "The server is currently overloaded with other requests. Please try again later.",
        {"kind": "service_unavailable_error", "code": "server_is_overloaded"},
    ),
    "invalid_request": (
        400,
        "The request was refused by the simulator.",
        {"code": "invalid_value"},
    ),
    "no_key": (
        401,
        (
            "You didn't provide an API key. You need to provide your API key in an "
            "Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        ),
    ),
    "wrong_key": (
        401,
        (
            "Incorrect API key provided: {key}. "
            "You can find your API key at https://platform.openai.com/account/api-keys."
        ),
        {"code": "invalid_api_key"},
    ),
    "model": (
        404,
        "The model '{name}' does not exist",
        {"param": "model", "code": "model_not_found"},
    ),
    "path": (404, "Invalid URL ({method} {path})"),
    "method": (405, "Only {allowed} requests are accepted.", {"code": "method_not_supported"}),
    "job": (404, "No batch found with id '{ident}'."),
    "limit": (400, "Invalid 'limit': expected 1 to {most}, got {limit}.", {"param": "limit"}),
    "cancel": (409, "Cannot cancel a batch with status '{status}'."),
}


class OpenAIError(DialectError):
    """An error reply, whose kind usually follows from its status."""

    forms = _FORMS

    def body(self, ident: str) -> bytes:
        """Return the error envelope, which does not name the request."""
        del ident
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = self.kind or usual
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return orjson.dumps({"error": error})


def format_duration(seconds: float) -> str:
    """Return a time as Go prints durations, rounded up to a millisecond.

    >>> [format_duration(s) for s in (0, 0.012, 1.5, 83.4, 360, 3723)]
    ['0s', '12ms', '1.5s', '1m23.4s', '6m0s', '1h2m3s']
    """
    # Down by a trifle first: 0.057 * 1000 is a little above 57.
    milliseconds = math.ceil(seconds * 1000 - 1e-6)
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


@dataclass(slots=True, kw_only=True)
class ChatRequest(Call):
    """A chat completion request, as far as the simulator reads it."""

    include_usage: bool


def usage(call: ChatRequest, said: Answer) -> dict[str, Any]:
    """Return the usage object of an answer."""
    output = said.tokens * call.choices
    return {
        "prompt_tokens": call.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": call.prompt_tokens + output,
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


def completion(call: ChatRequest, said: Answer, *, ident: str, created: int) -> bytes:
    """Return the body of a successful reply."""
    return orjson.dumps(
        {
            "id": f"chatcmpl-{ident}",
            "object": "chat.completion",
            "created": created,
            "model": call.model,
            "choices": [
                {
                    "index": index,
                    "message": _message(said, ident=ident, choice=index),
                    "logprobs": None,
                    "finish_reason": _finish(said),
                }
                for index in range(call.choices)
            ],
            "usage": usage(call, said),
            "service_tier": "default",
            "system_fingerprint": "fp_simulator",
        }
    )


def chunks(call: ChatRequest, said: Answer, *, ident: str, created: int) -> list[bytes]:
    """Return the server-sent events of a streamed reply, the closing ones included."""
    base = {
        "id": f"chatcmpl-{ident}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": call.model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulator",
    }
    nothing_yet = {"usage": None} if call.include_usage else {}

    def event(deltas: Iterable[dict[str, Any]], finish: str | None = None) -> bytes:
        choices = [
            {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
            for index, delta in enumerate(deltas)
        ]
        return _event({**base, "choices": choices, **nothing_yet})

    each = [_deltas(said, ident=ident, choice=index) for index in range(call.choices)]
    events = [event(deltas) for deltas in zip(*each, strict=True)]
    events.append(event([{}] * call.choices, _finish(said)))
    if call.include_usage:
        events.append(_event({**base, "choices": [], "usage": usage(call, said)}))
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
