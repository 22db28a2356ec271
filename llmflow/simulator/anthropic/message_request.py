"""Reads requests of the Anthropic dialect, or refuses them likewise."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from llmflow.simulator.answer import count_tokens
from llmflow.simulator.anthropic.message_wire import LIFETIME, AnthropicError, Mark, MessagesRequest
from llmflow.simulator.anthropic.output_schema import check_schemas, wanted_format
from llmflow.simulator.exchange import Tool, import_shapes
from llmflow.simulator.quota import Charge
from llmflow.simulator.settings import SimulatorSettings

NO_SAMPLING = "2026-10-21"
"""The version of the API that has no sampling settings."""
PLAIN_VERSION = "2023-06-01"
VERSIONS = ("2023-01-01", PLAIN_VERSION, NO_SAMPLING)
_SAMPLING = ("temperature", "top_p", "top_k")
_NO_SAMPLING_MODELS = re.compile(r"claude-(?:opus-(?:4-[78]|5(?:-5)?)|haiku-5-5)(?:$|-\d{8}$)")
# Claude 5.5 and the 5.1 of Fable and Mythos refuse any tool to be forced (September 2026).
_THINKS_ALWAYS = re.compile(
    r"claude-(?:(?:opus|sonnet)-5-5|(?:fable|mythos)-5(?:-1)?)(?:$|-\d{8}$)"
)
_ROLES = ("user", "assistant")
_IMAGE_TOKENS = 1600
_MESSAGE_TOKENS = 3
_MOST_MARKS = 4
_LONG_LIFETIME = 3600.0


def _invalid(message: str) -> AnthropicError:
    return AnthropicError(400, message)


def check_version(headers: Mapping[str, str]) -> str:
    """Return the API version of a request, or raise the refusal."""
    version = headers.get("anthropic-version")
    if version is None:
        raise _invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        raise _invalid(f'anthropic-version: "{version}" is not a valid version')
    return version


def _check_fields(body: Mapping[str, Any], *, version: str, beta: bool) -> None:
    shapes = import_shapes("anthropic.message_shapes")
    shapes.check_shape(shapes.BETA_BODY if beta else shapes.BODY, body)
    _check_sampling(body, version)
    if body.get("tools"):
        _check_tools(body["tools"])
    if body.get("tool_choice"):
        _check_choice(body)
    thinking = body.get("thinking") or {}
    if thinking.get("budget_tokens", 0) >= body["max_tokens"] > 0:
        raise _invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
    check_schemas(body)


@lru_cache(maxsize=256)
def _takes_sampling(model: str) -> bool:
    return _NO_SAMPLING_MODELS.match(model.rpartition("/")[2]) is None


def _check_sampling(body: Mapping[str, Any], version: str) -> None:
    for name in _SAMPLING:
        if name in body and version == NO_SAMPLING:
            raise _invalid(f"{name}: Extra inputs are not permitted")
        if body.get(name) is not None and not _takes_sampling(body["model"]):
            raise _invalid(f"`{name}` is deprecated for this model.")


def _check_tools(tools: list[Mapping[str, Any]]) -> None:
    names = [tool["name"] for tool in tools if "name" in tool]
    if len(set(names)) < len(names):
        raise _invalid("tools: Tool names must be unique.")


def _check_choice(body: Mapping[str, Any]) -> None:
    choice, tools = body["tool_choice"], body.get("tools")
    if not tools:
        raise _invalid("tool_choice: tool_choice may only be specified while providing tools")
    if choice["type"] in ("any", "tool"):
        thinks = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
        if thinks or _THINKS_ALWAYS.match(body["model"].rpartition("/")[2]):
            raise _invalid("Thinking may not be enabled when tool_choice forces tool use.")
    if "name" in choice and choice["name"] not in [tool.get("name") for tool in tools]:
        raise _invalid(f"Tool '{choice['name']}' not found in provided tools")


class _Prompt:
    """Adds up the parts of a prompt, in their order, and marks prefixes to be cached."""

    def __init__(self, model: str, *, caching: bool) -> None:
        self.characters, self.tokens = 0, _MESSAGE_TOKENS
        self.marks: list[Mark] = []
        self._hash = hashlib.sha256(model.encode("utf-8", "replace")) if caching else None

    def part(self, role: str, text: str, block: Mapping[str, Any], *, tokens: int = 0) -> None:
        """Add a text, or a block that counts `tokens`."""
        self.characters += len(text) + 4 * tokens
        self.tokens += count_tokens(text) + tokens
        if self._hash is not None:
            shown = text if not tokens else orjson.dumps(block).decode()
            self._hash.update(f"\0{role}\0{shown}".encode("utf-8", "replace"))
            self.mark(block.get("cache_control"))

    def mark(self, control: object) -> None:
        """Mark the prompt up to here, if that is asked for."""
        if self._hash is not None and isinstance(control, dict):
            seconds = _LONG_LIFETIME if control.get("ttl") == "1h" else LIFETIME
            self.marks.append(Mark(self._hash.digest(), self.tokens, seconds))


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
                raise _invalid("messages: text content blocks must be non-empty")
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
        raise _invalid("messages: at least one message is required")
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
            raise _invalid(
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
        raise _invalid(
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` '
            'parameter, not "system" as an input message role.'
        )
    if role not in _ROLES:
        raise _invalid(f"messages.{index}.role: Input should be 'user' or 'assistant'")
    return str(role)


def _read_marks(body: Mapping[str, Any], prompt: _Prompt) -> list[Mark]:
    prompt.mark(body.get("cache_control"))
    if len(prompt.marks) > _MOST_MARKS:
        raise _invalid(
            f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. "
            f"Found {len(prompt.marks)}."
        )
    return prompt.marks


def parse_messages(
    raw: bytes, settings: SimulatorSettings, *, version: str = PLAIN_VERSION, beta: bool = False
) -> MessagesRequest:
    """Read a request for a message, of a version of the API.

    Raises:
        AnthropicError: the real service would refuse it, in these words.

    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise _invalid(f"The request body is not valid JSON: {error}") from None
    caching = b'"cache_control"' in raw
    return read_messages(body, settings, caching=caching, version=version, beta=beta)


def read_messages(
    body: Mapping[str, Any],
    settings: SimulatorSettings,
    *,
    caching: bool,
    version: str = PLAIN_VERSION,
    beta: bool = False,
) -> MessagesRequest:
    """Read a parsed request; `caching` says if it may mark a prefix."""
    _check_fields(body, version=version, beta=beta)
    model, max_tokens = body["model"], body["max_tokens"]
    prompt = _Prompt(model, caching=caching)
    _read_system(body, prompt)
    last = _read_messages(body, prompt)
    if settings.models and model not in settings.models:
        raise AnthropicError(404, f"model: {model}")
    _check_context(prompt.tokens, max_tokens, settings.context_tokens)
    form = wanted_format(body)
    estimate = math.ceil(prompt.characters / 4)
    return MessagesRequest(
        model=model,
        prompt=last,
        prompt_tokens=prompt.tokens,
        max_tokens=max_tokens,
        stream=bool(body.get("stream")),
        messages=body["messages"],
        system=body.get("system"),
        form=form["schema"] if form else None,
        tool=_forced_tool(body) if "tool_choice" in body else None,
        offered=_offered_tools(body) if "tools" in body else (),
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


def _forced_tool(body: Mapping[str, Any]) -> Tool | None:
    """Return the tool that a checked request forces; the first of several."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if not choice or choice["type"] not in ("any", "tool"):
        return None
    name = choice["name"] if choice["type"] == "tool" else tools[0].get("name")
    return _tool(next(tool for tool in tools if tool.get("name") == name))


def _offered_tools(body: Mapping[str, Any]) -> list[Tool]:
    """Return the tools among which a request leaves the choice."""
    kind = (body.get("tool_choice") or {"type": "auto"})["type"]
    return [_tool(tool) for tool in body.get("tools") or () if kind == "auto"]


def _tool(tool: Mapping[str, Any]) -> Tool:
    schema = tool.get("input_schema")
    return Tool(
        name=str(tool.get("name")),
        schema=schema if isinstance(schema, Mapping) else {},
        read=True,
    )
