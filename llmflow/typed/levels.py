"""Bounds the levels of answers whose checks take time for each alternative."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from llmflow.typed.pointers import reached, subschemas

_MOST_CHECKS: Final = 20_000
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_BRACKET: Final = re.compile(r"[\[{}\]]")


def most_levels(schema: Mapping[str, Any]) -> int | None:
    """Return how many levels of a schema's values are checked; None: any.

    Of a union of recursive types without a discriminator, all alternatives are tried for a wrong
    value, at each level: with two of them, 2**30 times for one of 30 levels. Answers come from a
    model, which may be made to write such a one.

    >>> most_levels({"properties": {"a": {"type": "integer"}}}) is None
    True
    """
    widest = 1
    waiting: list[Mapping[str, Any]] = [schema]
    while waiting:
        part = waiting.pop()
        if "discriminator" not in part:
            for key in ("anyOf", "oneOf"):
                recursive = [each for each in part.get(key, ()) if _is_recursive(each, schema)]
                widest = max(widest, len(recursive))
        waiting += [inner for _, inner in subschemas(part)]
    return None if widest < 2 else int(math.log(_MOST_CHECKS) / math.log(widest))


def _is_recursive(option: Any, schema: Mapping[str, Any]) -> bool:
    if not isinstance(option, Mapping):
        return False
    if isinstance(option.get("$ref"), str):
        return option["$ref"] == "#" or option["$ref"] in reached(schema, option["$ref"])
    return any(_is_recursive(inner, schema) for _, inner in subschemas(option))


def levels(text: str) -> int:
    """Return how many levels of objects and lists a text has.

    >>> levels('{"a": [{}], "b": "[[[["}')
    3
    """
    depth = deepest = 0
    for found in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if found[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
