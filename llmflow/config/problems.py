"""Error messages for settings: line, dotted path, nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, NamedTuple, TypeAlias

from llmflow.errors import redact

FILE_NAME: Final = "llmflow.toml"

Place: TypeAlias = tuple[str, ...]
"""The names that lead to a setting, such as ``("providers", "openai", "quota", "rpm")``."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Problem(NamedTuple):
    """One thing that is wrong."""

    place: Place
    text: str


def dotted(place: Place) -> str:
    """Return a setting's path as written in the file, without secrets.

    >>> dotted(("providers", "openai", "models", "gpt-6*"))
    'providers.openai.models."gpt-6*"'
    """
    shown = []
    for number, name in enumerate(place):
        if number == 3 and place[2] == "keys" and not is_variable(name):
            name = "***"  # noqa: PLW2901 - a key where its variable's name belongs
        elif not _BARE.fullmatch(name):
            name = f'"{redact(name)}"'  # noqa: PLW2901
        shown.append(redact(name))
    return ".".join(shown)


def nearest(name: str, names: Collection[str]) -> str | None:
    """Return the valid name that was probably meant, or None."""
    close = get_close_matches(name.lower().replace("-", "_"), sorted(names), n=1, cutoff=0.55)
    return close[0] if close else None


def is_variable(name: str) -> bool:
    """Return whether a text names an environment variable, unlike a key."""
    return _VARIABLE.fullmatch(name) is not None and not looks_like_key(name)


def looks_like_key(text: str) -> bool:
    """Return whether a text is probably a secret.

    >>> looks_like_key("sk-abcdef123456"), looks_like_key("WORK_OPENAI_KEY")
    (True, False)
    """
    if redact(text) != text:
        return True
    digits = sum(letter.isdigit() for letter in text)
    mixed = text != text.lower() and text != text.upper()
    return len(text) >= 20 and digits >= 3 and (mixed or "_" not in text)


def lines_of(text: str) -> dict[Place, int]:
    """Return the lines of tables and keys in a TOML text.

    tomllib tells no lines. Each line that is TOML by itself, and in this kind of
    file all are but the inner lines of arrays, is read alone.
    """
    import tomllib

    found: dict[Place, int] = {}
    table: Place = ()
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        try:
            parsed = tomllib.loads(line)
        except (tomllib.TOMLDecodeError, RecursionError):
            continue
        places = list(_places(parsed))
        if line.startswith("["):
            table = places[-1]
        else:
            places = [table + each for each in places]
        for place in places:
            found.setdefault(place, number)
    return found


def line_of(place: Place, lines: Mapping[Place, int]) -> int | None:
    """Return the line of a setting, or of its nearest table."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return None


def report(name: str, problems: Collection[Problem], lines: Mapping[Place, int]) -> str:
    """Return all problems of a file: one as line, several as list."""
    numbered = sorted(
        ((line_of(problem.place, lines) or 0, problem) for problem in problems),
        key=lambda each: each[0],
    )
    texts = []
    for line, problem in numbered:
        before = [f"line {line}: "] if line else []
        before += [f"{dotted(problem.place)}: "] if problem.place else []
        texts.append("".join([*before, problem.text]))
    if len(texts) == 1:
        separator = ", " if numbered[0][0] else ": "
        return f"{name}{separator}{texts[0]}"
    return "\n".join([f"{name} has {len(texts)} problems:", *(f"- {text}" for text in texts)])


def _places(value: Mapping[str, Any]) -> Iterator[Place]:
    for name, inner in value.items():
        yield (name,)
        while isinstance(inner, list) and inner:  # [[a.b]]
            inner = inner[-1]  # noqa: PLW2901
        if isinstance(inner, dict):
            for place in _places(inner):
                yield (name, *place)
