"""The batch jobs of a run that is named on the command line, and the way to their provider."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from llmflow.cli.resume import in_folder
from llmflow.cli.task import Task
from llmflow.errors import InputError, LLMFlowError, ProviderError, redact

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.journal import RunSummary
    from llmflow.llm import LLM


@dataclass(kw_only=True)
class RunJobs:
    """The batch jobs of a run.

    Args:
        run: the run.
        jobs: what is known of them, those that have ended among them.
        notes: why there is nothing newer to be told, in words.
    """

    run: RunSummary
    jobs: list[JobRecord]
    notes: list[str] = field(default_factory=list)

    @property
    def unfinished(self) -> list[JobRecord]:
        """The jobs of which something is still to be done."""
        return [each for each in self.jobs if each.is_active]


def jobs_of_run(run: RunSummary) -> RunJobs:
    """Return the batch jobs of a run, without disturbing the process that works on it.

    Raises:
        JournalError: its journal cannot be read.
    """
    from llmflow.batch.record import JobRecord
    from llmflow.journal import read_jobs

    return RunJobs(run=run, jobs=[JobRecord.of(each) for each in read_jobs(run.folder)])


def task_of(run: RunSummary) -> Task | None:
    """Return the task that a run was started with; None if it was a program."""
    kept = run.about.get("task")
    try:
        return Task.restored(kept, name=run.name) if isinstance(kept, dict) else None
    except InputError:
        return None


def connect(run_jobs: RunJobs) -> list[LLM]:
    """Return a model for each queue of the unfinished jobs; `notes` tells what is out of reach."""
    found: dict[str, LLM] = {}
    for job in run_jobs.unfinished:
        if job.queue in found:
            continue
        try:
            llm = _llm(run_jobs.run, job)
        except LLMFlowError as error:
            _note(run_jobs, f"the provider cannot be asked: {redact(str(error))}")
            continue
        if llm.batch_queue == job.queue:
            found[job.queue] = llm
        else:
            _note(run_jobs, f"{job.provider}/{job.model} is another server here than it was")
    return list(found.values())


def _llm(run: RunSummary, job: JobRecord) -> LLM:
    from llmflow.cli.model import resolve_model
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


async def refresh(run_jobs: RunJobs, llms: Sequence[LLM]) -> None:
    """Ask the provider how the jobs are doing, and put that in place of what is written down."""
    by_queue = {each.batch_queue: each for each in llms}

    async def fresh(job: JobRecord) -> JobRecord:
        llm = by_queue.get(job.queue)
        if llm is None or job.job is None or job.state != "created":
            return job
        from llmflow.transport.channel import StreamChannel

        try:
            status = await llm.provider.batch.status(  # type: ignore[attr-defined]
                job.job, StreamChannel()
            )
        except ProviderError as error:
            _note(run_jobs, f"the provider does not say: {redact(str(error))}")
            return job
        news = job.but(
            native=status.native or status.state,
            succeeded=status.succeeded,
            failed=status.failed,
            expires_at=status.expires_at or job.expires_at,
        )
        # Not written down: whoever collects them does that.
        return replace(news, state="fetched") if status.has_ended else news

    run_jobs.jobs = list(await asyncio.gather(*map(fresh, run_jobs.jobs)))


def _note(run_jobs: RunJobs, text: str) -> None:
    if text not in run_jobs.notes:
        run_jobs.notes.append(text)
