"""Errors, headers and answers of the Anthropic dialect, in the service's formats.

Clients match on these texts, so they are kept verbatim as far as they are known.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from llmflow.simulator.exchange import Answer, Call, DialectError, Tool

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


_FORMS: Mapping[str, tuple[Any, ...]] = {
    "server_error": (500, "Internal server error"),
    "overloaded": (529, "Overloaded"),
    "invalid_request": (400, "The request was refused by the simulator."),
    "no_key": (401, "x-api-key header is required"),
    "wrong_key": (401, "invalid x-api-key"),
    "model": (404, "model: {name}"),
    "path": (404, "Not Found"),
    "method": (405, "Method Not Allowed"),
    "job": (404, "Batch {ident} was not found."),
    "limit": (400, "limit: Input should be from 1 to {most}"),
    "cancel": (400, "Batch {id} has ended and cannot be canceled."),
}


class AnthropicError(DialectError):
    """An error reply, whose type follows from its status."""

    forms = _FORMS

    def body(self, ident: str) -> bytes:
        """Return the error envelope."""
        unnamed = "api_error" if self.status >= 500 else "invalid_request_error"
        error: dict[str, object] = {
            "type": _KINDS.get(self.status, unnamed),
            "message": str(self),
        }
        if self.code is not None:
            error["details"] = {"error_code": self.code}
        ident = f"req_{ident}" if ident else ""
        return orjson.dumps({"type": "error", "error": error, "request_id": ident or None})


@lru_cache(maxsize=256)
def format_instant(second: int) -> str:
    """Return a second since 1970 as RFC 3339 has it.

    >>> format_instant(1_786_652_100)
    '2026-08-13T20:15:00Z'
    """
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


LIFETIME = 300.0
_MAX_PROMPTS = 10_000


class Mark(NamedTuple):
    """A prompt prefix to be cached: digest, tokens, lifetime."""

    digest: bytes
    tokens: int
    seconds: float


class _Kept(NamedTuple):
    since: float
    until: float


class PromptCache:
    """Keeps a bounded count of prompt prefixes, each for its lifetime.

    Unlike the real one it asks for no least length, so that short texts can be tried.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}

    def read(self, marks: list[Mark], *, now: float, before: float | None = None) -> int:
        """Return how many tokens of a prompt are known.

        Args:
            marks: the marked beginnings of the prompt.
            now: the time.
            before: what was not known at that time does not count: requests that are worked
                on at the same time have nothing of each other.
        """
        known = [0]
        for mark in marks:
            kept = self._kept.get(mark.digest)
            if kept is not None and kept.until > now and (before is None or kept.since < before):
                known.append(mark.tokens)
        return max(known)

    def write(self, marks: list[Mark], *, now: float) -> None:
        """Keep the beginnings of a prompt that was answered."""
        for mark in marks:
            old = self._kept.pop(mark.digest, None)
            since = now if old is None or old.until <= now else old.since
            self._kept[mark.digest] = _Kept(since, now + mark.seconds)
        while len(self._kept) > _MAX_PROMPTS:
            del self._kept[next(iter(self._kept))]


@dataclass(slots=True, kw_only=True)
class MessagesRequest(Call):
    """A request for a message, as far as the simulator reads it."""

    estimate: int
    """Input tokens as estimated on arrival."""
    marks: list[Mark] = field(default_factory=list)
    """The beginnings that are to be cached."""
    cached: int = 0
    """Input tokens read from the cache."""

    @property
    def written(self) -> int:
        """Input tokens that are written to the cache."""
        return max(0, self.marks[-1].tokens - self.cached) if self.marks else 0


def usage(call: MessagesRequest, output_tokens: int, *, tier: str = "standard") -> dict[str, Any]:
    """Return the usage object; its three kinds of input exclude each other."""
    written = call.written
    long = written if written and call.marks[-1].seconds > LIFETIME else 0
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


def _message(call: MessagesRequest, ident: str, **rest: Any) -> dict[str, Any]:
    return {
        "id": f"msg_{ident}",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        **rest,
    }


def message(
    call: MessagesRequest, said: Answer, *, ident: str, created: int, tier: str = "standard"
) -> bytes:
    """Return the body of a successful reply."""
    del created
    return orjson.dumps(
        _message(
            call,
            ident,
            content=_content(said, ident),
            stop_reason=_stop_reason(said),
            usage=usage(call, said.tokens, tier=tier),
        )
    )


def events(call: MessagesRequest, said: Answer, *, ident: str, created: int) -> list[bytes]:
    """Return the server-sent events of a streamed reply, the closing ones included."""
    del created
    begun = _message(call, ident, usage=usage(call, 1 if said.tokens else 0))
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
