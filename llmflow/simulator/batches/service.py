"""The batch APIs as a whole: requests in, answers out, jobs carried on by the clock."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping
from pathlib import Path

from llmflow.simulator.batches.life import Life
from llmflow.simulator.batches.openai_files import OpenAIFiles
from llmflow.simulator.batches.openai_jobs import PREFIX, OpenAIJobs, unknown
from llmflow.simulator.batches.openai_speaker import OpenAISpeaker
from llmflow.simulator.batches.reply import BatchReply, BatchRequest
from llmflow.simulator.batches.rows import Rows
from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.openai_errors import BROKEN, OpenAIError, bad_key
from llmflow.simulator.settings import SimulatorSettings

MOST_UPLOADED = 536_870_912
_TURN_SECONDS = 0.01


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
        self._lives: dict[str, Life] = {}
        self._speaker = OpenAISpeaker(settings, self.store)
        self._files = OpenAIFiles(self.store, batch)
        self._jobs = OpenAIJobs(self.store, self._files, batch, begin=self._begin, wake=self._wake)
        for job in self.store.jobs.values():
            if job.phase != "ended":
                self._return(job)

    @staticmethod
    def owns(target: str) -> bool:
        """Return whether a request is for these APIs."""
        path = target.partition("?")[0].removeprefix("/v1")
        return path.startswith(("/files", "/batches"))

    @staticmethod
    def uploads(method: str, target: str) -> bool:
        """Return whether the body of a request is to go to a file."""
        return method == "POST" and target.partition("?")[0].rstrip("/") in ("/v1/files", "/files")

    def receive(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        upload: Path | None,
        now: float,
    ) -> BatchReply:
        """Answer a request; `upload` is the file of its body, if that is large."""
        key = headers.get("authorization", "").encode("utf-8", "replace")
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
        try:
            error = bad_key(headers.get("authorization", ""), self._settings)
            if error is not None:
                raise error
            if request.parts[0] == "files":
                return self._files.receive(request)
            self._poll(request)
            return self._jobs.receive(request)
        except OpenAIError as error:
            return BatchReply(status=error.status, body=error.body(""))
        finally:
            if upload is not None:
                upload.unlink(missing_ok=True)

    def advance(self, now: float) -> float | None:
        """Carry the jobs on; return when to do it again, None if there is nothing to do."""
        end = time.perf_counter() + _TURN_SECONDS
        while due := [life for life in self._lives.values() if life.due <= now]:
            for life in due:
                if not life.step(now):
                    del self._lives[life.job.id]
            if time.perf_counter() > end:
                break
        return min((life.due for life in self._lives.values()), default=None)

    def close(self) -> None:
        """Stop; what has a folder goes on when that is opened again."""
        for life in self._lives.values():
            life.close()
        self.store.close()

    def _return(self, job: JobRecord) -> None:
        """Go on with a job from before a restart, if its input is still there."""
        if job.input in self.store.files:
            self._begin(job)
            return
        job.phase, job.outcome, job.ended = "ended", "failed", job.created
        message = f"The input file {job.input} was deleted."
        job.errors = [{"code": "file_not_found", "message": message, "param": None, "line": None}]
        self.store.save(job)

    def _begin(self, job: JobRecord) -> None:
        file = self.store.files[job.input]
        rows = Rows(self.store.data(file.path), start=file.start, size=file.size)
        self._lives[job.id] = Life(
            job,
            rows,
            self._speaker,
            store=self.store,
            settings=self._settings.batch,
            seed=self._settings.seed,
        )

    def _wake(self, job: JobRecord) -> None:
        self._lives[job.id].wake()

    def _poll(self, request: BatchRequest) -> None:
        """Raise what a question for a job meets before it reaches the job."""
        batch = self._settings.batch
        if request.method != "GET" or len(request.parts) != 2:
            return
        ident = request.parts[1]
        asked = self._polls[ident] = self._polls.get(ident, 0) + 1
        if batch.hidden_polls and asked <= batch.hidden_polls and ident.startswith(PREFIX):
            raise unknown(ident)
        if batch.failed_polls and self._dice.random() < batch.failed_polls:
            error = BROKEN["server_error"]
            raise OpenAIError(error.status, str(error), kind="server_error")
