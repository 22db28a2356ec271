"""Answers that do not fit their schema on purpose."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

from llmflow.simulator.schema_value import FORMATS, resolved

WrongKind = Literal["malformed", "missing_field", "out_of_range", "extra_text", "cut_off"]
KINDS: Final[tuple[WrongKind, ...]] = get_args(WrongKind)
_WHOLE: Final = KINDS[:-1]
_REMARK: Final = " // as far as the text says"
_CANNOT_TELL: Final = "cannot tell"
_WRONG_TYPE: Final[Mapping[str, Any]] = {
    "string": [_CANNOT_TELL],
    "integer": _CANNOT_TELL,
    "number": _CANNOT_TELL,
    "boolean": _CANNOT_TELL,
    "array": _CANNOT_TELL,
    "object": _CANNOT_TELL,
}


class Mistakes:
    """Decide which conversations are answered wrongly at first, and how.

    It follows from the seed and from what the user said first, so that a request has the same
    answer whenever it comes. Every kind has an equal share. What is cut off depends on
    ``max_tokens`` as well: an answer that did not fit into it fits into twice as many.

    >>> Mistakes(1.0, seed=0).kind("Whales sing.", max_tokens=None) in KINDS
    True
    >>> Mistakes(0.0, seed=0).kind("Whales sing.", max_tokens=None)

    Args:
        rate: the share of conversations.
        seed: makes them others.
    """

    def __init__(self, rate: float, *, seed: int) -> None:
        self._rate, self._seed = rate, seed
        # The answers of two settings of max_tokens are cut off in two ranges of chances, of
        # which one is beyond the rate.
        self._cut = max(0.0, min(rate / len(KINDS), 1.0 - rate))

    def kind(self, first: str, *, max_tokens: int | None) -> WrongKind | None:
        """Return the fault of a first answer, None if it is right.

        Args:
            first: what the user said first.
            max_tokens: what the answer is limited to. Without it nothing is cut off.
        """
        if not self._rate:
            return None
        text = f"{self._seed}\0{first}".encode("utf-8", "replace")
        digest = hashlib.blake2b(text, digest_size=8, person=b"wrong").digest()
        chance = int.from_bytes(digest, "big") / 2**64
        cut = self._cut if max_tokens is not None else 0.0
        whole = self._rate - cut
        if chance < whole:
            return _WHOLE[min(int(chance / whole * len(_WHOLE)), len(_WHOLE) - 1)]
        start = whole if _is_even(max_tokens or 1) else whole + cut
        return "cut_off" if start <= chance < start + cut else None


def _is_even(tokens: int) -> bool:
    """Return what twice as many tokens have otherwise."""
    return tokens.bit_length() % 2 == 0


class Wrong(NamedTuple):
    """A wrong answer, and what is wrong with it."""

    text: str
    kind: WrongKind


def wrong_answer(
    kind: WrongKind,
    value: Any,
    schema: Mapping[str, Any],
    *,
    as_object: bool,
    has_room: Callable[[str], bool],
) -> Wrong | None:
    """Return a right answer's wrong counterpart, None if there is none.

    Where a schema cannot be answered wrongly in one way (there is no field that could be
    missing), it is in another.

    Args:
        kind: what is to be wrong.
        value: the right answer.
        schema: what it fits.
        as_object: whether only an object can be answered, such as a tool's input where the
            service reads it.
        has_room: whether a text is not cut off.
    """
    start = KINDS.index(kind)
    others = (*_WHOLE[start:], *_WHOLE[:start])
    for each in (kind,) if kind == "cut_off" else others:
        if as_object and each in ("malformed", "extra_text"):
            continue
        text = _made(each, value, schema)
        if text is not None and (each == "cut_off" or has_room(text)):
            return Wrong(text, each)
    return None


def _made(kind: WrongKind, value: Any, schema: Mapping[str, Any]) -> str | None:
    if kind == "malformed":
        # Python's notation, and not even to its end.
        return _first_part(repr(value))
    if kind == "extra_text":
        return _remarked(value)
    if kind == "cut_off":
        return _first_part(json.dumps(value, ensure_ascii=False))
    changed = _without(value, schema) if kind == "missing_field" else _beyond(value, schema)
    return None if changed is None else json.dumps(changed, ensure_ascii=False)


def _first_part(text: str) -> str:
    """Return a part of a text that does not hold its end."""
    return text[: max(1, min(len(text) - 1, len(text) * 2 // 3))]


def _remarked(value: Any) -> str:
    """Return JSON with a remark on every line, and words around it."""
    lines = json.dumps(value, ensure_ascii=False, indent=2).splitlines()
    if len(lines) == 1:  # nothing is within it
        lines = [lines[0][:-1] or "(", f"{lines[0][-1:]}"]
    noted = [f"{line}{_REMARK}" for line in lines[:-1]]
    return "\n".join(["Here is what you asked for:", "", *noted, lines[-1]])


def _without(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return an object without a field that it must have."""
    whole = resolved(schema, schema)
    required, properties = whole.get("required"), whole.get("properties")
    if not isinstance(value, dict) or not isinstance(required, list):
        return None
    for name in required:
        part = properties.get(name) if isinstance(properties, Mapping) else None
        if name in value and not _may_be_null(part, schema):
            return {key: each for key, each in value.items() if key != name}
    return None


def _may_be_null(part: object, root: Mapping[str, Any]) -> bool:
    if not isinstance(part, Mapping):
        return False
    part = resolved(part, root)
    kind = part.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind) or "default" in part:
        return True
    options = [option for word in ("anyOf", "oneOf") for option in part.get(word) or ()]
    return any(_may_be_null(option, root) for option in options)


def _beyond(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return a value with one part out of its range, or of a wrong type."""
    for find in (_out_of_range, _of_wrong_type):
        changed = _changed(value, schema, schema, find, depth=0)
        if changed is not None:
            return changed
    return None


_MOST_DEPTH: Final = 8


def _changed(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], find: Any, *, depth: int
) -> Any:
    """Return a value of which the first part that can be is made wrong; None if none can."""
    if depth > _MOST_DEPTH or value is None:
        return None
    schema = resolved(schema, root)
    options = [o for word in ("anyOf", "oneOf") for o in schema.get(word) or ()]
    options = [o for o in options if isinstance(o, Mapping) and o.get("type") != "null"]
    if options:  # what fits none of several is not looked for
        inner = options[0]
        return _changed(value, inner, root, find, depth=depth + 1) if len(options) == 1 else None
    for place, part in _inner(value, schema):
        if (changed := _changed(value[place], part, root, find, depth=depth + 1)) is not None:
            copy = value.copy()
            copy[place] = changed
            return copy
    return find(value, schema) if depth else None


def _inner(value: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Any, Mapping[str, Any]]]:
    """Yield where the parts of a value are, with their schemas."""
    if isinstance(value, dict):
        properties = schema.get("properties")
        for name, part in properties.items() if isinstance(properties, Mapping) else ():
            if name in value and isinstance(part, Mapping):
                yield name, part
    elif isinstance(value, list) and value and isinstance(schema.get("items"), Mapping):
        yield 0, schema["items"]


def _out_of_range(value: Any, schema: Mapping[str, Any]) -> Any:
    """Return a value that a schema's bounds forbid."""
    if "const" in schema or isinstance(schema.get("enum"), list):
        allowed = schema.get("enum") or [schema["const"]]
        return next(one for one in (_CANNOT_TELL, f"{allowed}") if one not in allowed)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _beyond_bounds(schema)
    if isinstance(value, str):
        if schema.get("format") in FORMATS or isinstance(schema.get("maxLength"), int):
            return _CANNOT_TELL * (1 + schema.get("maxLength", 0) // len(_CANNOT_TELL))
        return "" if schema.get("minLength") or _has_no_empty(schema.get("pattern")) else None
    if isinstance(value, list) and schema.get("minItems"):
        return []
    return None


def _has_no_empty(pattern: object) -> bool:
    try:
        return isinstance(pattern, str) and re.search(pattern, "") is None
    except re.error:
        return False


def _beyond_bounds(schema: Mapping[str, Any]) -> int | float | None:
    for word, step in (
        ("maximum", 1),
        ("exclusiveMaximum", 1),
        ("minimum", -1),
        ("exclusiveMinimum", -1),
    ):
        bound = schema.get(word)
        if isinstance(bound, (int, float)) and not isinstance(bound, bool) and math.isfinite(bound):
            return bound + step
    return None


def _of_wrong_type(value: Any, schema: Mapping[str, Any]) -> Any:
    del value
    return _WRONG_TYPE.get(str(schema.get("type")))
