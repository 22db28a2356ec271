"""Finds the JSON in an answer, and tidies its optional values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from llmflow.typed.pointers import resolved

_FENCE: Final = re.compile(r"```[A-Za-z0-9_+-]*[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL)
_BEGINNING: Final = re.compile(r"[{\[]")
_MOST_VALUES: Final = 16
_DECODER: Final = json.JSONDecoder()


def candidates(text: str) -> Iterator[str]:
    """Yield what may be an answer's JSON, the likeliest first.

    These are the whole, what is in code fences, and JSON values among other text. Of a value
    that is cut off nothing is taken, nor the values within it.

    >>> list(candidates("Here it is: {} Anything else?"))[1:]
    ['{}']
    """
    _, thought, rest = text.rpartition("</think>")
    text = rest.strip() if thought else text.strip()
    yield text
    seen = {text}
    for found in _FENCE.finditer(text):
        inner = found[1].strip()
        if inner not in seen:
            seen.add(inner)
            yield inner
    for value in _values(text):
        if value not in seen:
            seen.add(value)
            yield value


def _values(text: str) -> Iterator[str]:
    """Yield the objects and lists in a text."""
    start = 0
    for _ in range(_MOST_VALUES):
        found = _BEGINNING.search(text, start)
        if found is None:
            return
        try:
            _, end = _DECODER.raw_decode(text, found.start())
        except json.JSONDecodeError as error:
            if error.pos >= len(text) or error.msg.startswith("Unterminated"):
                return  # cut off: what is within it is not the answer
            start = max(error.pos, found.start() + 1)
            continue
        except (ValueError, RecursionError):
            return  # integers of 5,000 digits, or thousands of levels
        yield text[found.start() : end]
        start = end


def tidied(data: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    """Return JSON data with optional values as the schema has them.

    Null for an optional property that cannot be null means that it is left out: where a server
    requires every property, that is the only way to say it. And where it knows no null,
    a required property that may be null is left out.
    """
    if not isinstance(schema, Mapping):
        return data
    if "$ref" in schema:
        try:
            target = resolved(root, schema["$ref"])
        except LookupError:
            return data
        data = tidied(data, target, root)
    for key in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(key, ()):
            if isinstance(data, (dict, list)) and _may_fit(data, option, root):
                data = tidied(data, option, root)
    if isinstance(data, dict) and isinstance(schema.get("properties"), Mapping):
        return _tidied_object(data, schema, root)
    if isinstance(data, dict) and isinstance(schema.get("additionalProperties"), Mapping):
        more = schema["additionalProperties"]
        return {name: tidied(value, more, root) for name, value in data.items()}
    if isinstance(data, list):
        first, items = schema.get("prefixItems", ()), schema.get("items")
        parts = [*first, *[items] * (len(data) - len(first))]
        return [tidied(value, part, root) for value, part in zip(data, parts, strict=False)]
    return data


def _tidied_object(
    data: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any]
) -> dict[str, Any]:
    properties, required = schema["properties"], schema.get("required", ())
    result = {}
    for name, value in data.items():
        part = properties.get(name)
        left_out = value is None and part is not None and name not in required
        if not (left_out and not allows_null(part, root)):
            result[name] = tidied(value, part, root)
    for name in required:
        # What allows anything is no optional value.
        if name not in result and properties.get(name) and allows_null(properties[name], root):
            result[name] = None
    return result


def _may_fit(data: Any, option: Any, root: Mapping[str, Any]) -> bool:
    """Return True if an object or list can be of an alternative, by its constants."""
    for _ in range(20):
        if not isinstance(option, Mapping):
            return False
        if "$ref" not in option:
            break
        try:
            option = resolved(root, option["$ref"])
        except LookupError:
            return False
    if isinstance(data, list):
        return "items" in option or "prefixItems" in option
    properties = option.get("properties")
    if not isinstance(properties, Mapping):
        return True
    for name, part in properties.items():
        if isinstance(part, Mapping) and name in data:
            if "const" in part and part["const"] != data[name]:
                return False
            if "enum" in part and data[name] is not None and data[name] not in part["enum"]:
                return False
    return True


def allows_null(schema: Any, root: Mapping[str, Any]) -> bool:
    """Return True if null may be a schema's value."""
    for _ in range(20):
        if not isinstance(schema, Mapping):
            return schema is True
        if "$ref" not in schema:
            break
        try:
            schema = resolved(root, schema["$ref"])
        except LookupError:
            return True
    if "const" in schema:
        return schema["const"] is None
    if "enum" in schema:
        return None in schema["enum"]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return any(allows_null(option, root) for option in schema[key])
    if "allOf" in schema:
        return all(allows_null(part, root) for part in schema["allOf"])
    kind = schema.get("type")
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)
