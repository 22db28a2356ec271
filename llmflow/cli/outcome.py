"""Outcome of a run: files, report, messages and exit code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from llmflow.cli.batch_jobs import describe_unfinished
from llmflow.cli.signals import exit_code
from llmflow.cli.task import Task
from llmflow.errors import BudgetExceededError, InputError, LLMFlowError, ProviderError
from llmflow.format import counted
from llmflow.jobs.file_report import Report
from llmflow.jobs.file_run import FileRun
from llmflow.rows import RowWriter
from llmflow.rows.output_files import partial_path
from llmflow.runs.run import Run

ALL_ANSWERED, SOME_FAILED, WRONG, STOPPED = 0, 1, 2, 3
READER_GONE = 141
"""What a shell shows for a program that SIGPIPE ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Outcome of a run."""

    code: int
    output: str | None
    failures: str | None
    stopped_by: str | None = None
    waits_for: str | None = None


def finish(job: FileRun, writer: RowWriter, run: Run) -> Outcome:
    """Complete or abort the output of a run, and return its outcome."""
    if job.detached:
        writer.abort(keep=False)
        waits_for = describe_unfinished(run.batch_jobs) or "its batch jobs"
        return Outcome(code=ALL_ANSWERED, output=None, failures=None, waits_for=waits_for)
    if job.stopped_by is None and not job.interrupted:
        try:
            writer.commit()
        except LLMFlowError as error:
            job.stopped_by = error
        except KeyboardInterrupt:
            job.interrupted = True
        else:
            failed = job.counters.failed
            return Outcome(
                code=SOME_FAILED if failed else ALL_ANSWERED,
                output=writer.name,
                failures=str(writer.failed_path) if failed else None,
            )
    keep = writer.written > 0
    try:
        writer.abort(keep=keep)
    except LLMFlowError as error:
        job.stopped_by = job.stopped_by or error
    code, stopped_by = _reason(job)
    return Outcome(
        code=code,
        output=str(writer.partial_path or writer.name) if keep else None,
        failures=_partial_failures(writer) if keep else None,
        stopped_by=stopped_by,
    )


def close_run(run: Run, job: FileRun, outcome: Outcome) -> Outcome:
    """Close the run's journal; a failure becomes part of the outcome."""
    try:
        error = job.stopped_by or (KeyboardInterrupt() if job.interrupted else None)
        run.close(error, waits_for=outcome.waits_for)
    except LLMFlowError as error:
        if outcome.stopped_by is None:
            return replace(outcome, code=WRONG, stopped_by=str(error).rstrip("."))
    return outcome


def stop_message(report: Report, run: Run, resume_hint: str | None = None) -> str:
    """Return why a run stopped and where its answers are."""
    text = report.stopped_by or ""
    if report.output:
        text += f"; {counted(report.answered, 'answer')} so far in {report.output}"
        if report.remaining:
            text += f", {counted(report.remaining, 'row')} not sent"
    else:
        text += "; nothing was written"
    # Answers of earlier sessions that this one did not come to.
    if run.totals is not None and run.totals.answers > report.answered:
        text += f"; the run has {counted(run.totals.answers, 'answer')} in its journal"
    return f"{text}; {resume_hint}" if resume_hint else text


def resume_hint(run: Run, task: Task, report: Report) -> str | None:
    """Return how to continue a run; None if it would start anew."""
    if run.name is None or run.totals is None:
        return None
    jobs = describe_unfinished(run.batch_jobs)
    reached = report.run is not None and report.run.reached is not None
    if jobs is not None and not reached and not (report.failed and task.fail_fast):
        return f"{jobs}: `llmflow resume {run.name}` collects the answers"
    if jobs is None and not report.items and not run.totals.answers:
        return None
    again = "run the same command again"
    if reached:
        remedy = f"{again} with a higher --budget"
        option = " --budget USD"
    elif report.failed and task.fail_fast:
        remedy = f"{again} with --retry-failed, or without --fail-fast"
        option = " --retry-failed"
    else:
        remedy, option = again, ""
    go_on = f"to continue, {remedy}"
    if not task.is_piped:
        go_on += f", or `llmflow resume {run.name}{option}`"
    return go_on if jobs is None else f"{jobs}; {go_on}"


def retry_hint(run: Run, report: Report) -> str | None:
    """Return how to retry failed rows, or None if none was sent."""
    # A row that does not fit the prompt is looked at again in any case.
    asked = any(kind != InputError.__name__ for kind in report.reasons)
    if run.name is None or not asked:
        return None
    return "the same command with --retry-failed retries failed rows"


def _reason(job: FileRun) -> tuple[int, str]:
    error = job.stopped_by
    if error is None:
        return exit_code(), "interrupted"
    if isinstance(error.__cause__, BrokenPipeError):
        return READER_GONE, str(error)
    text = "; ".join([str(error).rstrip("."), *getattr(error, "__notes__", ())])
    if job.contact.lost:
        return (
            STOPPED,
            f"{text}; nothing answers there: check --base-url, the proxy and the network",
        )
    if isinstance(error, (ProviderError, BudgetExceededError)):
        return STOPPED if error.fatal else SOME_FAILED, text
    return SOME_FAILED if job.fails_fast and isinstance(error, InputError) else WRONG, text


def _partial_failures(writer: RowWriter) -> str | None:
    if not writer.failed:
        return None
    return str(partial_path(Path(writer.failed_path)))
