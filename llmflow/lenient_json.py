"""Read JSON that strict parsers refuse, where its meaning is clear.

Servers and files hold JSON with ``NaN``, half of a surrogate pair, raw control
characters, bytes that are not UTF-8 or a byte order mark. An answer in such a reply was
paid for, and a row of such a file is somebody's data. The strict and fast parser is tried
first, so that ordinary JSON costs nothing more.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, NamedTuple

import orjson

from llmflow.surrogates import well_formed

REPLACEMENT: Final = "\ufffd"
"""What takes the place of text that is not valid Unicode."""

_BLANK: Final = " \t\r\n\ufeff"
# A pair and every other escape are matched, too, so that no half of one is taken for a
# lone surrogate, nor the "u" behind an escaped backslash for the begin of an escape.
_ESCAPE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    r"|\\.",
    re.DOTALL,
)
_SURROGATES: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]|([\ud800-\udfff])")
_LARGEST_EXACT: Final = 2.0**63


class Repairs(NamedTuple):
    """Counts of what was not read as it stands.

    Args:
        texts: bytes that are not UTF-8 and halves of surrogate pairs, read as U+FFFD.
        numbers: NaN and infinite numbers, read as null.
    """

    texts: int = 0
    numbers: int = 0


NO_REPAIRS: Final = Repairs()


def loads(data: bytes | str, *, exact_integers: bool = False) -> Any:
    r"""Parse JSON, with what cannot be read in it replaced.

    Text that is not valid Unicode becomes U+FFFD, NaN and infinite numbers become None.
    Control characters within strings, a byte order mark and blank lines are taken as they are.

    >>> loads(rb'{"score": NaN, "text": "a\ud800b"}') == {"score": None, "text": "a\ufffdb"}
    True

    Args:
        data: one JSON value.
        exact_integers: keep all digits of integers above 64 bits, which are otherwise floats.

    Raises:
        ValueError: it is not JSON.
    """
    return loads_counted(data, exact_integers=exact_integers)[0]


def loads_counted(data: bytes | str, *, exact_integers: bool = False) -> tuple[Any, Repairs]:
    """Parse JSON as `loads` does, and count what was replaced.

    >>> loads_counted(b"[NaN, 1]")
    ([None, 1], Repairs(texts=0, numbers=1))

    Raises:
        ValueError: it is not JSON.
    """
    try:
        value = orjson.loads(data)
    except ValueError:
        return _repaired(data)
    if exact_integers and has_large_number(value):
        try:
            return _repaired(data)
        except ValueError:
            return value, NO_REPAIRS
    return value, NO_REPAIRS


def _repaired(data: bytes | str) -> tuple[Any, Repairs]:
    text, bad_text = _decoded(data)
    text = text.strip(_BLANK)
    if "\\u" in text:
        text, lone = _without_lone_surrogates(text)
        bad_text += lone
    numbers = 0

    def drop(_: str) -> None:
        nonlocal numbers
        numbers += 1

    def real(digits: str) -> float | None:
        value = float(digits)
        if math.isfinite(value):
            return value
        drop(digits)
        return None

    def whole(digits: str) -> int | None:
        try:
            return int(digits)
        except ValueError:  # more digits than Python reads; nobody means them
            drop(digits)
            return None

    try:
        value = json.loads(
            text, strict=False, parse_constant=drop, parse_float=real, parse_int=whole
        )
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    return value, Repairs(bad_text, numbers)


def _decoded(data: bytes | str) -> tuple[str, int]:
    """Return JSON as text without surrogates, and how many places were not valid."""
    if isinstance(data, str):
        text = well_formed(data)
        if text is data:
            return text, 0
        return text, sum(found[1] is not None for found in _SURROGATES.finditer(data))
    raw = bytes(data)
    try:
        return raw.decode(), 0
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "replace")
        # Those that stand in the data as what they are do not count.
        return text, text.count(REPLACEMENT) - raw.count(REPLACEMENT.encode())


def _without_lone_surrogates(text: str) -> tuple[str, int]:
    count = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal count
        if found[1] is None:
            return found[0]
        count += 1
        return REPLACEMENT

    return _ESCAPE.sub(replaced, text), count


def has_large_number(value: Any) -> bool:
    """Return whether some float may be an integer above 64 bits."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        kind = type(each)
        if kind is float:
            if each >= _LARGEST_EXACT or each <= -_LARGEST_EXACT:
                return True
        elif kind is dict:
            waiting.extend(each.values())
        elif kind is list:
            waiting.extend(each)
    return False
