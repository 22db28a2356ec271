"""JSON schemas that the Anthropic dialect enforces, and for which models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from llmflow.simulator.anthropic.message_wire import AnthropicError
from llmflow.simulator.schema_value import schema_parts

_ENFORCES_NOTHING: Final = re.compile(
    r"claude-(?:instant|[23])(?:$|[-.])|claude-(?:sonnet|opus)-4(?:-0)?(?:$|-\d{8}$)"
)
_MOST_OPTIONAL: Final = 24
_MOST_UNIONS: Final = 16
_UNKNOWN: Final = ("oneOf", "not", "if", "prefixItems", "dependentSchemas", "contains")
_KNOWN: Final = ("type", "$ref", "anyOf", "allOf", "enum", "const")
_FORMATS: Final = (
    *("date-time", "time", "date", "duration"),
    *("email", "hostname", "uri", "ipv4", "ipv6", "uuid"),
)
_ENUM_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
_NUMBER_WORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_REFUSED: Mapping[str, tuple[str, ...]] = {
    "integer": _NUMBER_WORDS,
    "number": _NUMBER_WORDS,
    "string": ("minLength", "maxLength"),
    "array": ("maxItems", "uniqueItems"),
    "object": ("minProperties", "maxProperties", "patternProperties"),
}


def wanted_format(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the format wanted of an answer, under either name."""
    found: Mapping[str, Any] | None = (body.get("output_config") or {}).get("format")
    return found or body.get("output_format")


def check_schemas(body: Mapping[str, Any]) -> None:
    """Raise the refusal of a schema that the service cannot enforce.

    Tools that are not strict may have any.
    """
    schemas = {
        f"tools.{index}.custom.input_schema": tool["input_schema"]
        for index, tool in enumerate(body.get("tools") or ())
        if tool.get("strict") and "input_schema" in tool
    }
    form = wanted_format(body)
    old = (schemas or form) and _ENFORCES_NOTHING.match(body["model"].rpartition("/")[2])
    if old:
        what = "output format" if form else "strict tools"
        raise AnthropicError(400, f"'{body['model']}' does not support {what}.")
    if form:
        schemas["output_config.format.schema"] = form["schema"]
    for place, schema in schemas.items():
        for _, part in _parts(schema):
            _check_part(part, place)
        for name in ("$defs", "definitions"):
            _check_circles(schema, name, place)
    if schemas:
        _check_sizes([part for schema in schemas.values() for _, part in _parts(schema)])


def _check_sizes(parts: list[Mapping[str, Any]]) -> None:
    """Raise the refusal of all schemas of a request together."""
    optional = unions = 0
    for part in parts:
        properties = part.get("properties") or {}
        optional += sum(name not in (part.get("required") or ()) for name in properties)
        unions += sum(map(_is_union, properties.values()))
    if optional > _MOST_OPTIONAL:
        raise AnthropicError(
            400,
            f"Schemas contains too many optional parameters ({optional}), which would make grammar "
            "compilation inefficient. Reduce the number of optional parameters in your tool "
            f"schemas (limit: {_MOST_OPTIONAL}).",
        )
    if unions > _MOST_UNIONS:
        raise AnthropicError(
            400,
            f"Schemas contains too many parameters with union types ({unions} parameters with type "
            "arrays or anyOf). This causes exponential compilation cost. Reduce the number of "
            f"nullable or union-typed parameters (limit: {_MOST_UNIONS} parameters with unions).",
        )


def _is_union(part: object) -> bool:
    return isinstance(part, Mapping) and ("anyOf" in part or isinstance(part.get("type"), list))


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    return schema_parts(schema, lists=("anyOf", "allOf"))


def _check_part(part: Mapping[str, Any], place: str) -> None:
    kind = part.get("type")
    unknown = next((word for word in _UNKNOWN if word in part), None)
    if unknown is not None:
        raise _bad_schema(place, f"Invalid schema: Schema type '{unknown}' is not supported")
    if not any(word in part for word in _KNOWN):
        shown = {name: each for name, each in part.items() if name != "$defs"}
        raise _bad_schema(place, f"Invalid schema: Schema type is missing for schema: {shown}")
    _check_values(part, place)
    if "format" in part and part["format"] not in _FORMATS:
        raise _bad_schema(
            place, f"Invalid schema: String format '{part['format']}' is not supported"
        )
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


def _check_values(part: Mapping[str, Any], place: str) -> None:
    """Raise the refusal of values that are not of the type."""
    kind = part.get("type")
    for value in part.get("enum") or ():
        if isinstance(value, (dict, list)):
            raise _bad_schema(place, "Invalid schema: Enum values must be scalars")
        right = _ENUM_TYPES.get(str(kind), (object,))
        if isinstance(kind, list) or (type(value) not in right and object not in right):
            raise _bad_schema(
                place, f"Invalid schema: Enum value '{value}' does not match declared type '{kind}'"
            )


def _check_circles(schema: Mapping[str, Any], name: str, place: str) -> None:
    """Refuse definitions that lead back to themselves."""
    parts = schema.get(name)
    if not isinstance(parts, dict):
        return
    prefix = f"#/{name}/"
    leads = {
        one: [
            str(inner["$ref"]).removeprefix(prefix) for _, inner in _parts(part) if "$ref" in inner
        ]
        for one, part in parts.items()
        if isinstance(part, dict)
    }
    try:
        TopologicalSorter(leads).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise _bad_schema(
            place,
            f"Circular reference detected in schema definitions: {circle}. "
            "Self-referencing or mutually-referencing definitions are not supported.",
        ) from None


def _bad_schema(place: str, reason: str) -> AnthropicError:
    return AnthropicError(400, f"{place}: {reason}")
