"""Counts of cut and empty answers, and of retries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llmflow.format import counted

# The share of cut answers above which the bound is wrong, rather than an answer odd.
_TOO_MANY: Final = 0.01


def retry_words(retries: Mapping[str, int]) -> str:
    r"""Return the number of retries by reason, most frequent first.

    >>> retry_words({"500": 1}) == "1 retried: 1 \N{MULTIPLICATION SIGN} 500"
    True
    """
    kinds = sorted(retries.items(), key=lambda each: (-each[1], each[0]))
    told = ", ".join(f"{number:,} × {kind}" for kind, number in kinds)  # noqa: RUF001
    return f"{sum(retries.values()):,} retried: {told}"


def answer_words(answers: int, *, cut: int, empty: int, option: str) -> list[str]:
    """Return a remark on incomplete answers, in a line or two.

    >>> answer_words(600, cut=12, empty=3, option="--max-tokens")
    ['12 answers cut at max_tokens, 3 empty', '2.0% of the answers were cut: raise --max-tokens']

    `option` is what sets the bound.
    """
    parts = []
    if cut:
        parts.append(f"{counted(cut, 'answer')} cut at max_tokens")
    if empty:
        parts.append(f"{empty:,} empty" if cut else f"{counted(empty, 'answer')} empty")
    lines = [", ".join(parts)] if parts else []
    words = too_many_cut(answers, cut=cut, option=option)
    return lines if words is None else [*lines, words]


def too_many_cut(answers: int, *, cut: int, option: str) -> str | None:
    """Return a remedy where above 1% was cut off, or None."""
    if cut <= _TOO_MANY * answers:
        return None
    return f"{cut / answers:.1%} of the answers were cut: raise {option}"


def altered_words(number: int) -> str:
    """Return a remark on rows that were altered in the journal.

    >>> altered_words(1)
    '1 row of its journal was altered on disk: it was not used, its question is asked again'
    """
    if number == 1:
        return (
            "1 row of its journal was altered on disk: it was not used, its question is asked again"
        )
    return (
        f"{number:,} rows of its journal were altered on disk: they were not used, their "
        "questions are asked again"
    )
