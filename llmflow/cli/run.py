"""``llmflow run``: a prompt for every row of a file."""

from __future__ import annotations

from typing import Any

import click

from llmflow.cli.options import (
    AMOUNT,
    CONFIG,
    DETAILS,
    ESCAPE_FORMULAS,
    GroupedCommand,
    given_prompt,
    question_options,
)
from llmflow.cli.reading import reading_options
from llmflow.cli.task import Task


@click.command(
    "run", cls=GroupedCommand, short_help="Answer a prompt for every row of a file or folder."
)
@click.argument("source", metavar="INPUT")
@question_options
@reading_options
@click.option(
    "-o", "--output", required=True, metavar="OUT", help=".jsonl, .csv, .parquet, or - for stdout."
)
@ESCAPE_FORMULAS
@click.option("--base-url", metavar="URL", help="Address of a compatible server, up to /v1.")
@click.option("--rpm", type=AMOUNT, help="Requests per minute that the provider allows.")
@click.option("--tpm", type=AMOUNT, help="Tokens per minute that the provider allows.")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Rows under way at once; by default 100, with --rpm as many as it takes.",
)
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
    help="Stop before the run, with its earlier sessions, costs more US dollars.",
)
@click.option("--retry-failed", is_flag=True, help="Ask again the rows that failed before.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first row that fails.")
@click.option(
    "--dedupe", is_flag=True, help="Let equal rows under way at the same time share one answer."
)
@click.option("--cache", is_flag=True, help="Take and keep answers for all runs on this machine.")
@click.option(
    "--run",
    metavar="NAME",
    help="Name of the run; by default made from the path of OUT, or for stdout from what is asked.",
)
@click.option("--no-journal", is_flag=True, help="Keep no answers for another session.")
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long to wait for answers on their way once stopped; by default 60.",
)
@click.option(
    "--mode",
    type=click.Choice(["parallel", "batch", "auto"]),
    help="Ask at once (parallel, the default), by the provider's batch jobs, which take hours and "
    "cost half, or by whichever of the two is in time and within the budget (auto).",
)
@click.option(
    "--deadline",
    metavar="TIME",
    help="When all is to be answered, such as 6h or 90m; leftovers of jobs are asked in parallel.",
)
@click.option(
    "--fallback",
    type=click.Choice(["parallel", "batch"]),
    help="What else to do: parallel for what batch jobs leave over, batch where a daily quota is "
    "used up.",
)
@click.option(
    "--detach",
    is_flag=True,
    help="Leave once the batch jobs are at the provider; `llmflow resume` collects the answers.",
)
@DETAILS
@click.option("--dry-run", is_flag=True, help="Send nothing: show what `llmflow plan` shows.")
@CONFIG
@click.option("--quiet", is_flag=True, help="Show neither progress nor report.")
@click.option("--json", "as_json", is_flag=True, help="Print the closing report as JSON.")
def command(prompt: str | None, prompt_file: str | None, **options: Any) -> int:
    """Answer a prompt for every row of INPUT.

    INPUT is a .jsonl, .csv, .tsv or .parquet file, a .txt file with one text per line,
    a folder of .txt and .md files, or - for standard input (JSON lines, or one text
    per line; others by --format). Each row of OUT holds the
    input's fields, the row's position as 'index' and the answer as 'response', in the order
    of the answers; sort by 'index' for the input's order. Rows that failed for good are in
    OUT's neighbour *.failed.jsonl, with the reason. Until the end, and after an
    interruption, the answers are in OUT's neighbour *.partial.*; an OUT that is there already
    is replaced at the end.

    Every answer is kept in the run's journal before it counts. Running the same command
    again, after a crash or with another INPUT or prompt, takes from there what was asked
    before, at no cost, and asks the rest: OUT is then complete, without duplicates, and on
    stdout all rows are printed again. `llmflow runs` lists the runs, `llmflow resume` goes on
    with one. Ctrl-C waits for answers on their way (--drain); a second one drops them.

    With --mode batch the rows go to the provider as jobs of many rows. These go on without
    llmflow, after Ctrl-C, too: `llmflow status` looks at them, `llmflow cancel` ends them, and
    `llmflow resume`, or the same command, writes OUT. Before all jobs have ended there is no
    *.partial.*; INPUT is read twice, and cannot be a pipe.

    The API key is read from the provider's environment variable, such as OPENAI_API_KEY, or
    from the one that llmflow.toml names. Quotas, policies and addresses come from there, too,
    unless an option says otherwise.

    \b
    Examples:
      llmflow run examples/texts --prompt "Summarize: {text}" --model sim/demo -o out.jsonl
      llmflow run reviews.csv --prompt "Is this positive? {review}" \\
          --model openai/gpt-6-luna --rpm 500 --tpm 200k --budget 5 -o labelled.csv
    """
    from llmflow.cli.run_task import execute

    return execute(Task(prompt=given_prompt(prompt, prompt_file), **options))
