"""Types within a schema: null, unions, values by their type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

NULL: Final = {"type": "null"}
OF_TYPE: Final[Mapping[str, tuple[str, ...]]] = {
    "object": ("properties", "required", "additionalProperties", "patternProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"),
    "string": ("format", "minLength", "maxLength", "pattern"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_SCALARS: Final[Mapping[type, str]] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows null, too.

    >>> nullable({"type": "string"})
    {'anyOf': [{'type': 'string'}, {'type': 'null'}]}
    """
    kind = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return schema
    if "anyOf" in schema:
        options = schema["anyOf"]
        return schema if NULL in options else {**schema, "anyOf": [*options, NULL]}
    return {"anyOf": [schema, NULL]} if schema else schema


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that allows no null, if anything is left then.

    >>> without_null({"anyOf": [{"type": "string"}, {"type": "null"}], "description": "A note."})
    {'type': 'string', 'description': 'A note.'}
    """
    options = [part for part in schema.get("anyOf", ()) if part != NULL]
    if not options or len(options) == len(schema["anyOf"]):
        return schema
    if len(options) > 1:
        return {**schema, "anyOf": options}
    rest = {name: part for name, part in schema.items() if name != "anyOf"}
    if "$ref" in options[0]:
        return dict(options[0])
    return {**options[0], **rest}


def of_2020(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a list's schema with prefixItems, as of draft 2020-12.

    >>> of_2020({"items": [{"type": "integer"}], "additionalItems": False})
    {'items': False, 'prefixItems': [{'type': 'integer'}]}
    """
    if not isinstance(schema.get("items"), list):
        return schema
    rest = {name: part for name, part in schema.items() if name != "additionalItems"}
    rest.pop("items")
    if "additionalItems" in schema:
        rest = {"items": schema["additionalItems"], **rest}
    return {**rest, "prefixItems": schema["items"]}


def is_nullable(schema: Any) -> bool:
    """Return True if a schema names null among its types."""
    if not isinstance(schema, Mapping):
        return True
    kinds = schema.get("type")
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return kinds == "null" or (isinstance(kinds, list) and "null" in kinds) or NULL in options


def by_type(values: list[Any], declared: Any) -> dict[str, list[Any]]:
    """Group values by JSON type, without those of undeclared types."""
    groups: dict[str, list[Any]] = {}
    allowed = declared if isinstance(declared, list) else [declared]
    for value in values:
        kind = "null" if value is None else _SCALARS.get(type(value), "object")
        fits = kind in allowed or (kind == "integer" and "number" in allowed)
        if declared is None or fits or kind == "object":
            groups.setdefault(kind, []).append(value)
    if "number" in groups and "integer" in groups:
        groups["number"] = groups.pop("integer") + groups["number"]
    return groups


def only(node: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Return what a schema says of one type."""
    others = {each for name, words in OF_TYPE.items() if name != family(kind) for each in words}
    return {name: part for name, part in node.items() if name not in others}


def family(kind: str) -> str:
    """Return the type whose bounds a type has: number for integer."""
    return "number" if kind == "integer" else kind
