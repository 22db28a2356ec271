"""References within a JSON schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

# Keywords whose values are schemas: one, a list of them, or some by name.
ONE: Final = (
    *("items", "additionalProperties", "contains", "not", "if", "then", "else"),
    *("propertyNames", "unevaluatedItems", "unevaluatedProperties"),
)
SEVERAL: Final = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
BY_NAME: Final = (*("properties", "$defs", "definitions", "patternProperties", "dependentSchemas"),)


def resolved(root: Mapping[str, Any], reference: object) -> Any:
    """Return what a reference points to.

    >>> resolved({"$defs": {"n": {"type": "integer"}}}, "#/$defs/n")
    {'type': 'integer'}

    Raises:
        LookupError: there is nothing, or it is not in this schema.
    """
    if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
        raise LookupError(reference)
    part: Any = root
    for name in reference[1:].split("/")[1:]:
        key = unquote(name).replace("~1", "/").replace("~0", "~")
        try:
            part = part[int(key)] if isinstance(part, list) else part[key]
        except (TypeError, ValueError, KeyError, IndexError):
            raise LookupError(reference) from None
    return part


def name_of(reference: str) -> str:
    """Return the last name of a reference.

    >>> name_of("#/$defs/Node")
    'Node'
    """
    return unquote(reference.rpartition("/")[2]).replace("~1", "/").replace("~0", "~") or "root"


def subschemas(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas directly within one, each with its keyword."""
    for key in ONE:
        if isinstance(schema.get(key), Mapping):
            yield key, schema[key]
    for key in SEVERAL:
        if isinstance(schema.get(key), list):
            yield from ((key, part) for part in schema[key] if isinstance(part, Mapping))
    for key in BY_NAME:
        if isinstance(schema.get(key), Mapping):
            yield from ((key, part) for part in schema[key].values() if isinstance(part, Mapping))


def references(schema: Any) -> set[str]:
    """Return the references in a schema, those behind references apart."""
    found: set[str] = set()
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if isinstance(part.get("$ref"), str):
                found.add(part["$ref"])
            waiting += [
                inner for key, inner in subschemas(part) if key not in ("$defs", "definitions")
            ]
    return found


def reached(root: Mapping[str, Any], reference: str) -> set[str]:
    """Return all references that one leads to."""
    found: set[str] = set()
    waiting = [reference]
    while waiting:
        try:
            part = resolved(root, waiting.pop())
        except LookupError:
            continue
        new = references(part) - found
        found |= new
        waiting += new
    return found
