"""Progress of a Python run, on standard error or in a notebook."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Final

from llmflow.errors import redact
from llmflow.progress.batches import BatchView
from llmflow.progress.pace import Pace
from llmflow.progress.painter import Painter
from llmflow.progress.view import Traffic, View

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.calls.session import Session
    from llmflow.calls.statistics import RunStatistics
    from llmflow.runs.run import Run

_STOP_SECONDS: Final = 2.0
_LEAST_SHARE: Final = 0.05
_LOOK_SECONDS: Final = 1.0
_WORDS: Final = {"sealed": "to be sent", "creating": "on the way", "fetched": "being read"}


class JobsLook:
    """Progress of the batch jobs of a run, read once a second.

    Args:
        run: the run, which is open.
        now: a clock in seconds that never goes back.
        wall: the time of day, in seconds since 1970.
    """

    def __init__(
        self,
        run: Run,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._run = run
        self._now = now
        self._wall = wall
        self._looked_at: float | None = None
        self._found: BatchView | None = None

    def view(self) -> BatchView | None:
        """Return the jobs; None if all have ended."""
        if not self._run.has_batches:
            return None
        now = self._now()
        if self._looked_at is None or now - self._looked_at >= _LOOK_SECONDS:
            self._found, self._looked_at = self._look(), now
        return self._found

    def _look(self) -> BatchView | None:
        jobs = [each for each in self._run.batch_jobs if not each.replaced]
        active = [each for each in jobs if each.is_active]
        if not active:
            return None
        states = Counter(
            redact(each.native or _WORDS.get(each.state, each.state)) for each in active
        )
        now = self._wall()
        ends = [each.expires_at for each in active]
        age = max(0.0, now - min(each.sealed_at for each in active))
        latest = None if None in ends else max(0.0, max(filter(None, ends)) - now)
        left, trouble = _seconds_left(active, age), self._run.batch_trouble
        return BatchView(
            states=dict(states),
            rows=sum(each.requests for each in active),
            done=sum(map(_done, active)),
            age=age,
            left=left if left is None or latest is None else min(left, latest),
            latest=latest,
            trouble=None if trouble is None else redact(str(trouble)),
        )


def _done(job: JobRecord) -> int:
    return (job.succeeded or 0) + (job.failed or 0)


def _seconds_left(active: list[JobRecord], age: float) -> float | None:
    """Return how long jobs will take at the pace so far; None before there is one."""
    rows, done = sum(each.requests for each in active), sum(map(_done, active))
    # Jobs wait before they begin: the first rows say nothing of the others.
    if age < 1.0 or done <= _LEAST_SHARE * rows:
        return None
    return age * max(0, rows - done) / done


class RunProgress:
    """Shows what a run is doing from `start` to `stop`.

    A thread of its own draws, so that it also does while the program blocks, or has no
    event loop. It looks four times a second and keeps no process alive.

    Args:
        run: the run, which is open.
        session: what its calls go through.
        total: calls in all, or None where that is not known.
        stream: where to show it; by default standard error.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        run: Run,
        session: Session,
        *,
        total: int | None = None,
        stream: IO[str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._session = session
        self._total = total
        self._now = now
        self._jobs = JobsLook(run, now=now)
        self._pace = Pace(now())
        self._painter = Painter(stream or sys.stderr, self.view, now=now)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="llmflow-progress", daemon=True)

    def start(self) -> None:
        """Begin to draw, unless something else is drawn in this process already."""
        if self._painter.start():
            self._thread.start()
            # A thread that writes while the interpreter ends can bring it down.
            atexit.register(self.stop)

    def stop(self, last: str | None = None) -> None:
        """Take everything away but a last line. Doing so twice is fine."""
        atexit.unregister(self.stop)
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)  # a terminal may be stopped with Ctrl-S
        if not self._thread.is_alive():
            self._painter.stop(last)

    def view(self) -> View:
        """Return what is shown."""
        run = self._run
        done, traffic = run.statistics(), Traffic.of(self._session.limiters())
        known = done.replayed + done.cached + done.failed_before
        self._pace.note(self._now(), new=done.done - known, known=known, requests=traffic.requests)
        ended, total = self._progressed(done)
        left = None
        if total is not None and done.answered:
            expected = max(0, run.known - done.replayed - done.failed_before)
            left = self._pace.left(total - ended, expected=expected)
        return View(
            done=ended,
            total=total,
            rate=self._pace.rate,
            reading=self._pace.reading,
            requests=self._pace.requests,
            seconds_left=left,
            failed=done.failed + done.failed_before,
            replayed=done.replayed,
            cached=done.cached,
            shared=done.shared,
            input_tokens=done.input_tokens,
            output_tokens=done.output_tokens,
            cost=done.cost,
            budget=None if run.ledger is None else run.ledger.state(),
            traffic=traffic,
            batch=self._jobs.view(),
        )

    def _progressed(self, done: RunStatistics) -> tuple[int, int | None]:
        """Return how many have ended, and of how many."""
        return done.done, self._total

    def _draw(self) -> None:
        while self._painter.active and not self._over.wait(self._painter.wait()):
            self._painter.tick()
