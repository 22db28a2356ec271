"""Merges the schemas of an ``allOf`` into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

_LOW: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_HIGH: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return one schema for what fits both.

    What it cannot say, such as two patterns, is left out of the second one.

    >>> merged({"type": "integer", "minimum": 1}, {"minimum": 3})
    {'type': 'integer', 'minimum': 3}
    """
    result = dict(one)
    for key, theirs in other.items():
        mine = result.get(key, _MISSING)
        if mine is _MISSING:
            result[key] = theirs
        elif mine != theirs:
            rule = _RULES.get(key)
            result[key] = mine if rule is None else rule(mine, theirs)
    return result


_MISSING: Final = object()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _types(one: Any, other: Any) -> Any:
    both: list[str] = []
    theirs = _as_list(other)
    for name in _as_list(one):
        if name in theirs or (name == "integer" and "number" in theirs):
            both.append(name)
        elif name == "number" and "integer" in theirs:
            both.append("integer")
    return both[0] if len(both) == 1 else both  # none: nothing fits


def _all_of(one: Any, other: Any) -> Any:
    if one is False or other is False:
        return False
    if one is True or other is True:
        return other if one is True else one
    return {"allOf": [one, other]}


def _properties(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _all_of(one[name], other[name])
        if name in one and name in other and one[name] != other[name]
        else one.get(name, other.get(name))
        for name in {**one, **other}
    }


_RULES: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    **dict.fromkeys(_LOW, max),
    **dict.fromkeys(_HIGH, min),
    "type": _types,
    "properties": _properties,
    "required": lambda one, other: [*one, *(name for name in other if name not in one)],
    "enum": lambda one, other: [value for value in one if value in other],
    "items": _all_of,
    "additionalProperties": _all_of,
    "allOf": lambda one, other: [*one, *other],
    "uniqueItems": lambda one, other: one or other,
}
