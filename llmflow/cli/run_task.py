"""Task runner of ``llmflow run`` and ``llmflow resume``."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmflow import loops
from llmflow.budget import Budget
from llmflow.cli import batch_jobs, outcome
from llmflow.cli.outcome import Outcome
from llmflow.cli.plan import show_plan
from llmflow.cli.prepare import (
    ResolvedModel,
    check_descriptors,
    check_prompt,
    resolve_model,
    rows_of,
    warn_of_repairs,
)
from llmflow.cli.signals import INTERRUPTED_CODES, Postponed, ignore_signals, on_signals
from llmflow.cli.task import Task
from llmflow.cli.terminal import Notice, TerminalRows, complain, say, silence, write_json
from llmflow.config import load_config, use_config
from llmflow.config.files import named_config
from llmflow.errors import ConfigurationError
from llmflow.format import counted
from llmflow.items.runner import DRAIN_SECONDS
from llmflow.jobs.file_progress import FileProgress
from llmflow.jobs.file_report import Report, report_of
from llmflow.jobs.file_run import FileRun
from llmflow.jobs.submission import Submission
from llmflow.journal import read_summary
from llmflow.limits.registry import remember_limits
from llmflow.llm import LLM
from llmflow.mapping.spec import default_concurrency
from llmflow.rows import RowSource, RowWriter, Selection, open_output
from llmflow.rows.records import output_fields, output_types
from llmflow.rows.writers import partial_file
from llmflow.runs.catalog import runs_folder
from llmflow.runs.run import Run, Store
from llmflow.transport import check_connections


def execute(task: Task, *, runs: Path | None = None) -> int:
    """Run a task, and return the exit code.

    What can be checked is checked first; nothing is written before.

    `runs` is the folder of the run's folder; by default what `runs_folder` says.
    """
    found: tuple[RowSource, Selection] | None = None
    with ExitStack() as stack:
        with Postponed():
            batch_jobs.check_options(task)
            if not task.in_batches:
                check_connections("--concurrency", task.concurrency)
            if not task.dry_run:
                check_descriptors()
                stack.enter_context(use_config(task.config))
                found = rows_of(task)
                stack.enter_context(found[0])
        if found is None:
            return show_plan(task)
        rows, selection = found
        postponed = Postponed()
        # A pipe may never bring a row: nothing but an exception ends the wait for one.
        with nullcontext() if rows.once else postponed:
            check_prompt(rows, selection, quiet=task.quiet, each=postponed.check)
        return _open_and_run(task, rows, selection, runs)


def _open_and_run(task: Task, rows: RowSource, selection: Selection, runs: Path | None) -> int:
    """Open the run and the output, and close both whatever happens."""
    with ExitStack() as stack, Postponed() as postponed:
        resolved = resolve_model(task)
        llm = resolved.llm
        llm.prepare()
        postponed.check()
        run, known = _run(task, resolved, runs)
        if known:
            # First: what is in the partial file is lost if the journal cannot be read.
            stack.enter_context(run)
        writer = _writer(task, rows, goes_on=known, before=run.noted("partial"))
        try:
            if not known:
                stack.enter_context(run)
            run.note("partial", _partial(task))
            total = None if rows.once else _checked_total(rows, postponed, quiet=task.quiet)
            job = _job(task, resolved, rows, selection, writer)
            if task.in_batches:
                job.submission = Submission(
                    llm, run, rows, selection, total=total, detach=task.detach
                )
            if task.mode != "batch" and task.may_use_batches:
                job.overflow = Submission(llm, run, rows, selection)
            return _run_job(job, llm, run, writer, total, task, postponed)
        except BaseException as error:
            writer.abort(keep=writer.written > 0)
            if isinstance(error, KeyboardInterrupt):
                batch_jobs.print_unfinished(run)
            raise


def _run(task: Task, resolved: ResolvedModel, runs: Path | None) -> tuple[Run, bool]:
    """Return the run of a task, and whether it existed before."""
    llm, contact = resolved.llm, resolved.contact
    budget = None if task.budget is None else Budget(usd=task.budget)
    if budget is not None:
        budget.check_price(llm.model, llm.price)
    # The answers' texts are all that a row needs.
    store: Store = "off" if task.no_journal else load_config().journal.store or "answers"
    name = None if store == "off" else task.name
    mode: Any = task.mode or ("parallel" if task.fallback or task.deadline else None)
    batch_jobs.check_batching(task, llm, keeps=store != "off")
    run = Run(
        name,
        budget=budget,
        store=store,
        folder=runs,
        retry_failed=task.retry_failed,
        about={
            "kind": "command",
            "program": "llmflow",
            "model": llm.model,
            "task": _kept(task, llm),
        },
        mode=mode,
        deadline=task.deadline,
        fallback=task.fallback,  # type: ignore[arg-type]
        is_conclusive=lambda error: not (error.fatal or contact.lost),
    )
    return run, name is not None and read_summary((runs or runs_folder()) / name) is not None


def _kept(task: Task, llm: LLM) -> dict[str, Any]:
    """Return the task with what only this shell's environment says of it."""
    named = named_config()
    if task.config is None and named is not None:
        task = replace(task, config=str(named))
    place: str | None = getattr(llm.provider, "endpoint", None)
    address = os.environ.get(f"{llm.model.partition('/')[0].upper()}_BASE_URL", "").strip()
    if task.base_url is None and place and address.startswith(place):
        task = replace(task, base_url=address)
    return task.stored()


def _run_job(
    job: FileRun,
    llm: LLM,
    run: Run,
    writer: RowWriter,
    total: int | None,
    task: Task,
    postponed: Postponed,
) -> int:
    """Run the job, and report its outcome; every end comes through here."""
    # A bar among rows that scroll by would spoil both.
    quiet = task.quiet or _shows_rows(task)
    progress = FileProgress(
        job, llm.limiter, total=total, stream=None if quiet else sys.stderr, run=run
    )
    postponed.end()
    started, computed = time.monotonic(), time.process_time()
    try:
        loops.run(_work(job, progress, quiet=quiet))
    except KeyboardInterrupt:  # where signals cannot be handled on the loop
        job.interrupted = True
    seconds, computed = time.monotonic() - started, time.process_time() - computed
    if job.once:  # else they were read, and it was said, before
        warn_of_repairs(job.source)
    end = outcome.finish(job, writer, run)
    # The answers are in their place: a signal now would only lose the end of the journal.
    ignore_signals()
    end = outcome.close_run(run, job, end)
    remember_limits()
    report = report_of(
        job,
        run,
        llm,
        progress.view(),
        seconds=seconds,
        cpu_seconds=computed,
        output=end.output,
        failures=end.failures,
        stopped_by=end.stopped_by,
    )
    _tell(report, end, run, task, job.submission)
    return end.code


def _tell(
    report: Report, end: Outcome, run: Run, task: Task, submission: Submission | None
) -> None:
    """Print the report, and the remedy for a stop or failures."""
    if end.code == outcome.READER_GONE:
        silence(sys.stdout)
        return
    if end.waits_for is not None:
        batch_jobs.print_detached(run, task, submission)
        return
    if task.as_json:
        # Standard output may hold the rows.
        if not write_json(sys.stderr if task.output == "-" else sys.stdout, report.to_dict()):
            say("llmflow: the report could not be printed")
    elif not task.quiet and (report.items or not report.stopped_by):
        say("\n".join(report.lines()))
    if report.stopped_by is None:
        hint = outcome.retry_hint(run, report)
        if hint is not None and not task.quiet and not task.as_json:
            say(hint)
        return
    message = outcome.stop_message(report, run, outcome.resume_hint(run, task, report))
    if end.code in INTERRUPTED_CODES:
        say(f"llmflow: {message}")
    else:
        complain(message)


async def _work(job: FileRun, progress: FileProgress, *, quiet: bool) -> None:
    def interrupt() -> None:
        if quiet and not job.interrupted and not job.submitting:
            say("llmflow: stopping; waiting for requests in flight, Ctrl-C again drops them")
        job.interrupt()
        progress.refresh()

    with on_signals(interrupt), progress:
        await job.run()


def _partial(task: Task) -> list[int] | None:
    """Return the identity of an unfinished session's output file."""
    try:
        found = partial_file(task.output).stat()
    except (OSError, ValueError):
        return None
    return [found.st_dev, found.st_ino]


def _writer(task: Task, rows: RowSource, *, goes_on: bool, before: list[int] | None) -> RowWriter:
    """Open the output; `before` is the last session's partial file."""
    if task.output == "-" and sys.stdout is None:
        raise ConfigurationError("standard output is closed: name a file with -o")
    stdout: Any = TerminalRows(sys.stdout) if _shows_rows(task) else None
    fields = output_fields(rows.fields, details=task.details) if rows.fields else None
    inputs = [] if task.source == "-" else [task.source]
    # What an earlier session of the run left unfinished is in its journal and comes again;
    # but not what one without a journal did.
    known = goes_on and before == _partial(task)
    writer = open_output(
        task.output,
        fields=fields,
        types=output_types(rows.types, details=task.details) if rows.types else None,
        inputs=inputs,
        stdout=stdout,
        keep_partial=not known,
        escape_formulas=bool(task.escape_formulas),
    )
    if writer.set_aside is not None:
        say(f"llmflow: what an earlier run left unfinished is kept in {writer.set_aside}")
    elif not goes_on and not task.quiet and Path(task.output).is_file():
        say(f"llmflow: {task.output} exists already: it will be replaced once all rows are done")
    return writer


def _shows_rows(task: Task) -> bool:
    """Return whether the rows themselves go to a terminal."""
    return task.output == "-" and sys.stdout.isatty()


def _checked_total(rows: RowSource, postponed: Postponed, *, quiet: bool) -> int:
    """Count all rows by reading them, so that errors show before payment."""
    total = 0
    with Notice(lambda: f"checking {rows.name}: {counted(total, 'row')}", enabled=not quiet):
        for _ in rows:
            total += 1
            postponed.check()
    warn_of_repairs(rows)
    return total


def _job(
    task: Task, resolved: ResolvedModel, rows: RowSource, selection: Selection, writer: RowWriter
) -> FileRun:
    llm, batches = resolved.llm, batch_jobs.IN_BATCHES
    default = batches if task.in_batches else default_concurrency(llm.limiter.quota)
    return FileRun(
        llm,
        rows,
        selection,
        writer,
        concurrency=task.concurrency or default,
        fail_fast=task.fail_fast,
        drain_seconds=DRAIN_SECONDS if task.drain is None else task.drain,
        contact=resolved.contact,
        details=task.details,
    )
