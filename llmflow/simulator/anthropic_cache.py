"""Prompt caching as clients see it: a marked beginning that comes again costs no quota."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

_LIFETIME = 300.0
_MAX_PROMPTS = 10_000


class Mark(NamedTuple):
    """A beginning of a prompt that its request wants to be kept: a digest, and its tokens."""

    digest: bytes
    tokens: int


class Marker:
    """Follows a prompt from its beginning, and makes a mark where one is asked for."""

    def __init__(self, model: str) -> None:
        self._hash = hashlib.sha256(model.encode("utf-8", "replace"))
        self.marks: list[Mark] = []

    def add(self, role: str, text: str) -> None:
        """Go on to the next part of the prompt."""
        self._hash.update(f"\0{role}\0{text}".encode("utf-8", "replace"))

    def mark(self, tokens: int) -> None:
        """Mark the prompt up to here, of so many tokens."""
        self.marks.append(Mark(self._hash.digest(), tokens))


class PromptCache:
    """Keeps marked beginnings for five minutes after their last use, and a bounded count.

    Unlike the real one it asks for no least length, so that short texts can be tried.
    """

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}

    def read(self, marks: list[Mark], *, now: float) -> int:
        """Return how many tokens of a prompt are known."""
        known = [mark.tokens for mark in marks if self._until.get(mark.digest, now) > now]
        return max(known, default=0)

    def write(self, marks: list[Mark], *, now: float) -> None:
        """Keep the beginnings of a prompt that was answered."""
        for mark in marks:
            self._until.pop(mark.digest, None)
            self._until[mark.digest] = now + _LIFETIME
        while len(self._until) > _MAX_PROMPTS:
            del self._until[next(iter(self._until))]
