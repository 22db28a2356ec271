"""Prompt caching as clients see it: a marked beginning that comes again costs no quota."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

_LIFETIME = 300.0
_LIFETIME_1H = 3600.0
_MAX_PROMPTS = 10_000


class Mark(NamedTuple):
    """A beginning of a prompt that its request wants to be kept: a digest, its tokens, how long."""

    digest: bytes
    tokens: int
    seconds: float = _LIFETIME

    @property
    def is_long(self) -> bool:
        """Whether it is to be kept for an hour."""
        return self.seconds > _LIFETIME


class Marker:
    """Follows a prompt from its beginning, and makes a mark where one is asked for."""

    def __init__(self, model: str) -> None:
        self._hash = hashlib.sha256(model.encode("utf-8", "replace"))
        self.marks: list[Mark] = []

    def add(self, role: str, text: str) -> None:
        """Go on to the next part of the prompt."""
        self._hash.update(f"\0{role}\0{text}".encode("utf-8", "replace"))

    def mark(self, tokens: int, *, long: bool = False) -> None:
        """Mark the prompt up to here, of so many tokens, for an hour or the usual five minutes."""
        seconds = _LIFETIME_1H if long else _LIFETIME
        self.marks.append(Mark(self._hash.digest(), tokens, seconds))


class _Kept(NamedTuple):
    since: float
    until: float


class PromptCache:
    """Keeps marked beginnings for their time after their last use, and a bounded count.

    Unlike the real one it asks for no least length, so that short texts can be tried.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}

    def read(self, marks: list[Mark], *, now: float, before: float | None = None) -> int:
        """Return how many tokens of a prompt are known.

        Args:
            marks: the marked beginnings of the prompt.
            now: the time.
            before: what was not known at that time does not count: requests that are worked
                on at the same time have nothing of each other.
        """
        known = [0]
        for mark in marks:
            kept = self._kept.get(mark.digest)
            if kept is not None and kept.until > now and (before is None or kept.since < before):
                known.append(mark.tokens)
        return max(known)

    def write(self, marks: list[Mark], *, now: float) -> None:
        """Keep the beginnings of a prompt that was answered."""
        for mark in marks:
            old = self._kept.pop(mark.digest, None)
            since = now if old is None or old.until <= now else old.since
            self._kept[mark.digest] = _Kept(since, now + mark.seconds)
        while len(self._kept) > _MAX_PROMPTS:
            del self._kept[next(iter(self._kept))]
