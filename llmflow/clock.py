"""Time as an argument, so that tests run hours in milliseconds.

Everything that waits uses the running loop's clock, which
`llmflow.testing.VirtualLoop` replaces by a virtual one. A `Clock` adds what a
loop does not have: the time of day, which HTTP dates are compared with.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The source of time. All values are float seconds."""

    def monotonic(self) -> float:
        """Return the running loop's time: it never goes back."""
        ...

    def wall(self) -> float:
        """Return the time of day, in seconds since 1970."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The running loop's clock, and the machine's time of day.

    Outside of a loop, where calls of one that was closed are collected, the clock that loops use.
    """

    def monotonic(self) -> float:
        """Return the running loop's time."""
        loop = asyncio._get_running_loop()
        return time.monotonic() if loop is None else loop.time()

    def wall(self) -> float:
        """Return the machine's time of day; on a virtual loop, that loop's."""
        loop = asyncio._get_running_loop()
        virtual: float | None = getattr(loop, "wall_start", None)
        return time.time() if loop is None or virtual is None else virtual + loop.time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the running loop."""
        await asyncio.sleep(seconds)
