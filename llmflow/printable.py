"""Foreign text as one line that no terminal obeys."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return foreign text as one line that no terminal obeys.

    >>> printable("one\ntwo \x1b[31mred")
    'one two [31mred'
    """
    kept = (" " if letter.isspace() else letter if letter.isprintable() else "" for letter in text)
    return " ".join("".join(kept).split())
