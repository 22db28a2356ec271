"""Finds the JSON in an answer, and tidies its optional values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from llmflow.typed.alternatives import of_2020
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


def json_text(data: Any) -> str:
    """Return JSON data as text."""
    from pydantic_core import to_json

    try:
        return to_json(data).decode()
    except ValueError:  # an integer of more than 64 bits, in older versions
        return json.dumps(data)


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
            schema = of_2020(schema)
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
        scores = [self._score(data, option, _LEVELS_LOOKED_AT) for option in options]
        return options[scores.index(max(scores))] if scores else None

    def _score(self, data: Any, schema: Any, levels: int) -> int:
        """Return how well data fits a schema at first sight; below 0: it does not."""
        self._left -= 1
        if self._left < 0:
            raise _TooLargeError
        schema = target_of(schema, self._root)
        if not isinstance(schema, Mapping) or not levels:
            return 0
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is not None:
            return 2 if data in values else _NEVER
        for key in ("anyOf", "oneOf"):
            if schema.get(key):
                return max(self._score(data, option, levels) for option in schema[key])
        if not _is_of(data, schema.get("type")):
            return _NEVER
        if isinstance(data, dict):
            return self._object_score(data, schema, levels - 1)
        if isinstance(data, list) and data:
            schema = of_2020(schema)
            first = schema.get("prefixItems") or [schema.get("items")]
            return self._score(data[0], first[0], levels - 1)
        return 1

    def _object_score(self, data: dict[str, Any], schema: Mapping[str, Any], levels: int) -> int:
        properties, more = schema.get("properties", {}), schema.get("additionalProperties")
        score = 0
        for name, value in data.items():
            if name in properties:
                optional = value is None and name not in schema.get("required", ())
                inner = 0 if optional else self._score(value, properties[name], levels)
                score += 1 + inner
            elif more is False:
                return _NEVER
            if score < 0:
                return _NEVER
        for name in schema.get("required", ()):
            if name not in data and not allows_null(properties.get(name), self._root):
                return _NEVER
        return score


_NEVER: Final = -1_000_000
_LEVELS_LOOKED_AT: Final = 4
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int, float),
    "number": (int, float),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _is_of(data: Any, kinds: Any) -> bool:
    names = kinds if isinstance(kinds, list) else [kinds]
    return any(type(data) in _TYPES.get(str(name), (type(data),)) for name in names)


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
