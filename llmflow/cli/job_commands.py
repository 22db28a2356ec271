"""``llmflow status`` and ``llmflow cancel``: show and cancel batch jobs."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import click

from llmflow import loops
from llmflow.cli.batch_jobs import RunJobs, describe_unfinished, job_lines, task_of
from llmflow.cli.options import CONFIG, JSON_LINES, run_names
from llmflow.cli.signals import exit_code
from llmflow.cli.terminal import printable, say, write, write_json
from llmflow.errors import BatchCancelledError, InputError, JournalError
from llmflow.format import counted

if TYPE_CHECKING:
    from llmflow.llm import LLM
    from llmflow.runs.run import Run

_FIRST_LOOK: Final = 10.0
_SLOWER: Final = 1.5
_SLOWEST: Final = 6.0
_CANCEL_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 2.0


@click.command("status")
@click.argument("name", metavar="[RUN]", required=False, shell_complete=run_names)
@click.option("--watch", is_flag=True, help="Repeat until all jobs have ended.")
@JSON_LINES
@CONFIG
def status(name: str | None, watch: bool, as_json: bool, config: str | None) -> int:
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
            loops.run(_refresh(found))
            show = _write_json if as_json else _show
            shown = all(show(each) for each in found)
            if not found and not as_json:
                say("no run has batch jobs that are still running")
            if not shown or not watch or not any(map(_is_running, found)):
                return 0  # nobody watches what is not shown
            try:
                time.sleep(wait)
            except KeyboardInterrupt:
                say("llmflow: interrupted; the batch jobs are still running")
                return exit_code()
            wait = min(wait * _SLOWER, poll * _SLOWEST)


def _found(name: str | None) -> list[RunJobs]:
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


async def _refresh(found: list[RunJobs]) -> None:
    for run_jobs in found:
        if run_jobs.run.busy:
            run_jobs.note(f"{run_jobs.worker} is working on it; this is what it has written down")
        elif run_jobs.unfinished:
            await run_jobs.refresh(run_jobs.connect())


def _is_running(run_jobs: RunJobs) -> bool:
    """Return whether waiting helps: jobs that wait here need a process."""
    busy = run_jobs.run.busy
    return any(busy or each.state == "created" for each in run_jobs.running)


def _show(run_jobs: RunJobs) -> bool:
    """Print the jobs of a run; return whether that could be done."""
    name, busy, left = run_jobs.run.name, run_jobs.run.busy, run_jobs.running
    head = f"run {name}: {_count(len(run_jobs.jobs), len(left))}"
    lines = job_lines(run_jobs.jobs) if run_jobs.jobs else ()
    shown = write(sys.stdout, "\n".join([head, *lines]))
    for note in run_jobs.notes:
        say(f"note: {note}")
    states = {each.state for each in left}
    if run_jobs.unfinished and not left:
        have = "the batch job has" if len(run_jobs.jobs) == 1 else "all batch jobs have"
        say(f"{have} ended: `llmflow resume {name}` collects the answers")
    elif not busy and "sealed" in states:
        say(f"jobs that wait here are sent by `llmflow resume {name}`")
    elif not busy and "creating" in states:
        say(
            "a job may or may not have been created at the provider: "
            f"`llmflow resume {name}` checks that"
        )
    return shown


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


def _write_json(run_jobs: RunJobs) -> bool:
    plain = {
        "run": run_jobs.run.name,
        "busy": run_jobs.run.busy,
        "jobs": [each.plain() for each in run_jobs.jobs],
        "notes": [printable(each) for each in run_jobs.notes],
    }
    return write_json(sys.stdout, plain)


@click.command("cancel")
@click.argument("name", metavar="RUN", shell_complete=run_names)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=_CANCEL_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the jobs have ended.",
)
@CONFIG
def cancel(name: str, wait: float, config: str | None) -> int:
    """Cancel the batch jobs of RUN, and keep their answers so far.

    Jobs that are not submitted yet are not submitted. The answers are written to the run's
    journal: `llmflow resume`, or the run's command again, sends only the missing rows. A provider
    may take ten minutes to cancel a job, and bills what it has done until then.
    """
    from llmflow.config import use_config
    from llmflow.runs.catalog import find_run

    with use_config(config):
        run_jobs = RunJobs.of(find_run(name))
        name = run_jobs.run.name
        if not run_jobs.unfinished:
            say(f"no batch job of {name} is still running")
            return 0
        llms = run_jobs.connect()
        if not llms:
            raise InputError(f"the jobs of {name} cannot be reached: {run_jobs.notes[0]}")
        end = _cancel_busy if run_jobs.run.busy else _cancel_idle
        try:
            loops.run(end(run_jobs, llms, wait))
        except KeyboardInterrupt:
            say(
                "llmflow: interrupted; the provider keeps cancelling the jobs: "
                f"`llmflow status {name}` shows the progress"
            )
            return exit_code()
    return 0


async def _cancel_idle(run_jobs: RunJobs, llms: Mapping[str, LLM], wait: float) -> None:
    """Cancel the jobs of an idle run, and collect their answers."""
    from llmflow.runs.run import Run

    found, name = run_jobs.run, run_jobs.run.name
    run = Run(
        name,
        folder=found.folder.parent,
        store=None if task_of(found) is None else "answers",
        about=found.about,
        mode="batch",
    )
    async with run:
        before = 0 if run.totals is None else run.totals.answers
        for llm in llms.values():
            await llm.collect()
        run.session.cancel_batches()
        run_jobs.jobs = run.batch_jobs
        count = len(run_jobs.unfinished)
        # The jobs do so, too; but not before the wait is over, if it is short.
        refused = await run_jobs.cancel(llms)
        say(f"cancelling {counted(count, 'batch job')} of {name}; this may take minutes")
        ended = await _has_settled(run, wait)
        kept = 0 if run.totals is None else run.totals.answers - before
        await run.session.stop_batches()
        left = describe_unfinished(run.batch_jobs)
        if left is None:
            run.close(BatchCancelledError("its batch jobs were cancelled"))
        else:
            run.close(waits_for=left)
    if ended and left is None:
        say(f"cancelled: {_kept(kept, count)}; `llmflow resume {name}` sends the missing rows")
    elif refused is not None:
        say(f"{left}: not all could be cancelled: {refused}; `llmflow cancel {name}` tries again")
    else:
        say(f"{left}: the provider is still cancelling; `llmflow cancel {name}` waits again")


def _kept(answers: int, jobs: int) -> str:
    """Return what is left of cancelled jobs.

    >>> _kept(0, 1), _kept(1, 2)
    ('nothing was answered by then', '1 answer of these jobs is kept')
    """
    if not answers:
        return "nothing was answered by then"
    whose = "this job" if jobs == 1 else "these jobs"
    return counted(answers, f"answer of {whose} is kept", f"answers of {whose} are kept")


async def _has_settled(run: Run, wait: float) -> bool:
    """Wait for the jobs' end; return whether all ended in time."""
    try:
        await asyncio.wait_for(run.settled(), wait)
    except BatchCancelledError:
        pass  # so the rows say that nobody has answered
    except TimeoutError:
        return False
    return True


async def _cancel_busy(run_jobs: RunJobs, llms: Mapping[str, LLM], wait: float) -> None:
    """Cancel the jobs of a run that another process collects."""
    name, jobs = run_jobs.run.name, run_jobs.ours
    if (refused := await run_jobs.cancel(llms)) is not None:
        raise InputError(f"not all could be cancelled: {refused}")
    say(
        f"cancelling {counted(len(jobs), 'batch job')} of {name}; this may take minutes. "
        f"{run_jobs.worker} is working on the run: it keeps what was answered, and then stops"
    )
    if any(each.state == "sealed" for each in run_jobs.unfinished):
        say("what it has not sent yet it may still send: stop it to prevent that")
    loop = asyncio.get_running_loop()
    until = loop.time() + wait
    tags = {each.tag for each in jobs}
    while loop.time() < until:
        await run_jobs.refresh(llms)
        if all(each.state in ("fetched", "done") for each in run_jobs.jobs if each.tag in tags):
            say("cancelled")
            return
        await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, until - loop.time())))
    say(f"the provider is still cancelling: `llmflow status {name}` shows the progress")
