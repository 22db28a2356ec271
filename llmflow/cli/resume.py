"""``llmflow resume``: go on with a run, with what it was started with."""

from __future__ import annotations

from typing import Any

import click

from llmflow.cli.task import Task
from llmflow.errors import InputError


@click.command("resume", short_help="Go on with a run that was stopped.")
@click.argument("name", metavar="RUN")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Another budget, for all sessions of the run together.",
)
@click.option("--retry-failed", is_flag=True, help="Ask again the rows that failed before.")
@click.option("--quiet", is_flag=True, help="Show neither progress nor report.")
@click.option("--json", "as_json", is_flag=True, help="Print the closing report as JSON.")
def command(name: str, budget: float | None, **options: Any) -> int:
    """Go on with RUN, a name of `llmflow runs` or its beginning.

    It does the same as running the run's last command again: rows that were answered come
    from the journal, and the rest is asked.

    \b
    Example:
      llmflow resume summaries-3cb11b --budget 10
    """
    from llmflow.cli.execution import execute
    from llmflow.runs.catalog import find_run

    run = find_run(name)
    kept = run.about.get("task")
    if not isinstance(kept, dict):
        program = run.about.get("program") or "a Python program"
        raise InputError(f"the run {run.name} was started by {program}: run that again to go on")
    if budget is not None:
        options["budget"] = budget
    task = Task.restored(kept, name=run.name, **options)
    if task.is_piped:
        raise InputError(
            f"the rows of {run.name} came through a pipe, which cannot be read again; run its "
            f"command again: {task.command()}"
        )
    return execute(task)
