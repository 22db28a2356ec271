"""Short texts that match a regular expression."""

from __future__ import annotations

import re
from re import _parser as parser  # type: ignore[attr-defined]  # there from 3.11 to 3.14
from typing import Any

_ALPHABET = "a0A1b2 -_.@/:"
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


def matching(pattern: str, text: str, *, least: int = 0) -> str:
    """Return `text` if it matches a pattern, else a short match.

    >>> matching("^[A-Z]{2}-[0-9]+$", "the sea")
    'AA-0'
    """
    try:
        if re.search(pattern, text):
            return text
        made = _make(parser.parse(pattern), {})
        while len(made) < least and re.search(pattern, made + made[-1:]) and made:
            made += made[-1]
    except (re.error, RecursionError):
        return text  # not Python's syntax: no text is known to match
    return made


def _make(parts: Any, groups: dict[int, str]) -> str:
    return "".join(_one(str(name), value, groups) for name, value in parts)


def _one(name: str, value: Any, groups: dict[int, str]) -> str:
    if name == "LITERAL":
        return chr(value)
    if name in _REPEATS:
        low, _, inner = value
        return _make(inner, groups) * int(low)
    if name == "SUBPATTERN":
        text = _make(value[-1], groups)
        if value[0] is not None:
            groups[value[0]] = text
        return text
    if name == "GROUPREF":
        return groups.get(value, "")
    if name == "ATOMIC_GROUP":
        return _make(value, groups)
    if name == "BRANCH":
        return _make(value[1][0], groups)
    if name == "NOT_LITERAL":
        return next(char for char in _ALPHABET if ord(char) != value)
    if name == "IN":
        return _member(value)
    return "a" if name == "ANY" else ""


def _member(parts: Any) -> str:
    """Return a character of a class."""
    first, value = str(parts[0][0]), parts[0][1]
    if first in ("LITERAL", "RANGE"):
        return chr(value if isinstance(value, int) else value[0])
    negated = first == "NEGATE"
    rest = parts[1:] if negated else parts
    found = (c for c in _ALPHABET if any(_has(part, c) for part in rest) != negated)
    return next(found, _ALPHABET[0])


def _has(part: Any, char: str) -> bool:
    name, value = str(part[0]), part[1]
    if name == "RANGE":
        return bool(value[0] <= ord(char) <= value[1])
    if name != "CATEGORY":
        return bool(value == ord(char))
    category = str(value)
    kind = _CATEGORIES.get(category.rpartition("_")[2], "")
    return (re.match(kind, char) is not None) != ("_NOT_" in category)
