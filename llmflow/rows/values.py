"""Values on their way out: JSON that never fails, and one flat cell per value for tables."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import orjson


def well_formed(text: str) -> str:
    """Return the text with surrogates put right, so that UTF-8 can hold it.

    Models answer with emoji cut in half by their length limit. Two halves are
    joined; a single one becomes U+FFFD.

    >>> well_formed("cut " + chr(0xD83D)) == "cut " + chr(0xFFFD)
    True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def plain(value: object) -> Any:
    """Return a value that JSON does not have as the nearest one that it has.

    Bytes become their text, or base64 where they are none; sets become lists;
    anything else (dates, decimals, ...) becomes its text.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return base64.b64encode(raw).decode()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _repaired(value: object) -> Any:
    """Return a copy that the standard `json` module writes as valid UTF-8 JSON."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, dict):
        return {well_formed(str(key)): _repaired(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_repaired(item) for item in value]
    if isinstance(value, float):
        # NaN and the infinities are no JSON; orjson writes null for them too.
        return value if value - value == 0 else None
    if value is None or isinstance(value, bool | int):
        return value
    return _repaired(plain(value))


def json_line(row: Mapping[str, Any]) -> bytes:
    """Return one row as a line of JSON, whatever its values are.

    >>> json_line({"text": "Hello"}).rstrip()
    b'{"text":"Hello"}'
    """
    try:
        return orjson.dumps(row, plain, orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        # Lone surrogates, keys that are no text, integers above 64 bits: rare, so
        # they cost a second attempt and every other row pays nothing.
        return json.dumps(_repaired(row), ensure_ascii=False).encode() + b"\n"


def json_text(value: object) -> str:
    """Return any value as compact JSON text."""
    try:
        return orjson.dumps(value, plain).decode()
    except TypeError:
        return json.dumps(_repaired(value), ensure_ascii=False, separators=(",", ":"))


def cell(value: object) -> str:
    """Return a value as the text of one table cell or one place in a prompt.

    Text stays as it is, numbers are written as Python writes them, None is
    empty, and truth values, lists and objects are JSON.

    >>> cell({"a": [1, True]})
    '{"a":[1,true]}'
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | Mapping | list | tuple | set | frozenset):
        return json_text(value)
    if isinstance(value, int | float):
        return str(value)
    return str(plain(value))
