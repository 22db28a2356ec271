"""Converts output values to JSON, and to flat table cells."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from llmflow.surrogates import well_formed

# By name: their libraries are not imported here.
# What makes a spreadsheet take text for a formula (OWASP, "CSV Injection"): it also drops
# leading blanks of some kinds, and takes the wide forms of East Asian keyboards.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NO_VALUES: Final = frozenset({"NAType", "NaTType"})
_MAY_BE_NONE: Final = frozenset(
    {"Decimal", "float16", "float32", "longdouble", "datetime64", "timedelta64"}
)


def is_missing(value: object) -> bool:
    """Return whether a value is missing: None, NaN, NaT, pandas' NA.

    >>> is_missing(float("nan")), is_missing("nan"), is_missing(0)
    (True, False, False)
    """
    if value is None:
        return True
    kind = type(value)
    if kind is str or kind is int:
        return False
    if kind.__name__ in _NO_VALUES:
        return True
    if isinstance(value, float):
        return value != value
    # Of NumPy, a number or a time; of an array, `!=` would be an array.
    if kind.__name__ not in _MAY_BE_NONE:
        return False
    return bool(value != value)


def plain(value: object) -> Any:
    """Return the nearest JSON value of a value that has none.

    Bytes become their text, or base64 where they are none; sets become lists;
    NaT and its like become None, and anything else (dates, decimals, ...) its text.
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
    return None if is_missing(value) else str(value)


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


class JsonLines:
    """Output format of one JSON object per line; base of the others.

    `suffix` is that of the partial file.
    """

    def __init__(self, suffix: str = ".jsonl") -> None:
        self.suffix = suffix

    def encode(self, row: Mapping[str, Any]) -> bytes:
        """Return a row's bytes."""
        return json_line(row)

    def ending(self) -> bytes:
        """Return what the partial file still lacks."""
        return b""

    def finish(self, partial: Path, mode: int | None) -> Path:  # noqa: ARG002
        """Return the final file, made from the partial one."""
        return partial


def json_text(value: object) -> str:
    """Return any value as compact JSON text."""
    try:
        return orjson.dumps(value, plain).decode()
    except TypeError:
        return json.dumps(_repaired(value), ensure_ascii=False, separators=(",", ":"))


def cell(value: object) -> str:
    """Return a value as text of a table cell or prompt.

    Text stays as it is, numbers are written as Python writes them, None, NaN and
    NaT are empty, and truth values, lists and objects are JSON.

    >>> cell({"a": [1, True]})
    '{"a":[1,true]}'
    """
    kind = type(value)
    if kind is str:
        return value  # type: ignore[return-value]
    if kind is int or (kind is float and value == value):
        return str(value)
    if kind is bool:
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, bool | Mapping | list | tuple | set | frozenset):
        return json_text(value)
    if isinstance(value, int | float):
        return str(value)
    return str(plain(value))


def without_formula(value: Any) -> Any:
    """Return a cell's text that no spreadsheet runs as formula.

    Plain numbers are left as they are, with a sign, too.

    >>> without_formula("=1+1"), without_formula("-5"), without_formula("fine")
    ("'=1+1", '-5', 'fine')
    """
    if type(value) is str and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
