"""``llmflow status``: shows the progress of batch jobs; changes nothing."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import click

from llmflow import loops
from llmflow.cli.batch_jobs import RunJobs, job_lines
from llmflow.cli.options import CONFIG, JSON_LINES, run_names
from llmflow.cli.terminal import printable, say, write, write_json
from llmflow.format import counted

_FIRST_LOOK: Final = 10.0
_SLOWER: Final = 1.5
_SLOWEST: Final = 6.0


@click.command("status", short_help="Show the progress of batch jobs.")
@click.argument("name", metavar="[RUN]", required=False, shell_complete=run_names)
@click.option("--watch", is_flag=True, help="Repeat until all jobs have ended.")
@JSON_LINES
@CONFIG
def command(name: str | None, watch: bool, as_json: bool, config: str | None) -> int:
    """Show batch jobs of RUN, or of all runs with running jobs.

    The status is the provider's, if it can be reached; else the last one on record, with the
    reason. Nothing is changed: `llmflow resume` collects answers, `llmflow cancel` cancels jobs.

    \b
    Examples:
      llmflow status
      llmflow status summaries-3cb11b --watch
    """
    from llmflow.config import load_config, use_config

    with use_config(config):
        poll = load_config().batch.get("poll") or _FIRST_LOOK
        wait = poll
        while True:
            found = _found(name)
            loops.run(_look(found))
            going_on = _show(found, name=name, as_json=as_json)
            if not watch or not going_on:
                return 0
            try:
                time.sleep(wait)
            except KeyboardInterrupt:
                from llmflow.cli.signals import exit_code

                say("llmflow: interrupted; the batch jobs are still running")
                return exit_code()
            wait = min(wait * _SLOWER, poll * _SLOWEST)


def _found(name: str | None) -> list[RunJobs]:
    from llmflow.errors import JournalError
    from llmflow.runs.catalog import find_run, list_runs

    if name is not None:
        return [RunJobs.of(find_run(name))]
    found = []
    for run in list_runs():
        try:
            run_jobs = RunJobs.of(run)
        except JournalError:
            continue  # `llmflow runs` says so
        if run_jobs.unfinished:
            found.append(run_jobs)
    return found


async def _look(found: list[RunJobs]) -> None:
    for run_jobs in found:
        if run_jobs.run.busy:
            run_jobs.note(f"{run_jobs.worker} is working on it; this is what it has written down")
        elif run_jobs.unfinished:
            await run_jobs.refresh(run_jobs.connect())


def _show(found: list[RunJobs], *, name: str | None, as_json: bool) -> bool:
    """Print the jobs; return whether one of them is still running."""
    going_on = False
    for run_jobs in found:
        left = [
            each for each in run_jobs.unfinished if each.state != "fetched" or run_jobs.run.busy
        ]
        # What waits here, or may not be there at all, waits for a process.
        going_on = going_on or any(run_jobs.run.busy or each.state == "created" for each in left)
        if as_json:
            write_json(sys.stdout, _plain(run_jobs))
            continue
        head = f"run {run_jobs.run.name}: {_count(len(run_jobs.jobs), len(left))}"
        write(sys.stdout, "\n".join([head, *(job_lines(run_jobs.jobs) if run_jobs.jobs else ())]))
        for note in run_jobs.notes:
            say(f"note: {note}")
        if run_jobs.unfinished and not left:
            have = "the batch job has" if len(run_jobs.jobs) == 1 else "all batch jobs have"
            say(f"{have} ended: `llmflow resume {run_jobs.run.name}` collects the answers")
        elif not run_jobs.run.busy and any(each.state == "sealed" for each in left):
            say(f"jobs that wait here are sent by `llmflow resume {run_jobs.run.name}`")
        elif not run_jobs.run.busy and any(each.state == "creating" for each in left):
            say(
                "a job may or may not have been created at the provider: "
                f"`llmflow resume {run_jobs.run.name}` checks that"
            )
    if not found and not as_json and name is None:
        say("no run has batch jobs that are still running")
    return going_on


def _count(jobs: int, running: int) -> str:
    """Return how many batch jobs there are and how many still run.

    >>> _count(1, 0), _count(3, 2)
    ('1 batch job, ended', '3 batch jobs, 2 still running')
    """
    if not jobs:
        return "no batch jobs"
    words = counted(jobs, "batch job")
    if not running:
        return f"{words}, {'' if jobs == 1 else 'all '}ended"
    return f"{words}, {'' if jobs == 1 else f'{running:,} '}still running"


def _plain(run_jobs: RunJobs) -> dict[str, Any]:
    return {
        "run": run_jobs.run.name,
        "busy": run_jobs.run.busy,
        "jobs": [each.plain() for each in run_jobs.jobs],
        "notes": [printable(each) for each in run_jobs.notes],
    }
