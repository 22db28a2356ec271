"""``llmflow run``: a prompt for every row of a file."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

import click

from llmflow.cli.options import AMOUNT, CONFIG
from llmflow.cli.signals import on_signals, terminable
from llmflow.cli.terminal import Notice, TerminalRows, complain, say, silence, write
from llmflow.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from llmflow.jobs.contact import Contact
    from llmflow.jobs.job import Job
    from llmflow.jobs.report import Report
    from llmflow.llm import LLM
    from llmflow.rows import PromptTemplate, RowSource, RowWriter


@click.command("run", short_help="Answer a prompt for every row of a file or folder.")
@click.argument("source", metavar="INPUT")
@click.option(
    "--prompt",
    required=True,
    help="What to ask for each row; {text} is replaced by the row's field 'text'.",
)
@click.option(
    "--model",
    required=True,
    help="PROVIDER/MODEL, such as openai/gpt-4.1-mini; sim/demo needs no key.",
)
@click.option(
    "-o", "--output", required=True, metavar="OUT", help=".jsonl, .csv, .parquet, or - for stdout."
)
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
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")
@CONFIG
@click.option("--quiet", is_flag=True, help="Show neither progress nor report.")
@click.option("--json", "as_json", is_flag=True, help="Print the closing report as JSON.")
def command(**options: Any) -> int:
    """Answer a prompt for every row of INPUT.

    INPUT is a .jsonl, .csv, .tsv or .parquet file, a .txt file with one text per line,
    a folder of .txt and .md files, or - for standard input. Each row of OUT holds the
    input's fields, the row's position as 'index' and the answer as 'response', in the order
    of the answers; sort by 'index' for the input's order. Rows that failed for good are in
    OUT's neighbour *.failed.jsonl, with the reason. Until the end, and after an
    interruption, the answers are in OUT's neighbour *.partial.*. Ctrl-C waits for answers
    on their way; a second one drops them. Running again asks every row again.

    The API key is read from the provider's environment variable, such as OPENAI_API_KEY, or
    from the one that llmflow.toml names. Quotas, policies and addresses come from there, too,
    unless an option says otherwise.

    \b
    Examples:
      llmflow run examples/texts --prompt "Summarize: {text}" --model sim/demo -o out.jsonl
      llmflow run reviews.csv --prompt "Is this positive? {review}" \\
          --model openai/gpt-4.1-mini --rpm 500 --tpm 200k -o labelled.csv
    """
    return _run(_Options(**options))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    source: str
    prompt: str
    model: str
    output: str
    base_url: str | None
    rpm: float | None
    tpm: float | None
    concurrency: int | None
    max_tokens: int | None
    temperature: float | None
    system: str | None
    limit: int | None
    config: str | None
    quiet: bool
    as_json: bool


def _run(options: _Options) -> int:
    """Check everything that can be checked, then run; nothing is written before."""
    from llmflow.rows import PromptTemplate, open_rows

    template = PromptTemplate(options.prompt)
    with (
        terminable(),
        open_rows(options.source, limit=options.limit, stdin=_stdin(options)) as rows,
    ):
        text = f"waiting for the first row of {rows.name}; Ctrl-C stops"
        with Notice(lambda: text, enabled=rows.once and not options.quiet):
            template.check(rows.head()[0])
        llm, contact = _llm(options)
        writer = _writer(options, rows)
        try:
            total = None if rows.once else _checked_total(rows, quiet=options.quiet)
            job = _job(options, llm, rows, template, writer, contact)
            return _run_job(job, llm, writer, total, options)
        except BaseException:
            writer.abort(keep=writer.written > 0)
            raise


def _run_job(job: Job, llm: LLM, writer: RowWriter, total: int | None, options: _Options) -> int:
    """Run the job, and tell how it ended; every end comes through here."""
    from llmflow.cli import ending

    before, started, computed = llm.limiter.statistics(), time.monotonic(), time.process_time()
    try:
        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            runner.run(_work(job, llm, total, options))
    except KeyboardInterrupt:  # where signals cannot be handled on the loop
        job.interrupted = True
    seconds, computed = time.monotonic() - started, time.process_time() - computed
    end = ending.end(job, writer)
    report = ending.report_of(
        end, job, llm, before=before, total=total, seconds=seconds, cpu_seconds=computed
    )
    ending.keep_learned()
    if end.code == ending.READER_GONE:
        silence(sys.stdout)
        return end.code
    _show(report, options)
    if end.stopped_by is not None:
        words = ending.last_words(report)
        if end.code == ending.INTERRUPTED:
            say(f"llmflow: {words}")
        else:
            complain(words)
    return end.code


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loops, where the extra ``fast`` is installed."""
    try:
        uvloop: Any = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _work(job: Job, llm: LLM, total: int | None, options: _Options) -> None:
    from llmflow.jobs.progress import Progress

    # A bar among rows that scroll by would spoil both.
    quiet = options.quiet or _shows_rows(options)
    stream: IO[str] | None = None if quiet else sys.stderr
    progress = Progress(job, llm.limiter, total=total, stream=stream)

    def interrupt() -> None:
        if quiet and not job.interrupted:
            say("llmflow: stopping; answers on their way are waited for, Ctrl-C again drops them")
        job.interrupt()
        progress.refresh()

    with on_signals(interrupt):
        async with progress:
            await job.run()


def _stdin(options: _Options) -> IO[bytes] | None:
    """Open standard input, as a stream of our own: a thread in sys.stdin would break the exit."""
    if options.source != "-":
        return None
    try:
        return open(0, "rb", closefd=False)
    except OSError:
        raise InputError("<stdin> is closed: name a file, or pipe rows in") from None


def _llm(options: _Options) -> tuple[LLM, Contact]:
    from llmflow.config import load_config
    from llmflow.jobs.contact import Contact
    from llmflow.llm import LLM
    from llmflow.types import Quota

    config, contact = load_config(options.config), Contact()
    settings = config.settings(options.model)
    # Each option takes the place of its own setting, not of the whole quota.
    limits = {"rpm": options.rpm, "tpm": options.tpm}
    given: dict[str, Any] = {name: value for name, value in limits.items() if value is not None}
    quota = replace(settings.quota_over(None) or Quota(), **given) if given else None
    provider = settings.provider(base_url=options.base_url)
    llm = LLM(
        options.model,
        base_url=options.base_url,
        quota=quota,
        retry=contact.policy(settings.retry_over(provider.default_retry)),
        system=options.system,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        config=config,
    )
    llm.prepare()
    return llm, contact


def _writer(options: _Options, rows: RowSource) -> RowWriter:
    from llmflow.rows import open_output

    if options.output == "-" and sys.stdout is None:
        raise ConfigurationError("standard output is closed: name a file with -o")
    stdout: Any = TerminalRows(sys.stdout) if _shows_rows(options) else None
    fields = ["index", *rows.fields, "response"] if rows.fields else None
    inputs = [] if options.source == "-" else [options.source]
    writer = open_output(options.output, fields=fields, inputs=inputs, stdout=stdout)
    if writer.set_aside is not None:
        say(f"llmflow: what an earlier run left unfinished is kept in {writer.set_aside}")
    return writer


def _shows_rows(options: _Options) -> bool:
    """Return whether the rows themselves go to a terminal."""
    return options.output == "-" and sys.stdout.isatty()


def _checked_total(rows: RowSource, *, quiet: bool) -> int:
    """Count the rows by reading them all once: a broken one shows before anything is paid."""
    total = 0
    with Notice(lambda: f"checking {rows.name}: {total:,} rows", enabled=not quiet):
        for _ in rows:
            total += 1
    return total


def _job(
    options: _Options,
    llm: LLM,
    rows: RowSource,
    template: PromptTemplate,
    writer: RowWriter,
    contact: Contact,
) -> Job:
    from llmflow.jobs.job import DEFAULT_CONCURRENCY, Job
    from llmflow.transport import connection_limit

    # With a known quota the limiter paces; without, a modest number is what protects.
    default = connection_limit() if llm.limiter.quota.rpm else DEFAULT_CONCURRENCY
    concurrency = options.concurrency or default
    return Job(llm, rows, template, writer, concurrency=concurrency, contact=contact)


def _show(report: Report, options: _Options) -> None:
    """Print the closing report: JSON on standard output, unless the rows are there."""
    if options.as_json:
        import orjson

        stream = sys.stderr if options.output == "-" else sys.stdout
        if not write(stream, orjson.dumps(report.to_dict()).decode()):
            say("llmflow: the report could not be printed")
    elif not options.quiet and (report.items or not report.stopped_by):
        say("\n".join(report.lines()))
