"""Reads requests of the OpenAI dialect, or refuses them likewise."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import orjson

from llmflow.simulator.answer import count_tokens
from llmflow.simulator.dialect import Form, Tool
from llmflow.simulator.openai.chat_fields import (
    bad_value,
    chat_tool_name,
    check_fields,
    invalid,
    known_only,
    missing,
    wrong_type,
)
from llmflow.simulator.openai.chat_wire import ChatRequest, OpenAIError
from llmflow.simulator.quota import Charge
from llmflow.simulator.settings import SimulatorSettings

Reasoning = Literal["always", "by_effort", "never"]
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")
_REASONING = re.compile(r"(?:o\d|gpt-(?:[5-9]|\d\d))(?:$|[.-])")
_PLAIN = re.compile(r"(?:gpt-(?:3\.5|4)(?:$|[.o-])|chatgpt-4o|gpt-5-chat(?:$|-))")
# Those that can be asked not to reason, and do not unless they are asked to.
_CAN_REST = re.compile(r"gpt-(?:5\.[1-6](?:-mini|-nano)?|6-sol|6-luna|6\.1-terra)$")
_STOP_ALLOWED = re.compile(r"o1(?:$|-)|o3-mini(?:$|-)")
_AT_REST: Mapping[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (),
    "logit_bias": ({},),
}
_SAMPLING = frozenset((*_AT_REST, "temperature"))
_LIMITED = _SAMPLING | {"max_tokens", "stop", "reasoning_effort"}


@lru_cache(maxsize=256)
def reasoning(model: str) -> Reasoning | None:
    """Return if a documented model reasons; None for other names.

    >>> reasoning("o3"), reasoning("gpt-5.1"), reasoning("gpt-4.1-mini"), reasoning("simulated")
    ('always', 'by_effort', 'never', None)
    """
    name = _SNAPSHOT.sub("", model.rpartition("/")[2])
    if _PLAIN.match(name):
        return "never"
    if not _REASONING.match(name):
        return None
    return "by_effort" if _CAN_REST.match(name) else "always"


def check_model(model: str, body: Mapping[str, Any]) -> None:
    """Raise the refusal of a setting that the model does not take."""
    kind = reasoning(model)
    if kind is None or _LIMITED.isdisjoint(body):
        return
    effort = body.get("reasoning_effort")
    if kind == "never":
        if effort is not None:
            raise OpenAIError(400, "Unrecognized request argument supplied: reasoning_effort")
        return
    if body.get("max_tokens") is not None:
        raise _unsupported("max_tokens", "Use 'max_completion_tokens' instead.")
    if effort == "none" and kind == "always":
        raise _unsupported_value("reasoning_effort", "none", "Choose an effort of reasoning.")
    if body.get("stop") is not None and not _STOP_ALLOWED.match(model.rpartition("/")[2]):
        raise _unsupported("stop")
    if kind == "always" or effort not in (None, "none"):
        _check_sampling(body)


def _check_sampling(body: Mapping[str, Any]) -> None:
    temperature = body.get("temperature")
    if temperature not in (None, 1):
        raise _unsupported_value(
            "temperature", temperature, "Only the default (1) value is supported."
        )
    for name, defaults in _AT_REST.items():
        value = body.get(name)
        if value is not None and value not in defaults:
            raise _unsupported(name)


def _unsupported(name: str, remedy: str = "") -> OpenAIError:
    message = f"Unsupported parameter: '{name}' is not supported with this model. {remedy}"
    return OpenAIError(400, message.rstrip(), param=name, code="unsupported_parameter")


def _unsupported_value(name: str, value: object, remedy: str) -> OpenAIError:
    shown = f"'{value}'" if isinstance(value, str) else value
    message = f"Unsupported value: '{name}' does not support {shown} with this model. {remedy}"
    return OpenAIError(400, message, param=name, code="unsupported_value")


ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_IMAGE_TOKENS = 85
_MESSAGE_TOKENS = 3
# The last two are of an answer that is sent back as the official SDK has read it.
_FIELD_NAMES = (
    "role content name tool_calls tool_call_id function_call refusal audio annotations parsed"
)
_MESSAGE_FIELDS = frozenset(_FIELD_NAMES.split())
_MAY_SAY_NOTHING = ("assistant", "function")
_PARTS = ("text", "image_url", "input_audio", "refusal", "audio", "file")


def _content(content: object, param: str) -> tuple[str, int]:
    """Return a message's text, and what its images count."""
    if isinstance(content, str):
        return content, 0
    if content is None:
        return "", 0
    if not isinstance(content, list):
        raise wrong_type(param, "one of a string or array of objects", content)
    texts, images = [], 0
    for index, part in enumerate(content):
        if not isinstance(part, dict):
            raise wrong_type(f"{param}[{index}]", "an object", part)
        kind = part.get("type")
        if kind not in _PARTS:
            place = f"{param}[{index}].type"
            raise missing(place) if kind is None else bad_value(place, kind, _PARTS)
        if kind != "text":
            images += _IMAGE_TOKENS
        elif isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise wrong_type(f"{param}[{index}].text", "a string", part.get("text"))
    return "\n".join(texts), images


def _messages(body: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return the last user message, the characters of all, and their tokens."""
    messages = body.get("messages")
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array of objects", messages)
    if not messages:
        raise invalid(
            "Invalid 'messages': empty array. "
            "Expected an array with minimum length 1, but got an empty array instead.",
            "messages",
            "empty_array",
        )
    prompt, characters, tokens = "", 0, _MESSAGE_TOKENS
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise wrong_type(f"messages[{index}]", "an object", message)
        role = message.get("role")
        if role not in ROLES:
            raise _bad_role(index, role)
        if not message.keys() <= _MESSAGE_FIELDS:
            known_only(message, _MESSAGE_FIELDS, f"messages[{index}]")
        content = message.get("content")
        if content is None and role not in _MAY_SAY_NOTHING:
            place = f"messages.[{index}].content"
            raise invalid("Invalid value for 'content': expected a string, got null.", place)
        text, images = _content(content, f"messages[{index}].content")
        characters += len(text)
        tokens += _MESSAGE_TOKENS + count_tokens(text) + images
        if role == "user" or not prompt:
            prompt = text
    return prompt, characters, tokens


def _bad_role(index: int, role: object) -> OpenAIError:
    param = f"messages[{index}].role"
    if role is None:
        return missing(param)
    if not isinstance(role, str):
        return wrong_type(param, "a string", role)
    allowed = ", ".join(f"'{name}'" for name in ROLES[:-1])
    return invalid(
        f"Invalid value: '{role}'. Supported values are: {allowed}, and '{ROLES[-1]}'.",
        param,
        "invalid_value",
    )


def _load(raw: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise OpenAIError(
            400,
            "We could not parse the JSON body of your request. (HINT: This likely means you "
            "aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, "
            "but what was sent was not valid JSON.)",
        )
    return body


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    old, new = body.get("max_tokens"), body.get("max_completion_tokens")
    if old is not None and new is not None:
        raise invalid(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            "max_tokens",
            "invalid_parameter_combination",
        )
    return old if new is None else new  # whole numbers: the fields are checked


def parse_chat(raw: bytes, settings: SimulatorSettings) -> ChatRequest:
    """Read a chat completion request.

    Raises:
        OpenAIError: the real service would refuse it, in these words.

    """
    return read_chat(_load(raw), settings)


def read_chat(body: Mapping[str, Any], settings: SimulatorSettings) -> ChatRequest:
    """Read a chat completion request that is parsed already; as `parse_chat` otherwise."""
    model = body.get("model")
    if model is None:
        raise missing("model")
    if not isinstance(model, str):
        raise wrong_type("model", "a string", model)
    prompt, characters, prompt_tokens = _messages(body)
    if settings.models and model not in settings.models:
        raise OpenAIError(
            404,
            f"The model `{model}` does not exist or you do not have access to it.",
            code="model_not_found",
        )
    check_fields(body)
    check_model(model, body)
    max_tokens = _max_tokens(body)
    choices = body.get("n") or 1
    chat = ChatRequest(
        model=model,
        prompt=prompt,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        choices=choices,
        stream=bool(body.get("stream")),
        form=_form(body.get("response_format") or {}),
        tool=forced_chat_tool(body) if "tool_choice" in body else None,
        charge=_charge(characters, max_tokens, choices, settings),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )
    _check_context(chat, settings.context_tokens)
    return chat


def _form(wanted: Mapping[str, Any]) -> Form:
    if wanted.get("type") == "json_object":
        return "object"
    if wanted.get("type") != "json_schema":
        return None
    outer = wanted.get("json_schema")
    schema = outer.get("schema") if isinstance(outer, Mapping) else None
    return schema if isinstance(schema, Mapping) else {}


def _check_context(chat: ChatRequest, context: int | None) -> None:
    if context is None:
        return
    most = f"This model's maximum context length is {context} tokens. However, "
    if chat.prompt_tokens >= context:
        text = (
            f"{most}your messages resulted in {chat.prompt_tokens} tokens. "
            "Please reduce the length of the messages."
        )
    elif chat.max_tokens is not None and chat.prompt_tokens + chat.max_tokens > context:
        text = (
            f"{most}you requested {chat.prompt_tokens + chat.max_tokens} tokens "
            f"({chat.prompt_tokens} in the messages, {chat.max_tokens} in the completion). "
            "Please reduce the length of the messages or completion."
        )
    else:
        return
    raise invalid(text, "messages", "context_length_exceeded")


def _charge(
    characters: int, max_tokens: int | None, choices: int, settings: SimulatorSettings
) -> Charge:
    """Return what the request is charged when it arrives."""
    prompt = math.ceil(characters / 4)
    output = settings.default_max_tokens if max_tokens is None else max_tokens
    output *= choices
    tokens = max(output, prompt) if settings.charge == "max" else output + prompt
    return Charge(tokens, prompt, output)


def forced_chat_tool(body: Mapping[str, Any]) -> Tool | None:
    """Return the tool that a checked request forces; the first of several.

    >>> look = {"type": "function", "function": {"name": "look"}}
    >>> forced_chat_tool({"tools": [look], "tool_choice": "required"})
    Tool(name='look', schema={})
    """
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if isinstance(choice, str):
        return _chat_tool(tools[0]) if choice == "required" else None
    if not choice:
        return None
    if choice["type"] == "allowed_tools":
        allowed = choice["allowed_tools"]
        if allowed["mode"] != "required":
            return None
        choice = allowed["tools"][0]
    name = chat_tool_name(choice)
    return next((_chat_tool(tool) for tool in tools if chat_tool_name(tool) == name), None)


def _chat_tool(tool: Mapping[str, Any]) -> Tool:
    inner = tool[tool["type"]]
    if tool["type"] == "custom":
        return Tool(name=inner["name"], schema=None)
    schema = inner.get("parameters")
    return Tool(name=inner["name"], schema=schema if isinstance(schema, Mapping) else {})
