"""Tracks permits per event loop, and frees those of closed ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Holders(Generic[_T]):
    """Permits by event loop. Not locked: its owner has a lock.

    A loop that is closed with calls in flight never ends them: their coroutines are not run
    any more, and as long as somebody refers to them not collected either.

    >>> holders = Holders()
    >>> loop = asyncio.new_event_loop()
    >>> holders.add(loop, "a place")
    >>> loop.close()
    >>> holders.abandoned()
    ['a place']
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: dict[asyncio.AbstractEventLoop, set[_T]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, held: _T) -> None:
        """Note that a call of this loop holds something."""
        of_loop = self._held.get(loop)
        if of_loop is None:
            # A program may begin a loop for every call: those that left nothing are forgotten.
            for other in [each for each, has in self._held.items() if not has and each.is_closed()]:
                del self._held[other]
            of_loop = self._held[loop] = set()
        of_loop.add(held)

    def discard(self, loop: asyncio.AbstractEventLoop, held: _T) -> None:
        """Note that it was given back."""
        of_loop = self._held.get(loop)
        if of_loop is not None:
            of_loop.discard(held)

    def others(self, loop: asyncio.AbstractEventLoop | None) -> bool:
        """Return whether calls of another loop than this one hold anything."""
        if len(self._held) <= (loop in self._held):
            return False
        return any(held for each, held in self._held.items() if each is not loop)

    def __iter__(self) -> Iterator[_T]:
        """Yield what is held by the calls of all loops."""
        for of_loop in self._held.values():
            yield from of_loop

    def abandoned(self) -> list[_T]:
        """Return, once, what the calls of closed loops hold."""
        closed = [loop for loop in self._held if loop.is_closed()]
        return [held for loop in closed for held in self._held.pop(loop)]

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
