"""``llmflow run``: a prompt for every row of a file."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import click

from llmflow.cli.options import AMOUNT

if TYPE_CHECKING:
    from llmflow.llm import LLM
    from llmflow.rows import RowSource, RowWriter
    from llmflow.runs.job import Job
    from llmflow.runs.report import Report

ALL_ANSWERED, SOME_FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


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
@click.option("--concurrency", type=click.IntRange(min=1), help="Rows under way at once.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Upper bound of each answer.")
@click.option("--system", help="Instructions for every row.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N rows.")
@click.option("--quiet", is_flag=True, help="Show neither progress nor report.")
@click.option("--json", "as_json", is_flag=True, help="Print the closing report as JSON.")
def command(**options: Any) -> int:  # noqa: D301 - click reads the backslash-b
    """Answer a prompt for every row of INPUT.

    INPUT is a .jsonl, .csv, .tsv or .parquet file, a .txt file with one text per line,
    a folder of .txt and .md files, or - for standard input. Each row of OUT holds the
    input's fields, the row's position as 'index' and the answer as 'response'. Rows that
    failed for good are in OUT's neighbour *.failed.jsonl, with the reason.

    The API key is read from the provider's environment variable, such as OPENAI_API_KEY.

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
    system: str | None
    limit: int | None
    quiet: bool
    as_json: bool


def _run(options: _Options) -> int:
    """Check everything that can be checked, then run; nothing is written before."""
    from llmflow.rows import PromptTemplate, open_output, open_rows

    template = PromptTemplate(options.prompt)
    # A stream of our own: a thread that waits inside sys.stdin would break the exit.
    stdin = open(0, "rb", closefd=False) if options.source == "-" else None  # noqa: SIM115
    with open_rows(options.source, limit=options.limit, stdin=stdin) as source:
        template.check(source.head()[0])
        llm = _llm(options)
        total = _checked_total(source)
        fields = ["index", *source.fields, "response"] if source.fields else None
        writer = open_output(options.output, fields=fields, inputs=_paths(options.source))
        try:
            return asyncio.run(_work(options, llm, source, template, writer, total))
        except BaseException:
            writer.abort(keep=writer.written > 0)
            raise


def _llm(options: _Options) -> LLM:
    from llmflow.llm import LLM
    from llmflow.types import Quota

    quota = None
    if options.rpm is not None or options.tpm is not None:
        quota = Quota(rpm=options.rpm, tpm=options.tpm)
    llm = LLM(
        options.model,
        base_url=options.base_url,
        quota=quota,
        system=options.system,
        max_tokens=options.max_tokens,
    )
    llm.prepare()
    return llm


def _checked_total(source: RowSource) -> int | None:
    """Count the rows by reading them all once: a broken one shows before anything is paid.

    What can be read only once, a pipe, is checked as it is read.
    """
    return None if source.once else sum(1 for _ in source)


async def _work(
    options: _Options,
    llm: LLM,
    source: RowSource,
    template: Any,
    writer: RowWriter,
    total: int | None,
) -> int:
    from llmflow.runs.job import DEFAULT_CONCURRENCY, Job
    from llmflow.runs.progress import Progress
    from llmflow.transport import connection_limit

    # With a known quota the limiter paces; without, a modest number is what protects.
    default = connection_limit() if llm.limiter.quota.rpm else DEFAULT_CONCURRENCY
    job = Job(llm, source, template, writer, concurrency=options.concurrency or default)
    before, started = llm.limiter.statistics(), time.monotonic()
    restore = _interrupt_on_sigint(job, quiet=options.quiet)
    try:
        stream: IO[str] | None = None if options.quiet else sys.stderr
        async with Progress(job.counters, llm.limiter, total=total, stream=stream):
            await job.run()
    finally:
        restore()
    report = _report(job, llm, writer, before, time.monotonic() - started)
    code = _finish(job, writer)
    if code != WRONG:
        _show(report, options)
    return code


def _interrupt_on_sigint(job: Job, *, quiet: bool) -> Any:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        if not job.interrupted and not quiet:
            message = "llmflow: stopping; answers in flight are waited for, Ctrl-C again drops them"
            print(message, file=sys.stderr, flush=True)
        job.interrupt()

    try:
        loop.add_signal_handler(signal.SIGINT, interrupt)
    except NotImplementedError:  # Windows: KeyboardInterrupt ends the run
        return lambda: None
    return lambda: loop.remove_signal_handler(signal.SIGINT)


def _finish(job: Job, writer: RowWriter) -> int:
    """Give the output its name, or leave what there is; return the exit code."""
    if job.stopped_by is None and not job.interrupted:
        writer.commit()
        return SOME_FAILED if job.counters.failed else ALL_ANSWERED
    writer.abort(keep=writer.written > 0)
    if job.interrupted:
        return INTERRUPTED
    assert job.stopped_by is not None
    if writer.written and writer.partial_path is not None:
        job.stopped_by.add_note(f"the answers so far are in {writer.partial_path}")
    raise job.stopped_by


def _report(job: Job, llm: LLM, writer: RowWriter, before: Any, seconds: float) -> Report:
    from llmflow.runs.report import Report, spent

    after, counters = llm.limiter.statistics(), job.counters
    requests, rejected = spent(before, after)
    return Report(
        model=llm.model,
        items=counters.done,
        answered=counters.answered,
        failed=counters.failed,
        requests=requests,
        rejected=rejected,
        input_tokens=counters.input_tokens,
        output_tokens=counters.output_tokens,
        cost=counters.cost,
        seconds=round(seconds, 3),
        limits=after.limits,
        utilisation={name: round(share, 4) for name, share in after.utilisation.items()},
        output=_place(job, writer),
        failures=str(writer.failed_path) if counters.failed else None,
        stopped_by="interrupted" if job.interrupted else None,
    )


def _place(job: Job, writer: RowWriter) -> str:
    """Return where the answers are, or will be once the output is finished."""
    if job.interrupted and writer.partial_path is not None:
        return str(writer.partial_path) if writer.written else "nothing written"
    return writer.name


def _show(report: Report, options: _Options) -> None:
    """Print the closing report: JSON on standard output, unless the rows are there."""
    if options.as_json:
        import orjson

        stream = sys.stderr if options.output == "-" else sys.stdout
        print(orjson.dumps(report.to_dict()).decode(), file=stream)
    elif not options.quiet:
        print("\n".join(report.lines()), file=sys.stderr)


def _paths(source: str) -> list[str]:
    return [] if source == "-" else [source]
