"""The limiter's lock, which runs deferred work when it is released."""

from __future__ import annotations

import threading
from collections.abc import Callable


class TidyLock:
    """A lock that calls a function after every release: see `Limiter._end`."""

    __slots__ = ("_tidy", "raw")

    def __init__(self, tidy: Callable[[], None]) -> None:
        self.raw = threading.Lock()
        self._tidy = tidy

    def __enter__(self) -> None:
        self.raw.acquire()

    def __exit__(self, *_: object) -> None:
        self.raw.release()
        self._tidy()
