"""Fields of the Anthropic dialect, and what they may hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llmflow.simulator.anthropic.message_wire import AnthropicError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SAMPLING = ("temperature", "top_p", "top_k")
NO_SAMPLING = "2026-10-21"
"""The version of the API that has no sampling settings."""
VERSIONS = ("2023-01-01", "2023-06-01", NO_SAMPLING)
_NO_SAMPLING_MODELS = re.compile(r"claude-(?:opus-(?:4-[78]|5(?:-5)?)|haiku-5-5)(?:$|-\d{8}$)")


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
    # Imported with the first message: most simulators speak the other dialect alone.
    from llmflow.simulator.anthropic import message_shapes as shapes

    try:
        checked = (shapes.BETA_BODY if beta else shapes.BODY).validate_python(body)
    except shapes.ValidationError as error:
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
