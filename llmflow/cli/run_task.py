"""What ``llmflow run`` and ``llmflow resume`` do: a task, from its files to its exit code."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from llmflow import loops
from llmflow.cli.model import resolve_model
from llmflow.cli.reading import check_prompt, rows_of, tell_repaired
from llmflow.cli.signals import INTERRUPTED_CODES, Postponed, hear_no_more, on_signals
from llmflow.cli.task import Task
from llmflow.cli.terminal import Notice, TerminalRows, complain, say, silence, write
from llmflow.errors import ConfigurationError
from llmflow.format import counted

if TYPE_CHECKING:
    from llmflow.cli.model import ResolvedModel
    from llmflow.cli.outcome import Outcome
    from llmflow.jobs.contact import Contact
    from llmflow.jobs.job import Job
    from llmflow.jobs.progress import Progress
    from llmflow.jobs.report import Report
    from llmflow.jobs.submission import Submission
    from llmflow.llm import LLM
    from llmflow.rows import RowSource, RowWriter, Selection
    from llmflow.runs.run import Run, Store


def execute(task: Task, *, runs: Path | None = None) -> int:
    """Do what was asked for, and return the exit code.

    What can be checked is checked first; nothing is written before.

    Args:
        task: what to do.
        runs: the folder of the run's folder; by default what `runs_folder` says.
    """
    with ExitStack() as stack:
        with Postponed():
            from llmflow.cli.batch_jobs import check_options
            from llmflow.transport import check_connections

            check_options(task)
            if not task.in_batches:
                check_connections("--concurrency", task.concurrency)
            opened = None if task.dry_run else _opened(task, stack)
        if opened is None:
            return _show_plan(task)
        rows, selection = opened
        postponed = Postponed()
        # Of a pipe none may ever come: nothing but an exception ends that.
        with nullcontext() if rows.once else postponed:
            check_prompt(rows, selection, quiet=task.quiet, each=postponed.check)
        return _do(task, rows, selection, runs)


def _opened(task: Task, stack: ExitStack) -> tuple[RowSource, Selection]:
    """Return INPUT's rows and which of them are asked, with the configuration in use."""
    from llmflow.cli.open_files import check_descriptors
    from llmflow.config import use_config

    check_descriptors()
    stack.enter_context(use_config(task.config))
    rows, selection = rows_of(task)
    stack.enter_context(rows)
    return rows, selection


def _show_plan(task: Task) -> int:
    from llmflow.cli.plan import show_plan

    return show_plan(task)


def _do(task: Task, rows: RowSource, selection: Selection, runs: Path | None) -> int:
    """Open the run and the output, do the job, and leave both whole whatever happens."""
    with ExitStack() as stack, Postponed() as postponed:
        from llmflow.cli.batch_jobs import tell_left
        from llmflow.jobs.submission import Submission

        asked = resolve_model(task)
        llm, contact = asked.llm, asked.contact
        llm.prepare()
        postponed.check()
        run, known = _run(task, asked, runs)
        if known:
            # First: what is in the partial file is lost if the journal cannot be read.
            stack.enter_context(run)
        writer = _writer(task, rows, goes_on=known, before=run.noted("partial"))
        try:
            if not known:
                stack.enter_context(run)
            run.note("partial", _partial(task))
            total = None if rows.once else _checked_total(rows, postponed, quiet=task.quiet)
            job = _job(task, llm, rows, selection, writer, contact)
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
                tell_left(run)
            raise


def _run(task: Task, asked: ResolvedModel, runs: Path | None) -> tuple[Run, bool]:
    """Return the run that the task belongs to, and whether it has been there before."""
    from llmflow.budget import Budget
    from llmflow.cli.batch_jobs import check_batching
    from llmflow.config import load_config
    from llmflow.journal import read_summary
    from llmflow.runs.catalog import runs_folder
    from llmflow.runs.run import Run

    llm, contact = asked.llm, asked.contact
    budget = None if task.budget is None else Budget(usd=task.budget)
    if budget is not None:
        budget.check_price(llm.model, llm.price)
    # The answers' texts are all that a row needs.
    store: Store = "off" if task.no_journal else load_config().journal.store or "answers"
    name = None if store == "off" else task.name
    about = {"kind": "command", "program": "llmflow", "model": llm.model, "task": _kept(task, llm)}
    mode: Any = task.mode or ("parallel" if task.fallback or task.deadline else None)
    check_batching(task, llm, keeps=store != "off")
    run = Run(
        name,
        budget=budget,
        store=store,
        folder=runs,
        retry_failed=task.retry_failed,
        about=about,
        mode=mode,
        deadline=task.deadline,
        fallback=task.fallback,  # type: ignore[arg-type]
        is_conclusive=lambda error: not (error.fatal or contact.lost),
    )
    return run, name is not None and read_summary((runs or runs_folder()) / name) is not None


def _kept(task: Task, llm: LLM) -> dict[str, Any]:
    """Return the task with what only this shell's environment says of it."""
    from llmflow.config.files import named_config

    named = named_config()
    if task.config is None and named is not None:
        task = replace(task, config=str(named))
    place: str | None = getattr(llm.provider, "endpoint", None)
    address = os.environ.get(f"{llm.model.partition('/')[0].upper()}_BASE_URL", "").strip()
    if task.base_url is None and place and address.startswith(place):
        task = replace(task, base_url=address)
    return task.stored()


def _run_job(
    job: Job,
    llm: LLM,
    run: Run,
    writer: RowWriter,
    total: int | None,
    task: Task,
    postponed: Postponed,
) -> int:
    """Run the job, and tell how it ended; every end comes through here."""
    from llmflow.cli import outcome

    progress = _progress(job, llm, run, total, task)
    postponed.end()
    before, started, computed = llm.limiter.statistics(), time.monotonic(), time.process_time()
    try:
        loops.run(_work(job, progress, quiet=task.quiet or _shows_rows(task)))
    except KeyboardInterrupt:  # where signals cannot be handled on the loop
        job.interrupted = True
    seconds, computed = time.monotonic() - started, time.process_time() - computed
    if job.once:  # else they were read, and it was said, before
        tell_repaired(job.source)
    end = outcome.finish(job, writer, run)
    # The answers are in their place: whoever is impatient now would lose the end of the journal.
    hear_no_more()
    end = outcome.close_run(run, job, end)
    outcome.keep_learned()
    report = outcome.report_of(
        end, job, llm, run, before=before, total=total, seconds=seconds, cpu_seconds=computed
    )
    _tell(report, end, run, task, job.submission)
    return end.code


def _tell(
    report: Report, end: Outcome, run: Run, task: Task, submission: Submission | None
) -> None:
    """Say how it ended, and at last what to do about it."""
    from llmflow.cli import outcome
    from llmflow.cli.batch_jobs import tell_detached

    code = end.code
    if code == outcome.READER_GONE:
        silence(sys.stdout)
        return
    if end.waits_for is not None:
        tell_detached(run, task, submission)
        return
    _show(report, task)
    if report.stopped_by is None:
        words = outcome.retry_hint(run, report)
        if words is not None and not task.quiet and not task.as_json:
            say(words)
        return
    words = outcome.stop_message(report, run, outcome.resume_hint(run, task, report))
    if code in INTERRUPTED_CODES:
        say(f"llmflow: {words}")
    else:
        complain(words)


def _progress(job: Job, llm: LLM, run: Run, total: int | None, task: Task) -> Progress:
    from llmflow.jobs.progress import Progress

    # A bar among rows that scroll by would spoil both.
    quiet = task.quiet or _shows_rows(task)
    stream: IO[str] | None = None if quiet else sys.stderr
    return Progress(job, llm.limiter, total=total, stream=stream, run=run)


async def _work(job: Job, progress: Progress, *, quiet: bool) -> None:
    def interrupt() -> None:
        if quiet and not job.interrupted and not job.submitting:
            say("llmflow: stopping; answers on their way are waited for, Ctrl-C again drops them")
        job.interrupt()
        progress.refresh()

    with on_signals(interrupt):
        async with progress:
            await job.run()


def _partial(task: Task) -> list[int] | None:
    """Return which file holds the rows of an unfinished session, to be known again."""
    from llmflow.rows.writers import partial_file

    try:
        found = partial_file(task.output).stat()
    except (OSError, ValueError):
        return None
    return [found.st_dev, found.st_ino]


def _writer(task: Task, rows: RowSource, *, goes_on: bool, before: list[int] | None) -> RowWriter:
    """Open the output; `before` is the partial file of the run's last session."""
    from llmflow.rows import open_output
    from llmflow.rows.records import output_fields, output_types

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
        say(f"llmflow: {task.output} is there already: it is replaced once all rows are done")
    return writer


def _shows_rows(task: Task) -> bool:
    """Return whether the rows themselves go to a terminal."""
    return task.output == "-" and sys.stdout.isatty()


def _checked_total(rows: RowSource, postponed: Postponed, *, quiet: bool) -> int:
    """Count the rows by reading them all once: what is odd shows before anything is paid."""
    total = 0
    with Notice(lambda: f"checking {rows.name}: {counted(total, 'row')}", enabled=not quiet):
        for _ in rows:
            total += 1
            postponed.check()
    tell_repaired(rows)
    return total


def _job(
    task: Task,
    llm: LLM,
    rows: RowSource,
    selection: Selection,
    writer: RowWriter,
    contact: Contact,
) -> Job:
    from llmflow.cli.batch_jobs import IN_BATCHES
    from llmflow.jobs.job import DRAIN_SECONDS, Job
    from llmflow.mapping.work import default_concurrency

    default = IN_BATCHES if task.in_batches else default_concurrency(llm.limiter.quota)
    concurrency = task.concurrency or default
    return Job(
        llm,
        rows,
        selection,
        writer,
        concurrency=concurrency,
        fail_fast=task.fail_fast,
        drain_seconds=DRAIN_SECONDS if task.drain is None else task.drain,
        contact=contact,
        details=task.details,
    )


def _show(report: Report, task: Task) -> None:
    """Print the closing report: JSON on standard output, unless the rows are there."""
    if task.as_json:
        import orjson

        stream = sys.stderr if task.output == "-" else sys.stdout
        if not write(stream, orjson.dumps(report.to_dict()).decode()):
            say("llmflow: the report could not be printed")
    elif not task.quiet and (report.items or not report.stopped_by):
        say("\n".join(report.lines()))
