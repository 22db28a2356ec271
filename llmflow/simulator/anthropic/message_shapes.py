"""Shapes of the Anthropic dialect's requests.

The service checks requests with pydantic and shows its words, so that they are checked likewise.
"""

from __future__ import annotations

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
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

__all__ = ["BETA_BODY", "BODY", "ValidationError"]

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


BODY, BETA_BODY = TypeAdapter[Any](_Body), TypeAdapter[Any](_BetaBody)
