"""Snapshots of a run, and their display while it goes on."""

from __future__ import annotations

import atexit
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Final

from llmflow.errors import redact
from llmflow.progress.display import Painter
from llmflow.progress.pace import Pace
from llmflow.progress.view import BatchView, RunView, Traffic

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.calls.session import Session
    from llmflow.errors import ProviderError
    from llmflow.limits import Limiter, LimiterStatistics

_STOP_SECONDS: Final = 2.0
_LEAST_SHARE: Final = 0.05
_LOOK_SECONDS: Final = 1.0
_WORDS: Final = {"sealed": "to be sent", "creating": "on the way", "fetched": "being read"}


class RunWatch:
    """Takes snapshots of a run: counts, pace, cost, limits and batch jobs.

    Args:
        session: what its calls go through.
        jobs: returns its batch jobs.
        limiters: returns those of its calls, each with its statistics of the start; None for
            those that the session knows.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        session: Session,
        jobs: Callable[[], list[JobRecord]],
        *,
        limiters: Callable[[], Mapping[Limiter, LimiterStatistics]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session, self._read_jobs, self._now = session, jobs, now
        self._limiters = limiters or session.limiters
        self._written = session.known
        self._pace = Pace(now())
        self._looked_at: float | None = None
        self._jobs: BatchView | None = None

    def view(
        self,
        ended: int | None = None,
        total: int | None = None,
        *,
        answered: int | None = None,
        failed: int | None = None,
        new: int | None = None,
    ) -> RunView:
        """Return the run as it is now; by default, its calls.

        Else `ended`, `answered` and `failed` are rows or items; `new` have ended by now, for
        the pace, known ones among them.
        """
        counts, ledger = self._session.tally.statistics(), self._session.ledger
        traffic, pace = Traffic.of(self._limiters()), self._pace
        before = counts.replayed + counts.failed_before
        came = counts.done if new is None else new
        # A row counts once it is written, a moment after the run has counted its call.
        known = min(came, before + counts.cached)
        pace.note(self._now(), new=came - known, known=known, requests=traffic.requests)
        done = counts.done if ended is None else ended
        left = None
        # While nothing is answered, nobody knows when it will be.
        if total is not None and (counts.answered if answered is None else answered):
            # Of what is written, answers that were asked again are no calls.
            written = self._written - before - counts.reasked
            left = pace.left(total - done, expected=max(0, written))
        return RunView(
            done=done,
            total=total,
            rate=pace.rate,
            reading=pace.reading,
            requests=pace.requests,
            seconds_left=left,
            failed=counts.failed + counts.failed_before if failed is None else failed,
            replayed=counts.replayed,
            cached=counts.cached,
            shared=counts.shared,
            input_tokens=counts.input_tokens,
            output_tokens=counts.output_tokens,
            cost=counts.cost,
            budget=None if ledger is None else ledger.state(),
            traffic=traffic,
            batch=self._batch(),
        )

    def _batch(self) -> BatchView | None:
        """Return the jobs, read once a second."""
        now = self._now()
        if self._looked_at is None or now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at, session = now, self._session
            jobs = self._read_jobs() if session.all_batches else []
            self._jobs = batch_view(jobs, session.batch_trouble, time.time())
        return self._jobs


def batch_view(
    jobs: list[JobRecord], trouble: ProviderError | None, now: float
) -> BatchView | None:
    """Return the batch jobs of a run; None if all have ended.

    `trouble` is why a request about them is repeated, `now` is the time in seconds since 1970.
    """
    active = [each for each in jobs if each.is_active and not each.replaced]
    if not active:
        return None
    states = Counter(redact(each.native or _WORDS.get(each.state, each.state)) for each in active)
    ends = [each.expires_at for each in active]
    age = max(0.0, now - min(each.sealed_at for each in active))
    latest = None if None in ends else max(0.0, max(filter(None, ends)) - now)
    left = _seconds_left(active, age)
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
    event loop. It looks four times a second and keeps no process alive. `total` are the calls
    in all, where that is known; for the rest see `RunWatch`.
    """

    def __init__(
        self,
        session: Session,
        jobs: Callable[[], list[JobRecord]],
        *,
        limiters: Callable[[], Mapping[Limiter, LimiterStatistics]] | None = None,
        total: int | None = None,
        stream: IO[str] | None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.watch = RunWatch(session, jobs, limiters=limiters, now=now)
        self._painter = Painter(stream, self.view, now=now)
        self._over, self._news = threading.Event(), threading.Event()
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
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(_STOP_SECONDS)  # a terminal may be stopped with Ctrl-S
        if not self._thread.is_alive():
            self._painter.stop(last)

    def view(self) -> RunView:
        """Return what is shown."""
        return self.watch.view(total=self.total)

    def refresh(self) -> None:
        """Show the state at once: an important change has happened."""
        self._news.set()

    def _draw(self) -> None:
        painter = self._painter
        while painter.active:
            news = self._news.wait(painter.wait())
            self._news.clear()
            if self._over.wait(painter.wait(news=True) if news else 0.0):
                return
            painter.tick(news=news)
