"""Bounds of values, as keywords or in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from llmflow.typed.rules import SchemaRules

# Said nowhere: the first ones mean nothing to a model, the others are read here.
SILENT: Final = frozenset(
    (
        *("$schema", "$id", "$comment", "$anchor", "$defs", "definitions", "examples", "example"),
        *("deprecated", "readOnly", "writeOnly", "discriminator", "type", "properties"),
        *("required", "additionalProperties", "items", "prefixItems", "enum", "const"),
        *("anyOf", "oneOf", "description", "title"),
    )
)
_BOOLEAN_ONCE: Final = ("exclusiveMinimum", "exclusiveMaximum")
_LOOKAROUND: Final = re.compile(r"\(\?<?[=!]")


def described(
    result: dict[str, Any],
    node: Mapping[str, Any],
    words: Collection[str],
    rules: SchemaRules,
    told: Mapping[str, Any],
) -> dict[str, Any]:
    """Add the bounds that a server knows, and describe the others.

    Args:
        result: the rewritten schema so far; it gets them.
        node: the schema that says them.
        words: the bounds of its type.
        rules: what the server takes.
        told: what else is to be described.
    """
    told = dict(told)
    for name, value in node.items():
        if name in SILENT or (name == "format" and value == "decimal"):
            continue
        if name == "default" and value is None:
            continue
        if _knows(rules, name, value) and (name in words or name == "default" or rules.untyped):
            result[name] = value
        else:
            told[name] = value
    if isinstance(node.get("title"), str):
        result["title"] = node["title"]
    text = node.get("description")
    if told:
        bounds = "{" + ", ".join(f"{name}: {value}" for name, value in told.items()) + "}"
        text = f"{text}\n\n{bounds}" if text else bounds
    if text:
        result["description"] = text
    return result


def _knows(rules: SchemaRules, name: str, value: Any) -> bool:
    if name == "format":
        return rules.formats is None or value in rules.formats
    if name not in rules.keywords or (isinstance(value, bool) and name in _BOOLEAN_ONCE):
        return False  # exclusiveMinimum was True or False until draft 4
    if name == "pattern":
        wrong = not rules.lookaround and _LOOKAROUND.search(str(value))
        return not wrong and (rules.anchors or not set(str(value)) & set("^$"))
    if name == "minItems" and rules.min_items_most is not None:
        return bool(value <= rules.min_items_most)
    return True
