"""The marked beginning of a prompt at Anthropic, which its cache keeps.

Source: Anthropic's guide on prompt caching (2026): up to four blocks are marked by
``cache_control``; what is cached begins with the tools, goes on with the system prompt and
then the messages, and ends with a marked block; what is shorter than 1,024 tokens is never
cached (for some models the least is more).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

import orjson

from llmflow.errors import ConfigurationError
from llmflow.tokens import estimate_tokens
from llmflow.types import MarkedPrefix

OPTION: Final = "cache_system"
"""The option of a call that marks its system prompt."""

_LEAST_TOKENS: Final = 1024
_TIMES: Final = ("5m", "1h")
_DIGEST: Final = 16


def mark_system(body: dict[str, Any]) -> None:
    """Mark the system prompt's end, if the body's option says so.

    Raises:
        ConfigurationError: it says anything else than ``"5m"``, ``"1h"`` or None.
    """
    time = body.pop(OPTION)
    if time is None:
        return
    if time not in _TIMES:
        raise ConfigurationError(f"{OPTION} must be '5m' or '1h'; got {time!r}")
    system = body.get("system")
    if not system:
        return
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else list(system)
    blocks[-1] = {**blocks[-1], "cache_control": {"type": "ephemeral", "ttl": time}}
    body["system"] = blocks


def marked_prefix(body: Mapping[str, Any]) -> MarkedPrefix | None:
    """Return a body's longest marked prefix, unless it is everything.

    A mark on the last block is the request's own: nothing that differs could come after it.
    """
    parts = list(_parts(body))
    marked = [
        at
        for at, (_, part) in enumerate(parts[:-1])
        if isinstance(part, Mapping) and part.get("cache_control")
    ]
    if not marked:
        return None
    last = marked[-1]
    digest, tokens = blake2b(digest_size=_DIGEST), 0
    digest.update(str(body.get("model")).encode())
    for role, part in parts[: last + 1]:
        text = part if isinstance(part, str) else _text(part)
        digest.update(f"\0{role}\0{text}".encode("utf-8", "surrogatepass"))
        tokens += _tokens(text)
    if tokens < _LEAST_TOKENS:
        return None
    time = parts[last][1]["cache_control"]
    return MarkedPrefix(
        digest.digest(), tokens, for_an_hour=isinstance(time, Mapping) and time.get("ttl") == "1h"
    )


@functools.lru_cache(maxsize=32)
def _tokens(text: str) -> int:
    """Return a text's tokens, kept for prefixes that come again."""
    return estimate_tokens(text)


def _parts(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for tool in body.get("tools") or ():
        yield "tool", tool
    for block in _blocks(body.get("system")):
        yield "system", block
    for message in body.get("messages") or ():
        for block in _blocks(message.get("content")):
            yield str(message.get("role")), block


def _blocks(content: Any) -> Iterator[Any]:
    if isinstance(content, list | tuple):
        yield from content
    elif content:
        yield content


def _text(part: Any) -> str:
    """Return a block's text; of other blocks, their JSON."""
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return str(part["text"])
    return orjson.dumps(part, default=str).decode()
