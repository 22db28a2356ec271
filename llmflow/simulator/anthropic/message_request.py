"""Reads requests of the Anthropic dialect, or refuses them likewise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llmflow.simulator.answer import count_tokens
from llmflow.simulator.anthropic.message_fields import check_fields, invalid
from llmflow.simulator.anthropic.message_wire import AnthropicError, Mark, Marker, MessagesRequest
from llmflow.simulator.dialect import Form, Tool
from llmflow.simulator.quota import Charge
from llmflow.simulator.settings import SimulatorSettings

PLAIN_VERSION = "2023-06-01"
ROLES = ("user", "assistant")
_IMAGE_TOKENS = 1600
_MESSAGE_TOKENS = 3
_MOST_MARKS = 4


def _load(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None


class _Prompt:
    """Adds up the parts of a prompt, in their order."""

    def __init__(self, model: str, *, caching: bool) -> None:
        self.characters = 0
        self.tokens = _MESSAGE_TOKENS
        self.marker = Marker(model) if caching else None

    def part(self, role: str, text: str, block: Mapping[str, Any], *, tokens: int = 0) -> None:
        """Add a text, or a block that counts `tokens`."""
        self.characters += len(text) + 4 * tokens
        self.tokens += count_tokens(text) + tokens
        if self.marker is not None:
            shown = text if not tokens else orjson.dumps(block).decode()
            self.marker.add(role, shown)
            if isinstance(control := block.get("cache_control"), dict):
                self.marker.mark(self.tokens, long=control.get("ttl") == "1h")


def _blocks(
    content: str | list[Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """Yield text, block and further tokens of each block of a content."""
    if isinstance(content, str):
        yield content, {}, 0
        return
    for block in content:
        if block["type"] == "text":
            if not block["text"]:
                raise invalid("messages: text content blocks must be non-empty")
            yield block["text"], block, 0
        elif block["type"] in ("image", "document"):
            yield "", block, _IMAGE_TOKENS
        else:
            yield "", block, count_tokens(orjson.dumps(block).decode())


def _read_system(body: Mapping[str, Any], prompt: _Prompt) -> None:
    system = body.get("system")
    if system is None:
        return
    prompt.tokens += _MESSAGE_TOKENS
    for text, block, tokens in _blocks(system):
        prompt.part("system", text, block, tokens=tokens)


def _read_messages(body: Mapping[str, Any], prompt: _Prompt) -> str:
    """Add all messages to the prompt; return the user's last text."""
    messages = body["messages"]
    if not messages:
        raise invalid("messages: at least one message is required")
    last = before = ""
    for index, message in enumerate(messages):
        role = _role(message, index, before)
        before = role
        prompt.tokens += _MESSAGE_TOKENS
        texts = []
        for text, block, tokens in _blocks(message["content"]):
            prompt.part(role, text, block, tokens=tokens)
            texts.append(text)
        final = role == "assistant" and index == len(messages) - 1
        if not message["content"] and not final:
            raise invalid(
                f"messages.{index}: all messages must have non-empty content "
                "except for the optional final assistant message"
            )
        if role == "user":
            last = "\n".join(text for text in texts if text)
    return last


def _role(message: Mapping[str, Any], index: int, before: str) -> str:
    """Return a message's role, or refuse one not allowed after `before`."""
    role = message["role"]
    if role == "system" and before == "user":
        return "system"  # new instructions in the middle of a conversation
    if role == "system":
        raise invalid(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` '
            'parameter, not "system" as an input message role.'
        )
    if role not in ROLES:
        raise invalid(f"messages.{index}.role: Input should be 'user' or 'assistant'")
    return str(role)


def _form(body: Mapping[str, Any]) -> Form:
    wanted = (body.get("output_config") or {}).get("format")
    return wanted["schema"] if wanted else None


def _read_marks(body: Mapping[str, Any], prompt: _Prompt) -> list[Mark]:
    if prompt.marker is None:
        return []
    marks = prompt.marker.marks
    if isinstance(control := body.get("cache_control"), dict):
        prompt.marker.mark(prompt.tokens, long=control.get("ttl") == "1h")
    if len(marks) > _MOST_MARKS:
        raise invalid(
            f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. "
            f"Found {len(marks)}."
        )
    return marks


def parse_messages(
    raw: bytes, settings: SimulatorSettings, *, version: str = PLAIN_VERSION, beta: bool = False
) -> MessagesRequest:
    """Read a request for a message, of a version of the API.

    Raises:
        AnthropicError: the real service would refuse it, in these words.

    """
    caching = b'"cache_control"' in raw
    return read_messages(_load(raw), settings, caching=caching, version=version, beta=beta)


def read_messages(
    body: Mapping[str, Any],
    settings: SimulatorSettings,
    *,
    caching: bool,
    version: str = PLAIN_VERSION,
    beta: bool = False,
) -> MessagesRequest:
    """Read a parsed request; `caching` says if it may mark a prefix."""
    check_fields(body, version=version, beta=beta)
    model, max_tokens = body["model"], body["max_tokens"]
    prompt = _Prompt(model, caching=caching)
    _read_system(body, prompt)
    last = _read_messages(body, prompt)
    form = _form(body)
    if settings.models and model not in settings.models:
        raise AnthropicError(404, f"model: {model}")
    _check_context(prompt.tokens, max_tokens, settings.context_tokens)
    estimate = math.ceil(prompt.characters / 4)
    return MessagesRequest(
        model=model,
        prompt=last,
        prompt_tokens=prompt.tokens,
        max_tokens=max_tokens,
        stream=bool(body.get("stream")),
        form=form,
        tool=forced_message_tool(body) if "tool_choice" in body else None,
        charge=Charge(estimate, estimate),
        estimate=estimate,
        marks=_read_marks(body, prompt),
    )


def _check_context(prompt: int, max_tokens: int, context: int | None) -> None:
    if context is None:
        return
    if prompt > context:
        raise invalid(f"prompt is too long: {prompt} tokens > {context} maximum")
    if prompt + max_tokens > context:
        raise invalid(
            "input length and `max_tokens` exceed context limit: "
            f"{prompt} + {max_tokens} > {context}, "
            "decrease input length or `max_tokens` and try again"
        )


def forced_message_tool(body: Mapping[str, Any]) -> Tool | None:
    """Return the tool that a checked request forces; the first of several."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if not choice or choice["type"] not in ("any", "tool"):
        return None
    name = choice["name"] if choice["type"] == "tool" else tools[0].get("name")
    tool = next(tool for tool in tools if tool.get("name") == name)
    schema = tool.get("input_schema")
    return Tool(name=str(name), schema=schema if isinstance(schema, Mapping) else {})
