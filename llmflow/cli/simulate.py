"""``llmflow simulate``: a local provider with rate limits, for any client."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from llmflow.cli.options import AMOUNT
from llmflow.format import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llmflow.simulator import BatchSettings, Latency

_KINDS = ("server_error", "overloaded", "reset", "hang", "garbage", "slow", "straggler")
_SECONDS = click.FloatRange(0.0)
_ABOVE_0 = click.FloatRange(0.0, min_open=True)
_option = partial(click.option, show_default=True)


@click.command("simulate")
@_option("--host", default="127.0.0.1", help="Address to listen on.")
@_option("--port", default=8000, help="Port; 0 takes a free one.")
@_option("--rpm", type=AMOUNT, help="Requests per minute.")
@_option("--tpm", type=AMOUNT, help="Tokens per minute, input and output together.")
@_option("--itpm", type=AMOUNT, help="Input tokens per minute.")
@_option("--otpm", type=AMOUNT, help="Output tokens per minute.")
@_option("--rpd", type=AMOUNT, help="Requests per day.")
@_option(
    "--burst-seconds",
    default=60.0,
    type=_ABOVE_0,
    help="Seconds' worth of a per-minute limit that may come at once; 1 is strict.",
)
@_option(
    "--ramp",
    type=click.FloatRange(1.0, min_open=True),
    help="Growth limit: how many times their trailing average input tokens may be; 1.5 is usual.",
)
@_option(
    "--ramp-window",
    default=900.0,
    type=_ABOVE_0,
    help="Seconds over which this average is taken.",
)
@_option(
    "--ramp-floor",
    default="1M",
    type=AMOUNT,
    help="Input tokens per minute below which growth is not limited.",
)
@_option("--max-concurrent", type=click.IntRange(min=1), help="Requests in flight at once.")
@_option(
    "--latency",
    type=_SECONDS,
    help="Seconds until an answer, always the same; with --latency-sigma, their median. "
    "Without both, a lognormal law around 0.5 s.",
)
@_option(
    "--latency-sigma",
    type=_SECONDS,
    help="A tail: standard deviation of the logarithm of a lognormal latency, around 0.5 s "
    "unless --latency is given. 0.5 is usual.",
)
@_option(
    "--jitter",
    default=0.0,
    type=_SECONDS,
    help="Longest network delay of a request, in seconds, before it is admitted or rejected.",
)
@_option(
    "--slow-openings",
    default=0.0,
    type=_SECONDS,
    help="Mean seconds until a new connection is served.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="KIND=P",
    help="A fault and its probability, such as server_error=0.05; can be repeated. "
    f"Kinds: {', '.join(_KINDS)}.",
)
@_option(
    "--invalid-answer-rate",
    default=0.0,
    type=click.FloatRange(0.0, 1.0),
    help="Share of conversations whose first answer does not fit the JSON schema that is wanted; "
    "the next one does.",
)
@click.option(
    "--varied-values",
    is_flag=True,
    help="Choose values that a JSON schema leaves open by each text, not the plainest ones.",
)
@click.option("--no-headers", is_flag=True, help="Send no rate-limit headers.")
@_option(
    "--headers-at",
    type=click.Choice(["admission", "reply"]),
    default="admission",
    help="The moment whose state an answer's rate-limit headers show.",
)
@_option(
    "--headers-on",
    type=click.Choice(["all", "rejections"]),
    default="all",
    help="Which answers carry rate-limit headers.",
)
@click.option(
    "--no-retry-after",
    is_flag=True,
    help="Send no Retry-After with a 429; with --no-headers, nothing about the limit at all.",
)
@click.option(
    "--batch",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the batch API, such as seconds=5, error_rows=0.05, queue_tokens=2M or "
    "stuck_jobs=[2]; can be repeated. The names are those of BatchSettings.",
)
@click.option(
    "--state",
    type=click.Path(file_okay=False),
    help="Folder of batch files and jobs, which then survive a restart.",
)
@click.option(
    "--api-key",
    metavar="KEY",
    help="The only key accepted; any other gets a 401. By default no key is needed.",
)
@_option("--seed", default=0, help="Seed of faults and latencies, which makes them repeatable.")
@_option(
    "--record",
    default=0,
    type=click.IntRange(min=0),
    help="Number of admissions to record, with time and latency, for GET /admissions.",
)
def simulate(**options: Any) -> int:
    """Serve OpenAI's chat completions and Anthropic's messages, with rate limits.

    Headers, errors and limits are those of the real services; answers are extracts of the
    prompt. Any client can use it; Anthropic's own needs the address without /v1.
    OpenAI's rule charges output on arrival, by max_tokens; Anthropic's while it is produced.
    Latencies have a tail, as real ones have, unless --latency is given.
    GET /stats returns its counts. Ctrl-C stops it.

    \b
    Example:
      llmflow simulate --port 8000 --rpm 600 --tpm 100k --burst-seconds 1
      llmflow run texts.jsonl --prompt "Summarize: {text}" --model openai/any \\
          --base-url http://127.0.0.1:8000/v1 -o summaries.jsonl
    """
    from llmflow.simulator import Faults, SimulatorSettings, run_simulator
    from llmflow.simulator.hosting import raise_limit_of_descriptors

    told, headers = not options.pop("no_retry_after"), not options.pop("no_headers")
    settings = SimulatorSettings(
        latency=_latency(options.pop("latency"), options.pop("latency_sigma")),
        faults=Faults(**_faults(options.pop("faults"))),
        batch=_batch(options.pop("batch"), options.pop("state")),
        quota_headers="bucket" if headers else "off",
        retry_after=told,
        retry_text=told,
        **options,
    )
    raise_limit_of_descriptors()
    stats = run_simulator(settings, on_ready=_announce)
    print(
        f"{counted(stats.received, 'request')}: {stats.answered:,} answered, "
        f"{stats.rejections:,} rejected",
        file=sys.stderr,
    )
    return 0


def _announce(url: str) -> None:
    print(f"simulator at {url}, statistics at {url.removesuffix('/v1')}/stats", flush=True)


def _latency(seconds: float | None, sigma: float | None) -> Latency:
    from llmflow.simulator import Latency

    if seconds is not None:
        return Latency(seconds=seconds, sigma=sigma or 0.0)
    usual = Latency.usual()
    return usual if sigma is None else Latency.around(usual.mean, sigma=sigma)


def _batch(texts: tuple[str, ...], state: str | None) -> BatchSettings:
    import json
    from dataclasses import fields

    from llmflow.simulator import BatchSettings

    known = [item.name for item in fields(BatchSettings) if item.name != "state"]
    values: dict[str, Any] = {}
    for name, value in _named("--batch: no such setting", texts, known, "there are"):
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value  # a word, or an amount such as 2M
    return BatchSettings(**values, state=state)


def _faults(texts: tuple[str, ...]) -> dict[str, float]:
    faults = {}
    for kind, value in _named("--fault: no such kind", texts, _KINDS, "kinds are"):
        try:
            faults[kind] = float(value)
        except ValueError:
            raise click.UsageError(
                f"--fault must be KIND=PROBABILITY, such as reset=0.03; got '{kind}={value}'"
            ) from None
    return faults


def _named(
    wrong: str, texts: tuple[str, ...], known: Sequence[str], there_are: str
) -> Iterator[tuple[str, str]]:
    """Yield the names and values of NAME=VALUE texts."""
    for text in texts:
        name, _, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name not in known:
            raise click.UsageError(f"{wrong}: {name!r}; {there_are} {', '.join(known)}")
        yield name, value
