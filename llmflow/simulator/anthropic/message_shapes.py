"""Shapes of the Anthropic dialect's requests.

The service checks requests with pydantic and shows its words, so that they are checked likewise.
"""

from __future__ import annotations

from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, SchemaValidator
from pydantic_core import core_schema as core

from llmflow.simulator.anthropic.message_wire import AnthropicError
from llmflow.simulator.shapes import (
    ANY,
    FLAG,
    OBJECT,
    TEXT,
    by_kind,
    either,
    first_errors,
    nullable,
    one_of,
    place,
    table,
)

_BLOCKS = (
    "advisor_tool_result bash_code_execution_tool_result code_execution_tool_result compaction "
    "container_upload document fallback image mcp_tool_listing mcp_tool_result mcp_tool_use "
    "redacted_thinking search_result server_tool_use text_editor_code_execution_tool_result "
    "thinking tool_addition tool_removal tool_result tool_search_tool_result tool_use "
    "web_fetch_tool_result web_search_tool_result"
)
_OPEN = table({}, closed=False)
_BLOCK = core.tagged_union_schema(
    {"text": table({"text": TEXT}, closed=False), **dict.fromkeys(_BLOCKS.split(), _OPEN)}, "type"
)
_CONTENT = either("Input should be a valid string or list", str=TEXT, list=core.list_schema(_BLOCK))
_MESSAGE = table({"role": TEXT, "content": _CONTENT}, closed=False)
_BUDGET = table({"budget_tokens": core.int_schema(ge=1024)}, closed=False)
_THINKING = core.tagged_union_schema(
    {"enabled": _BUDGET, "disabled": _OPEN, "adaptive": _OPEN, "between_tools": _OPEN}, "type"
)
_FORMAT = table({"type": one_of("json_schema"), "schema": OBJECT})
_EFFORT = one_of("low", "medium", "high", "xhigh", "max")
_OUTPUT = table({}, {"effort": nullable(_EFFORT), "format": nullable(_FORMAT), "task_budget": ANY})
_TOOL = table(
    {
        "name": core.str_schema(pattern="^[a-zA-Z0-9_-]{1,128}$"),
        "input_schema": table({"type": one_of("object")}, closed=False),
    },
    {"type": nullable(one_of("custom"))},
    closed=False,
)


def _tool_kind(tool: object) -> str | None:
    if not isinstance(tool, dict):
        return None
    kind = tool.get("type") or "custom"
    return kind if kind in ("custom", "function") else "<server>"


# A set of tools has no name of its own.
_TOOLS = by_kind(
    _tool_kind, {"custom": _TOOL, "<server>": table({}, {"name": TEXT}, closed=False)}, shown=True
)
_CHOICE = core.tagged_union_schema(
    {"tool": table({"name": TEXT}, closed=False), **dict.fromkeys(("auto", "any", "none"), _OPEN)},
    "type",
)


def _no_blank(stops: list[str]) -> list[str]:
    if any(not text.strip() for text in stops):
        raise PydanticCustomError("blank", "each stop sequence must contain non-whitespace")
    return stops


_STOPS = core.no_info_after_validator_function(_no_blank, core.list_schema(TEXT))
_SHARE = core.float_schema(ge=0, le=1)
_FIELDS: dict[str, CoreSchema] = {
    "metadata": nullable(table({}, {"user_id": nullable(TEXT)})),
    "stop_sequences": nullable(_STOPS),
    "temperature": nullable(_SHARE),
    "top_p": nullable(_SHARE),
    "top_k": nullable(core.int_schema(ge=0)),
    "service_tier": nullable(one_of("auto", "standard_only")),
    "stream": nullable(FLAG),
    "system": nullable(_CONTENT),
    "thinking": nullable(_THINKING),
    "output_config": nullable(_OUTPUT),
    "tools": nullable(core.list_schema(_TOOLS)),
    "tool_choice": nullable(_CHOICE),
    **dict.fromkeys(("cache_control", "container", "diagnostics", "inference_geo"), ANY),
    **dict.fromkeys(("speed", "user_profile_id", "workspace_id"), ANY),
}
_BETA = (
    *("betas", "billing_policy", "compaction", "context_management", "fallback_credit_token"),
    *("fallbacks", "mcp_servers", "output_format", "thread"),
)
_REQUIRED = {
    "model": core.str_schema(min_length=1),
    "max_tokens": core.int_schema(ge=0),
    "messages": core.list_schema(_MESSAGE),
}
BODY = SchemaValidator(table(_REQUIRED, _FIELDS))
BETA_BODY = SchemaValidator(table(_REQUIRED, _FIELDS | dict.fromkeys(_BETA, ANY)))
_IDENT = core.str_schema(pattern="^[a-zA-Z0-9_-]{1,64}$")
ROW = SchemaValidator(table({"custom_id": _IDENT, "params": OBJECT}))


def check_shape(shape: SchemaValidator, value: object, *within: str) -> None:
    """Raise the refusal of a value of another shape.

    Args:
        shape: `BODY`, `BETA_BODY` or `ROW`.
        value: a request, or a part of one.
        within: where the value is.
    """
    errors = first_errors(shape, value)
    if errors:
        raise AnthropicError(400, _in_words(errors[0], within))


def _in_words(error: ErrorDetails, within: tuple[str, ...]) -> str:
    parts, words = [*within, *place(error)], error["msg"]
    if error["type"] == "union_tag_not_found":
        parts, words = [*parts, "type"], "Field required"
    elif error["type"] == "union_tag_invalid":
        words = words.replace("_tool_kind()", "'type'").replace("'<server>'", "'server'")
    named = ".".join(str(part) for part in parts)
    return f"{named}: {words}" if named else words
