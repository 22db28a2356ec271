"""Reads requests of the Anthropic dialect, or refuses them likewise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from llmflow.simulator.answer import count_tokens
from llmflow.simulator.anthropic.message_fields import check_block, check_fields, check_schema
from llmflow.simulator.anthropic.message_wire import AnthropicError, Mark, Marker, MessagesRequest
from llmflow.simulator.dialect import Form, Tool
from llmflow.simulator.quota import Charge
from llmflow.simulator.settings import SimulatorSettings

PLAIN_VERSION = "2023-06-01"
ROLES = ("user", "assistant")
_IMAGE_TOKENS = 1600
_MESSAGE_TOKENS = 3
_MOST_MARKS = 4


def _invalid(message: str) -> AnthropicError:
    return AnthropicError(400, message)


def _load(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"The request body is not valid JSON: {error}") from None
    if not isinstance(body, dict):
        raise _invalid("Input should be a valid dictionary")
    return body


def _required(body: Mapping[str, Any], name: str) -> Any:
    if name not in body:
        raise _invalid(f"{name}: Field required")
    return body[name]


def _max_tokens(body: Mapping[str, Any]) -> int:
    value = _required(body, "max_tokens")
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid("max_tokens: Input should be a valid integer")
    if value < 0:
        raise _invalid("max_tokens: Input should be greater than or equal to 0")
    return value


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


def _blocks(content: object, place: str) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """Yield text, block and further tokens of each block of a content."""
    if isinstance(content, str):
        yield content, {}, 0
        return
    if not isinstance(content, list):
        raise _invalid(f"{place}: Input should be a valid string or list")
    for index, block in enumerate(content):
        if not isinstance(block, dict):
            raise _invalid(f"{place}.{index}: Input should be a valid dictionary")
        kind = block.get("type")
        if not isinstance(kind, str):
            raise _invalid(f"{place}.{index}.type: Field required")
        check_block(kind, f"{place}.{index}")
        if kind == "text":
            text = block.get("text")
            if not isinstance(text, str):
                raise _invalid(f"{place}.{index}.text.text: Input should be a valid string")
            if not text:
                raise _invalid("messages: text content blocks must be non-empty")
            yield text, block, 0
        elif kind in ("image", "document"):
            yield "", block, _IMAGE_TOKENS
        else:
            yield "", block, count_tokens(orjson.dumps(block).decode())


def _read_system(body: Mapping[str, Any], prompt: _Prompt) -> None:
    system = body.get("system")
    if system is None:
        return
    prompt.tokens += _MESSAGE_TOKENS
    for text, block, tokens in _blocks(system, "system"):
        prompt.part("system", text, block, tokens=tokens)


def _read_messages(body: Mapping[str, Any], prompt: _Prompt) -> str:
    """Add all messages to the prompt; return the user's last text."""
    messages = _required(body, "messages")
    if not isinstance(messages, list):
        raise _invalid("messages: Input should be a valid list")
    if not messages:
        raise _invalid("messages: at least one message is required")
    last = before = ""
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _invalid(f"messages.{index}: Input should be a valid dictionary")
        role = _role(message, index, before)
        before = role
        if "content" not in message:
            raise _invalid(f"messages.{index}.content: Field required")
        prompt.tokens += _MESSAGE_TOKENS
        texts = []
        for text, block, tokens in _blocks(message["content"], f"messages.{index}.content"):
            prompt.part(role, text, block, tokens=tokens)
            texts.append(text)
        final = role == "assistant" and index == len(messages) - 1
        if not message["content"] and not final:
            raise _invalid(
                f"messages.{index}: all messages must have non-empty content "
                "except for the optional final assistant message"
            )
        if role == "user":
            last = "\n".join(text for text in texts if text)
    return last


def _role(message: Mapping[str, Any], index: int, before: str) -> str:
    """Return a message's role, or refuse one not allowed after `before`."""
    role = message.get("role")
    if role is None:
        raise _invalid(f"messages.{index}.role: Field required")
    if role == "system" and before == "user":
        return "system"  # new instructions in the middle of a conversation
    if role == "system":
        raise _invalid(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` '
            'parameter, not "system" as an input message role.'
        )
    if not isinstance(role, str) or role not in ROLES:
        raise _invalid(f"messages.{index}.role: Input should be 'user' or 'assistant'")
    return role


def _form(body: Mapping[str, Any]) -> Form:
    config = body.get("output_config")
    wanted = config.get("format") if isinstance(config, Mapping) else None
    if wanted is None:
        return None
    if not isinstance(wanted, Mapping):
        raise _invalid("output_config.format: Input should be a valid dictionary")
    for name in wanted:
        if name not in ("type", "schema"):
            raise _invalid(f"output_config.format.{name}: Extra inputs are not permitted")
    schema = wanted.get("schema")
    if wanted.get("type") != "json_schema" or not isinstance(schema, Mapping):
        raise _invalid("output_config.format: Input should be a JSON schema with its type")
    check_schema(schema, "output_config.format.schema")
    return schema


def _read_marks(body: Mapping[str, Any], prompt: _Prompt) -> list[Mark]:
    if prompt.marker is None:
        return []
    marks = prompt.marker.marks
    if isinstance(control := body.get("cache_control"), dict):
        prompt.marker.mark(prompt.tokens, long=control.get("ttl") == "1h")
    if len(marks) > _MOST_MARKS:
        raise _invalid(
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
    model = _required(body, "model")
    if not isinstance(model, str) or not model:
        raise _invalid("model: Input should be a valid string")
    max_tokens = _max_tokens(body)
    check_fields(body, version=version, beta=beta)
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
        raise _invalid(f"prompt is too long: {prompt} tokens > {context} maximum")
    if prompt + max_tokens > context:
        raise _invalid(
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
