"""Checks reported balances against rejections and their absence."""

from __future__ import annotations

import math
from typing import Final

# As long as little is said to be left and nothing is refused, it may be just enough, or it may
# be said of another account. After so many seconds it is tried out, which costs a rejection
# where it was true; then it takes twice as long until it is tried again.
_PATIENCE_SECONDS: Final = 4.0
_ENOUGH: Final = 0.5


class Trust:
    """Decides whether reported balances control admission."""

    __slots__ = ("_little_since", "_patience", "given")

    def __init__(self) -> None:
        self.given = True
        self._patience = _PATIENCE_SECONDS
        self._little_since: float | None = None

    def note(self, left: float, *, held_back: bool, now: float) -> None:
        """Take note of what replies say, while nothing is refused.

        Args:
            left: what is left, as a part of what there can be.
            held_back: whether less is sent for it than the limit allows.
            now: the time.
        """
        if not held_back or left >= _ENOUGH:
            self._little_since = None
        elif self._little_since is None:
            self._little_since = now
        elif now - self._little_since > self._patience:
            self.given = False
            self._little_since = None

    def refuse(self, *, much_left: bool | None) -> None:
        """Take note of a rejection.

        Args:
            much_left: whether it says itself that much is left, which is not so: what it
                speaks of is not what requests are admitted by. None where it does not say.
        """
        self._little_since = None
        if much_left is None:
            return
        if much_left:
            self.given = False
            self._patience = math.inf
        elif not self.given and self._patience < math.inf:
            self.given = True
            self._patience *= 2.0

    def move(self, shift: float) -> None:
        """Follow a clock that has been set anew."""
        if self._little_since is not None:
            self._little_since += shift
