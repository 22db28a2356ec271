"""``llmflow resume``: go on with a run, with what it was started with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmflow.cli.options import DETAILS, ESCAPE_FORMULAS, GroupedCommand, run_names
from llmflow.cli.reading import bad_row_options
from llmflow.cli.task import Task
from llmflow.errors import InputError, JournalError, redact

if TYPE_CHECKING:
    from llmflow.journal import RunSummary

_DRAIN = "How long to wait for answers on their way once stopped; by default as long as before."


@click.command("resume", cls=GroupedCommand, short_help="Go on with a run that was stopped.")
@click.argument("name", metavar="RUN", shell_complete=run_names)
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Another budget, for all sessions of the run together.",
)
@bad_row_options
@click.option("--retry-failed", is_flag=True, help="Ask again the rows that failed before.")
@DETAILS
@ESCAPE_FORMULAS
@click.option("--quiet", is_flag=True, help="Show neither progress nor report.")
@click.option("--json", "as_json", is_flag=True, help="Print the closing report as JSON.")
@click.option("--drain", type=click.FloatRange(min=0), metavar="SECONDS", help=_DRAIN)
@click.option("--config", metavar="FILE", help="Another configuration file than the run's own.")
def command(name: str, config: str | None, details: bool, **options: Any) -> int:
    """Go on with RUN, a name of `llmflow runs` or its beginning.

    It does the same as running the run's last command again, in its folder: rows that were
    answered come from the journal, and the rest is asked.

    \b
    Examples:
      llmflow resume summaries-3cb11b
      llmflow resume summaries --budget 10
    """
    from llmflow.cli.run_task import execute
    from llmflow.config import use_config
    from llmflow.runs.catalog import find_run

    with use_config(config):
        run = find_run(name)
        # An unreadable journal says what to do about it.
        task = _task(run) if run.state != "unreadable" else None
    if task is None:
        raise JournalError(run.reason or f"the journal of {run.name} cannot be read")
    given = {name: value for name, value in options.items() if value is not None}
    if details:  # else as before
        given["details"] = True
    if config is not None:
        given["config"] = str(Path(config).absolute())
    task = replace(task, **given)
    if task.is_piped:
        raise InputError(
            f"the rows of {run.name} came through a pipe, which cannot be read again: pipe them "
            f"into {task.command()}"
        )
    with in_folder(task.folder):
        return execute(task, runs=run.folder.parent)


def _task(run: RunSummary) -> Task:
    kept = run.about.get("task")
    if not isinstance(kept, dict):
        program = redact(str(run.about.get("program") or "a Python program"))
        raise InputError(f"the run {run.name} was started by {program}: run that again to go on")
    return Task.restored(kept, name=run.name)


@contextmanager
def in_folder(folder: str | None) -> Iterator[None]:
    """Work where the run's command was given, if that is still there."""
    before = None
    with suppress(OSError):
        before = Path.cwd()
    with suppress(OSError):
        if folder is not None:
            os.chdir(folder)
    try:
        yield
    finally:
        with suppress(OSError):
            if before is not None:
                os.chdir(before)
