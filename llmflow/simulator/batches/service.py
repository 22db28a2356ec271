"""The batch APIs as a whole: requests in, answers out, jobs carried on by the clock."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from llmflow.simulator.batches.ledger import BatchCounts
from llmflow.simulator.batches.life import Life
from llmflow.simulator.batches.reply import BatchReply, BatchRequest, Work
from llmflow.simulator.batches.rows import Rows
from llmflow.simulator.batches.sides import AnthropicSide, OpenAISide, Side
from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.dialect import DialectError
from llmflow.simulator.settings import SimulatorSettings

logger = logging.getLogger(__name__)

MOST_UPLOADED = 536_870_912
_TURN_SECONDS = 0.01
_MESSAGE_BATCHES = "/messages/batches"


class Batches:
    """Files and jobs of a simulated provider. All times are seconds since 1970.

    Args:
        settings: what the provider is set to.

    Raises:
        ConfigurationError: the folder of its state cannot be used.

    """

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        batch = settings.batch
        self.store = Store(batch.state, seed=settings.seed)
        self._dice = random.Random(f"{settings.seed}/polls")
        self._polls: dict[str, int] = {}
        self._received = 0
        self._lives: dict[str, Life] = {}
        self._works: list[tuple[Work, Callable[[BatchReply], object]]] = []
        tell = {"begin": self._begin, "wake": self._wake}
        self._openai = OpenAISide(settings, self.store, **tell)
        self._anthropic = AnthropicSide(settings, self.store, **tell)
        for job in self.store.jobs.values():
            if job.phase != "ended":
                self._begin(job)

    @staticmethod
    def owns(target: str) -> bool:
        """Return whether a request is for these APIs."""
        path = _path(target)
        return path.startswith(("/files", "/batches")) or _of_anthropic(path)

    @staticmethod
    def uploads(method: str, target: str) -> bool:
        """Return whether the body of a request is to go to a file."""
        return method == "POST" and _path(target).rstrip("/") in ("/files", _MESSAGE_BATCHES)

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
        """Answer a request; `upload` is the file of its body, if that is large.

        None: the answer takes long. `advance` goes on with it, and hands it to `later`,
        which must not come back here at once.
        """
        side: Side = self._anthropic if _of_anthropic(_path(target)) else self._openai
        key = side.key(headers).encode("utf-8", "replace")
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
        work = self._serve(side, request, ident)
        end = time.perf_counter() + _TURN_SECONDS
        while (reply := _step(work)) is None:
            if time.perf_counter() > end:
                self._works.append((work, later))
                break
        return reply

    def advance(self, now: float) -> float | None:
        """Carry the jobs on; return when to do it again, None if there is nothing to do."""
        end = time.perf_counter() + _TURN_SECONDS
        while True:
            due = [life for life in self._lives.values() if life.due <= now]
            if not due and not self._works:
                break
            for life in due:
                if not life.step(now):
                    del self._lives[life.job.id]
                    self._side(life.job).ended(life.job)
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

    def _serve(self, side: Side, request: BatchRequest, ident: str) -> Work:
        """Answer a request in steps, an error in the form of its dialect."""
        try:
            error = side.bad_key(request.headers)
            if error is not None:
                raise error
            self._poll(side, request)
            answer = side.receive(request)
            reply = answer if isinstance(answer, BatchReply) else (yield from answer)
        except DialectError as error:
            reply = BatchReply(status=error.status, body=error.body(ident))
        except Exception:  # it ends one request, not all that are worked on
            logger.exception("The batch APIs failed on %s", _path(request.target))
            broken = side.broken()
            reply = BatchReply(status=broken.status, body=broken.body(ident))
        finally:
            if request.upload is not None:
                request.upload.unlink(missing_ok=True)
        reply.headers += side.headers(ident)
        return reply

    def _work(self) -> None:
        """Do a step of every answer that takes long."""
        for work, later in tuple(self._works):
            reply = _step(work)
            if reply is not None:
                self._works.remove((work, later))
                later(reply)

    def _side(self, job: JobRecord) -> Side:
        anthropic = job.id.startswith(self._anthropic.prefix)
        return self._anthropic if anthropic else self._openai

    def _begin(self, job: JobRecord) -> None:
        """Carry on a job, new or from before a restart, if its input is still there."""
        side = self._side(job)
        part = side.input(job)
        if part is None:
            job.phase, job.ended = "ended", job.created
            side.orphan(job)
            self.store.save(job)
            return
        self._lives[job.id] = Life(
            job,
            Rows(part.path, start=part.start, size=part.size),
            side.speaker,
            store=self.store,
            settings=self._settings.batch,
            seed=self._settings.seed,
        )

    def _wake(self, job: JobRecord) -> None:
        self._lives[job.id].wake()

    def _poll(self, side: Side, request: BatchRequest) -> None:
        """Raise what a question for a job meets before it reaches the job."""
        batch = self._settings.batch
        ident = side.asked(request)
        if ident is None:
            return
        asked = self._polls[ident] = self._polls.get(ident, 0) + 1
        if asked <= batch.hidden_polls and ident.startswith(side.prefix):
            raise side.unknown(ident)
        if batch.failed_polls and self._dice.random() < batch.failed_polls:
            raise side.broken()


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


def _of_anthropic(path: str) -> bool:
    return f"{path}/".startswith(f"{_MESSAGE_BATCHES}/")
