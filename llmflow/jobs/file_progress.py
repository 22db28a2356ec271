"""Prints the progress of ``llmflow run`` on standard error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import IO, Self

from llmflow.jobs.file_run import FileRun
from llmflow.limits import Limiter
from llmflow.progress.painter import Painter
from llmflow.progress.view import BatchView, RunView
from llmflow.runs.run import Run
from llmflow.runs.run_progress import RunWatch


class FileProgress(AbstractAsyncContextManager["FileProgress"]):
    """Shows what a job is doing while the ``async with`` block runs."""

    def __init__(
        self,
        job: FileRun,
        limiter: Limiter,
        *,
        total: int | None,
        stream: IO[str] | None,
        run: Run,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job, self._run = job, run
        self.total = total
        limiters = {limiter: limiter.statistics()}
        self._watch = RunWatch(
            run.session, lambda: run.batch_jobs, limiters=lambda: limiters, now=now
        )
        # The loop's clock, as the waiting is: under a virtual clock both go together.
        self._painter = Painter(stream, self.view, now=lambda: asyncio.get_running_loop().time())
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self._painter.start():
            self._task = asyncio.create_task(self._show())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._painter.stop()

    def refresh(self) -> None:
        """Show the state at once: an important change has happened."""
        self._news.set()

    def view(self) -> RunView:
        """Return the job and its run as they are now."""
        job, rows = self._job, self._job.counters
        view = self._watch.view(
            rows.done, self.total, answered=rows.answered, failed=rows.failed, new=rows.done
        )
        busy = not view.traffic.waiting and view.traffic.in_flight >= job.concurrency
        batch = view.batch
        if (submission := job.reading) is not None:
            batch = replace(batch or BatchView(), submitting=submission.submitted)
        return replace(
            view,
            done=view.done if batch is None else self._done(batch),
            note=None if job.contact.trouble is None else "no connection yet, trying again",
            binds=f"--concurrency {job.concurrency:,} is the limit" if busy else None,
            stopping=job.stopping,
            batch=batch,
        )

    def _done(self, batch: BatchView) -> int:
        """Return how many rows have ended; they are written once all jobs have."""
        done = max(self._job.counters.done, self._run.statistics().answered + batch.done)
        return done if self.total is None else min(done, self.total)

    async def _show(self) -> None:
        while self._painter.active:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._painter.wait()):
                    await self._news.wait()
            news = self._news.is_set()
            if news:
                self._news.clear()
                await asyncio.sleep(self._painter.wait(news=True))
            self._painter.tick(news=news)
