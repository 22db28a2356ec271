"""Foreign text that no terminal obeys, and counts with words that fit."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Return foreign text as one line that no terminal obeys.

    >>> printable("one\ntwo \x1b[31mred")
    'one two [31mred'
    """
    kept = (" " if letter.isspace() else letter if letter.isprintable() else "" for letter in text)
    return " ".join("".join(kept).split())


def counted(number: int, one: str, more: str | None = None) -> str:
    """Return a count with its noun, in singular or plural.

    >>> counted(1, "row"), counted(2_000, "row"), counted(0, "job is", "jobs are")
    ('1 row', '2,000 rows', '0 jobs are')

    Args:
        number: how many.
        one: what one is called.
        more: what more than one, or none, are called; by default with an ``s``.
    """
    return f"{number:,} {one if number == 1 else f'{one}s' if more is None else more}"
