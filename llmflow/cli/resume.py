"""``llmflow resume``: continues a run with the task it was started with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmflow.cli.options import (
    BUDGET,
    RETRY_FAILED,
    GroupedCommand,
    bad_row_options,
    drain_option,
    output_options,
    run_names,
)
from llmflow.cli.signals import Postponed
from llmflow.cli.task import Task, in_folder
from llmflow.errors import InputError, JournalError, redact

if TYPE_CHECKING:
    from llmflow.journal import RunSummary


@click.command("resume", cls=GroupedCommand, short_help="Continue a run that was stopped.")
@click.argument("name", metavar="RUN", shell_complete=run_names)
@BUDGET
@bad_row_options
@RETRY_FAILED
@output_options
@drain_option("as before")
@click.option("--config", metavar="FILE", help="Another configuration file than the run's own.")
def command(name: str, config: str | None, details: bool, **options: Any) -> int:
    """Continue RUN: a name that `llmflow runs` lists, or its beginning.

    The same as running the run's last command again, in its folder: answered rows are replayed
    from the journal, and the rest is sent.

    \b
    Examples:
      llmflow resume summaries-3cb11b
      llmflow resume summaries --budget 10
    """
    with Postponed():
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
        raise InputError(f"the run {run.name} was started by {program}: run that again to continue")
    return Task.restored(kept, name=run.name)
