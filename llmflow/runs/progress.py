"""Progress on standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import IO, Any, Protocol, Self

from llmflow.limits import Limiter
from llmflow.runs.job import Counters
from llmflow.runs.report import duration

_BAR_SECONDS = 0.25
_LINE_SECONDS = 10.0


class Display(Protocol):
    """Something that shows a text and how far the run is."""

    def show(self, done: int, text: str) -> None:
        """Show the state now."""
        ...

    def close(self) -> None:
        """Show nothing any more."""
        ...


class Progress(AbstractAsyncContextManager["Progress"]):
    """Shows what a job is doing while the ``async with`` block runs.

    Args:
        counters: the job's counters.
        limiter: the limiter, for what waits and what is rejected.
        total: rows in all, or None where that is not known.
        stream: a text stream, usually standard error; None shows nothing.
    """

    def __init__(
        self,
        counters: Counters,
        limiter: Limiter,
        *,
        total: int | None,
        stream: IO[str] | None,
    ) -> None:
        self._counters = counters
        self._limiter = limiter
        self._total = total
        self._stream = stream
        self._task: asyncio.Task[None] | None = None
        self._started = time.monotonic()
        self._rejected = limiter.statistics().rejected

    async def __aenter__(self) -> Self:
        self._started = time.monotonic()
        if self._stream is not None:
            self._task = asyncio.create_task(self._show(self._stream))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def text(self) -> str:
        """Return the state in one line."""
        counters, limiter = self._counters, self._limiter.statistics()
        seconds = max(1e-9, time.monotonic() - self._started)
        rate = counters.done / seconds
        parts = [f"{rate:.1f}/s", f"{limiter.in_flight} in flight"]
        if limiter.waiting:
            parts.append(f"{limiter.waiting} waiting")
        if limiter.paused_for:
            parts.append(f"paused {limiter.paused_for:.0f} s")
        if limiter.rejected > self._rejected:
            parts.append(f"{limiter.rejected - self._rejected:,} x 429")
        if counters.failed:
            parts.append(f"{counters.failed:,} failed")
        if counters.cost:
            parts.append(f"${counters.cost:.4f}")
        if self._total is not None and rate > 0:
            parts.append(f"ETA {duration((self._total - counters.done) / rate)}")
        return ", ".join(parts)

    async def _show(self, stream: IO[str]) -> None:
        terminal = stream.isatty()
        display: Display = _Bar(stream, self._total) if terminal else _Lines(stream, self._total)
        try:
            while True:
                await asyncio.sleep(_BAR_SECONDS if terminal else _LINE_SECONDS)
                display.show(self._counters.done, self.text())
        finally:
            display.show(self._counters.done, self.text()) if terminal else None
            display.close()


class _Lines:
    """One plain line for each state."""

    def __init__(self, stream: IO[str], total: int | None) -> None:
        self._stream = stream
        self._of = f"/{total:,}" if total is not None else ""

    def show(self, done: int, text: str) -> None:
        print(f"{done:,}{self._of} done, {text}", file=self._stream, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    """rich's progress bar."""

    def __init__(self, stream: IO[str], total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")]
        self._rich = RichProgress(*columns, console=Console(file=stream), auto_refresh=False)
        self._task = self._rich.add_task("starting", total=total)
        self._rich.start()

    def show(self, done: int, text: str) -> None:
        self._rich.update(self._task, completed=done, description=text)
        self._rich.refresh()

    def close(self) -> None:
        self._rich.stop()
