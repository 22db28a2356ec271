"""Fields of the Anthropic dialect, and what they may hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from llmflow.simulator.anthropic.message_wire import AnthropicError

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


SAMPLING = ("temperature", "top_p", "top_k")
NO_SAMPLING = "2026-10-21"
"""The version of the API that has no sampling settings."""
VERSIONS = ("2023-01-01", "2023-06-01", NO_SAMPLING)
_FIELD_NAMES = (
    "cache_control container diagnostics inference_geo max_tokens messages metadata model "
    "output_config service_tier speed stop_sequences stream system thinking tool_choice tools "
    "user_profile_id workspace_id"
)
_FIELDS = frozenset((*SAMPLING, *_FIELD_NAMES.split()))
_BETA_NAMES = (
    "betas billing_policy compaction context_management fallback_credit_token fallbacks "
    "mcp_servers output_format thread"
)
_BETA_FIELDS = frozenset(_BETA_NAMES.split())
_KINDS: Mapping[str, tuple[type, str]] = {
    "metadata": (dict, "a valid dictionary"),
    "output_config": (dict, "a valid dictionary"),
    "service_tier": (str, "'auto' or 'standard_only'"),
    "stop_sequences": (list, "a valid list"),
    "stream": (bool, "a valid boolean"),
    "thinking": (dict, "a valid dictionary"),
    "tool_choice": (dict, "a valid dictionary or object to extract fields from"),
    "tools": (list, "a valid list"),
}
_BLOCK_NAMES = (
    "advisor_tool_result bash_code_execution_tool_result code_execution_tool_result "
    "compaction container_upload document fallback image mcp_tool_listing mcp_tool_result "
    "mcp_tool_use redacted_thinking search_result server_tool_use text "
    "text_editor_code_execution_tool_result thinking tool_addition tool_removal tool_result "
    "tool_search_tool_result tool_use web_fetch_tool_result web_search_tool_result"
)
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_NO_SAMPLING_MODELS = re.compile(r"claude-(?:opus-(?:4-[78]|5(?:-5)?)|haiku-5-5)(?:$|-\d{8}$)")
_CHOICES = ("auto", "any", "tool", "none")
_THINKING = ("enabled", "disabled", "adaptive", "between_tools")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}\Z")
_LEAST_BUDGET = 1024


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


def check_fields(body: Mapping[str, Any], *, version: str, beta: bool) -> None:
    """Raise the refusal of unknown fields and wrong values."""
    if not body.keys() <= _FIELDS:
        for name in body:
            if name not in _FIELDS and not (beta and name in _BETA_FIELDS):
                raise invalid(f"{name}: Extra inputs are not permitted")
    if _CHECKED.isdisjoint(body):
        return
    for name, (kind, words) in _KINDS.items():
        value = body.get(name)
        if value is not None and not isinstance(value, kind):
            raise invalid(f"{name}: Input should be {words}")
    _check_sampling(body, version)
    for name, check in _CHECKS.items():
        if body.get(name) is not None:
            check(body)


def check_block(kind: str, place: str) -> None:
    """Raise the refusal of a content block of unknown type."""
    if kind not in _BLOCKS:
        listed = ", ".join(f"'{name}'" for name in sorted(_BLOCKS))
        raise invalid(
            f"{place}: Input tag '{kind}' found using 'type' does not match "
            f"any of the expected tags: {listed}"
        )


@lru_cache(maxsize=256)
def _takes_sampling(model: str) -> bool:
    return _NO_SAMPLING_MODELS.match(model.rpartition("/")[2]) is None


def _check_sampling(body: Mapping[str, Any], version: str) -> None:
    for name in SAMPLING:
        if name not in body:
            continue
        if version == NO_SAMPLING:
            raise invalid(f"{name}: Extra inputs are not permitted")
        value = body[name]
        if value is None:
            continue
        if not _takes_sampling(body["model"]):
            raise invalid(f"`{name}` is deprecated for this model.")
        whole = name == "top_k"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise invalid(f"{name}: Input should be a valid {'integer' if whole else 'number'}")
        if value < 0 or (value > 1 and not whole):
            side = "less than or equal to 1" if value > 1 else "greater than or equal to 0"
            raise invalid(f"{name}: Input should be {side}")


def _check_metadata(body: Mapping[str, Any]) -> None:
    for name in body["metadata"]:
        if name != "user_id":
            raise invalid(f"metadata.{name}: Extra inputs are not permitted")


def _check_stops(body: Mapping[str, Any]) -> None:
    for index, text in enumerate(body["stop_sequences"]):
        if not isinstance(text, str):
            raise invalid(f"stop_sequences.{index}: Input should be a valid string")
        if not text.strip():
            raise invalid("stop_sequences: each stop sequence must contain non-whitespace")


def _check_tier(body: Mapping[str, Any]) -> None:
    if body["service_tier"] not in ("auto", "standard_only"):
        raise invalid("service_tier: Input should be 'auto' or 'standard_only'")


def _check_thinking(body: Mapping[str, Any]) -> None:
    thinking = body["thinking"]
    _check_tag(thinking, "thinking", _THINKING)
    if thinking["type"] != "enabled":
        return
    budget = thinking.get("budget_tokens")
    place = "thinking.enabled.budget_tokens"
    if budget is None:
        raise invalid(f"{place}: Field required")
    if isinstance(budget, bool) or not isinstance(budget, int):
        raise invalid(f"{place}: Input should be a valid integer")
    if budget < _LEAST_BUDGET:
        raise invalid(f"{place}: Input should be greater than or equal to {_LEAST_BUDGET}")
    if budget >= body["max_tokens"]:
        raise invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")


def _check_tag(part: Mapping[str, Any], place: str, allowed: tuple[str, ...]) -> None:
    kind = part.get("type")
    if kind is None:
        raise invalid(f"{place}.type: Field required")
    if kind not in allowed:
        listed = ", ".join(f"'{name}'" for name in allowed)
        raise invalid(
            f"{place}: Input tag '{kind}' found using 'type' does not match "
            f"any of the expected tags: {listed}"
        )


def _check_config(body: Mapping[str, Any]) -> None:
    for name, value in body["output_config"].items():
        if name not in ("effort", "format", "task_budget"):
            raise invalid(f"output_config.{name}: Extra inputs are not permitted")
        if name == "effort" and value is not None and value not in _EFFORTS:
            raise invalid(f"output_config.effort: Input should be one of {', '.join(_EFFORTS)}")


def _check_tools(body: Mapping[str, Any]) -> None:
    names = set()
    for index, tool in enumerate(body["tools"]):
        place = f"tools.{index}"
        if not isinstance(tool, dict):
            raise invalid(f"{place}: Input should be a valid dictionary")
        kind = tool.get("type", "custom")
        if kind == "function":
            raise invalid(
                f"{place}: Input tag 'function' found using 'type' does not match "
                "any of the expected tags: 'custom' and the server's tools"
            )
        name = tool.get("name")
        if kind in ("custom", None):
            _check_custom_tool(tool, f"{place}.custom")
        elif name is None:
            continue  # a set of tools has no name of its own
        elif not isinstance(name, str):
            raise invalid(f"{place}.{kind}.name: Input should be a valid string")
        if name in names:
            raise invalid("tools: Tool names must be unique.")
        names.add(name)


def _check_custom_tool(tool: Mapping[str, Any], place: str) -> None:
    for field in ("name", "input_schema"):
        if field not in tool:
            raise invalid(f"{place}.{field}: Field required")
    name, schema = tool["name"], tool["input_schema"]
    if not isinstance(name, str) or not _TOOL_NAME.match(name):
        raise invalid(f"{place}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise invalid(f"{place}.input_schema.type: Input should be 'object'")
    if tool.get("strict"):
        check_schema(schema, f"{place}.input_schema")


def _thinks(body: Mapping[str, Any]) -> bool:
    return (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")


def _check_choice(body: Mapping[str, Any]) -> None:
    choice, tools = body["tool_choice"], body.get("tools")
    _check_tag(choice, "tool_choice", _CHOICES)
    if not tools:
        raise invalid("tool_choice: tool_choice may only be specified while providing tools")
    if choice["type"] in ("any", "tool") and _thinks(body):
        raise invalid("Thinking may not be enabled when tool_choice forces tool use.")
    if choice["type"] != "tool":
        return
    if "name" not in choice:
        raise invalid("tool_choice.tool.name: Field required")
    if choice["name"] not in [tool.get("name") for tool in tools]:
        raise invalid(f"Tool '{choice['name']}' not found in provided tools")


_CHECKED = frozenset((*SAMPLING, *_KINDS))
_CHECKS = {
    "metadata": _check_metadata,
    "stop_sequences": _check_stops,
    "service_tier": _check_tier,
    "thinking": _check_thinking,
    "output_config": _check_config,
    "tools": _check_tools,
    "tool_choice": _check_choice,
}
