"""Fields of the Anthropic dialect, and what they may hold.

The service checks requests with pydantic and shows its words, so that they are checked likewise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal, Required

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict

from llmflow.simulator.anthropic.message_wire import AnthropicError

SAMPLING = ("temperature", "top_p", "top_k")
NO_SAMPLING = "2026-10-21"
"""The version of the API that has no sampling settings."""
VERSIONS = ("2023-01-01", "2023-06-01", NO_SAMPLING)
_NO_SAMPLING_MODELS = re.compile(r"claude-(?:opus-(?:4-[78]|5(?:-5)?)|haiku-5-5)(?:$|-\d{8}$)")
_CLOSED = ConfigDict(strict=True, extra="forbid")
_OPEN = ConfigDict(strict=True, extra="allow")
Share = Annotated[float, Field(ge=0, le=1)]
BlockKind = Literal[
    "advisor_tool_result", "bash_code_execution_tool_result", "code_execution_tool_result",
    "compaction", "container_upload", "document", "fallback", "image", "mcp_tool_listing",
    "mcp_tool_result", "mcp_tool_use", "redacted_thinking", "search_result", "server_tool_use",
    "text_editor_code_execution_tool_result", "thinking", "tool_addition", "tool_removal",
    "tool_result", "tool_search_tool_result", "tool_use", "web_fetch_tool_result",
    "web_search_tool_result",
]  # fmt: skip


@with_config(_OPEN)
class _Text(TypedDict):
    type: Literal["text"]
    text: str


@with_config(_OPEN)
class _Block(TypedDict):
    type: BlockKind


def _content_kind(content: object) -> str | None:
    return type(content).__name__ if isinstance(content, str | list) else None


Content = Annotated[
    Annotated[str, Tag("str")]
    | Annotated[list[Annotated[_Text | _Block, Discriminator("type")]], Tag("list")],
    Discriminator(
        _content_kind,
        custom_error_type="content",
        custom_error_message="Input should be a valid string or list",
    ),
]


@with_config(_OPEN)
class _Message(TypedDict):
    role: str
    content: Content


@with_config(_CLOSED)
class _Metadata(TypedDict, total=False):
    user_id: str | None


@with_config(_OPEN)
class _Enabled(TypedDict):
    type: Literal["enabled"]
    budget_tokens: Annotated[int, Field(ge=1024)]


@with_config(_OPEN)
class _Thinking(TypedDict):
    type: Literal["disabled", "adaptive", "between_tools"]


@with_config(_CLOSED)
class _Format(TypedDict):
    type: Literal["json_schema"]
    schema: dict[str, Any]


@with_config(_CLOSED)
class _Output(TypedDict, total=False):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None
    format: _Format | None
    task_budget: Any


@with_config(_OPEN)
class _InputSchema(TypedDict):
    type: Literal["object"]


@with_config(_OPEN)
class _Tool(TypedDict, total=False):
    type: Literal["custom"] | None
    name: Required[Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,128}$")]]
    input_schema: Required[_InputSchema]


@with_config(_OPEN)
class _ServerTool(TypedDict, total=False):  # a set of tools has no name of its own
    name: str


def _tool_kind(tool: object) -> str | None:
    if not isinstance(tool, dict):
        return None
    kind = tool.get("type") or "custom"
    return kind if kind in ("custom", "function") else "server"


Tools = list[
    Annotated[
        Annotated[_Tool, Tag("custom")] | Annotated[_ServerTool, Tag("server")],
        Discriminator(_tool_kind),
    ]
]


@with_config(_OPEN)
class _NamedChoice(TypedDict):
    type: Literal["tool"]
    name: str


@with_config(_OPEN)
class _Choice(TypedDict):
    type: Literal["auto", "any", "none"]


def _no_blank(stops: list[str]) -> list[str]:
    if any(not text.strip() for text in stops):
        raise PydanticCustomError("blank", "each stop sequence must contain non-whitespace")
    return stops


@with_config(_CLOSED)
class _Body(TypedDict, total=False):
    model: Required[Annotated[str, Field(min_length=1)]]
    max_tokens: Required[Annotated[int, Field(ge=0)]]
    metadata: _Metadata | None
    stop_sequences: Annotated[list[str], AfterValidator(_no_blank)] | None
    temperature: Share | None
    top_p: Share | None
    top_k: Annotated[int, Field(ge=0)] | None
    service_tier: Literal["auto", "standard_only"] | None
    stream: bool | None
    system: Content | None
    messages: Required[list[_Message]]
    thinking: Annotated[_Enabled | _Thinking, Discriminator("type")] | None
    output_config: _Output | None
    tools: Tools | None
    tool_choice: Annotated[_NamedChoice | _Choice, Discriminator("type")] | None
    cache_control: Any
    container: Any
    diagnostics: Any
    inference_geo: Any
    speed: Any
    user_profile_id: Any
    workspace_id: Any


@with_config(_CLOSED)
class _BetaBody(_Body, total=False):
    betas: Any
    billing_policy: Any
    compaction: Any
    context_management: Any
    fallback_credit_token: Any
    fallbacks: Any
    mcp_servers: Any
    output_format: Any
    thread: Any


_BODY, _BETA_BODY = TypeAdapter[Any](_Body), TypeAdapter[Any](_BetaBody)


def invalid(message: str) -> AnthropicError:
    """Return a 400."""
    return AnthropicError(400, message)


def check_version(headers: Mapping[str, str]) -> str:
    """Return the API version of a request, or raise the refusal."""
    version = headers.get("anthropic-version")
    if version is None:
        raise invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        raise invalid(f'anthropic-version: "{version}" is not a valid version')
    return version


def check_fields(body: object, *, version: str, beta: bool) -> None:
    """Raise the refusal of unknown fields and wrong values."""
    try:
        checked = (_BETA_BODY if beta else _BODY).validate_python(body)
    except ValidationError as error:
        raise invalid(_in_words(error.errors(include_url=False)[0])) from None
    _check_sampling(checked, version)
    if checked.get("tools"):
        _check_tools(checked["tools"])
    if checked.get("tool_choice"):
        _check_choice(checked)
    thinking = checked.get("thinking") or {}
    if thinking.get("budget_tokens", 0) >= checked["max_tokens"] > 0:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if form := (checked.get("output_config") or {}).get("format"):
        check_schema(form["schema"], "output_config.format.schema")


def _in_words(error: ErrorDetails) -> str:
    """Return an error as the service shows it."""
    place, words = [str(part) for part in error["loc"]], error["msg"]
    if error["type"] == "union_tag_not_found":
        place, words = [*place, "type"], "Field required"
    elif error["type"] == "union_tag_invalid":
        words = words.replace("_tool_kind()", "'type'")
    return ": ".join(
        [*filter(None, [".".join(each for each in place if each not in _WAYS)]), words]
    )


# Where pydantic names the one of several types that it has looked at.
_WAYS = ("list", "str", "server")


@lru_cache(maxsize=256)
def _takes_sampling(model: str) -> bool:
    return _NO_SAMPLING_MODELS.match(model.rpartition("/")[2]) is None


def _check_sampling(body: Mapping[str, Any], version: str) -> None:
    for name in SAMPLING:
        if name in body and version == NO_SAMPLING:
            raise invalid(f"{name}: Extra inputs are not permitted")
        if body.get(name) is not None and not _takes_sampling(body["model"]):
            raise invalid(f"`{name}` is deprecated for this model.")


def _check_tools(tools: list[Mapping[str, Any]]) -> None:
    names = [tool["name"] for tool in tools if "name" in tool]
    if len(set(names)) < len(names):
        raise invalid("tools: Tool names must be unique.")
    for index, tool in enumerate(tools):
        if tool.get("strict") and "input_schema" in tool:
            check_schema(tool["input_schema"], f"tools.{index}.custom.input_schema")


def _check_choice(body: Mapping[str, Any]) -> None:
    choice, tools = body["tool_choice"], body.get("tools")
    if not tools:
        raise invalid("tool_choice: tool_choice may only be specified while providing tools")
    thinks = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
    if choice["type"] in ("any", "tool") and thinks:
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.")
    if "name" in choice and choice["name"] not in [tool.get("name") for tool in tools]:
        raise invalid(f"Tool '{choice['name']}' not found in provided tools")


_NUMBER_WORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_REFUSED: Mapping[str, tuple[str, ...]] = {
    "integer": _NUMBER_WORDS,
    "number": _NUMBER_WORDS,
    "string": ("minLength", "maxLength"),
    "array": ("maxItems", "uniqueItems"),
    "object": ("minProperties", "maxProperties", "patternProperties"),
}
_NAMED = ("$defs", "definitions")
_LISTED = ("anyOf", "allOf")


def check_schema(schema: Mapping[str, Any], place: str) -> None:
    """Raise the refusal of a schema outside the supported subset."""
    for part in _parts(schema):
        _check_part(part, place)
    for name in _NAMED:
        _check_circles(schema, name, place)


def _check_part(part: Mapping[str, Any], place: str) -> None:
    kind = part.get("type")
    if not isinstance(kind, str):
        return
    refused = [word for word in _REFUSED.get(kind, ()) if word in part]
    if refused:
        words, verb = ("properties", "are") if len(refused) > 1 else ("property", "is")
        named = ", ".join(refused) if len(refused) > 1 else f"'{refused[0]}'"
        raise _bad_schema(place, f"For '{kind}' type, {words} {named} {verb} not supported")
    if kind == "array" and part.get("minItems", 0) not in (0, 1):
        raise _bad_schema(
            place, "For 'array' type, 'minItems' values other than 0 or 1 are not supported"
        )
    if kind == "object" and part.get("additionalProperties") is not False:
        raise _bad_schema(
            place, "For 'object' type, 'additionalProperties' must be explicitly set to false"
        )


def _check_circles(schema: Mapping[str, Any], name: str, place: str) -> None:
    """Refuse definitions that lead back to themselves."""
    parts = schema.get(name)
    if not isinstance(parts, dict):
        return
    prefix = f"#/{name}/"
    leads = {
        one: {str(inner["$ref"]).removeprefix(prefix) for inner in _parts(part) if "$ref" in inner}
        for one, part in parts.items()
        if isinstance(part, dict)
    }
    done: set[str] = set()

    def follow(one: str, way: tuple[str, ...]) -> None:
        if one in way:
            circle = " -> ".join((*way[way.index(one) :], one))
            raise _bad_schema(
                place,
                f"Circular reference detected in schema definitions: {circle}. "
                "Self-referencing or mutually-referencing definitions are not supported.",
            )
        if one in done:
            return
        for other in sorted(leads.get(one, ())):
            follow(other, (*way, one))
        done.add(one)

    for one in leads:
        follow(one, ())


def _parts(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every schema within a schema."""
    yield schema
    inner: list[Any] = [schema.get("items")]
    for name in ("properties", *_NAMED):
        named = schema.get(name)
        inner += named.values() if isinstance(named, dict) else ()
    for name in _LISTED:
        listed = schema.get(name)
        inner += listed if isinstance(listed, list) else ()
    for part in inner:
        if isinstance(part, dict):
            yield from _parts(part)


def _bad_schema(place: str, reason: str) -> AnthropicError:
    return AnthropicError(400, f"{place}: {reason}")
