"""Texts that a regular expression matches."""

from __future__ import annotations

import re
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_ALPHABET = "a0A1b2 -_.@/:"
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")


def matching(pattern: str, text: str, *, least: int = 0) -> str:
    """Return `text` if a pattern is found in it, else the shortest text that has it.

    >>> matching("^[A-Z]{2}-[0-9]+$", "the sea")
    'AA-0'
    """
    try:
        if re.search(pattern, text):
            return text
        made = _make(parser.parse(pattern))
        while len(made) < least and re.search(pattern, made + made[-1:]) and made:
            made += made[-1]
    except (re.error, RecursionError):
        return text  # not Python's syntax: no text is known to match
    return made


def _make(parts: Any) -> str:
    return "".join(_one(str(name), value) for name, value in parts)


def _one(name: str, value: Any) -> str:
    if name == "LITERAL":
        return chr(value)
    if name in _REPEATS:
        low, _, inner = value
        return _make(inner) * int(low)
    if name == "SUBPATTERN":
        return _make(value[-1])
    if name == "BRANCH":
        return _make(value[1][0])
    if name in ("IN", "NOT_LITERAL"):
        return _member(name, value)
    return "a" if name == "ANY" else ""


def _member(name: str, value: Any) -> str:
    """Return a character of a class."""
    if name == "IN" and str(value[0][0]) in ("LITERAL", "RANGE"):
        first = value[0][1]
        return chr(first if isinstance(first, int) else first[0])
    refused = {value} if name == "NOT_LITERAL" else {v for n, v in value if str(n) == "LITERAL"}
    kind = str(value[-1][1]) if name == "IN" and str(value[-1][0]) == "CATEGORY" else ""
    if kind.endswith("_DIGIT") and "NOT" not in kind and str(value[0][0]) != "NEGATE":
        return "0"
    if kind.endswith("_SPACE") and "NOT" not in kind and str(value[0][0]) != "NEGATE":
        return " "
    return next(char for char in _ALPHABET if ord(char) not in refused)
