"""``llmflow cancel``: cancels a run's batch jobs and keeps their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

from llmflow import loops
from llmflow.cli.batch_jobs import RunJobs, describe_unfinished, task_of
from llmflow.cli.options import CONFIG, run_names
from llmflow.cli.terminal import say
from llmflow.errors import BatchCancelledError, InputError, ProviderError, redact
from llmflow.format import counted

if TYPE_CHECKING:
    from llmflow.batch.record import JobRecord
    from llmflow.llm import LLM
    from llmflow.runs.run import Run

_WAIT: Final = 120.0
_LOOK_SECONDS: Final = 2.0
_OVER: Final = (400, 404, 409)
"""What a provider says of a job that has ended, or is being cancelled."""


@click.command("cancel", short_help="Cancel the batch jobs of a run; keep their answers.")
@click.argument("name", metavar="RUN", shell_complete=run_names)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=_WAIT,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until the jobs have ended.",
)
@CONFIG
def command(name: str, wait: float, config: str | None) -> int:
    """Cancel the batch jobs of RUN, and keep their answers so far.

    Jobs that are not submitted yet are not submitted. The answers are written to the run's
    journal: `llmflow resume`, or the run's command again, sends only the missing rows. A provider
    may take ten minutes to cancel a job, and bills what it has done until then.
    """
    from llmflow.config import use_config
    from llmflow.runs.catalog import find_run

    with use_config(config):
        run_jobs = RunJobs.of(find_run(name))
        if not run_jobs.unfinished:
            say(f"no batch job of {run_jobs.run.name} is still running")
            return 0
        llms = run_jobs.connect()
        if not llms:
            raise InputError(
                f"the jobs of {run_jobs.run.name} cannot be reached: {run_jobs.notes[0]}"
            )
        end = _cancel_busy if run_jobs.run.busy else _cancel_idle
        try:
            loops.run(end(run_jobs, llms, wait))
        except KeyboardInterrupt:
            from llmflow.cli.signals import exit_code

            say(
                "llmflow: interrupted; the provider keeps cancelling what it was told to cancel: "
                f"`llmflow status {run_jobs.run.name}` shows the progress"
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
        count = sum(each.is_active for each in run.batch_jobs)
        # The jobs do so, too; but not before the wait is over, if it is short.
        untold = await _tell(run.batch_jobs, llms)
        say(f"cancelling {counted(count, 'batch job')} of {name}; this may take minutes")
        ended = await _settled(run, wait)
        kept = 0 if run.totals is None else run.totals.answers - before
        await run.session.stop_batches()
        left = describe_unfinished(run.batch_jobs)
        if left is None:
            run.close(BatchCancelledError("its batch jobs were cancelled"))
        else:
            run.close(waits_for=left)
    if ended and left is None:
        say(f"cancelled: {_kept(kept, count)}; `llmflow resume {name}` sends the missing rows")
    elif untold:
        say(f"{left}: not all could be cancelled: {untold[0]}; `llmflow cancel {name}` tries again")
    else:
        say(f"{left}: the provider is still cancelling; `llmflow cancel {name}` waits again")


async def _tell(jobs: Sequence[JobRecord], llms: Mapping[str, LLM]) -> list[str]:
    """Tell the provider to cancel jobs; return its errors."""
    from llmflow.transport import StreamChannel

    untold: list[str] = []

    async def tell(llm: LLM, job: str) -> None:
        try:
            await llm.provider.batch.cancel(job, StreamChannel())  # type: ignore[attr-defined]
        except ProviderError as error:
            if error.status not in _OVER:
                untold.append(redact(str(error)))

    there = [each for each in jobs if _is_there(each) and each.queue in llms]
    await asyncio.gather(*[tell(llms[each.queue], each.job) for each in there if each.job])
    return untold


def _is_there(job: JobRecord) -> bool:
    """Return whether the provider has a job that is certainly ours."""
    return job.state == "created" and job.job is not None and not job.found


def _kept(answers: int, jobs: int) -> str:
    """Return what is left of cancelled jobs.

    >>> _kept(0, 1), _kept(1, 2)
    ('nothing was answered by then', '1 answer of these jobs is kept')
    """
    if not answers:
        return "nothing was answered by then"
    whose = "this job" if jobs == 1 else "these jobs"
    return counted(answers, f"answer of {whose} is kept", f"answers of {whose} are kept")


async def _settled(run: Run, wait: float) -> bool:
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
    from llmflow.transport import StreamChannel

    name = run_jobs.run.name
    jobs = list(filter(_is_there, run_jobs.unfinished))
    for job in jobs:
        if (llm := llms.get(job.queue)) is not None:
            await llm.provider.batch.cancel(  # type: ignore[attr-defined]
                job.job, StreamChannel()
            )
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
