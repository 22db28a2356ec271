"""``llmflow simulate``: a local provider with a real quota, for any client."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from llmflow.cli.options import AMOUNT
from llmflow.printable import counted

if TYPE_CHECKING:
    from llmflow.simulator import BatchSettings

_KINDS = ("server_error", "overloaded", "reset", "hang", "garbage", "slow", "straggler")
_SECONDS = click.FloatRange(0.0)


@click.command("simulate", short_help="Start a local provider with a real quota.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, help="Port; 0 takes a free one.")
@click.option("--rpm", type=AMOUNT, help="Requests per minute.")
@click.option("--tpm", type=AMOUNT, help="Tokens per minute, input and output together.")
@click.option("--itpm", type=AMOUNT, help="Input tokens per minute.")
@click.option("--otpm", type=AMOUNT, help="Output tokens per minute.")
@click.option("--rpd", type=AMOUNT, help="Requests per day.")
@click.option(
    "--burst-seconds",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0.0, min_open=True),
    help="Seconds' worth of a per-minute limit that may come at once; 1 is strict.",
)
@click.option(
    "--ramp",
    type=click.FloatRange(1.0, min_open=True),
    help="How many times their trailing average the input tokens may be; 1.5 is usual.",
)
@click.option(
    "--ramp-window",
    default=900.0,
    show_default=True,
    type=click.FloatRange(0.0, min_open=True),
    help="Seconds over which that average trails.",
)
@click.option(
    "--ramp-floor",
    default="1M",
    show_default=True,
    type=AMOUNT,
    help="Input tokens per minute that are never too sudden.",
)
@click.option("--max-concurrent", type=click.IntRange(min=1), help="Requests in flight at once.")
@click.option("--latency", default=0.5, show_default=True, type=_SECONDS, help="Seconds, median.")
@click.option("--latency-sigma", default=0.0, type=_SECONDS, help="Spread of a lognormal latency.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND=P",
    help="A fault and its probability, such as server_error=0.05; more than once is fine. "
    f"Kinds: {', '.join(_KINDS)}.",
)
@click.option("--no-headers", is_flag=True, help="Send no rate-limit headers.")
@click.option(
    "--no-retry-after",
    is_flag=True,
    help="Do not say when to come back after a 429; with --no-headers, nothing of the limit.",
)
@click.option(
    "--batch",
    "batch",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the batch API, such as seconds=5, error_rows=0.05, queue_tokens=2M or "
    "stuck_jobs=[2]; more than once is fine. The names are those of BatchSettings.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False),
    help="Folder of batch files and jobs, which then survive a restart.",
)
@click.option(
    "--api-key",
    metavar="KEY",
    help="The only key accepted; any other gets a 401. Without it, any key or none is right.",
)
@click.option("--seed", default=0, show_default=True, help="Makes faults and latencies repeatable.")
def command(**options: Any) -> int:
    """Serve OpenAI's chat completions and Anthropic's messages, with the quota that you set.

    Headers, errors and limits are those of the real things; answers are extracts of the
    prompt. Any client can talk to it; Anthropic's own wants the address without /v1.
    OpenAI's rule charges output on arrival, by max_tokens; Anthropic's while it is produced.
    GET /stats tells what it saw. Ctrl-C stops it.

    \b
    Example:
      llmflow simulate --port 8000 --rpm 600 --tpm 100k --burst-seconds 1
      llmflow run texts.jsonl --prompt "Summarize: {text}" --model openai/any \\
          --base-url http://127.0.0.1:8000/v1 -o summaries.jsonl
    """
    from llmflow.simulator import Faults, Latency, SimulatorSettings, run_simulator

    settings = SimulatorSettings(
        host=options["host"],
        port=options["port"],
        rpm=options["rpm"],
        tpm=options["tpm"],
        rpd=options["rpd"],
        itpm=options["itpm"],
        otpm=options["otpm"],
        ramp=options["ramp"],
        ramp_window=options["ramp_window"],
        ramp_floor=options["ramp_floor"],
        burst_seconds=options["burst_seconds"],
        max_concurrent=options["max_concurrent"],
        latency=Latency(seconds=options["latency"], sigma=options["latency_sigma"]),
        faults=Faults(**_faults(options["faults"])),
        batch=_batch(options["batch"], options["state"]),
        quota_headers="off" if options["no_headers"] else "bucket",
        retry_after=not options["no_retry_after"],
        retry_text=not options["no_retry_after"],
        api_key=options["api_key"],
        seed=options["seed"],
    )
    stats = run_simulator(settings, on_ready=_announce)
    print(
        f"{counted(stats.received, 'request')}: {stats.answered:,} answered, "
        f"{stats.rejections:,} rejected",
        file=sys.stderr,
    )
    return 0


def _announce(url: str) -> None:
    print(f"simulator at {url}, statistics at {url.removesuffix('/v1')}/stats", flush=True)


def _batch(texts: tuple[str, ...], state: str | None) -> BatchSettings:
    import json
    from dataclasses import fields

    from llmflow.simulator import BatchSettings

    known = [item.name for item in fields(BatchSettings) if item.name != "state"]
    values: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise click.UsageError(
                f"--batch: no such setting: {name!r}; there are {', '.join(known)}"
            )
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value  # a word, or an amount such as 2M
    return BatchSettings(**values, state=state)


def _faults(texts: tuple[str, ...]) -> dict[str, float]:
    faults = {}
    for text in texts:
        kind, _, value = text.partition("=")
        kind = kind.strip().replace("-", "_")
        if kind not in _KINDS:
            raise click.UsageError(
                f"--fault: no such kind: {kind!r}; kinds are {', '.join(_KINDS)}"
            )
        try:
            faults[kind] = float(value)
        except ValueError:
            raise click.UsageError(
                f"--fault must be KIND=PROBABILITY, such as reset=0.03; got {text!r}"
            ) from None
    return faults
