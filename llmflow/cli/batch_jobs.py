"""What the commands say of batch jobs, and when there can be none."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final

from llmflow.cli.task import Task
from llmflow.cli.terminal import printable, say, write
from llmflow.errors import ConfigurationError, InputError
from llmflow.format import counted, duration

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.jobs.submission import Submission
    from llmflow.llm import LLM
    from llmflow.runs.run import Run

IN_BATCHES: Final = 5_000
"""How many rows are asked at once where those that jobs left over may make another job."""
AT_THE_PROVIDER: Final = ("creating", "created")


def check_options(task: Task) -> None:
    """Check that the options of batch mode go together.

    Raises:
        ConfigurationError: they do not, or the deadline is no time.
    """
    from llmflow.calls.choice import as_choice

    if task.detach and not task.in_batches:
        raise ConfigurationError("--detach needs batch jobs, which go on alone: --mode batch")
    if task.deadline is not None and not task.in_batches:
        raise ConfigurationError(
            "--deadline is for rows that may go into batch jobs: --mode auto or --mode batch"
        )
    if task.fallback == "parallel" and not task.in_batches:
        raise ConfigurationError(
            "--fallback parallel is for what batch jobs leave over: --mode batch"
        )
    if task.fallback == "batch" and task.mode == "batch":
        raise ConfigurationError("--fallback batch is for --mode parallel: leave it out")
    if task.mode is not None or task.fallback is not None:
        as_choice(task.mode or "parallel", deadline=task.deadline, fallback=task.fallback)


def check_batching(task: Task, llm: LLM, *, keeps: bool) -> None:
    """Check that what was asked for can be done in batch jobs, if it is to be.

    Args:
        task: what was asked for.
        llm: its model.
        keeps: whether the run keeps answers.

    Raises:
        ConfigurationError: the run keeps no answers, or there is no batch API.
        InputError: the rows cannot be read twice.
    """
    if not task.may_use_batches:
        return
    option = f"--mode {task.mode}" if task.in_batches else "--fallback batch"
    if not keeps:
        off = "--no-journal" if task.no_journal else 'store = "off" in llmflow.toml'
        raise ConfigurationError(
            f"{option} needs the run's journal, which knows the jobs and keeps their "
            f"answers: leave out {off}"
        )
    if task.is_piped:
        raise InputError(
            f"{option} reads the rows twice, and a pipe can be read once: write them into a file"
        )
    unsupported = getattr(llm.provider, "batch", None) is None
    if unsupported and task.mode == "batch" and task.fallback != "parallel":
        raise ConfigurationError(
            f"llmflow knows no batch API for {llm.model}: leave out --mode batch, or add "
            "--fallback parallel"
        )


def going_on(jobs: Collection[JobRecord]) -> str | None:
    """Return how many jobs run, and where, such as ``2 batch jobs are still running at openai``."""
    there = [each for each in jobs if each.state in AT_THE_PROVIDER]
    here = [each for each in jobs if each.state == "sealed"]
    parts = []
    if there:
        places = " and ".join(sorted({each.provider for each in there}))
        parts.append(
            f"{counted(len(there), 'batch job is', 'batch jobs are')} still running at {places}"
        )
    if here:
        what = "" if there else " batch job" if len(here) == 1 else " batch jobs"
        wait = "waits" if len(here) == 1 else "wait"
        parts.append(f"{len(here):,}{what} {wait} here to be sent")
    if not parts and any(each.is_active for each in jobs):
        parts.append("answers of batch jobs are here and not counted yet")
    return ", ".join(parts) or None


def tell_left(run: Run) -> None:
    """Say which batch jobs of earlier sessions go on, if any does, when this one ends early."""
    if (left := going_on(run.batch_jobs)) is not None:
        say(f"{left}: `llmflow resume {run.name}` collects the answers")


def tell_detached(run: Run, task: Task, submission: Submission | None = None) -> None:
    """Say what was left at the provider, and how to go on."""
    jobs = [each for each in run.batch_jobs if each.is_active]
    if task.as_json:
        import orjson

        plain = {"run": run.name, "jobs": [each.plain() for each in jobs]}
        write(sys.stderr if task.output == "-" else sys.stdout, orjson.dumps(plain).decode())
    elif not task.quiet:
        write(sys.stderr, "\n".join([f"run {run.name}: {going_on(jobs)}", *job_lines(jobs)]))
        if submission is not None and submission.refused is not None:
            say(
                f"not all rows are in these jobs, for the budget: {submission.refused}\n"
                f"`llmflow resume {run.name}` submits more, as far as that reaches"
            )
        if any(each.state == "sealed" for each in jobs):
            say("what waits is sent by `llmflow resume`, once the provider has room for it")
        they, them = ("it is", "it") if len(jobs) == 1 else ("they are", "them")
        say(
            f"`llmflow status {run.name}` says how far {they}\n"
            f"`llmflow resume {run.name}` waits for {them} and writes {task.output}\n"
            f"`llmflow cancel {run.name}` ends {them}, and keeps what was answered"
        )


def job_lines(jobs: Collection[JobRecord], *, now: float | None = None) -> Iterator[str]:
    """Yield a line for each job, in columns.

    Args:
        jobs: what is known of them.
        now: seconds since 1970; by default what the clock says.
    """
    rows = [_HEADINGS, *(_row(each, time.time() if now is None else now) for each in jobs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(map(str.ljust, row, widths)).rstrip()


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
    """Return what a job is doing, in a few words, fit to be shown."""
    if record.state == "sealed":
        return "waits to be sent"
    if record.state == "done":
        return printable(record.outcome or "done")
    if record.cancel is not None and record.state in AT_THE_PROVIDER:
        return "being cancelled"
    return printable(record.native or record.state)
