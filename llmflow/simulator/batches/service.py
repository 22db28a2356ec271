"""The batch service: requests in, answers out, jobs driven by the clock."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from llmflow.simulator import known_dialects
from llmflow.simulator.batches.api import BatchAPI, BatchReply, BatchRequest, Work
from llmflow.simulator.batches.life import Life, Rows
from llmflow.simulator.batches.store import BatchCounts, JobRecord, Store
from llmflow.simulator.dialect import Dialect
from llmflow.simulator.exchange import DialectError
from llmflow.simulator.settings import SimulatorSettings

logger = logging.getLogger(__name__)

MOST_UPLOADED = 536_870_912
_TURN_SECONDS = 0.01


class Batches:
    """Files and jobs of a simulated provider; times are seconds since 1970."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        batch = settings.batch
        self.store = Store(batch.state, seed=settings.seed)
        self._dice = random.Random(f"{settings.seed}/polls")
        self._polls: dict[str, int] = {}
        self._received = 0
        self._lives: dict[str, Life] = {}
        self._works: list[tuple[Work, Callable[[BatchReply], object]]] = []
        self._sides = [
            (dialect, dialect.batch_api(settings, self.store, self._carry))
            for dialect in known_dialects.dialects(settings)
        ]
        for job in self.store.jobs.values():
            if job.phase != "ended":
                self._carry(job)

    def counts(self) -> BatchCounts:
        """Return what was counted since the state began."""
        store = self.store
        return store.ledger.counts(jobs=store.counted("job"), files=store.counted("upload"))

    def receive(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        upload: Path | None,
        now: float,
        later: Callable[[BatchReply], object],
    ) -> BatchReply | None:
        """Answer a request; `upload` is the file of a large body.

        None: the answer takes long. `advance` goes on with it, and hands it to `later`,
        which must not come back here at once.
        """
        dialect, api = self._side(target)
        key = dialect.key(headers).encode("utf-8", "replace")
        request = BatchRequest(
            method=method,
            target=target,
            headers=headers,
            body=body,
            upload=upload,
            # The key itself must not come to the disk.
            owner=hashlib.blake2b(key, digest_size=16).hexdigest(),
            now=now,
        )
        self._received += 1
        ident = f"{self._settings.seed:08x}b{self._received:023x}"
        work = self._serve(dialect, api, request, ident)
        end = time.perf_counter() + _TURN_SECONDS
        while (reply := _step(work)) is None:
            if time.perf_counter() > end:
                self._works.append((work, later))
                break
        return reply

    def advance(self, now: float) -> float | None:
        """Advance the jobs; return the time of the next step, if any."""
        end = time.perf_counter() + _TURN_SECONDS
        while True:
            due = [life for life in self._lives.values() if life.due <= now]
            if not due and not self._works:
                break
            for life in due:
                if not life.step(now):
                    del self._lives[life.job.id]
                    self._api(life.job).ended(life.job)
            self._work()
            if time.perf_counter() > end:
                break
        if self._works:
            return now
        return min((life.due for life in self._lives.values()), default=None)

    def close(self) -> None:
        """Stop; what has a folder goes on when that is opened again."""
        for work, _ in self._works:
            work.close()
        for life in self._lives.values():
            life.close()
        self.store.close()

    def _serve(self, dialect: Dialect, api: BatchAPI, request: BatchRequest, ident: str) -> Work:
        """Answer a request in steps; errors are in its dialect."""
        try:
            dialect.check_key(request.headers)
            self._poll(dialect, api, request)
            answer = api.receive(request)
            reply = answer if isinstance(answer, BatchReply) else (yield from answer)
        except DialectError as error:
            reply = BatchReply(status=error.status, body=error.body(ident))
        except Exception:  # it ends one request, not all that are worked on
            logger.exception("The batch APIs failed on %s", _path(request.target))
            broken = dialect.error.of("server_error")
            reply = BatchReply(status=broken.status, body=broken.body(ident))
        finally:
            if request.upload is not None:
                request.upload.unlink(missing_ok=True)
        reply.headers += dialect.headers(ident, 0.0)
        return reply

    def _work(self) -> None:
        """Do a step of every answer that takes long."""
        for work, later in tuple(self._works):
            reply = _step(work)
            if reply is not None:
                self._works.remove((work, later))
                later(reply)

    def _side(self, target: str) -> tuple[Dialect, BatchAPI]:
        path = _path(target)
        fits = (side for side in self._sides if _is_below(path, side[1].paths))
        return next(fits, self._sides[-1])

    def _api(self, job: JobRecord) -> BatchAPI:
        return next(api for _, api in self._sides if job.id.startswith(api.prefix))

    def _carry(self, job: JobRecord) -> None:
        """Start, wake or resume a job, if its input still exists."""
        if job.id in self._lives:
            self._lives[job.id].wake()
            return
        api = self._api(job)
        part = api.input(job)
        if part is None:
            job.phase, job.ended = "ended", job.created
            api.orphan(job)
            self.store.save(job)
            return
        self._lives[job.id] = Life(
            job,
            Rows(part.path, start=part.start, size=part.size),
            api,
            store=self.store,
            settings=self._settings.batch,
            seed=self._settings.seed,
        )

    def _poll(self, dialect: Dialect, api: BatchAPI, request: BatchRequest) -> None:
        """Raise the fault that a poll meets before it reaches its job."""
        batch, (*root, ident) = self._settings.batch, request.parts
        if request.method != "GET" or tuple(root) != api.root:
            return
        asked = self._polls[ident] = self._polls.get(ident, 0) + 1
        if asked <= batch.hidden_polls and ident.startswith(api.prefix):
            raise api.error.of("job", ident=ident)
        if batch.failed_polls and self._dice.random() < batch.failed_polls:
            raise dialect.error.of("server_error")


def is_own(target: str) -> bool:
    """Return whether a request is for these APIs."""
    path = _path(target)
    return any(_is_below(path, dialect.batch_api.paths) for dialect in known_dialects.DIALECTS)


def is_upload(method: str, target: str) -> bool:
    """Return True if a request's body is to go to a file."""
    uploads = [dialect.batch_api.upload_path for dialect in known_dialects.DIALECTS]
    return method == "POST" and _path(target).rstrip("/") in uploads


def _is_below(path: str, paths: tuple[str, ...]) -> bool:
    return any(f"{path}/".startswith(f"{each}/") for each in paths)


def _step(work: Work) -> BatchReply | None:
    """Return the answer, None if there are more steps to it."""
    try:
        next(work)
    except StopIteration as end:
        reply: BatchReply = end.value
        return reply
    return None


def _path(target: str) -> str:
    return target.partition("?")[0].removeprefix("/v1")
