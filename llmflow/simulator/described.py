"""Bounds that Anthropic's SDK puts into a schema's description, as its service refuses them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, Final

_TEXTS: Final = ("pattern", "format")
_WORDS: Final = (
    *_TEXTS,
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minLength", "maxLength", "minItems", "maxItems", "uniqueItems"),
    *("minProperties", "maxProperties"),
)
_BOUNDS: Final = re.compile(r"(?:\A|\n\n)\{(\w+: .*)\}\Z", re.DOTALL)
_NEXT: Final = re.compile(r", (?=[A-Za-z]+: )")


def with_described(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    r"""Return a schema with the bounds that its description ends with.

    >>> with_described({"type": "integer", "description": "Size\n\n{minimum: 3}"})["minimum"]
    3
    """
    description = schema.get("description")
    if not isinstance(description, str) or not description.endswith("}"):
        return schema
    found = _BOUNDS.search(description)
    if found is None:
        return schema
    bounds: dict[str, Any] = {}
    for each in _NEXT.split(found[1]):
        name, _, value = each.partition(": ")
        if name in _TEXTS:
            bounds[name] = value
        elif name in _WORDS:
            try:
                bounds[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                continue
    return {**bounds, **schema}
