"""``llmflow status``: how far batch jobs are. It changes nothing."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import click

from llmflow import loops
from llmflow.cli.batching import job_lines
from llmflow.cli.options import CONFIG, run_names
from llmflow.cli.reaching import Work, look, reach, work_of
from llmflow.cli.terminal import printable, say, write
from llmflow.printable import counted

_FIRST_LOOK: Final = 10.0
_SLOWER: Final = 1.5
_SLOWEST: Final = 6.0


@click.command("status", short_help="Show how far batch jobs are.")
@click.argument("name", metavar="[RUN]", required=False, shell_complete=run_names)
@click.option("--watch", is_flag=True, help="Show it again and again until all have ended.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object for each run.")
@CONFIG
def command(name: str | None, watch: bool, as_json: bool, config: str | None) -> int:
    """Show the batch jobs of RUN, or of all runs with jobs that are still running.

    The provider is asked where that is possible; else it shows what was last written down,
    and why. Nothing is changed: `llmflow resume` collects answers, `llmflow cancel` ends jobs.

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
            works = _works(name)
            loops.run(_look(works))
            going_on = _show(works, name=name, as_json=as_json)
            if not watch or not going_on:
                return 0
            try:
                time.sleep(wait)
            except KeyboardInterrupt:
                from llmflow.cli.signals import exit_code

                say("llmflow: interrupted; the batch jobs are still running")
                return exit_code()
            wait = min(wait * _SLOWER, poll * _SLOWEST)


def _works(name: str | None) -> list[Work]:
    from llmflow.errors import JournalError
    from llmflow.runs.catalog import find_run, list_runs

    if name is not None:
        return [work_of(find_run(name))]
    works = []
    for run in list_runs():
        try:
            work = work_of(run)
        except JournalError:
            continue  # `llmflow runs` says so
        if work.unfinished:
            works.append(work)
    return works


async def _look(works: list[Work]) -> None:
    for work in works:
        if work.run.busy:
            who = f"process {work.run.pid}" if work.run.pid else "a process"
            work.notes.append(f"{who} is working on it; this is what it has written down")
        elif work.unfinished:
            await look(work, reach(work))


def _show(works: list[Work], *, name: str | None, as_json: bool) -> bool:
    """Print the jobs; return whether one of them goes on at the provider."""
    going_on = False
    for work in works:
        left = [each for each in work.unfinished if each.state != "fetched" or work.run.busy]
        # What waits here, or may not be there at all, waits for a process.
        going_on = going_on or any(work.run.busy or each.state == "created" for each in left)
        if as_json:
            _print_json(work)
            continue
        head = f"run {work.run.name}: {_count(len(work.jobs), len(left))}"
        write(sys.stdout, "\n".join([head, *(job_lines(work.jobs) if work.jobs else ())]))
        for note in work.notes:
            say(f"note: {note}")
        if work.unfinished and not left:
            have = "the batch job has" if len(work.jobs) == 1 else "all batch jobs have"
            say(f"{have} ended: `llmflow resume {work.run.name}` collects the answers")
        elif not work.run.busy and any(each.state == "sealed" for each in left):
            say(f"what waits to be sent is sent by `llmflow resume {work.run.name}`")
        elif not work.run.busy and any(each.state == "creating" for each in left):
            say(
                "a job that was on its way to the provider may or may not be there: "
                f"`llmflow resume {work.run.name}` looks for it"
            )
    if not works and not as_json and name is None:
        say("no run has batch jobs that are still running")
    return going_on


def _count(jobs: int, running: int) -> str:
    """Return how many batch jobs there are, and how many of them are still running.

    >>> _count(1, 0), _count(3, 2)
    ('1 batch job, ended', '3 batch jobs, 2 still running')
    """
    if not jobs:
        return "no batch jobs"
    words = counted(jobs, "batch job")
    if not running:
        return f"{words}, {'' if jobs == 1 else 'all '}ended"
    return f"{words}, {'' if jobs == 1 else f'{running:,} '}still running"


def _print_json(work: Work) -> None:
    import orjson

    plain: dict[str, Any] = {
        "run": work.run.name,
        "busy": work.run.busy,
        "jobs": [each.plain() for each in work.jobs],
        "notes": [printable(each) for each in work.notes],
    }
    write(sys.stdout, orjson.dumps(plain).decode())
