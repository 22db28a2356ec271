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
_MOST_VISITS: Final = 10_000
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


def tidied(data: Any, schema: Mapping[str, Any]) -> Any:
    """Return JSON data with optional values as the schema has them.

    Null for an optional property that cannot be null means that it is left out: where a server
    requires every property, that is the only way to say it. And where it knows no null,
    a required property that may be null is left out.

    >>> tidied({"a": None}, {"properties": {"a": {"type": "integer"}}})
    {}
    """
    try:
        return _Tidier(schema).value(data, schema)
    except _TooLargeError:
        return data


class _TooLargeError(Exception):
    """More was looked at than an honest answer needs."""


class _Tidier:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _MOST_VISITS

    def value(self, data: Any, schema: Any) -> Any:
        """Return data of a schema, tidied."""
        if not isinstance(data, (dict, list)):
            return data
        self._left -= 1
        if self._left < 0:
            raise _TooLargeError
        schema = target_of(schema, self._root)
        if not isinstance(schema, Mapping):
            return data
        for part in schema.get("allOf", ()):
            data = self.value(data, part)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                # One only: with several, the time would double at each level of an answer.
                data = self.value(data, self._likeliest(data, schema[key]))
        if isinstance(data, list):
            first, items = schema.get("prefixItems", ()), schema.get("items")
            parts = [*first, *[items] * (len(data) - len(first))]
            return [self.value(each, part) for each, part in zip(data, parts, strict=False)]
        more, properties = schema.get("additionalProperties"), schema.get("properties", {})
        if isinstance(more, Mapping):
            data = {
                name: each if name in properties else self.value(each, more)
                for name, each in data.items()
            }
        return self._object(data, properties, schema.get("required", ()))

    def _object(
        self, data: dict[str, Any], properties: Mapping[str, Any], required: Any
    ) -> dict[str, Any]:
        root, result = self._root, {}
        for name, value in data.items():
            part = properties.get(name)
            left_out = value is None and part is not None and name not in required
            if not (left_out and not allows_null(part, root)):
                result[name] = self.value(value, part)
        for name in required:
            # What allows anything is no optional value.
            if name not in result and properties.get(name) and allows_null(properties[name], root):
                result[name] = None
        return result

    def _likeliest(self, data: Any, options: Any) -> Any:
        """Return the alternative that an object or list is most likely of."""
        scores = [self._score(data, option) for option in options]
        return options[scores.index(max(scores))] if scores else None

    def _score(self, data: Any, option: Any) -> int:
        option = target_of(option, self._root)
        if not isinstance(option, Mapping):
            return -2
        if isinstance(data, list):
            return 1 if "items" in option or "prefixItems" in option else -2
        properties = option.get("properties")
        if not isinstance(properties, Mapping):
            return 0 if option.get("type", "object") == "object" else -2
        score = 0
        for name, part in properties.items():
            if name in data:
                values = part.get("enum", [part["const"]] if "const" in part else None)
                if values is not None and data[name] not in values:
                    return -1
                score += 1
        return score


def target_of(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return a schema, or what its reference leads to."""
    for _ in range(20):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema
        try:
            schema = resolved(root, schema["$ref"])
        except LookupError:
            return None
    return None


def allows_null(schema: Any, root: Mapping[str, Any]) -> bool:
    """Return True if null may be a schema's value."""
    schema = target_of(schema, root)
    if not isinstance(schema, Mapping):
        return schema is True
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
