"""Notes on exceptions: item, node and parameters."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, Final

from llmflow.errors import redact

PARTIAL: Final = "_llmflow_partial_results"
"""Where `llmflow.partial_results` looks on an exception."""
_PREFIX: Final = "llmflow: "
_MOST_NOTES: Final = 8
_MOST_CHARACTERS: Final = 60
_MOST_LOOKED_AT: Final = 400
_MOST_PARTS: Final = 4
_SECRET_NAME: Final = re.compile(
    r"(?i)passw|passphrase|secret|credential|authori[sz]ation|api[-_ ]?key|token$"
)


class Finished:
    """The finished results on an exception; not pickled with it."""

    def __init__(self, results: Any = None, serial: float = math.inf) -> None:
        self.results = results
        self.serial = serial  # a map's is newer than that of any batch around it

    def __reduce__(self) -> tuple[Any, ...]:
        return Finished, ()


def note_item(
    error: BaseException,
    index: int,
    item: Any,
    *,
    owner: str,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Note on an exception which item raised it.

    >>> error = ValueError("no")
    >>> note_item(error, 3, {"text": "The tide rises."}, owner="Summaries")
    >>> error.__notes__
    ["llmflow: item 3 of Summaries: {'text': 'The tide rises.'}"]
    """
    _note(error, f"item {index} of {owner}: {in_short(item)}{_with(params)}")


def note_run(error: BaseException, index: int, params: Any, *, owner: str) -> None:
    """Note on an exception which run of a batch flow raised it."""
    _note(error, f"run {index} of {owner}: {in_short(params)}")


def note_node(error: BaseException, *, owner: str, params: Mapping[str, Any]) -> None:
    """Note on an exception which node of a flow raised it."""
    _note(error, f"in {owner}{_with(params)}")


def in_short(value: Any) -> str:
    """Return a value in a few words, without anything like a key.

    >>> in_short({"text": "word " * 100, "n": 1})
    "{'text': 'word word word word word word word word word word word word …', 'n': 1}"
    """
    return redact(_short(value, deep=False))


def _short(value: Any, *, deep: bool) -> str:
    if isinstance(value, str):
        text = redact(value[:_MOST_LOOKED_AT])
        return repr(text[:_MOST_CHARACTERS] + ("…" if len(value) > _MOST_CHARACTERS else ""))
    if isinstance(value, bytes | bytearray):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping) and not deep:
        parts = (f"{in_short(k)}: {_member(k, v)}" for k, v in _first(value.items()))
        return "{" + ", ".join(parts) + _more(value) + "}"
    if isinstance(value, list | tuple) and not deep:
        parts = (_short(each, deep=True) for each in _first(value))
        return "[" + ", ".join(parts) + _more(value) + "]"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return f"{type(value).__name__} of {len(value):,}"
    try:
        text = redact(repr(value)[:_MOST_LOOKED_AT])
    except Exception:  # noqa: BLE001 - whatever the user's code raises
        return f"a {type(value).__name__}"
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + "…"


def _member(name: Any, value: Any) -> str:
    if isinstance(name, str) and _SECRET_NAME.search(name):
        return "'***'"
    return _short(value, deep=True)


def _first(values: Any) -> Any:
    return islice(values, _MOST_PARTS)


def _more(values: Any) -> str:
    return ", …" if len(values) > _MOST_PARTS else ""


def _with(params: Mapping[str, Any] | None) -> str:
    return f", with {in_short(params)}" if params else ""


def _note(error: BaseException, text: str) -> None:
    note = _PREFIX + text
    with contextlib.suppress(Exception):  # the error itself is what must come out
        notes = [each for each in getattr(error, "__notes__", ()) if each.startswith(_PREFIX)]
        # One exception may be raised for many items, and again by each batch around them.
        if note not in notes and len(notes) < _MOST_NOTES:
            error.add_note(note)
