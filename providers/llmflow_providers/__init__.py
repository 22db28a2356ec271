"""Providers, a folder each. They know `llmflow.provider` and `llmflow.types`, nothing above."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Return the words of a text.

    >>> sorted(words("stop length"))
    ['length', 'stop']
    """
    return frozenset(text.split())
