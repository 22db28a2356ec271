"""JSON schemas in prompts, which a model that reads them obeys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_SIGNS: Final = ('"type"', '"properties"', '"$ref"', '"anyOf"', '"enum"')
_ASKED: Final = (re.compile(r"json", re.IGNORECASE), re.compile(r"schema", re.IGNORECASE))
_MOST_OPENINGS: Final = 200
_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_WORDS: Final = frozenset(
    (
        *("type", "title", "description", "items", "prefixItems", "minItems", "maxItems"),
        *("uniqueItems", "required", "default", "additionalProperties", "propertyNames"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("pattern", "format", "minLength", "maxLength", "examples", "const"),
        *("$schema", "$id", "$defs", "$comment"),
    )
)
_read: Final = json.JSONDecoder().raw_decode


class Written(NamedTuple):
    """A schema in a text, and the text without it."""

    schema: Mapping[str, Any]
    rest: str


def written_schema(text: str) -> Written | None:
    """Return the last schema in a text that asks for JSON.

    >>> found = written_schema('Answer in JSON by this schema: {"type": "object"}')
    >>> found.schema, found.rest
    ({'type': 'object'}, 'Answer in JSON by this schema: ')
    >>> written_schema("Summarize: JSON schemas describe data.")
    """
    if (
        "{" not in text
        or not any(sign in text for sign in _SIGNS)
        or not all(word.search(text) for word in _ASKED)
    ):
        return None
    found: Written | None = None
    place = text.find("{")
    for _ in range(_MOST_OPENINGS):
        if place < 0:
            break
        try:
            value, end = _read(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            if is_schema(value):
                found = Written(value, text[:place] + text[end:])
        place = text.find("{", end)
    return found


def is_schema(value: object) -> bool:
    """Return True if a value is a JSON schema, not data."""
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("properties"), Mapping):
        return all(isinstance(part, Mapping) for part in value["properties"].values())
    if isinstance(value.get("$ref"), str) and isinstance(value.get("$defs"), Mapping):
        return True
    if any(isinstance(value.get(word), list) for word in ("anyOf", "oneOf", "enum")):
        return True
    return value.get("type") in _TYPES and _WORDS.issuperset(value)
