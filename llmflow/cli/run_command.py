"""``llmflow run`` and ``llmflow resume``: prompts for every row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from llmflow.cli.options import (
    BUDGET,
    REASKS,
    RETRY_FAILED,
    SCHEMA_AGAIN,
    GroupedCommand,
    bad_row_options,
    drain_option,
    given_prompt,
    output_options,
    run_names,
    task_options,
)
from llmflow.cli.signals import Postponed
from llmflow.cli.task import Task, in_folder
from llmflow.cli.terminal import say
from llmflow.errors import InputError, JournalError, redact


@click.command("run", cls=GroupedCommand)
@click.argument("source", metavar="INPUT")
@task_options
@click.option(
    "-o", "--output", required=True, metavar="OUT", help=".jsonl, .csv, .parquet, or - for stdout."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Rows in flight at once; default: 100, with --rpm as many as it takes.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first row that fails.")
@click.option(
    "--dedupe", is_flag=True, help="Let identical rows in flight at the same time share one answer."
)
@click.option(
    "--cache",
    is_flag=True,
    help="Use the answer cache that all runs on this machine share, and add to it.",
)
@click.option(
    "--no-journal", is_flag=True, help="Keep no journal: no later session can reuse the answers."
)
@drain_option("60")
@click.option(
    "--mode",
    type=click.Choice(["parallel", "batch", "auto"]),
    help="parallel (default): live requests; batch: the provider's batch jobs, which take hours "
    "and cost half; auto: whichever of the two meets the deadline and the budget.",
)
@click.option(
    "--deadline",
    metavar="TIME",
    help="Finish within this time, such as 6h or 90m; rows that batch jobs have not answered in "
    "time are sent live.",
)
@click.option(
    "--fallback",
    type=click.Choice(["parallel", "batch"]),
    help="Second mode: parallel for rows that batch jobs did not answer, batch once a daily "
    "quota is used up.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Exit after submitting the batch jobs; `llmflow resume` collects the answers.",
)
@output_options
@click.option("--dry-run", is_flag=True, help="Send nothing: show what `llmflow plan` shows.")
def run(prompt: str | None, prompt_file: str | None, **options: Any) -> int:
    """Answer a prompt for every row of INPUT.

    INPUT is a .jsonl, .csv, .tsv or .parquet file, a .txt file with one text per line,
    a folder of .txt and .md files, or - for standard input (JSON lines, or one text
    per line; others with --format). Each row of OUT holds the input's fields, the row's
    position as 'index' and the answer as 'response', in order of completion; sort by 'index'
    for the input's order. Rows that failed for good are in *.failed.jsonl beside OUT, with the
    reason. The output file gets its final name only once it is complete: until then, and after
    an interruption, the answers are in *.partial.* beside it.

    Every answer is first written to the run's journal. Running the same command again, after a
    crash or with another INPUT or prompt, replays what was answered before from there, at no
    cost, and sends the rest: OUT is then complete, without duplicates; on stdout all rows are
    printed again. `llmflow runs` lists the runs, `llmflow resume` continues one. Ctrl-C waits
    for requests in flight (--drain); a second Ctrl-C drops them.

    With --mode batch the rows are submitted as jobs of many rows. The jobs keep running without
    llmflow, also after Ctrl-C: `llmflow status` shows them, `llmflow cancel` cancels them, and
    `llmflow resume`, or the same command, writes OUT. There is no *.partial.* before all jobs
    have ended; INPUT is read twice, and cannot be a pipe.

    The API key is read from the provider's environment variable, such as OPENAI_API_KEY, or
    from the one that llmflow.toml names. Quotas, policies and addresses come from llmflow.toml,
    too, unless an option overrides them.

    \b
    Examples:
      llmflow run examples/texts --prompt "Summarize: {text}" --model sim/demo -o out.jsonl
      llmflow run reviews.csv --prompt "Is this positive? {review}" \\
          --model openai/gpt-6-luna --rpm 500 --tpm 200k --budget 5 -o labelled.csv
    """
    task = Task(prompt=given_prompt(prompt, prompt_file), **options)
    with Postponed():
        from llmflow.cli.run_task import execute

    return execute(task)


@click.command("resume", cls=GroupedCommand)
@click.argument("name", metavar="RUN", shell_complete=run_names)
@BUDGET
@bad_row_options
@RETRY_FAILED
@SCHEMA_AGAIN
@REASKS
@output_options
@drain_option("as before")
@click.option("--config", metavar="FILE", help="Another configuration file than the run's own.")
def resume(name: str, config: str | None, details: bool, schema: str | None, **options: Any) -> int:
    """Continue RUN: a name that `llmflow runs` lists, or its beginning.

    The same as running the run's last command again, in its folder: answered rows are replayed
    from the journal, and the rest is sent. A --schema is the one that the run began with, as it
    was then: no file is read again for it and no module imported, unless --schema names it.

    \b
    Examples:
      llmflow resume summaries-3cb11b
      llmflow resume summaries --budget 10
    """
    with Postponed():
        from llmflow.cli.run_task import execute
        from llmflow.cli.schemas import resumed_output, stored_schema_remark
        from llmflow.config import use_config
        from llmflow.runs.catalog import find_run

    with use_config(config):
        found = find_run(name)
    if found.state == "unreadable":
        raise JournalError(found.reason or f"the journal of {found.name} cannot be read")
    stored = found.about.get("task")
    if not isinstance(stored, dict):
        program = redact(str(found.about.get("program") or "a Python program"))
        raise InputError(
            f"the run {found.name} was started by {program}: run that again to continue"
        )
    given = {name: value for name, value in options.items() if value is not None}
    if details:  # else as before
        given["details"] = True
    if config is not None:
        given["config"] = str(Path(config).absolute())
    task = replace(Task.restored(stored, name=found.name), **given)
    if task.is_piped:
        raise InputError(
            f"the rows of {found.name} came through a pipe, which cannot be read again: pipe them "
            f"into {task.command()}"
        )
    task, output = resumed_output(task, schema)
    if not task.quiet and (remark := stored_schema_remark(task)) is not None:
        say(f"llmflow: {remark}")
    with in_folder(task.folder):
        return execute(task, runs=found.folder.parent, output=output)
