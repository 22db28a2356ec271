"""An event loop whose clock jumps over all waiting.

The loop polls its selector without blocking; when nothing is ready, it adds
the time-out that it would have waited to its own clock. All of asyncio's
sleeps, timeouts and timers, and all of llmflow, follow that clock.

A thread at work does not stop the jump: keep executors and real sockets out of
a virtual loop.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from llmflow.errors import UsageError

_T = TypeVar("_T")
_IDLE_LIMIT = 5.0


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that reports the time it would have waited instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.jump: Callable[[float], None] = lambda _seconds: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            # No timer is set: only another thread can wake the loop. Give it real time.
            ready = super().select(_IDLE_LIMIT)
            if not ready:
                message = "the virtual loop is idle for ever: every task waits for an event"
                raise RuntimeError(message)
            return ready
        self.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock.

    >>> import asyncio
    >>> async def an_hour():
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run_virtual(an_hour())
    3600.0

    Args:
        wall_start: the time of day at virtual time 0, in seconds since 1970.

    """

    def __init__(self, *, wall_start: float = 1_800_000_000.0) -> None:
        selector = _JumpingSelector()
        super().__init__(selector)
        self.wall_start = wall_start
        self._now = 0.0
        selector.jump = self._jump
        # Timers less than this apart would otherwise need a jump of zero.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Return the virtual time, in seconds since the loop was made."""
        return self._now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002
        """Wait for the threads, without virtual time limits."""
        await super().shutdown_default_executor()

    def _jump(self, seconds: float) -> None:
        scheduled = self._scheduled  # type: ignore[attr-defined]
        # Jump to the timer itself: adding a rounded difference could fall short of it for ever.
        target = scheduled[0]._when if scheduled else self._now + seconds
        self._now = max(self._now, min(target, self._now + seconds + 1e-6))


def run_virtual(main: Coroutine[Any, Any, _T], *, wall_start: float = 1_800_000_000.0) -> _T:
    """Run a coroutine on a fresh `VirtualLoop` and return its result.

    >>> run_virtual(asyncio.sleep(3600, "an hour later"))
    'an hour later'

    Args:
        main: the coroutine.
        wall_start: the time of day at virtual time 0, in seconds since 1970.

    Raises:
        UsageError: an event loop runs already, as in a notebook.
    """
    if asyncio._get_running_loop() is not None:
        main.close()
        raise UsageError("an event loop runs already, and its time is real: run this in a script")
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(wall_start=wall_start)) as runner:
        return runner.run(main)
