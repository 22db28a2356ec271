"""``llmflow plan``: what a run would send, cost and take."""

from __future__ import annotations

import shutil
import sys
import time
from typing import IO, TYPE_CHECKING, Any, Final

import click

from llmflow.cli.options import JSON, GroupedCommand, given_prompt, task_options
from llmflow.cli.prepare import check_prompt, resolve_model, rows_of, warn_of_repairs
from llmflow.cli.schemas import named_output, with_stored_schema
from llmflow.cli.task import Task
from llmflow.cli.terminal import Notice, printable, say, write, write_json
from llmflow.format import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmflow.jobs.planning import Plan
    from llmflow.tables import Line

_NOWHERE: Final = "-"


@click.command("plan", cls=GroupedCommand)
@click.argument("source", metavar="INPUT")
@task_options
@click.option(
    "-o", "--output", metavar="OUT", help="The run's output: rows it has answered are not counted."
)
@click.option("--cache", is_flag=True, help="Count identical rows once.")
@click.option(
    "--sample",
    type=click.IntRange(min=0, max=1000),
    default=0,
    metavar="N",
    help="Send N rows, spread over INPUT, to measure how long answers are. They are paid for, and "
    "kept in the run, if one is named.",
)
@click.option(
    "--exact", is_flag=True, help="Count the tokens of all rows; default: of at most 20,000."
)
@click.option("--quiet", is_flag=True, help="Show no progress.")
@JSON
def plan(
    *, prompt: str | None, prompt_file: str | None, sample: int, exact: bool, **options: Any
) -> int:
    """Estimate what `llmflow run` with these options would send, cost and take.

    Nothing is sent, and no key is needed, except for --sample. Each amount says how it is
    known: input tokens are counted, or estimated if the model's vocabulary is not public;
    output tokens come from a sample, from the run's answers so far, from earlier runs of the
    model, or from the bound --max-tokens. An amount based on a sample is a range, a 95 %
    confidence interval. Prices do not include prompt-cache discounts.

    \b
    Examples:
      llmflow plan reviews.csv --prompt "Is this positive? {review}" \\
          --model openai/gpt-6-luna --rpm 500 -o labelled.csv
      llmflow plan examples/texts --prompt "Summarize: {text}" --model sim/demo --sample 5

    Exit codes: 0, or 2 if something is wrong.
    """
    unnamed = options["output"] is None
    if unnamed:
        options["output"] = _NOWHERE
    no_journal = unnamed and options["run"] is None
    task = Task(prompt=given_prompt(prompt, prompt_file), **options, no_journal=no_journal)
    return show_plan(task, sample=sample, exact=exact)


def show_plan(task: Task, *, sample: int = 0, exact: bool = False) -> int:
    """Print the plan of a task, and return the exit code."""
    from llmflow.config import use_config
    from llmflow.jobs.plan_report import lines

    with use_config(task.config):
        plan = _plan(task, sample=sample, exact=exact)
    if task.as_json:
        write_json(sys.stdout, plan.to_dict())
    elif sys.stdout is not None:
        title = printable(f"plan: {task.source} with {plan.model}")
        _show(title, list(lines(plan)), sys.stdout)
    return 0


def _plan(task: Task, *, sample: int, exact: bool) -> Plan:
    from llmflow.config import load_config
    from llmflow.jobs.planning import make_plan
    from llmflow.rows import RowLayout

    rows, selection = rows_of(task)
    with rows:
        check_prompt(rows, selection, quiet=task.quiet)
        output = named_output(task)
        RowLayout(output, details=task.details)  # checks the names of its fields
        asked = resolve_model(task, output)
        prices = [
            place for name, place in asked.settings.origins.items() if name.startswith("price.")
        ]
        kept = not task.no_journal and load_config().journal.store != "off"
        read, started = 0, time.monotonic()

        def seen(count: int) -> None:
            nonlocal read
            read = count

        def progress() -> str:
            speed = read / max(time.monotonic() - started, 1e-9)
            return f"planning {rows.name}: {counted(read, 'row')}, {speed:,.0f}/s; Ctrl-C stops"

        with Notice(progress, enabled=not task.quiet):
            plan = make_plan(
                asked.llm,
                rows,
                selection,
                run=task.name if kept else None,
                retry_failed=task.retry_failed,
                cache=task.cache,
                budget=task.budget,
                sample=sample,
                exact=exact,
                concurrency=task.concurrency,
                origins=asked.settings.quota_origins()
                | {name: f"--{name}" for name in asked.given},
                price_source=prices[0] if prices else None,
                about={
                    "kind": "command",
                    "model": asked.llm.model,
                    "task": with_stored_schema(task, output).stored(),
                },
                seen=seen,
            )
        warn_of_repairs(rows)
        return plan


def _show(title: str, lines: Sequence[Line], stream: IO[str]) -> None:
    """Print a plan: a table on terminals, else a line per amount."""
    from llmflow.tables import text_table

    if stream.isatty():
        columns, rows = shutil.get_terminal_size()
        text = text_table(title, lines, width=columns, height=rows - 1)
    else:
        text = text_table(title, lines, width=sys.maxsize, height=None)
    if not write(stream, text):
        say("llmflow: the plan could not be printed")
