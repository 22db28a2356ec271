"""Text that UTF-8 cannot hold, put right: halves of surrogate pairs.

A Python text may hold them: from ``json.loads``, from bytes decoded with ``surrogateescape``,
or from an emoji that was cut in half. Whoever writes text tries without this first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def well_formed(text: str) -> str:
    """Return the text with lone surrogates replaced, fit for UTF-8.

    Two halves that belong together are joined; a single one becomes U+FFFD.

    >>> well_formed("cut " + chr(0xD83D)) == "cut " + chr(0xFFFD)
    True
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def well_formed_value(value: Any) -> Any:
    """Return a copy of plain data with well-formed texts.

    >>> well_formed_value([{"a": chr(0xDCFF)}]) == [{"a": chr(0xFFFD)}]
    True
    """
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, Mapping):
        return {
            well_formed(key) if isinstance(key, str) else key: well_formed_value(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [well_formed_value(each) for each in value]
    return value
