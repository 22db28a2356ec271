"""``llmflow plan``: what a run would ask, cost and take, without sending anything.

``llmflow run --dry-run`` shows the same::

    from llmflow.cli.plan import show_plan

    return show_plan(task)  # a `llmflow.cli.task.Task`; returns the exit code, 0

In Python: `llmflow.jobs.plan.make_plan`, which returns a frozen `Plan`.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import IO, TYPE_CHECKING, Any, Final

import click

from llmflow.cli.model import resolve_model
from llmflow.cli.options import AMOUNT, CONFIG, GroupedCommand, given_prompt, question_options
from llmflow.cli.reading import check_prompt, reading_options, rows_of, tell_repaired
from llmflow.cli.task import Task
from llmflow.cli.terminal import Notice, printable, say, write
from llmflow.format import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmflow.config import Settings
    from llmflow.jobs.plan import Plan
    from llmflow.jobs.plan_text import Line

_NOWHERE: Final = "-"


@click.command("plan", cls=GroupedCommand, short_help="Say what a run would ask, cost and take.")
@click.argument("source", metavar="INPUT")
@question_options
@reading_options
@click.option(
    "-o", "--output", metavar="OUT", help="The run's output: what it has answered is not counted."
)
@click.option("--run", metavar="NAME", help="Name of the run; by default made from OUT's.")
@click.option("--base-url", metavar="URL", help="Address of a compatible server, up to /v1.")
@click.option("--rpm", type=AMOUNT, help="Requests per minute that the provider allows.")
@click.option("--tpm", type=AMOUNT, help="Tokens per minute that the provider allows.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Upper bound of each answer.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Sampling temperature.")
@click.option("--system", help="Instructions for every row.")
@click.option(
    "--cache-system",
    type=click.Choice(["5m", "1h"]),
    help="Mark the instructions for the prompt cache of a provider that wants them marked "
    "(anthropic), to be kept so long.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")
@click.option(
    "--budget",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Say for how many rows so many US dollars reach.",
)
@click.option("--retry-failed", is_flag=True, help="Count the rows that failed before, too.")
@click.option("--cache", is_flag=True, help="Count rows that ask the same only once.")
@click.option(
    "--sample",
    type=click.IntRange(min=0, max=1000),
    default=0,
    metavar="N",
    help="Really ask N rows, spread over INPUT, to learn how long answers are. They are paid, and "
    "kept in the run, if one is named.",
)
@click.option(
    "--exact", is_flag=True, help="Count the tokens of all rows; by default of 20,000 at the most."
)
@CONFIG
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    *, prompt: str | None, prompt_file: str | None, sample: int, exact: bool, **options: Any
) -> int:
    """Say what `llmflow run` with these options would ask, cost and take.

    Nothing is sent, and no key is needed, unless --sample asks for it. Each amount says how it is
    known: input tokens are counted, or estimated where the model's vocabulary is not public;
    output tokens are those of a sample, of the run's answers so far, of earlier runs of the
    model, or the bound of --max-tokens. An amount that rests on a sample is a range, which
    holds in 95 of 100 cases. Prices are without the discount of prompt caches.

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
    """Print what a run of this task would come to; return the exit code.

    Args:
        task: what would be run; ``no_journal`` looks into no run.
        sample: how many items are really asked, and paid, to learn how long answers are.
        exact: whether the tokens of every item are counted.

    Raises:
        UsageError: as `llmflow run` would.
    """
    from llmflow.config import use_config
    from llmflow.jobs.plan_text import lines

    with use_config(task.config):
        plan = _plan(task, sample=sample, exact=exact)
    if task.as_json:
        import orjson

        write(sys.stdout, orjson.dumps(plan.to_dict()).decode())
    elif sys.stdout is not None:
        title = printable(f"plan: {task.source} with {plan.model}")
        _show(title, list(lines(plan)), sys.stdout)
    return 0


def _plan(task: Task, *, sample: int, exact: bool) -> Plan:
    from llmflow.config import load_config
    from llmflow.jobs.plan import make_plan

    rows, selection = rows_of(task)
    with rows:
        check_prompt(rows, selection, quiet=task.quiet)
        asked = resolve_model(task)
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
                origins=_origins(asked.settings, asked.given),
                price_source=prices[0] if prices else None,
                about={"kind": "command", "model": asked.llm.model, "task": task.stored()},
                seen=seen,
            )
        tell_repaired(rows)
        return plan


def _origins(settings: Settings, given: Mapping[str, Any]) -> dict[str, str]:
    """Return who has set each limit: an option, a line of the file, or the provider itself."""
    from llmflow.types import Quota

    origins = {each.name: "the provider's default" for each in fields(Quota)}
    origins |= {each: settings.origins.get(f"quota.{each}", origins[each]) for each in origins}
    return origins | {name: f"--{name}" for name in given}


def _show(title: str, lines: Sequence[Line], stream: IO[str]) -> None:
    """Print a plan: a table that fits the terminal, or one line for each amount elsewhere."""
    from llmflow.jobs.plan_table import text_table

    if stream.isatty():
        columns, rows = shutil.get_terminal_size()
        text = text_table(title, lines, width=columns, height=rows - 1)
    else:
        text = text_table(title, lines, width=sys.maxsize, height=None)
    if not write(stream, text):
        say("llmflow: the plan could not be printed")
