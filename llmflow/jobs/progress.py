"""What a run is doing, told on standard error while it does it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import IO, Self

from llmflow.errors import redact
from llmflow.jobs.display import Display, display_for
from llmflow.jobs.job import Job
from llmflow.jobs.report import duration
from llmflow.limits import Limiter

# The rate of the last half minute or so: an early lull must not spoil the forecast.
_MEMORY_SECONDS = 30.0
_TROUBLE_CHARACTERS = 80


class Progress(AbstractAsyncContextManager["Progress"]):
    """Shows what a job is doing while the ``async with`` block runs.

    Args:
        job: the job.
        limiter: the limiter, for what waits and what is rejected.
        total: rows in all, or None where that is not known.
        stream: a text stream, usually standard error; None shows nothing.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        job: Job,
        limiter: Limiter,
        *,
        total: int | None,
        stream: IO[str] | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job = job
        self._limiter = limiter
        self._total = total
        self._stream = stream
        self._now = now
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._rejected = limiter.statistics().rejected
        self._seen: list[tuple[float, int]] = [(now(), 0)]

    async def __aenter__(self) -> Self:
        self._seen = [(self._now(), 0)]
        if self._stream is not None:
            self._task = asyncio.create_task(self._show(self._stream))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def refresh(self) -> None:
        """Show the state at once: something has changed that must not wait."""
        self._news.set()

    def text(self) -> str:
        """Return the state in one line: rate, what is under way, what went wrong, time left."""
        counters, limiter = self._job.counters, self._limiter.statistics()
        if self._job.stopping:
            return f"stopping: {limiter.in_flight:,} answers on their way; Ctrl-C drops them"
        rate = self._rate()
        parts = [f"{rate:.1f}/s", f"{limiter.in_flight:,} in flight"]
        if self._job.contact.trouble is not None:
            parts.append("no connection yet, trying again")
        elif (trouble := self._limiter.trouble) is not None:
            parts.append(f"nothing is answered ({redact(trouble)[:_TROUBLE_CHARACTERS]})")
        if limiter.paused_for:
            parts.append(f"paused {limiter.paused_for:.0f} s")
        if limiter.rejected > self._rejected:
            parts.append(f"{limiter.rejected - self._rejected:,} x 429")
        if counters.failed:
            parts.append(f"{counters.failed:,} failed")
        if counters.cost:
            parts.append(f"${counters.cost:.4f}")
        done, total = counters.done, self._total
        # While nothing is done, nobody knows when it will be.
        if total is not None and counters.answered and 0 < done < total and rate:
            parts.append(f"{duration((total - done) / rate)} left")
        # At the end, where a narrow terminal cuts it off first.
        binding = max(limiter.bound_by, key=limiter.bound_by.__getitem__, default="")
        if limiter.waiting and binding in limiter.limits:
            parts.append(f"{binding} is the limit")
        return ", ".join(parts)

    def _rate(self) -> float:
        """Return the rows per second of the last while."""
        now, done, seen = self._now(), self._job.counters.done, self._seen
        while len(seen) > 2 and now - seen[1][0] >= _MEMORY_SECONDS:
            del seen[0]
        if now - seen[-1][0] >= 1.0:
            seen.append((now, done))
        since, before = seen[0]
        return (done - before) / max(1e-9, now - since)

    async def _show(self, stream: IO[str]) -> None:
        display: Display | None = None
        try:
            display = display_for(stream, self._total)
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(display.seconds):
                        await self._news.wait()
                self._news.clear()
                display.show(self._job.counters.done, self.text())
        except (OSError, ValueError):
            pass  # the terminal is gone; the run is worth more than its progress
        finally:
            if display is not None:
                with suppress(OSError, ValueError):
                    display.close()
