"""Refusal of parts and outputs that a provider cannot send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmflow.errors import ConfigurationError, redact
from llmflow.parts import VALUES, Text
from llmflow.provider import Provider
from llmflow.types import Request


def sendable(request: Request, provider: Provider) -> Request:
    """Return a request that a provider can send.

    Content that is nothing but `Text` becomes a text, which all providers take.

    Args:
        request: what is asked.
        provider: who is asked. Its `sends` names the kinds that it takes beside texts.

    Raises:
        ConfigurationError: it holds something of another kind.
    """
    for message in request.messages:
        if type(message.get("content")) is not str:
            break
    else:
        if not request.wanted:
            return request
    messages = tuple(_with_plain_text(each) for each in request.messages)
    takes = {Text.kind, *getattr(provider, "sends", ())}
    parts = [part for each in messages for part in _parts(each) if type(part) in VALUES]
    for value in (*request.wanted, *parts):
        if value.kind not in takes:
            raise ConfigurationError(
                f"{provider.name}/{provider.model} cannot be sent this {value.kind}: "
                f"{redact(repr(value))}; of parts and outputs the provider takes "
                f"{', '.join(sorted(takes))}. Leave it out, give it in the provider's own format "
                "as a dict or in options, or ask a provider that takes it"
            )
    return request if messages == request.messages else replace(request, messages=messages)


def _parts(message: Mapping[str, Any]) -> list[Any]:
    content = message.get("content")
    return list(content) if isinstance(content, list | tuple) else [content]


def _with_plain_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = _parts(message)
    texts = [each for each in parts if isinstance(each, Text)]
    if not texts:
        return message
    if len(texts) == len(parts):
        return {**message, "content": "\n\n".join(each.text for each in texts)}
    if any(isinstance(each, Mapping) for each in parts):  # they are in a provider's own format
        parts = [
            {"type": "text", "text": each.text} if isinstance(each, Text) else each
            for each in parts
        ]
    return {**message, "content": tuple(parts)}
