"""The batch APIs of the dialects, in the one form that the service knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from llmflow.simulator import anthropic_errors, openai_errors
from llmflow.simulator.anthropic_errors import AnthropicError
from llmflow.simulator.batches import anthropic_jobs, openai_jobs
from llmflow.simulator.batches.anthropic_jobs import AnthropicJobs
from llmflow.simulator.batches.anthropic_speaker import AnthropicSpeaker
from llmflow.simulator.batches.openai_files import OpenAIFiles
from llmflow.simulator.batches.openai_jobs import OpenAIJobs
from llmflow.simulator.batches.openai_speaker import OpenAISpeaker
from llmflow.simulator.batches.reply import BatchReply, BatchRequest, FilePart, Work
from llmflow.simulator.batches.speaker import Speaker
from llmflow.simulator.batches.store import JobRecord, Store
from llmflow.simulator.dialect import DialectError
from llmflow.simulator.openai_errors import OpenAIError
from llmflow.simulator.settings import SimulatorSettings

_Tell = Callable[[JobRecord], None]


class Side(Protocol):
    """One dialect's batch API."""

    prefix: str
    """What its jobs' identifiers begin with."""

    @property
    def speaker(self) -> Speaker:
        """Its rules for rows."""
        ...

    def key(self, headers: Mapping[str, str]) -> str:
        """Return what distinguishes one customer from another."""
        ...

    def bad_key(self, headers: Mapping[str, str]) -> DialectError | None:
        """Return the error for a missing or wrong key; None if it is right."""
        ...

    def asked(self, request: BatchRequest) -> str | None:
        """Return the job whose state a request asks for; None if it asks for something else."""
        ...

    def unknown(self, ident: str) -> DialectError:
        """Return the 404 for a job that does not exist."""
        ...

    def broken(self) -> DialectError:
        """Return the 500."""
        ...

    def headers(self, ident: str) -> str:
        """Return the header lines of every answer."""
        ...

    def receive(self, request: BatchRequest) -> BatchReply | Work:
        """Answer a request, at once or in steps, or raise the error that answers it."""
        ...

    def input(self, job: JobRecord) -> FilePart | None:
        """Return where a job's rows are; None if they are gone."""
        ...

    def orphan(self, job: JobRecord) -> None:
        """Say in the record of a job, which has ended, that its rows are gone."""
        ...

    def ended(self, job: JobRecord) -> None:
        """Remove what a job needs no more."""
        ...


class OpenAISide:
    """OpenAI's files and jobs."""

    prefix = openai_jobs.PREFIX

    def __init__(
        self, settings: SimulatorSettings, store: Store, *, begin: _Tell, wake: _Tell
    ) -> None:
        self._settings, self._store = settings, store
        self.speaker = OpenAISpeaker(settings, store)
        self._files = OpenAIFiles(store, settings.batch)
        self._jobs = OpenAIJobs(store, self._files, settings.batch, begin=begin, wake=wake)

    def key(self, headers: Mapping[str, str]) -> str:
        """Return the API key as it came."""
        return headers.get("authorization", "")

    def bad_key(self, headers: Mapping[str, str]) -> OpenAIError | None:
        """Return the 401 for a missing or wrong key; None if it is right."""
        return openai_errors.bad_key(headers.get("authorization", ""), self._settings)

    def asked(self, request: BatchRequest) -> str | None:
        """Return the job whose state a request asks for."""
        match request.method, request.parts:
            case "GET", ["batches", ident]:
                return ident
        return None

    def unknown(self, ident: str) -> OpenAIError:
        """Return the 404 for a job that does not exist."""
        return openai_jobs.unknown(ident)

    def broken(self) -> OpenAIError:
        """Return the 500."""
        error = openai_errors.BROKEN["server_error"]
        return OpenAIError(error.status, str(error), kind="server_error")

    def headers(self, ident: str) -> str:
        """Return the header line of every answer."""
        return f"x-request-id: req_{ident}\r\n"

    def receive(self, request: BatchRequest) -> BatchReply:
        """Answer a request, or raise the `OpenAIError` that answers it."""
        files = request.parts[0] == "files"
        return self._files.receive(request) if files else self._jobs.receive(request)

    def input(self, job: JobRecord) -> FilePart | None:
        """Return where a job's rows are; None if their file was deleted."""
        file = self._store.files.get(job.input)
        if file is None:
            return None
        return FilePart(self._store.data(file.path), file.start, file.size)

    def orphan(self, job: JobRecord) -> None:
        """Let the job have failed."""
        job.outcome = "failed"
        message = f"The input file {job.input} was deleted."
        job.errors = [{"code": "file_not_found", "message": message, "param": None, "line": None}]

    def ended(self, job: JobRecord) -> None:
        """Remove nothing: the file is its owner's."""


class AnthropicSide:
    """Anthropic's jobs."""

    prefix = anthropic_jobs.PREFIX

    def __init__(
        self, settings: SimulatorSettings, store: Store, *, begin: _Tell, wake: _Tell
    ) -> None:
        self._settings, self._store = settings, store
        self.speaker = AnthropicSpeaker(settings)
        self._jobs = AnthropicJobs(store, settings.batch, begin=begin, wake=wake)

    def key(self, headers: Mapping[str, str]) -> str:
        """Return the API key."""
        return anthropic_errors.given_key(headers)

    def bad_key(self, headers: Mapping[str, str]) -> AnthropicError | None:
        """Return the 401 for a missing or wrong key; None if it is right."""
        return anthropic_errors.bad_key(headers, self._settings)

    def asked(self, request: BatchRequest) -> str | None:
        """Return the job whose state a request asks for."""
        match request.method, request.parts:
            case "GET", ["messages", "batches", ident]:
                return ident
        return None

    def unknown(self, ident: str) -> AnthropicError:
        """Return the 404 for a job that does not exist."""
        return anthropic_jobs.unknown(ident)

    def broken(self) -> AnthropicError:
        """Return the 500."""
        return anthropic_errors.BROKEN["server_error"]

    def headers(self, ident: str) -> str:
        """Return the header lines of every answer."""
        return (
            f"request-id: req_{ident}\r\n"
            f"anthropic-organization-id: {self._settings.organization}\r\n"
        )

    def receive(self, request: BatchRequest) -> BatchReply | Work:
        """Answer a request, at once or in steps, or raise the `AnthropicError` that does."""
        return self._jobs.receive(request)

    def input(self, job: JobRecord) -> FilePart | None:
        """Return where a job's rows are; None if they are gone."""
        path = self._store.data(job.input)
        return FilePart(path, 0, path.stat().st_size) if path.exists() else None

    def orphan(self, job: JobRecord) -> None:
        """Let all rows have expired: the job itself cannot fail."""
        job.outcome, job.counts = "expired", {"expired": job.total}

    def ended(self, job: JobRecord) -> None:
        """Remove the rows, which nobody can ask for."""
        self._store.data(job.input).unlink(missing_ok=True)
