"""Schemas that OpenAI's strict mode does not accept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmflow.simulator.openai_errors import OpenAIError

_REFUSED = (
    *("allOf", "oneOf", "not", "if", "dependentRequired", "dependentSchemas"),
    *("default", "examples", "propertyNames", "patternProperties", "unevaluatedProperties"),
    *("minProperties", "maxProperties", "uniqueItems", "unevaluatedItems"),
    *("contains", "minContains", "maxContains"),
)
_FORMATS = (
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
)
_NESTED_MAPS = ("properties", "$defs", "definitions")


def check_strict(schema: Mapping[str, Any], name: str, *, param: str = "response_format") -> None:
    """Raise the refusal of a schema that is outside the subset of ``strict: true``.

    Args:
        schema: the schema.
        name: what it is called in the request.
        param: where it is in the request; a tool's own schema is in ``tools[…]``.
    """
    try:
        if schema.get("type") != "object" or "anyOf" in schema:
            raise _SubsetError((), "schema must be a JSON Schema of 'type: \"object\"'")
        for path, part in _parts(schema, ()):
            _check_part(path, part)
    except _SubsetError as error:
        raise _invalid(name, error.path, error.reason, param) from None


class _SubsetError(Exception):
    """A part of a schema is outside the subset."""

    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def _check_part(path: tuple[str, ...], part: Mapping[str, Any]) -> None:
    for key in _REFUSED:
        if key in part:
            raise _SubsetError(path, f"'{key}' is not permitted")
    if "$ref" in part and len(part) > 1:
        extra = next(key for key in part if key != "$ref")
        raise _SubsetError(path, f"$ref cannot have keywords {{'{extra}'}}")
    kind = part.get("type")
    if kind == "array" and not isinstance(part.get("items"), dict):
        raise _SubsetError(path, "array schema missing items")
    if "format" in part and part["format"] not in _FORMATS:
        raise _SubsetError(path, f"'{part['format']}' is not a valid format")
    if kind != "object" and "properties" not in part:
        return
    if part.get("additionalProperties") is not False:
        raise _SubsetError(
            path, "'additionalProperties' is required to be supplied and to be false"
        )
    properties, required = part.get("properties") or {}, part.get("required") or []
    for key in properties:
        if key not in required:
            raise _SubsetError(
                path,
                "'required' is required to be supplied and to be an array including every key "
                f"in properties. Missing '{key}'",
            )


def _parts(
    schema: Mapping[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Yield every schema within a schema, with its place."""
    yield path, schema
    for key in _NESTED_MAPS:
        inner = schema.get(key)
        if isinstance(inner, dict):
            for name, part in inner.items():
                if isinstance(part, dict):
                    yield from _parts(part, (*path, key, name))
    items = schema.get("items")
    if isinstance(items, dict):
        yield from _parts(items, (*path, "items"))
    options = schema.get("anyOf")
    for index, part in enumerate(options if isinstance(options, list) else ()):
        if isinstance(part, dict):
            yield from _parts(part, (*path, "anyOf", str(index)))


def _invalid(name: str, path: tuple[str, ...], reason: str, param: str) -> OpenAIError:
    place = ", ".join(f"'{part}'" for part in path) + ("," if len(path) == 1 else "")
    is_tool = param != "response_format"
    what = "function" if is_tool else "response_format"
    return OpenAIError(
        400,
        f"Invalid schema for {what} '{name}': In context=({place}), {reason}.",
        param=param,
        code="invalid_function_parameters" if is_tool else "invalid_json_schema",
    )
