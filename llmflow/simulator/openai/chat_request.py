"""Reads requests of the OpenAI dialect, or refuses them likewise."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

from llmflow.simulator.answer import count_tokens
from llmflow.simulator.exchange import Form, Tool, import_shapes, load_object
from llmflow.simulator.openai.chat_wire import ChatRequest, OpenAIError
from llmflow.simulator.openai.strict_schema import check_format, check_tool
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


def _check_model(model: str, body: Mapping[str, Any]) -> None:
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


def _invalid(message: str, param: str | None = None, code: str | None = None) -> OpenAIError:
    return OpenAIError(400, message, param=param, code=code)


_RELATED = frozenset(
    {"top_logprobs", "stream_options", "response_format"}
    | {"tools", "tool_choice", "parallel_tool_calls"}
)


def _only_with(name: str, other: str, body: Mapping[str, Any]) -> None:
    """Raise the refusal of a field that needs another one."""
    if body.get(name) is not None and not body.get(other):
        raise _invalid(f"The '{name}' parameter is only allowed when '{other}' is enabled.", name)


def _check_fields(body: Mapping[str, Any]) -> None:
    """Raise the refusal of a request whose fields do not fit each other."""
    _only_with("top_logprobs", "logprobs", body)
    _only_with("stream_options", "stream", body)
    wanted, tools = body.get("response_format") or {}, body.get("tools") or []
    if wanted.get("type") == "json_object" and "json" not in str(body["messages"]).lower():
        raise _invalid(
            "'messages' must contain the word 'json' in some form, "
            "to use 'response_format' of type 'json_object'.",
            "messages",
        )
    check_format(wanted, body["model"])
    for index, tool in enumerate(tools):
        check_tool(tool.get("function") or {}, f"tools[{index}].function.parameters")
    for name in ("tool_choice", "parallel_tool_calls"):
        if body.get(name) is not None and not tools:
            message = f"'{name}' is only allowed when 'tools' are specified."
            raise _invalid(f"Invalid value for '{name}': {message}", name)
    _check_choice(body.get("tool_choice"), tools)


def _check_choice(choice: Any, tools: list[Mapping[str, Any]]) -> None:
    """Raise the refusal of a choice of a tool that is not there."""
    if not isinstance(choice, dict):
        return
    named = {"tool_choice": choice}
    if choice["type"] == "allowed_tools":
        listed = enumerate(choice["allowed_tools"]["tools"])
        named = {f"tool_choice.allowed_tools.tools[{index}]": tool for index, tool in listed}
    known = [_tool_name(tool) for tool in tools]
    for param, tool in named.items():
        name = _tool_name(tool)
        if not isinstance(name, str) or name not in known:
            raise _invalid(f"Tool choice '{name}' not found in 'tools' parameter.", param)


def _tool_name(tool: Mapping[str, Any]) -> str | None:
    """Return the name in a tool, or in a reference to one."""
    inner = tool.get(str(tool.get("type")))
    return inner.get("name") if isinstance(inner, Mapping) else None


_IMAGE_TOKENS = 85
_MESSAGE_TOKENS = 3
_MAY_SAY_NOTHING = ("assistant", "function")


def _read_content(content: str | list[Mapping[str, Any]] | None) -> tuple[str, int]:
    """Return a message's text, and what its images count."""
    if content is None or isinstance(content, str):
        return content or "", 0
    texts = [part["text"] for part in content if part["type"] == "text"]
    return "\n".join(texts), _IMAGE_TOKENS * (len(content) - len(texts))


def _read_messages(messages: list[Mapping[str, Any]]) -> tuple[str, int, int]:
    """Return the last user message, the characters of all, and their tokens."""
    prompt, characters, tokens = "", 0, _MESSAGE_TOKENS
    for index, message in enumerate(messages):
        role, content = message["role"], message.get("content")
        if content is None and role not in _MAY_SAY_NOTHING:
            place = f"messages.[{index}].content"
            raise _invalid("Invalid value for 'content': expected a string, got null.", place)
        text, images = _read_content(content)
        characters += len(text)
        tokens += _MESSAGE_TOKENS + count_tokens(text) + images
        if role == "user" or not prompt:
            prompt = text
    return prompt, characters, tokens


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    old, new = body.get("max_tokens"), body.get("max_completion_tokens")
    if old is not None and new is not None:
        raise _invalid(
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            "max_tokens",
            "invalid_parameter_combination",
        )
    return old if new is None else new


def parse_chat(raw: bytes, settings: SimulatorSettings) -> ChatRequest:
    """Read a chat completion request.

    Raises:
        OpenAIError: the real service would refuse it, in these words.

    """
    body = load_object(raw)
    if body is None:
        raise _invalid(
            "We could not parse the JSON body of your request. (HINT: This likely means you "
            "aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, "
            "but what was sent was not valid JSON.)"
        )
    return read_chat(body, settings)


def read_chat(body: Mapping[str, Any], settings: SimulatorSettings) -> ChatRequest:
    """Read a chat completion request that is parsed already; as `parse_chat` otherwise."""
    shapes = import_shapes("openai.chat_shapes")
    shapes.check_shape(shapes.BODY, body)
    model = body["model"]
    prompt, characters, prompt_tokens = _read_messages(body["messages"])
    if settings.models and model not in settings.models:
        raise OpenAIError(
            404,
            f"The model `{model}` does not exist or you do not have access to it.",
            code="model_not_found",
        )
    if not _RELATED.isdisjoint(body):
        _check_fields(body)
    _check_model(model, body)
    max_tokens = _max_tokens(body)
    choices = body.get("n") or 1
    chat = ChatRequest(
        model=model,
        prompt=prompt,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        choices=choices,
        stream=bool(body.get("stream")),
        messages=body["messages"],
        form=_form(body.get("response_format") or {}),
        tool=_forced_tool(body) if "tool_choice" in body else None,
        offered=_offered_tools(body) if "tools" in body else (),
        charge=_charge(characters, max_tokens, choices, settings),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
    )
    _check_context(chat, settings.context_tokens)
    return chat


def _form(wanted: Mapping[str, Any]) -> Form:
    if wanted.get("type") == "json_object":
        return "object"
    return wanted["json_schema"]["schema"] if wanted.get("type") == "json_schema" else None


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
    raise _invalid(text, "messages", "context_length_exceeded")


def _charge(
    characters: int, max_tokens: int | None, choices: int, settings: SimulatorSettings
) -> Charge:
    """Return what the request is charged when it arrives."""
    prompt = math.ceil(characters / 4)
    output = settings.default_max_tokens if max_tokens is None else max_tokens
    output *= choices
    tokens = max(output, prompt) if settings.charge == "max" else output + prompt
    return Charge(tokens, prompt, output)


def _forced_tool(body: Mapping[str, Any]) -> Tool | None:
    """Return the tool that a checked request forces; the first of several."""
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
    name = _tool_name(choice)
    return next((_chat_tool(tool) for tool in tools if _tool_name(tool) == name), None)


def _offered_tools(body: Mapping[str, Any]) -> list[Tool]:
    """Return the tools among which a request leaves the choice."""
    choice = body.get("tool_choice")
    free = choice in (None, "auto")
    return [_chat_tool(tool) for tool in body.get("tools") or ()] if free else []


def _chat_tool(tool: Mapping[str, Any]) -> Tool:
    inner = tool[tool["type"]]
    if tool["type"] == "custom":
        return Tool(name=inner["name"], schema=None)
    schema = inner.get("parameters")
    return Tool(name=inner["name"], schema=schema if isinstance(schema, Mapping) else {})
