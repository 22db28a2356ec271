"""Task runner of ``llmflow run`` and ``llmflow resume``: sessions, exit codes, messages."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmflow import loops
from llmflow.budget import Budget
from llmflow.cli import batch_jobs
from llmflow.cli.plan import show_plan
from llmflow.cli.prepare import (
    check_descriptors,
    check_prompt,
    resolve_model,
    rows_of,
    warn_of_repairs,
)
from llmflow.cli.schemas import named_output, with_stored_schema
from llmflow.cli.signals import (
    INTERRUPTED_CODES,
    Postponed,
    exit_code,
    ignore_signals,
    on_signals,
)
from llmflow.cli.task import Task
from llmflow.cli.terminal import Notice, TerminalRows, complain, say, silence, write_json
from llmflow.config import load_config, use_config
from llmflow.config.files import named_config
from llmflow.errors import (
    BudgetExceededError,
    ConfigurationError,
    InputError,
    InvalidAnswerError,
    LLMFlowError,
    ProviderError,
)
from llmflow.format import counted
from llmflow.items.runner import DRAIN_SECONDS
from llmflow.jobs.file_report import FileProgress, Report
from llmflow.jobs.file_run import FileRun
from llmflow.jobs.submission import Submission
from llmflow.journal import read_summary
from llmflow.limits.registry import remember_limits
from llmflow.mapping.spec import default_concurrency
from llmflow.rows import RowLayout, RowSource, RowWriter, Selection, open_output
from llmflow.rows.output_files import partial_path
from llmflow.rows.writers import partial_file
from llmflow.runs.catalog import runs_folder
from llmflow.runs.run import Run, Store
from llmflow.transport import check_connections

if TYPE_CHECKING:
    from llmflow.typed.output_type import OutputType

_ALL_ANSWERED, _SOME_FAILED, _WRONG, _STOPPED = 0, 1, 2, 3
_READER_GONE = 141  # what a shell shows for a program that SIGPIPE ended


def execute(task: Task, *, runs: Path | None = None, output: OutputType | None = None) -> int:
    """Run a task, and return the exit code.

    What can be checked is checked first; nothing is written before.

    `runs` is the folder of the run's folder; by default what `runs_folder` says. `output` is what
    the answers are to be; by default what the task's schema says.
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
        if output is None:
            output = named_output(task)
        layout = RowLayout(output, details=task.details)
        postponed = Postponed()
        # A pipe may never bring a row: nothing but an exception ends the wait for one.
        with nullcontext() if rows.once else postponed:
            check_prompt(rows, selection, quiet=task.quiet, each=postponed.check)
        with ExitStack() as opened, Postponed() as postponed:
            return _Session(task, rows, selection, layout, runs, postponed).execute(opened)


class _Session:
    """One session of a task: its run, output, outcome and report."""

    def __init__(
        self,
        task: Task,
        rows: RowSource,
        selection: Selection,
        layout: RowLayout,
        runs: Path | None,
        postponed: Postponed,
    ) -> None:
        self._task, self._rows, self._selection = task, rows, selection
        self._runs, self._postponed = runs, postponed
        self._layout = layout
        resolved = resolve_model(task, layout.output)
        self._llm, self._contact = resolved.llm, resolved.contact
        self._llm.prepare()
        postponed.check()
        self._run, self._known = self._open_run()
        self._job: FileRun
        self._writer: RowWriter
        self._code = _ALL_ANSWERED
        self._output: str | None = None
        self._failures: str | None = None
        self._stopped_by: str | None = None
        self._waits_for: str | None = None

    def execute(self, opened: ExitStack) -> int:
        """Open the run and the output, work, and close both whatever happens."""
        run, rows = self._run, self._rows
        if self._known:
            # First: what is in the partial file is lost if the journal cannot be read.
            opened.enter_context(run)
        self._writer = writer = self._open_output(run.noted("partial"))
        try:
            if not self._known:
                opened.enter_context(run)
            run.note("partial", self._partial())
            total = None if rows.once else _checked_total(rows, self._postponed, self._task.quiet)
            self._job = self._make_job(total)
            return self._work(total)
        except BaseException as error:
            writer.abort(keep=writer.written > 0)
            if isinstance(error, KeyboardInterrupt):
                batch_jobs.print_unfinished(run)
            raise

    # --- the parts of a session -------------------------------------------------------

    def _open_run(self) -> tuple[Run, bool]:
        """Return the run of the task, and whether it existed before."""
        task, llm, contact = self._task, self._llm, self._contact
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
            folder=self._runs,
            retry_failed=task.retry_failed,
            about={
                "kind": "command",
                "program": "llmflow",
                "model": llm.model,
                "task": self._stored_task(),
            },
            mode=mode,
            deadline=task.deadline,
            fallback=task.fallback,  # type: ignore[arg-type]
            is_conclusive=lambda error: not (error.fatal or contact.lost),
        )
        folder = self._runs or runs_folder()
        return run, name is not None and read_summary(folder / name) is not None

    def _stored_task(self) -> dict[str, Any]:
        """Return the task with what only this shell's environment says of it."""
        task = with_stored_schema(self._task, self._layout.output)
        llm, named = self._llm, named_config()
        if task.config is None and named is not None:
            task = replace(task, config=str(named))
        place: str | None = getattr(llm.provider, "endpoint", None)
        address = os.environ.get(f"{llm.model.partition('/')[0].upper()}_BASE_URL", "").strip()
        if task.base_url is None and place and address.startswith(place):
            task = replace(task, base_url=address)
        return task.stored()

    def _partial(self) -> list[int] | None:
        """Return the identity of an unfinished session's output file."""
        try:
            found = partial_file(self._task.output).stat()
        except (OSError, ValueError):
            return None
        return [found.st_dev, found.st_ino]

    @property
    def _shows_rows(self) -> bool:
        """Whether the rows themselves go to a terminal."""
        return self._task.output == "-" and sys.stdout.isatty()

    def _open_output(self, before: list[int] | None) -> RowWriter:
        """Open the output; `before` is the last session's partial file."""
        task, rows, layout = self._task, self._rows, self._layout
        if task.output == "-" and sys.stdout is None:
            raise ConfigurationError("standard output is closed: name a file with -o")
        stdout: Any = TerminalRows(sys.stdout) if self._shows_rows else None
        # What an earlier session of the run left unfinished is in its journal and comes again;
        # but not what one without a journal did.
        known = self._known and before == self._partial()
        writer = open_output(
            task.output,
            fields=layout.fields(rows.fields) if rows.fields else None,
            types=layout.types(rows.types) if rows.types else None,
            columns=layout.columns,
            inputs=[] if task.source == "-" else [task.source],
            stdout=stdout,
            keep_partial=not known,
            escape_formulas=bool(task.escape_formulas),
        )
        if writer.set_aside is not None:
            say(f"llmflow: the unfinished output of an earlier run is kept in {writer.set_aside}")
        elif not self._known and not task.quiet and Path(task.output).is_file():
            say(
                f"llmflow: {task.output} exists already: it will be replaced once all rows are done"
            )
        return writer

    def _make_job(self, total: int | None) -> FileRun:
        task, llm, run, rows = self._task, self._llm, self._run, self._rows
        selection = self._selection
        submission = overflow = None
        if task.in_batches:
            submission = Submission(llm, run, rows, selection, total=total, detach=task.detach)
        if task.mode != "batch" and task.may_use_batches:
            overflow = Submission(llm, run, rows, selection)
        live = default_concurrency(llm.limiter.quota)
        default = batch_jobs.IN_BATCHES if task.in_batches else live
        return FileRun(
            llm,
            rows,
            selection,
            self._writer,
            concurrency=task.concurrency or default,
            fail_fast=task.fail_fast,
            drain_seconds=DRAIN_SECONDS if task.drain is None else task.drain,
            contact=self._contact,
            submission=submission,
            overflow=overflow,
            layout=self._layout,
        )

    # --- its work and its end ---------------------------------------------------------

    def _work(self, total: int | None) -> int:
        """Run the job, and report its outcome; every end comes through here."""
        job, run = self._job, self._run
        # A bar among rows that scroll by would spoil both.
        quiet = self._task.quiet or self._shows_rows
        stream = None if quiet else sys.stderr
        progress = FileProgress(job, self._llm, run, total=total, stream=stream)
        self._postponed.end()
        try:
            loops.run(_run_job(job, progress, quiet=quiet))
        except KeyboardInterrupt:  # where signals cannot be handled on the loop
            job.interrupted = True
        if job.once:  # else they were read, and it was said, before
            warn_of_repairs(job.source)
        self._finish()
        # The answers are in their place: a signal now would only lose the end of the journal.
        ignore_signals()
        self._close_run()
        remember_limits()
        where = {"output": self._output, "failures": self._failures}
        self._tell(progress.report(**where, stopped_by=self._stopped_by))
        return self._code

    def _finish(self) -> None:
        """Complete or abort the output."""
        job, writer = self._job, self._writer
        if job.detached:
            writer.abort(keep=False)
            jobs = batch_jobs.describe_unfinished(self._run.batch_jobs)
            self._waits_for = jobs or "its batch jobs"
            return
        if job.stopped_by is None and not job.interrupted:
            try:
                writer.commit()
            except LLMFlowError as error:
                job.stopped_by = error
            except KeyboardInterrupt:
                job.interrupted = True
            else:
                self._output = writer.name
                if job.counters.failed:
                    self._code, self._failures = _SOME_FAILED, str(writer.failed_path)
                return
        keep = writer.written > 0
        try:
            writer.abort(keep=keep)
        except LLMFlowError as error:
            job.stopped_by = job.stopped_by or error
        self._code, self._stopped_by = _reason(job)
        if keep:
            self._output = str(writer.partial_path or writer.name)
            if writer.failed:
                self._failures = str(partial_path(Path(writer.failed_path)))

    def _close_run(self) -> None:
        """Close the run's journal; a failure becomes part of the outcome."""
        job = self._job
        try:
            error = job.stopped_by or (KeyboardInterrupt() if job.interrupted else None)
            self._run.close(error, waits_for=self._waits_for)
        except LLMFlowError as error:
            if self._stopped_by is None:
                self._code, self._stopped_by = _WRONG, str(error).rstrip(".")

    def _tell(self, report: Report) -> None:
        """Print the report, and the remedy for a stop or failures."""
        run, task = self._run, self._task
        if self._code == _READER_GONE:
            silence(sys.stdout)
            return
        if self._waits_for is not None and self._stopped_by is None:
            batch_jobs.print_detached(run, task, self._job.submission)
            return
        if task.as_json:
            # Standard output may hold the rows.
            if not write_json(sys.stderr if task.output == "-" else sys.stdout, report.to_dict()):
                say("llmflow: the report could not be printed")
        elif not task.quiet and (report.items or not report.stopped_by):
            say("\n".join(report.lines()))
        if report.stopped_by is None:
            hint = _retry_hint(report)
            if hint is not None and run.name is not None and not task.quiet and not task.as_json:
                say(hint)
            return
        message = _stop_message(report, run, resume_hint(run, task, report))
        if self._code in INTERRUPTED_CODES:
            say(f"llmflow: {message}")
        else:
            complain(message)


async def _run_job(job: FileRun, progress: FileProgress, *, quiet: bool) -> None:
    def interrupt() -> None:
        if quiet and not job.interrupted and not job.submitting:
            say("llmflow: stopping; waiting for requests in flight, Ctrl-C again drops them")
        job.interrupt()
        progress.refresh()

    with on_signals(interrupt), progress:
        await job.run()


def _checked_total(rows: RowSource, postponed: Postponed, quiet: bool) -> int:
    """Count all rows by reading them, so that errors show before payment."""
    total = 0
    with Notice(lambda: f"checking {rows.name}: {counted(total, 'row')}", enabled=not quiet):
        for _ in rows:
            total += 1
            postponed.check()
    warn_of_repairs(rows)
    return total


def _reason(job: FileRun) -> tuple[int, str]:
    """Return the exit code of a job that did not end by itself, and the reason."""
    error = job.stopped_by
    if error is None:
        return exit_code(), "interrupted"
    if isinstance(error.__cause__, BrokenPipeError):
        return _READER_GONE, str(error)
    text = "; ".join([str(error).rstrip("."), *getattr(error, "__notes__", ())])
    if job.contact.lost:
        remedy = "nothing answers there: check --base-url, the proxy and the network"
        return _STOPPED, f"{text}; {remedy}"
    if isinstance(error, (ProviderError, BudgetExceededError)):
        return _STOPPED if error.fatal else _SOME_FAILED, text
    return _SOME_FAILED if job.fails_fast and isinstance(error, InputError) else _WRONG, text


def _retry_hint(report: Report) -> str | None:
    """Return how rows that failed can be asked again."""
    # A row that does not fit the prompt is looked at again in any case.
    kinds = report.reasons.keys() - {InputError.__name__}
    if not kinds:
        return None
    more = " or a higher --reasks" if InvalidAnswerError.__name__ in kinds else ""
    return f"the same command with --retry-failed{more} retries failed rows"


def _stop_message(report: Report, run: Run, hint: str | None) -> str:
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
    return f"{text}; {hint}" if hint else text


def resume_hint(run: Run, task: Task, report: Report) -> str | None:
    """Return how to continue a run; None if it would start anew."""
    if run.name is None or run.totals is None:
        return None
    jobs = batch_jobs.describe_unfinished(run.batch_jobs)
    reached = report.run is not None and report.run.reached is not None
    failed_fast = report.failed and task.fail_fast
    if jobs is not None and not reached and not failed_fast:
        return f"{jobs}: `llmflow resume {run.name}` collects the answers"
    if jobs is None and not report.items and not run.totals.answers:
        return None
    remedy, option = "run the same command again", ""
    if reached:
        remedy, option = f"{remedy} with a higher --budget", " --budget USD"
    elif failed_fast:
        option = " --retry-failed"
        remedy = f"{remedy} with --retry-failed, or without --fail-fast"
    hint = f"to continue, {remedy}"
    if not task.is_piped:
        hint += f", or `llmflow resume {run.name}{option}`"
    return hint if jobs is None else f"{jobs}; {hint}"
