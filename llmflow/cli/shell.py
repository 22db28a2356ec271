"""Words as a shell reads them, also those that a terminal must not."""

from __future__ import annotations

import shlex
from typing import Final

_ESCAPES: Final = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\", "'": r"\'"}


def quoted(word: str) -> str:
    r"""Return a word as it is written on a command line, in printable characters only.

    >>> print(quoted("Sum up: {text}"), quoted("two\nlines"))
    'Sum up: {text}' $'two\nlines'
    """
    if all(letter.isprintable() for letter in word):
        return shlex.quote(word)
    return f"$'{''.join(map(_escaped, word))}'"


def _escaped(letter: str) -> str:
    if letter in _ESCAPES:
        return _ESCAPES[letter]
    if letter.isprintable():
        return letter
    # What was no text on the command line is the same bytes again.
    foreign = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "replace"
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", foreign))
