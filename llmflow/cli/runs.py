"""``llmflow runs``: lists, shows and removes runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from llmflow.cli.batch_jobs import RunJobs, describe_unfinished, job_lines, task_of
from llmflow.cli.options import JSON, JSON_LINES, CommandGroup, run_names
from llmflow.cli.terminal import printable, say, write, write_json
from llmflow.errors import InputError
from llmflow.format import compact, dollars
from llmflow.tables import columns

if TYPE_CHECKING:
    from llmflow.journal import RunSummary

_HEADINGS = ("run", "state", "answers", "failed", "cost", "last used", "what")
_NUMBERS = (2, 3, 4)


@click.group("runs", cls=CommandGroup, invoke_without_command=True)
@JSON_LINES
@click.pass_context
def runs(context: click.Context, as_json: bool) -> int:
    """List the runs on this machine, most recent first.

    Each is a folder with a journal: the answers that are replayed when it runs again.

    \b
    Examples:
      llmflow runs
      llmflow runs show summaries-3cb11b
      llmflow runs rm summaries-3cb11b
    """
    if context.invoked_subcommand is not None:
        return 0
    from llmflow.runs.catalog import list_runs, runs_folder

    found = list_runs()
    if as_json:
        for each in found:
            write_json(sys.stdout, _plain(each))
    elif found:
        rows = [_HEADINGS, *map(_row, found)]
        # Aligned on a terminal and elsewhere alike, so that `cut` and eyes agree.
        all(write(sys.stdout, line) for line in columns(rows, right=_NUMBERS))
    else:
        say(f"there are no runs in {runs_folder()}")
    return 0


@runs.command("show")
@click.argument("name", metavar="RUN", shell_complete=run_names)
@JSON
def show(name: str, as_json: bool) -> int:
    """Show RUN: its command, its answers and costs, and how it ended."""
    from llmflow.runs.catalog import find_run

    run = find_run(name)
    jobs = [] if run.state == "unreadable" else RunJobs.of(run).jobs
    if as_json:
        write_json(sys.stdout, {**_plain(run), "jobs": [each.plain() for each in jobs]})
        return 0
    for label, value in _facts(run):
        # A command is printable already, and its spaces are the prompt's.
        text = value if label == "command" else printable(value)
        write(sys.stdout, f"{label + ':':<12}{text}")
    if jobs:
        write(sys.stdout, "\n".join(["batch jobs:", *job_lines(jobs)]))
    return 0


@runs.command("rm")
@click.argument("names", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "--force", is_flag=True, help="Also remove runs with batch jobs that are still running."
)
def remove(names: Sequence[str], force: bool) -> int:
    """Remove runs and the answers in their journals. Output files stay.

    Names must be written in full here.
    """
    from llmflow.runs.catalog import find_run, remove_run

    # All of them are looked at before the first one is gone.
    for name in names:
        found = find_run(name)
        if found.name != name:
            raise InputError(
                f"{name!r} is only the beginning of {found.name}: write the name in full"
            )
        if found.busy:
            who = f"process {found.pid}" if found.pid else "a process"
            raise InputError(f"{who} is working on {name}: wait for it or stop it first")
        jobs = (
            None
            if force or found.state == "unreadable"
            else describe_unfinished(RunJobs.of(found).jobs)
        )
        if jobs is not None:
            raise InputError(
                f"{jobs}, to be paid, and nobody would collect the answers of {name}: "
                f"`llmflow cancel {name}` first, or --force"
            )
    for name in dict.fromkeys(names):
        remove_run(name)
        say(f"removed {name}")
    return 0


def _facts(run: RunSummary) -> Iterator[tuple[str, str]]:
    totals = run.totals
    state = f"{run.state} (process {run.pid})" if run.busy and run.pid else run.state
    yield "run", run.name
    yield "state", f"{state}: {run.reason}" if run.reason else state
    yield "answers", f"{totals.answers:,}"
    yield "failed", f"{totals.failures:,}"
    yield "requests", f"{totals.requests:,}"
    yield "tokens", f"{totals.input_tokens:,} in, {totals.output_tokens:,} out"
    yield "cost", _dollars(totals.cost) or "not known"
    yield "started", _moment(run.created_at)
    yield "last used", f"{_moment(run.last_used_at)}, session {run.sessions:,}"
    task = task_of(run)
    if task is not None:
        yield "command", task.command()
        if task.folder is not None:
            yield "folder", task.folder
    elif run.about.get("program"):
        yield "program", str(run.about["program"])
    yield "journal", f"{run.folder} ({compact(run.bytes)}B)"
    if run.state != "complete" and task is not None and not run.busy and not task.is_piped:
        yield "resume", f"llmflow resume {run.name}"


def _row(run: RunSummary) -> tuple[str, ...]:
    task = task_of(run)
    what = str(run.about.get("program") or "")
    if task is not None:
        what = f"{run.about.get('model', task.model)} -> {task.output}"
    return (
        run.name,
        run.state,
        f"{run.totals.answers:,}",
        f"{run.totals.failures:,}",
        _dollars(run.totals.cost),
        _moment(run.last_used_at),
        printable(what),
    )


def _plain(run: RunSummary) -> dict[str, Any]:
    return {**asdict(run), "folder": str(run.folder)}


def _dollars(cost: float | None) -> str:
    return "" if cost is None else dollars(cost)


def _moment(seconds: float) -> str:
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
