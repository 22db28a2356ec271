"""Progress of ``llmflow run``: its rows, and its run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Self

from llmflow.jobs.file_run import FileRun
from llmflow.limits import Limiter
from llmflow.progress.view import BatchView, RunView
from llmflow.runs.run import Run
from llmflow.runs.run_progress import RunProgress


class FileProgress(RunProgress):
    """Shows what a job is doing while the ``with`` block runs."""

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
        limiters = {limiter: limiter.statistics()}
        super().__init__(
            run.session,
            lambda: run.batch_jobs,
            limiters=lambda: limiters,
            total=total,
            stream=stream,
            now=now,
        )
        self._job, self._run = job, run

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def view(self) -> RunView:
        """Return the job and its run as they are now."""
        job, rows = self._job, self._job.counters
        view = self.watch.view(
            rows.done, self.total, answered=rows.answered, failed=rows.failed, new=rows.done
        )
        busy = not view.traffic.waiting and view.traffic.in_flight >= job.concurrency
        batch, done = view.batch, view.done
        if (submission := job.reading) is not None:
            batch = replace(batch or BatchView(), submitting=submission.submitted)
        if batch is not None:  # rows are written once all jobs have ended
            done = max(done, self._run.statistics().answered + batch.done)
            done = done if self.total is None else min(done, self.total)
        return replace(
            view,
            done=done,
            note=None if job.contact.trouble is None else "no connection yet, trying again",
            binds=f"--concurrency {job.concurrency:,} is the limit" if busy else None,
            stopping=job.stopping,
            batch=batch,
        )
