"""Batch jobs in the commands: option checks, provider status, tables and messages."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Self

from llmflow.cli.task import Task, in_folder
from llmflow.cli.terminal import printable, say, write, write_json
from llmflow.errors import ConfigurationError, InputError, LLMFlowError, ProviderError, redact
from llmflow.format import counted, duration
from llmflow.tables import columns

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.jobs.submission import Submission
    from llmflow.journal import RunSummary
    from llmflow.llm import LLM
    from llmflow.runs.run import Run

IN_BATCHES: Final = 5_000
"""Rows in flight at once, so that those without an answer can make another job."""
AT_THE_PROVIDER: Final = ("creating", "created")
_OVER: Final = (400, 404, 409)
"""What a provider says of a job that has ended, or is being cancelled."""


def check_options(task: Task) -> None:
    """Check that the options of batch mode go together."""
    from llmflow.calls.mode_options import as_mode_options

    for given, text in (
        (task.detach, "--detach needs batch jobs, which run without llmflow: --mode batch"),
        (task.deadline, "--deadline is for rows that may go into batch jobs: --mode auto or batch"),
        (
            task.fallback == "parallel",
            "--fallback parallel is for rows that batch jobs did not answer: --mode batch",
        ),
    ):
        if given not in (None, False) and not task.in_batches:
            raise ConfigurationError(text)
    if task.mode == task.fallback == "batch":
        raise ConfigurationError("--fallback batch is for --mode parallel: leave it out")
    if task.mode is not None or task.fallback is not None:
        as_mode_options(task.mode or "parallel", deadline=task.deadline, fallback=task.fallback)


def check_batching(task: Task, llm: LLM, *, keeps: bool) -> None:
    """Check that the task can use batch jobs, if it asks to."""
    if not task.may_use_batches:
        return
    option = f"--mode {task.mode}" if task.in_batches else "--fallback batch"
    if not keeps:
        off = "--no-journal" if task.no_journal else 'store = "off" in llmflow.toml'
        raise ConfigurationError(
            f"{option} needs the run's journal, which records the jobs and their answers: "
            f"leave out {off}"
        )
    if task.is_piped:
        raise InputError(
            f"{option} reads the rows twice, and a pipe can be read only once: save them to a "
            f"file first, and name it instead of {task.source}"
        )
    has_api = getattr(llm.provider, "batch", None) is not None
    if task.mode == "batch" and task.fallback != "parallel" and not has_api:
        raise ConfigurationError(
            f"llmflow knows no batch API for {llm.model}: leave out --mode batch, or add "
            "--fallback parallel"
        )


def describe_unfinished(jobs: Collection[JobRecord]) -> str | None:
    """Describe unfinished jobs: ``2 batch jobs are still running at openai``."""
    there = [each for each in jobs if each.state in AT_THE_PROVIDER]
    here = sum(each.state == "sealed" for each in jobs)
    parts = []
    if there:
        places = " and ".join(sorted({each.provider for each in there}))
        are = counted(len(there), "batch job is", "batch jobs are")
        parts.append(f"{are} still running at {places}")
    if here:
        one, more = ("waits", "wait") if there else ("batch job waits", "batch jobs wait")
        parts.append(f"{counted(here, one, more)} here to be sent")
    if not parts and any(each.is_active for each in jobs):
        parts.append("answers of batch jobs are downloaded and not counted yet")
    return ", ".join(parts) or None


def print_unfinished(run: Run) -> None:
    """Print which batch jobs of earlier sessions are still running, if any."""
    if (left := describe_unfinished(run.batch_jobs)) is not None:
        say(f"{left}: `llmflow resume {run.name}` collects the answers")


def print_detached(run: Run, task: Task, submission: Submission | None = None) -> None:
    """Print the jobs left at the provider, and how to continue."""
    jobs = [each for each in run.batch_jobs if each.is_active]
    if task.as_json:
        plain = {"run": run.name, "jobs": [each.plain() for each in jobs]}
        write_json(sys.stderr if task.output == "-" else sys.stdout, plain)
    elif not task.quiet:
        write(
            sys.stderr,
            "\n".join([f"run {run.name}: {describe_unfinished(jobs)}", *job_lines(jobs)]),
        )
        if submission is not None and submission.refused is not None:
            say(
                f"not all rows are in these jobs, because of the budget: {submission.refused}\n"
                f"`llmflow resume {run.name}` submits more, as far as the budget allows"
            )
        if any(each.state == "sealed" for each in jobs):
            say("what waits is sent by `llmflow resume`, once the provider has room for it")
        them = "it" if len(jobs) == 1 else "them"
        say(
            f"`llmflow status {run.name}` shows the progress\n"
            f"`llmflow resume {run.name}` waits for {them} and writes {task.output}\n"
            f"`llmflow cancel {run.name}` cancels {them}, and keeps what was answered"
        )


def job_lines(jobs: Collection[JobRecord]) -> Iterator[str]:
    """Yield a line for each job, in columns."""
    now = time.time()
    return columns([_HEADINGS, *(_row(each, now) for each in jobs)])


_HEADINGS: Final = ("job", "model", "state", "rows", "answered", "failed", "age", "expires in")


def _row(record: JobRecord, now: float) -> tuple[str, ...]:
    begun = record.created_at or record.sealed_at
    left = None if record.expires_at is None or not record.is_active else record.expires_at - now
    return (
        printable(record.job or record.tag),
        printable(f"{record.provider}/{record.model}"),
        state_of(record),
        f"{record.requests:,}",
        "?" if record.succeeded is None else f"{record.succeeded:,}",
        "?" if record.failed is None else f"{record.failed:,}",
        duration(max(0.0, now - begun)),
        "" if left is None else duration(max(0.0, left)),
    )


def state_of(record: JobRecord) -> str:
    """Return a job's state in a few printable words."""
    if record.state == "sealed":
        return "waits to be sent"
    if record.state == "done":
        return printable(record.outcome or "done")
    if record.cancel is not None and record.state in AT_THE_PROVIDER:
        return "being cancelled"
    return printable(record.native or record.state)


@dataclass(kw_only=True)
class RunJobs:
    """The batch jobs of a run.

    `notes` say why there is nothing newer to be told.
    """

    run: RunSummary
    jobs: list[JobRecord]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run: RunSummary) -> Self:
        """Read the batch jobs of a run, without locking its journal."""
        from llmflow.batch.record import JobRecord
        from llmflow.journal import read_jobs

        return cls(run=run, jobs=[JobRecord.of(each) for each in read_jobs(run.folder)])

    @property
    def unfinished(self) -> list[JobRecord]:
        """The jobs of which something is still to be done."""
        return [each for each in self.jobs if each.is_active]

    @property
    def running(self) -> list[JobRecord]:
        """Unfinished jobs, without those that only need to be collected."""
        busy = self.run.busy
        return [each for each in self.unfinished if busy or each.state != "fetched"]

    @property
    def ours(self) -> list[JobRecord]:
        """The jobs at the provider that are certainly of this run."""
        jobs = self.unfinished
        return [each for each in jobs if each.state == "created" and each.job and not each.found]

    @property
    def worker(self) -> str:
        """The process that is working on the run."""
        return f"process {self.run.pid}" if self.run.pid else "another process"

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def connect(self) -> dict[str, LLM]:
        """Return a model for each queue of unfinished jobs; `notes` names failures."""
        found: dict[str, LLM] = {}
        for job in self.unfinished:
            if job.queue in found:
                continue
            try:
                llm = _llm(self.run, job)
            except LLMFlowError as error:
                self.note(f"the provider cannot be reached: {redact(str(error))}")
                continue
            if llm.batch_queue == job.queue:
                found[job.queue] = llm
            else:
                self.note(
                    f"{job.provider}/{job.model} has another server than the jobs were sent to"
                )
        return found

    async def cancel(self, llms: Mapping[str, LLM]) -> str | None:
        """Ask the provider to cancel the jobs; return its first error."""
        from llmflow.transport import StreamChannel

        async def one(llm: LLM, job: str) -> str | None:
            try:
                await llm.provider.batch.cancel(job, StreamChannel())  # type: ignore[attr-defined]
            except ProviderError as error:
                return None if error.status in _OVER else redact(str(error))
            return None

        there = [(llms[each.queue], each.job) for each in self.ours if each.queue in llms]
        refused = await asyncio.gather(*(one(llm, job) for llm, job in there if job))
        return next(filter(None, refused), None)

    async def refresh(self, llms: Mapping[str, LLM]) -> None:
        """Replace the recorded states of the jobs by the provider's."""
        from llmflow.transport import StreamChannel

        async def fresh(job: JobRecord) -> JobRecord:
            llm = llms.get(job.queue)
            if llm is None or job.job is None or job.state != "created":
                return job
            try:
                status = await llm.provider.batch.status(  # type: ignore[attr-defined]
                    job.job, StreamChannel()
                )
            except ProviderError as error:
                self.note(f"the provider returned no status: {redact(str(error))}")
                return job
            news = job.but(
                native=status.native or status.state,
                succeeded=status.succeeded,
                failed=status.failed,
                expires_at=status.expires_at or job.expires_at,
            )
            # Not written down: whoever collects them does that.
            return replace(news, state="fetched") if status.has_ended else news

        self.jobs = list(await asyncio.gather(*map(fresh, self.jobs)))


def task_of(run: RunSummary) -> Task | None:
    """Return the task of a run; None if a program started it."""
    kept = run.about.get("task")
    try:
        return Task.restored(kept, name=run.name) if isinstance(kept, dict) else None
    except InputError:
        return None


def _llm(run: RunSummary, job: JobRecord) -> LLM:
    from llmflow.cli.prepare import resolve_model
    from llmflow.config import use_config
    from llmflow.llm import LLM

    task = task_of(run)
    if task is None:
        llm = LLM(f"{job.provider}/{job.model}")
        llm.prepare()
        return llm
    with in_folder(task.folder), use_config(task.config):
        llm = resolve_model(task).llm
        llm.prepare()
        return llm
