"""Output types written in one line, such as on a command line."""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from llmflow.errors import ConfigurationError

_TYPES: Final[Mapping[str, type]] = {
    "str": str,
    "string": str,
    "int": int,
    "integer": int,
    "float": float,
    "number": float,
    "bool": bool,
    "boolean": bool,
    "date": dt.date,
    "datetime": dt.datetime,
}
KNOWN: Final = "str, int, float, bool, date, datetime, list[TYPE], or words such as yes|no"
_TOKEN: Final = re.compile(r"\s*(?:(\w[\w-]*)|(.))", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_DEPTH: Final = 8


def from_one_line(text: str) -> Any:
    """Return a TypedDict for fields written in one line.

    A field is ``name: type``, with ``?`` behind a type that may be null. Types are str, int,
    float, bool, date, datetime, ``list[...]`` of one, and words of which one is wanted.

    >>> list(from_one_line("mood: good|bad, topics: list[str], score: float?").__annotations__)
    ['mood', 'topics', 'score']

    Raises:
        ConfigurationError: it cannot be read; the message has the position.
    """
    return _Reader(text).model()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, int]] = []
        at = 0
        while (found := _TOKEN.match(text, at)) is not None:
            group = 1 if found[1] is not None else 2
            if not found[group].isspace():
                self._tokens.append((found[group], found.start(group)))
            at = found.end()
        self._next = 0

    def model(self) -> Any:
        from typing_extensions import TypedDict  # pydantic takes typing's from 3.12 only

        fields: dict[str, Any] = {}
        if not self._tokens:
            self._fail("there is no field")
        while True:
            name = self._name(fields)
            self._expect(":", f"':' and a type after {name!r}")
            kind = self._type(0)
            if self._peek() == "?":
                self._take()
                kind = kind | None
            fields[name] = kind
            if self._peek() is None:
                break
            self._expect(",", "',' before the next field")
            if self._peek() is None:
                break
        # No pydantic model: its fields cannot be called "json" or "copy", as its methods are.
        make: Any = TypedDict
        return make("Answer", fields)

    def _name(self, fields: dict[str, Any]) -> str:
        name, at = self._peek(), self._position()
        if name is None:
            self._fail("a field's name is missing")
        if not _NAME.fullmatch(name):
            self._fail(f"{name!r} is no name of a field: names are of letters, digits and _", at)
        if name in fields:
            self._fail(f"the field {name!r} is there twice", at)
        self._take()
        return name

    def _type(self, depth: int) -> Any:
        word, at = self._peek(), self._position()
        if word is None:
            self._fail(f"a type is missing: {KNOWN}")
        self._take()
        if self._peek() == "|":
            return self._words(word, at)
        if word in ("list", "array") and self._peek() == "[":
            self._take()
            if depth >= _MOST_DEPTH:
                self._fail("lists within lists within lists go no deeper", at)
            inner = self._type(depth + 1)
            self._expect("]", "']' after the type of the list's items")
            of: Any = list
            return of[inner]
        kind = _TYPES.get(word)
        if kind is None:
            near = difflib.get_close_matches(word.lower(), [*_TYPES, "list"], 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            self._fail(f"unknown type {word!r}; {hint}types are {KNOWN}", at)
        return kind

    def _words(self, first: str, at: int) -> Any:
        from typing import Literal

        words = [first]
        if not self._is_plain(first):
            self._fail(f"{first!r} is no word", at)
        while self._peek() == "|":
            self._take()
            word, place = self._peek(), self._position()
            if word is None or not self._is_plain(word):
                self._fail("a word is missing after '|'", place)
            if word in words:
                self._fail(f"the word {word!r} is there twice", place)
            words.append(word)
            self._take()
        if {*words} <= {*_TYPES, "null", "none", "None"}:
            self._fail(
                f"{'|'.join(words)} are types, not words; {words[0]}? may be null, and a union of "
                "types needs a file or module:Model",
                at,
            )
        return Literal[tuple(words)]

    def _is_plain(self, word: str) -> bool:
        return word[0].isalnum() or word[0] == "_"

    def _peek(self) -> str | None:
        return self._tokens[self._next][0] if self._next < len(self._tokens) else None

    def _position(self) -> int:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else len(self._text)

    def _take(self) -> None:
        self._next += 1

    def _expect(self, mark: str, what: str) -> None:
        if self._peek() != mark:
            found = self._peek()
            self._fail(f"expected {what}; found {'the end' if found is None else repr(found)}")
        self._take()

    def _fail(self, reason: str, at: int | None = None) -> NoReturn:
        place = (self._position() if at is None else at) + 1
        raise ConfigurationError(f"schema {_shown(self._text)}, column {place}: {reason}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
