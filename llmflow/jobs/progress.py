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
from llmflow.progress.batches import BatchView
from llmflow.progress.pace import Pace
from llmflow.progress.painter import Painter
from llmflow.progress.view import Traffic, View
from llmflow.runs.progress import JobsLook
from llmflow.runs.run import Run


class Progress(AbstractAsyncContextManager["Progress"]):
    """Shows what a job is doing while the ``async with`` block runs.

    Args:
        job: the job.
        limiter: the limiter, for what waits and what is rejected.
        total: rows in all, or None where that is not known.
        stream: a text stream, usually standard error; None shows nothing.
        run: the run that the job belongs to, for its budget, its tokens, and what its
            journal and its cache have answered.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        job: FileRun,
        limiter: Limiter,
        *,
        total: int | None,
        stream: IO[str] | None,
        run: Run | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job = job
        self._total = total
        self._run = run
        self._now = now
        self._jobs = None if run is None else JobsLook(run, now=now)
        self._limiters = {limiter: limiter.statistics()}
        self._pace = Pace(now())
        self._painter = Painter(stream, self.view, now=self._clock)
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._written = 0 if run is None else run.known

    async def __aenter__(self) -> Self:
        self._pace = Pace(self._now())
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

    def text(self) -> str:
        """Return the state in one line: rate, progress, failures, time left."""
        return self.view().line()

    def view(self) -> View:
        """Return what is shown."""
        job, counters = self._job, self._job.counters
        run = None if self._run is None else self._run.statistics()
        replayed = counters.replayed if run is None else run.replayed
        cached = 0 if run is None else run.cached
        before = 0 if run is None else run.failed_before
        traffic = Traffic.of(self._limiters)
        # A row counts once it is written, a moment after the run has counted its call.
        known = min(counters.done, replayed + cached + before)
        new = counters.done - known
        self._pace.note(self._now(), new=new, known=known, requests=traffic.requests)
        source, batch = counters if run is None else run, self._batch()
        return View(
            # Rows are written once all jobs have ended.
            done=counters.done if batch is None else self._done(batch),
            total=self._total,
            rate=self._pace.rate,
            reading=self._pace.reading,
            requests=self._pace.requests,
            seconds_left=self._left(known),
            failed=counters.failed,
            replayed=replayed,
            cached=cached,
            shared=0 if run is None else run.shared,
            input_tokens=source.input_tokens,
            output_tokens=source.output_tokens,
            cost=source.cost,
            budget=self._run.ledger.state() if self._run and self._run.ledger else None,
            traffic=traffic,
            note=None if job.contact.trouble is None else "no connection yet, trying again",
            binds=self._binds(traffic),
            stopping=job.stopping,
            batch=batch,
        )

    def _done(self, batch: BatchView) -> int:
        """Return how many rows have come to their end, written or not."""
        brought = 0 if self._run is None else self._run.statistics().answered
        done = max(self._job.counters.done, brought + batch.done)
        return done if self._total is None else min(done, self._total)

    def _batch(self) -> BatchView | None:
        """Return the batch jobs that the job waits for."""
        if self._jobs is None:
            return None
        found, submission = self._jobs.view(), self._job.reading
        if submission is None:
            return found
        return replace(found or BatchView(), submitting=submission.submitted)

    def _left(self, known: int) -> float | None:
        # While nothing is answered, nobody knows when it will be.
        if self._total is None or not self._job.counters.answered:
            return None
        remaining = self._total - self._job.counters.done
        return self._pace.left(remaining, expected=max(0, self._written - known))

    def _binds(self, traffic: Traffic) -> str | None:
        """Return what holds the job up while nothing waits for the limiter."""
        job = self._job
        busy = not traffic.waiting and traffic.in_flight >= job.concurrency
        return f"--concurrency {job.concurrency:,} is the limit" if busy else None

    def _clock(self) -> float:
        # The loop's, as the waiting is: under a virtual clock both go together.
        return asyncio.get_running_loop().time()

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
