"""The lifecycle of a batch job, in small steps."""

from __future__ import annotations

import random
from array import array
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, get_args

from llmflow.private_files import private
from llmflow.simulator.batch_settings import BatchSettings
from llmflow.simulator.batches.api import BatchAPI, Ending, LineError, ResultFile, Row
from llmflow.simulator.batches.store import Bill, JobRecord, Outcome, Store
from llmflow.simulator.faults import pick, thresholds


class Rows:
    """The lines of a file part, read one at a time."""

    def __init__(self, path: Path, *, start: int, size: int) -> None:
        self._file: BinaryIO = path.open("rb")
        self._start, self._size = start, size
        self._places = array("Q")

    def __len__(self) -> int:
        return len(self._places)

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """Find all rows; yield each line's number, from 1, and bytes."""
        place, end = self._start, self._start + self._size
        number = 0
        while place < end:
            self._file.seek(place)
            line = self._file.readline(end - place)
            if not line:
                break
            number += 1
            if line.strip():
                self._places.append(place)
                yield number, line
            place += len(line)

    def read(self, index: int) -> bytes:
        """Return the bytes of a row that was found."""
        place = self._places[index]
        self._file.seek(place)
        return self._file.readline(self._start + self._size - place)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Fates:
    """The order of a job's rows, and the fault of each.

    Both follow from the seed and the job alone, so that they are the same after a restart.
    """

    def __init__(self, settings: BatchSettings, total: int, *, seed: str) -> None:
        dice = random.Random(seed)
        self.order = array("L", range(total))
        dice.shuffle(self.order)
        self._draws = array("d", (dice.random() for _ in range(total)))
        self._thresholds = thresholds(settings.shares())

    def of(self, index: int) -> str | None:
        """Return ``error``, ``expired``, ``missing``, ``duplicate``, or None."""
        return pick(self._thresholds, self._draws[index])


class Results:
    """Writes a job's results anew, replacing those of an earlier start."""

    def __init__(self, store: Store, job: JobRecord) -> None:
        self._store = store
        self._job = job.id
        self._files: dict[str, BinaryIO] = {}

    def write(self, row: Row) -> None:
        """Add a line."""
        file = self._files.get(row.file)
        if file is None:
            path = self._path(row.file)
            file = self._files[row.file] = open(path, "wb", opener=private)  # noqa: SIM115
        file.write(row.line)

    def finish(self, name: str) -> int:
        """Close one of the files, and return its size or 0."""
        file = self._files.pop(name, None)
        if file is None:
            return 0
        size = file.tell()
        file.close()
        return size

    def rename(self, name: str, final: str) -> None:
        """Give one of the closed files its final name."""
        self._path(name).replace(self._store.data(final))

    def discard(self) -> None:
        """Forget what was written."""
        for name in tuple(self._files):
            self.finish(name)
            self._path(name).unlink()

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _path(self, name: str) -> Path:
        return self._store.data(f"{self._job}.{name}")


# A step's work, some milliseconds, in bytes; what a row takes beside its own, as bytes.
_STEP_BYTES = 1_000_000
_ROW_BYTES = 10_000
_SHORTEST_WAIT = 0.001
_AT_ONCE = 0.0

_Problem = tuple[LineError, int | None]
"""What fails a job, and the number of the line that does."""


class Life:
    """Carries a job on, new or from before a restart, by steps."""

    def __init__(
        self,
        job: JobRecord,
        rows: Rows,
        api: BatchAPI,
        *,
        store: Store,
        settings: BatchSettings,
        seed: int,
    ) -> None:
        self.job = job
        self.due = 0.0
        """When the next step is to be done, in seconds since 1970."""
        self._rows, self._api, self._store, self._settings = rows, api, store, settings
        self._seed = f"{seed}/{job.id}"
        self._results = Results(store, job)
        self._now = job.created
        self._steps = self._live()
        self._left: list[int] = []
        self._bills: list[Bill] = []
        self._invalid: list[int] = []

    def step(self, now: float) -> bool:
        """Do the step that is due; return True if the job continues."""
        self._now = now
        due = next(self._steps, None)
        if due is None:
            self.close()
            return False
        self.due = due
        return True

    def wake(self) -> None:
        """Let the next step be done at once, since something has changed."""
        self.due = _AT_ONCE

    def close(self) -> None:
        """Close the files, wherever the job is."""
        self._rows.close()
        self._results.close()

    # --- the life: it yields when to go on

    def _live(self) -> Iterator[float]:
        job = self.job
        problem = yield from self._read()
        if job.phase == "validating":
            if job.cancel_asked is None:
                yield from self._until(job.created + self._settings.validation_seconds)
            if job.cancel_asked is None and not self._begin(problem):
                return
        self._fates = Fates(self._settings, len(self._rows), seed=self._seed)
        if job.phase == "validating":
            # Cancelled before it began: nothing of it was counted.
            yield from self._until(self._cancelled_at())
            self._end("cancelled")
            return
        cursor = yield from self._run()
        if cursor < len(self._rows) or job.cancel_asked is not None:
            yield from self._break_off(cursor)
            return
        if job.phase == "running":
            job.phase, job.finalizing = "finalizing", self._now
            self._store.save(job)
        assert job.finalizing is not None
        if self._api.finalizes:
            end = job.finalizing + self._settings.finalizing_seconds
            yield from self._until(end, deaf=True)
        if self._left and self._settings.expired_results == "none":
            self._forget()
            self._left = list(self._fates.order)
        yield from self._write_left("expired")
        self._end("expired" if self._left else "completed")

    def _read(self) -> Generator[float, None, _Problem | None]:
        """Find the rows; check those of a new job."""
        new, seen = self.job.phase == "validating", set[str]()
        tokens = work = 0
        problem: _Problem | None = None
        for number, line in self._rows.scan():
            if new and problem is None:
                try:
                    tokens += self._api.check(self.job, line, seen)
                except LineError as error:
                    problem = error, number
            work += _ROW_BYTES + len(line)
            if work >= _STEP_BYTES:
                work = 0
                yield _AT_ONCE
        if new:
            self.job.tokens = tokens
        return problem

    def _begin(self, problem: _Problem | None) -> bool:
        """Start the job, or let it fail; return whether it has started."""
        job, total = self.job, len(self._rows)
        if problem is None and not total:
            problem = LineError("empty_file", "The input file is empty."), None
        if problem is None:
            others = sum(
                other.tokens
                for other in self._store.jobs.values()
                if other.phase in ("running", "finalizing")
                and (other.owner, other.model) == (job.owner, job.model)
            )
            full = self._api.queue_error(job, others=others)
            problem = None if full is None else (full, None)
        if problem is not None:
            error, line = problem
            entry = {"code": error.code, "message": str(error), "param": error.param, "line": line}
            job.errors = [entry]
            self._end("failed")
            return False
        job.phase, job.started, job.total = "running", self._now, total
        self._store.save(job)
        return True

    def _run(self) -> Generator[float, None, int]:
        """Do the rows as they become due, and return how many."""
        job, cursor = self.job, 0
        self._forget()
        while cursor < len(self._rows):
            stop = job.expires if job.cancel_asked is None else min(job.expires, job.cancel_asked)
            # What was due before the end is done, even if nobody came to it in time: a
            # restart must leave no row undone that was done before.
            due, again = self._progress(cursor, min(self._now, stop))
            if cursor >= due:
                if self._now >= stop:
                    break
                yield min(stop, max(again, self._now + _SHORTEST_WAIT))
                continue
            work = 0
            while cursor < due and work < _STEP_BYTES:
                work += _ROW_BYTES + self._do(self._fates.order[cursor])
                cursor += 1
            self._store.ledger.add(job.ordinal, self._bills, invalid=self._invalid)
            self._bills.clear()
            self._invalid.clear()
            yield _AT_ONCE
        return cursor

    def _forget(self) -> None:
        """Begin the results anew; those from before a restart are replaced."""
        self._results.discard()
        job = self.job
        job.input_tokens = job.output_tokens = 0
        job.counts, self._left = {}, []

    def _progress(self, cursor: int, time: float) -> tuple[int, float]:
        """Return the count of rows due, and the next one's time."""
        settings, job, total = self._settings, self.job, len(self._rows)
        seconds = settings.seconds
        if settings.rows_per_second is not None:
            seconds = total / settings.rows_per_second
        if job.ordinal in settings.slow_jobs:
            seconds *= settings.slow_factor
        most = total
        if job.ordinal in settings.stuck_jobs:
            most = int(total * settings.stuck_at)
        assert job.started is not None
        elapsed = time - job.started
        if elapsed < 0:
            due = 0  # it began after its expiry, or the time of day was set back
        elif elapsed < seconds:
            due = min(most, int(total * elapsed / seconds + 1e-6))
        else:
            due = most
        if cursor >= most:
            return due, job.expires
        return due, job.started + seconds * (cursor + 1) / total

    def _do(self, index: int) -> int:
        """Do a row or skip it, and return its bytes of input."""
        fate = self._fates.of(index)
        if fate == "expired":
            self._left.append(index)
            return 0
        line = self._rows.read(index)
        row = self._api.answer(
            self.job, line, ident=self._ident(index), fails=fate == "error", now=self._now
        )
        self._count(row)
        if row.kind == "succeeded":
            bill = Bill(index, row.custom_id, row.body, row.input_tokens, row.output_tokens)
            self._bills.append(bill)
            if row.invalid:
                self._invalid.append(index)
        for _ in range({"missing": 0, "duplicate": 2}.get(fate or "", 1)):
            self._results.write(row)
        return len(line)

    def _ident(self, index: int) -> str:
        return f"{self.job.id.rpartition('_')[2]}{index:06x}"

    def _count(self, row: Row) -> None:
        job = self.job
        job.counts[row.kind] = job.counts.get(row.kind, 0) + 1
        job.input_tokens += row.input_tokens
        job.output_tokens += row.output_tokens

    # --- the end

    def _break_off(self, cursor: int) -> Iterator[float]:
        """End with some rows undone."""
        job, settings = self.job, self._settings
        why: Outcome = "expired" if job.cancel_asked is None else "cancelled"
        if why == "cancelled":
            yield from self._until(self._cancelled_at())
        drops = why == "expired" and settings.expired_results == "none"
        if drops or (why == "cancelled" and self._api.forgets_cancelled):
            self._forget()
            cursor = 0
        self._left += self._fates.order[cursor:]
        yield from self._write_left("expired" if why == "expired" else "cancelled")
        self._end(why)

    def _write_left(self, why: Ending) -> Iterator[float]:
        work = 0
        for index in self._left:
            line = self._rows.read(index)
            row = self._api.unanswered(line, ident=self._ident(index), why=why)
            self._count(row)
            self._results.write(row)
            work += _ROW_BYTES + len(line)
            if work >= _STEP_BYTES:
                work = 0
                yield _AT_ONCE

    def _end(self, outcome: Outcome) -> None:
        job = self.job
        for file in get_args(ResultFile):
            size = self._results.finish(file)
            if size:
                name = self._api.publish(job, file, size, now=self._now)
                self._results.rename(file, name)
                setattr(job, file, name)
        job.phase, job.outcome, job.ended = "ended", outcome, self._now
        self._store.save(job)

    def _cancelled_at(self) -> float:
        asked = self.job.cancel_asked
        assert asked is not None
        return min(asked + self._settings.cancel_seconds, max(asked, self.job.expires))

    def _until(self, time: float, *, deaf: bool = False) -> Iterator[float]:
        """Wait for a time, or for a first cancellation."""
        asked = self.job.cancel_asked
        while self._now < time and (deaf or self.job.cancel_asked == asked):
            yield max(time, self._now + _SHORTEST_WAIT)
